"""Entries of a zip archive, in the one form that all readers understand alike.

A zip archive may hold several directories, entries that no directory names, and headers that contradict the directory;
readers differ in which they believe, so that a check with one reader says nothing of what another one loads. Here an
archive is, from its first byte to its last, what ``torch.save``, ``numpy.savez`` and Python's ``zipfile`` write:
entries one after the other, one directory that names them all, and its end. All else is refused.

An entry is a local header, its data, and, where bit 3 of its flags is set, a descriptor with checksum and sizes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from sharpness.untrusted.refused import Refused

LOCAL, CENTRAL, DESCRIPTOR = b"PK\3\4", b"PK\1\2", b"PK\7\x08"
END, END64, LOCATOR64 = b"PK\5\6", b"PK\6\6", b"PK\6\7"
LOCAL_HEADER, CENTRAL_HEADER = struct.Struct("<4s5H3I2H"), struct.Struct("<4s6H3I5H2I")
END_RECORD, END64_RECORD, LOCATOR = struct.Struct("<4s4H2IH"), struct.Struct("<4sQ2H2I4Q"), struct.Struct("<4sIQI")
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF

ENTRIES = 2**16
"""Most entries that are read; a checkpoint has one for each tensor."""

ZIP64, UNICODE_NAMES = 0x0001, (0x7075, 0x6375)
ENCRYPTED, DESCRIBED = 0x2041, 0x0008
STORED, DEFLATED = 0, 8


@dataclass(frozen=True)
class Entry:
    """One entry: where its bytes lie, and what they unfold into.

    Attributes:
        name: as the directory and the header before the data spell it.
        offset: of the first byte of the data in the archive.
        held: bytes there.
        size: bytes that they unfold into, ``held`` if the entry is stored as it is.
        stored: whether it is.
        checksum: CRC-32 of what they unfold into.
    """

    name: str
    offset: int
    held: int
    size: int
    stored: bool
    checksum: int


def archive_entries(content: Any) -> list[Entry]:
    """The entries of an archive, in the order of its directory.

    Args:
        content: all of its bytes: ``bytes`` or a memory map.

    Raises:
        Refused: any byte belongs to no entry or to another than one directory, or headers contradict each other.
    """
    start, end, count = _directory(content)
    if count > ENTRIES:
        raise Refused(f"is an archive of {count:,} entries, and at most {ENTRIES:,} are read")
    spans, entries, position = [], [], start
    for _ in range(count):
        entry, span, position = _entry(content, position, end)
        entries.append(entry)
        spans.append(span)
    if position != end:
        _hidden()
    position = 0
    for begins, least, descriptor in sorted(spans, key=lambda span: span[:2]):
        if begins != position:
            _hidden()
        position = least if descriptor is None else _after_descriptor(content, least, descriptor, start)
    if position != start:
        _hidden()
    if len({entry.name for entry in entries}) < len(entries):
        raise Refused("holds two entries of one name")
    return entries


def _hidden() -> NoReturn:
    raise Refused("is an archive with bytes that belong to no entry, or to several: save it again, or get it anew")


def _broken() -> NoReturn:
    raise Refused("is an archive whose headers contradict each other: is it whole?")


def _unpack(layout: struct.Struct, content: Any, offset: int, signature: bytes) -> tuple[Any, ...]:
    if not 0 <= offset <= len(content) - layout.size:
        _broken()
    fields = layout.unpack(content[offset : offset + layout.size])
    if fields[0] != signature:
        _broken()
    return fields[1:]


def _directory(content: Any) -> tuple[int, int, int]:
    """Start and end of the only directory, and its number of entries."""
    last = len(content) - END_RECORD.size
    if last < 0 or content[last : last + 4] != END:
        raise Refused("is an archive that does not end as one: is it whole?")
    disk, first, here, count, size, start, comment = _unpack(END_RECORD, content, last, END)
    end = last
    if content[max(last - LOCATOR.size, 0) : last][:4] == LOCATOR64:
        _, at, disks = _unpack(LOCATOR, content, last - LOCATOR.size, LOCATOR64)
        length, *_, disk64, first64, here64, count64, size64, start64 = _unpack(END64_RECORD, content, at, END64)
        short = (disk, first, here, count, size, start)
        long = (disk64, first64, here64, count64, size64, start64)
        fulls = (FULL16,) * 4 + (FULL32,) * 2
        if any(a not in (b, full) for a, b, full in zip(short, long, fulls, strict=True)):
            _broken()
        if disks > 1 or length != END64_RECORD.size - 12 or at + END64_RECORD.size != last - LOCATOR.size:
            _hidden()
        disk, first, here, count, size, start, end = *long, at
    if comment or disk or first or here != count or start + size != end:
        _hidden()
    return start, end, count


def _entry(content: Any, at: int, end: int) -> tuple[Entry, tuple[int, int, tuple[int, int, int] | None], int]:
    """An entry; where it begins, its data ends, and its descriptor says; and where the directory goes on."""
    central = _unpack(CENTRAL_HEADER, content, at, CENTRAL)
    _, _, flags, method, _, _, checksum, held, size, name_length, extra_length, comment, disk, _, _, header = central
    name, extra, after = _name_and_extra(content, at + CENTRAL_HEADER.size, name_length, extra_length)
    after += comment
    if after > end or disk:
        _broken()
    size, held, header = _wide(extra, [size, held, header])
    # The header before the data must repeat the directory: readers differ in which of the two they take.
    local = _unpack(LOCAL_HEADER, content, header, LOCAL)
    _, flags_here, method_here, _, _, checksum_here, held_here, size_here, name_length, extra_length = local
    name_here, extra_here, offset = _name_and_extra(content, header + LOCAL_HEADER.size, name_length, extra_length)
    size_here, held_here = _wide(extra_here, [size_here, held_here])
    if flags & ENCRYPTED:
        raise Refused("is an encrypted archive: unpack it first")
    if method not in (STORED, DEFLATED):
        raise Refused("is an archive compressed in an unusual way: save it again")
    if (name, flags, method) != (name_here, flags_here, method_here) or (method == STORED and size != held):
        _broken()
    # Where a descriptor follows, the header before the data may leave these at zero; else both must agree.
    described, claims = bool(flags & DESCRIBED), (checksum, held, size)
    if (checksum_here, held_here, size_here) != claims and not (
        described and not any((checksum_here, held_here, size_here))
    ):
        _broken()
    entry = Entry(_text(name, flags), offset, held, size, method == STORED, checksum)
    return entry, (header, offset + held, claims if described else None), after


def _name_and_extra(content: Any, at: int, name: int, extra: int) -> tuple[bytes, dict[int, bytes], int]:
    """A name, extra fields by number, and where they end."""
    end = at + name + extra
    if end > len(content):
        _broken()
    return bytes(content[at : at + name]), dict(_extra_fields(content[at + name : end])), end


def _extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    seen, at = set(), 0
    while at < len(extra):
        if at + 4 > len(extra):
            _broken()
        kind, length = struct.unpack_from("<2H", extra, at)
        at += 4
        if at + length > len(extra) or kind in seen:
            _broken()
        if kind in UNICODE_NAMES:
            raise Refused("is an archive whose entries have two names each: save it again")
        seen.add(kind)
        yield kind, extra[at : at + length]
        at += length


def _wide(extra: dict[int, bytes], short: list[int]) -> list[int]:
    """Sizes and places, from the field of 64 bits where 32 are full."""
    wide = extra.get(ZIP64, b"")
    values = list(struct.unpack(f"<{len(wide) // 8}Q", wide[: len(wide) // 8 * 8]))
    found = [values.pop(0) if value == FULL32 and values else value for value in short]
    # Readers disagree about values that are there and not asked for.
    if values or len(wide) % 8:
        _broken()
    return found


def _after_descriptor(content: Any, at: int, claims: tuple[int, int, int], start: int) -> int:
    """The end of a descriptor, which must have one of the four forms that readers know."""
    checksum, held, size = claims
    wide = struct.pack("<I2Q", checksum, held, size)
    forms = [DESCRIPTOR + wide, wide]
    if max(held, size) <= FULL32:
        narrow = struct.pack("<3I", checksum, held, size)
        forms += [DESCRIPTOR + narrow, narrow]
    for form in forms:
        after = at + len(form)
        if bytes(content[at:after]) == form and (after == start or bytes(content[after : after + 4]) == LOCAL):
            return after
    _hidden()


def _text(name: bytes, flags: int) -> str:
    if b"\0" in name or b"\\" in name:
        _broken()
    try:
        return name.decode("utf-8" if flags & 0x800 else "cp437")
    except UnicodeDecodeError:
        _broken()
