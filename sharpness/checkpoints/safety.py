"""Read a file of weights that anybody may have written, and run nothing of what it says.

``torch.load`` is always called with ``weights_only=True`` and only after the file was seen to be what it says it is:
an archive every byte of which belongs to one entry or the one directory, a short pickle that names nothing but
containers, tensors, NumPy values and parsed arguments, and tensors that fit into their storages. What is checked is
what is loaded: the same bytes in memory, or the same opened file. There is no way to ask for more trust.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import warnings
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import torch

from sharpness.errors import UserError, shown
from sharpness.untrusted.archives import Entry, archive_entries
from sharpness.untrusted.machine import WEIGHTS, Machine, globals_of
from sharpness.untrusted.names import Names
from sharpness.untrusted.passed_over import loaded
from sharpness.untrusted.refused import REMEDY, Refused
from sharpness.untrusted.regular_files import open_regular
from sharpness.untrusted.tensors import Inert, Storage
from sharpness.untrusted.unfolding import as_plain

LIMIT = 64 * 2**30
"""Largest file that is read, in bytes."""

MAPPED = 256 * 2**20
"""Files from this size on are mapped rather than read, so that an optimizer's state in an archive is never read."""

PICKLE = 8 * 2**20
"""Largest pickle that is read, in bytes: it holds names and plain values, and the numbers lie beside it."""

LEGACY_PICKLES = 5

SIGNATURES: dict[bytes, str] = {
    b"\x1f\x8b": "is compressed with gzip: unpack it first",
    b"\xfd7zXZ": "is compressed with xz: unpack it first",
    b"BZh": "is compressed with bzip2: unpack it first",
    b"7z\xbc\xaf": "is a 7-Zip archive: unpack it first",
    b"Rar!": "is a RAR archive: unpack it first",
    b"\x89HDF": "is an HDF5 file, as Keras writes them: convert it to a state_dict",
    b"\x93NUMPY": "is a NumPy array, not a checkpoint",
    b"version https://git-lfs": "is a Git LFS pointer: fetch the file itself with 'git lfs pull'",
    b"<": "is a web page: download the file itself",
    b"{": "is JSON, which holds no weights: give the file with the weights, or their index, a file NAME.json",
}


class Tensors(dict[str, torch.Tensor]):
    """Tensors of a safetensors file by name, with its ``metadata`` (texts by name)."""

    metadata: dict[str, str]


def read_safely(path: str | Path, limit: int = LIMIT, foreign: bool = False) -> Any:
    """The tensors and plain values of a file: of ``torch.save`` (archive or old pickle) or safetensors.

    Args:
        path: the file.
        limit: the largest size in bytes that is read.
        foreign: pass objects of classes that are not known here over, as
            :class:`~sharpness.untrusted.passed_over.PassedOver`, where they are of the kind that training scripts
            save beside weights; of a pickled network its tensors are taken.

    Returns:
        What was saved, on the CPU, with NumPy scalars as Python values and ``argparse.Namespace`` as a dict; of a
        safetensors file :class:`Tensors`.

    Raises:
        UserError: one line that says why the file is not read; nothing in it was run.
    """
    path = Path(path)
    try:
        file, size = open_regular(path, limit)
        with file:
            if size == 0:
                raise Refused("is empty")
            if size < MAPPED:
                return _read(path, file, file.read(size), Names(foreign))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _read(path, file, content, Names(foreign))
    except UserError:
        raise
    except Refused as error:
        _refuse(path, f"it {error}")
    except FileNotFoundError:
        _refuse(path, "there is no such file")
    except MemoryError:
        _refuse(path, "it needs more memory than there is")
    except RecursionError:
        _refuse(path, "it is nested too deeply")
    except OSError as error:
        _refuse(path, error.strerror or type(error).__name__)
    except Exception as error:
        # A damaged file can raise nearly any exception.
        _refuse(path, f"{_told(error)}: is it whole?")


def _told(error: Exception) -> str:
    """The message of an exception if it is a plain text: formatting others could unfold values without end."""
    text = error.args[0] if len(error.args) == 1 and type(error.args[0]) is str else ""
    return shown((text.strip().splitlines() or [""])[0], 120) or type(error).__name__


def _refuse(path: Path, reason: str) -> NoReturn:
    raise UserError(f"cannot read {path}: {reason}") from None


def _read(path: Path, file: BinaryIO, content: bytes | mmap.mmap, names: Names) -> Any:
    """Check a file, and load what was checked."""
    before = os.fstat(file.fileno())
    kind = _kind(path, content)
    if kind == "archive":
        _check_archive(content, names)
    elif kind == "pickle":
        _check_legacy(content, names)
    else:
        _check_safetensors(content)
    if isinstance(content, bytes):
        return _load_safetensors(content) if kind == "safetensors" else _load(io.BytesIO(content), names)
    file.seek(0)
    opened = f"/dev/fd/{file.fileno()}" if os.path.exists("/dev/fd") else path
    try:
        if kind == "safetensors":
            return _open_safetensors(opened)
        return _load(opened, names, mmap=True) if kind == "archive" else _load(file, names)
    finally:
        after = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise Refused("was changed while it was read: read it again")


def _kind(path: Path, content: bytes | mmap.mmap) -> str:
    start = content[:512]
    if start[:2] == b"PK":
        return "archive"
    announces = start[8:9] == b"{"
    if start[:1] == b"\x80" and not (announces and not any(start[4:8])):
        return "pickle"
    if announces or path.suffix == ".safetensors":
        return "safetensors"
    if start[257:262] == b"ustar":
        raise Refused(f"has the tar format of PyTorch before 0.1.10, which cannot be read safely: {REMEDY}")
    for signature, told in SIGNATURES.items():
        if start.lstrip().startswith(signature):
            raise Refused(told)
    raise Refused("is no checkpoint: it starts like " + ("text" if start.isascii() else "no known kind of file"))


def _check_archive(content: bytes | mmap.mmap, names: Names) -> None:
    entries = {entry.name: entry for entry in archive_entries(content)}
    # PyTorch finds entries without regard to the case of letters.
    if len({name.lower() for name in entries}) < len(entries):
        raise Refused("holds two entries of one name")
    folder = next(iter(entries), "").split("/")[0]
    if f"{folder}/constants.pkl" in entries:
        raise Refused(f"is a TorchScript archive, which holds code: {REMEDY}")
    if not all(entry.stored for entry in entries.values()):
        raise Refused("is a compressed archive, which torch.save never writes: unpack it, or save it again")
    if f"{folder}/data.pkl" not in entries:
        if any(name.endswith((".pt", ".pth", ".bin", ".safetensors", ".tar")) for name in entries):
            raise Refused("is an archive of checkpoints: unpack it first")
        raise Refused(f"is an archive, and not one of torch.save: {REMEDY}")
    found = entries[f"{folder}/data.pkl"]
    if found.size > PICKLE:
        _refuse_length()
    pickled = content[found.offset : found.offset + found.size]

    def storage(saved: tuple[Any, ...]) -> Storage:
        kind, key, claimed = _storage_id(saved, 5)
        entry = entries.get(f"{folder}/data/{key}")
        if entry is None:
            raise Refused(f"lacks the numbers of storage {shown(str(key))}: is it whole?")
        held = entry.size
        if claimed > held:
            raise Refused(f"declares a tensor of {claimed:,} bytes and holds {held:,} bytes of it")
        return Storage(kind.item_size, claimed)

    names.require(globals_of(pickled))
    Machine(io.BytesIO(pickled), WEIGHTS, names.__getitem__, len(content), storage).load()
    if isinstance(content, bytes):  # what is mapped may be far more than will be read
        _check_sums(content, [entry for entry in entries.values() if entry.size])


def _check_sums(content: bytes, entries: list[Entry]) -> None:
    """Refuse an archive of which some parts have another checksum than was written.

    Where all have, it was saved without checksums (``torch.serialization.set_crc32_options(False)``).
    """
    whole = memoryview(content)
    wrong = [e for e in entries if zlib.crc32(whole[e.offset : e.offset + e.held]) != e.checksum]
    if wrong and len(wrong) < len(entries):
        raise Refused(
            f"is damaged: {shown(wrong[0].name)} has another checksum than it was written with; fetch it again"
        )


def _refuse_length() -> NoReturn:
    raise Refused(f"holds a pickle of more than {PICKLE:,} bytes beside its numbers, which no weights need: {REMEDY}")


def _storage_id(saved: Any, length: int) -> tuple[Any, Any, int]:
    """Type, key and bytes of a storage that a pickle names."""
    if not isinstance(saved, tuple) or len(saved) != length or saved[0] != "storage":
        raise Refused(f"holds a whole model or an unknown reference: {REMEDY}")
    kind, key, count = saved[1], saved[2], saved[4]
    if not isinstance(kind, Inert) or not kind.item_size or type(key) not in (str, int):
        raise Refused("names a storage that is none")
    if type(count) is not int or not 0 <= count < 2**60:
        raise Refused("names a storage whose size is none")
    return kind, key, kind.item_size * count


def _check_legacy(content: bytes | mmap.mmap, names: Names) -> None:
    """The five pickles of ``torch.save`` before 1.6, and that the storages after them are there."""
    # Sizes are noted while the pickles are rehearsed: the storages come after them, in the order of the last one.
    size, position = len(content), 0
    sizes: dict[Any, int] = {}

    def storage(saved: tuple[Any, ...]) -> Storage:
        kind, key, claimed = _storage_id(saved, 6)
        if claimed > size:
            raise Refused(f"declares a tensor of {claimed:,} bytes in a file of {size:,}: is it whole?")
        sizes[key] = max(claimed, sizes.get(key, 0))
        if saved[5] is not None:
            _, offset, count = saved[5]
            if type(offset) is not int or type(count) is not int or min(offset, count) < 0:
                raise Refused("names a part of a storage that is none")
            if (offset + count) * kind.item_size > claimed:
                raise Refused("names a part of a storage that is not in it")
            claimed = count * kind.item_size
        return Storage(kind.item_size, claimed)

    saved: Any = None
    for i in range(LEGACY_PICKLES):
        # Pickles follow each other without lengths: where one ends is known only by reading it.
        stream = io.BytesIO(content[position : position + PICKLE])
        try:
            names.require(globals_of(stream))
        except (ValueError, UnicodeDecodeError):
            if stream.tell() == PICKLE:
                _refuse_length()
            raise
        stream.seek(0)
        saved = Machine(stream, WEIGHTS, names.__getitem__, size, storage).load()
        position += stream.tell()
        if i == 0 and (type(saved) is not int or saved != torch.serialization.MAGIC_NUMBER):
            raise Refused(f"is a pickle, but not of torch.save: {REMEDY}")
    if type(saved) is not list or not all(type(key) in (str, int) for key in saved):
        raise Refused("does not say which storages it holds: is it whole?")
    held = size - position
    if sum(sizes.get(key, 0) + 8 for key in saved) > held:
        raise Refused(f"declares {sum(sizes.values()):,} bytes of numbers and holds {held:,}: is it whole?")


def _load(source: Any, names: Names, mmap: bool | None = None) -> Any:
    stand_ins = names.plain | {name: loaded(seen) for name, seen in names.passed.items()}
    allowed: list[Any] = [(stand_in, name) for name, stand_in in stand_ins.items()]
    with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
        warnings.simplefilter("ignore")
        return as_plain(torch.load(source, map_location="cpu", weights_only=True, mmap=mmap))


def _check_safetensors(content: bytes | mmap.mmap) -> None:
    if len(content) < 8 or (length := int.from_bytes(content[:8], "little")) > len(content) - 8:
        raise Refused("has the form of safetensors and ends within its header: is it whole?")
    if length > PICKLE:
        raise Refused(f"has a header of {length:,} bytes, and at most {PICKLE:,} are read")


def _load_safetensors(content: bytes) -> Tensors:
    from safetensors.torch import load

    tensors = Tensors(load(content))
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    tensors.metadata = dict(header.get("__metadata__") or {})
    return tensors


def _open_safetensors(path: str | Path) -> Tensors:
    from safetensors import safe_open

    with safe_open(path, framework="pt", device="cpu") as file:
        tensors = Tensors((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118
        tensors.metadata = dict(file.metadata() or {})
    return tensors
