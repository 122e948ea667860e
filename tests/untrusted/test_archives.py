"""Archives: what honest writers write is read as they wrote it, and no byte is left over; bounds of other readers."""

import io
import struct
import sys
import zipfile
import zlib

import numpy as np
import pytest
import torch

from sharpness.checkpoints import read_safely
from sharpness.errors import UserError
from sharpness.untrusted.archives import _extra_fields, archive_entries
from sharpness.untrusted.plain_json import parse_json
from sharpness.untrusted.powers import power
from sharpness.untrusted.refused import Refused
from sharpness.untrusted.unfolding import _Walk


def by_torch(file):
    torch.save({"a": torch.arange(300.0), "b": [1, torch.ones(2, 3)]}, file)


def by_zipfile(file, **options):
    with zipfile.ZipFile(file, "w", **options) as written:
        for name, content in {"a": b"", "b/c": b"12345", "d": bytes(1000)}.items():
            written.writestr(name, content)


class Stream(io.BytesIO):
    """Cannot go back, so that sizes stand behind the data."""

    def seekable(self):
        return False

    def tell(self):
        raise OSError

    def seek(self, *where):
        raise OSError


def by_zipfile_to_a_pipe(file):
    stream = Stream()
    by_zipfile(stream)
    file.write(stream.getvalue())


WRITERS = {
    "torch": by_torch,
    "zipfile": by_zipfile,
    "zipfile, compressed": lambda f: by_zipfile(f, compression=zipfile.ZIP_DEFLATED),
    "zipfile to a pipe": by_zipfile_to_a_pipe,
    "savez": lambda f: np.savez(f, x=np.arange(5), y=np.zeros((2, 3))),
    "savez_compressed": lambda f: np.savez_compressed(f, x=np.arange(5)),
    "nothing": lambda f: zipfile.ZipFile(f, "w").close(),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_honest_writers_write_is_read_as_zipfile_reads_it(writer):
    WRITERS[writer](file := io.BytesIO())
    content = file.getvalue()
    entries = archive_entries(content)
    with zipfile.ZipFile(file) as expected:
        assert [e.name for e in entries] == expected.namelist()
        for entry in entries:
            held = content[entry.offset : entry.offset + entry.held]
            unfolded = held if entry.stored else zlib.decompress(held, -15)
            assert unfolded == expected.read(entry.name) and zlib.crc32(unfolded) == entry.checksum


def one(content=b"1234567890", name="a/data.pkl", comment=b""):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr(name, content)
        written.comment = comment
    return file.getvalue()


def replaced(content, signature, offset, field):
    at = content.find(signature) + offset
    return content[:at] + field + content[at + len(field) :]


def moved_directory(content, gap):
    """Bytes before the directory, to which the end record points all the same."""
    start = content.find(b"PK\1\2")
    moved = content[:start] + gap + content[start:]
    return replaced(moved, b"PK\5\6", 16, struct.pack("<I", start + len(gap)))


def two_ends():
    """Another directory, whose end record is not the last one."""
    hidden, shown = one(b"hidden"), one(b"shown!")
    return hidden + shown


HIDING = {
    "bytes before": lambda: b"#!" + one(),
    "bytes behind": lambda: one() + b"!",
    "a comment": lambda: one(comment=b"an archive may hide here"),
    "bytes before the directory": lambda: moved_directory(one(), b"hidden"),
    "an entry that no directory names": lambda: moved_directory(one(), one(b"hidden")[:50]),
    "two archives": two_ends,
    "another name before the data": lambda: replaced(one(), b"PK\3\4", 30, b"b/data.pkl"),
    "another size before the data": lambda: replaced(one(), b"PK\3\4", 18, struct.pack("<2I", 4, 4)),
    "another method before the data": lambda: replaced(one(), b"PK\3\4", 8, b"\x08\0"),
    "another size in the directory": lambda: replaced(one(), b"PK\1\2", 20, struct.pack("<2I", 4, 4)),
    "more entries than the directory": lambda: replaced(one(), b"PK\5\6", 8, struct.pack("<2H", 2, 2)),
    "fewer entries than the directory": lambda: replaced(one(), b"PK\5\6", 8, struct.pack("<2H", 0, 0)),
    "an entry on another disk": lambda: replaced(one(), b"PK\1\2", 34, b"\1\0"),
    "a name with an end in it": lambda: one(name="a/data.pkl").replace(b"data.pkl", b"dat\0.pkl"),
    "encrypted": lambda: replaced(replaced(one(), b"PK\3\4", 6, b"\1\0"), b"PK\1\2", 8, b"\1\0"),
    "no end": lambda: one()[:-1],
    "only an end": lambda: one()[-22:],
}


@pytest.mark.parametrize("name", HIDING)
def test_what_could_hide_is_refused(name, tmp_path):
    with pytest.raises(Refused):
        archive_entries(HIDING[name]())
    (tmp_path / "a.pt").write_bytes(HIDING[name]())
    with pytest.raises(UserError, match=r"^cannot read .*a\.pt: i"):
        read_safely(tmp_path / "a.pt")


def two_directories():
    """Each reader its own: zipfile believes the end record, PyTorch the wide one, which points elsewhere."""
    by_torch(file := io.BytesIO())
    content = file.getvalue()
    harmless = one(b"\x80\x02}X\1\0\0\0aK\1s.")
    start = harmless.find(b"PK\1\2")
    directory = harmless[start:-22]
    at = content.find(b"PK\6\6")
    shifted = content[:at] + directory + content[at:]
    ends = struct.pack("<2HII", 1, 1, len(directory), at)
    return replaced(shifted, b"PK\5\6", 8, ends)


def test_a_file_of_two_directories_is_refused(tmp_path):
    (tmp_path / "a.pt").write_bytes(two_directories())
    with pytest.raises(UserError, match="archive"):
        read_safely(tmp_path / "a.pt")


@pytest.mark.parametrize("writer", ["torch", "savez", "zipfile to a pipe"])
def test_no_header_may_be_changed(writer):
    """Whatever byte of a header or a descriptor changes: what is read stays the same, or it is refused."""
    WRITERS[writer](file := io.BytesIO())
    content = file.getvalue()
    told = archive_entries(content)
    inside = {i for e in told for i in range(e.offset, e.offset + e.held)}
    refused = 0
    for at in set(range(len(content))) - inside:
        changed = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        try:
            entries = archive_entries(changed)
        except Refused:
            refused += 1
        else:
            assert [(e.offset, e.held, e.size, e.stored) for e in entries] == [
                (e.offset, e.held, e.size, e.stored) for e in told
            ]
    assert refused > 100


def test_extra_fields_are_read_one_after_the_other():
    first, second = struct.pack("<2H", 1, 2) + b"ab", struct.pack("<2H", 9, 0)
    assert dict(_extra_fields(first + second)) == {1: b"ab", 9: b""}
    for broken in (first[:-1], first + second[:3], first + first):
        with pytest.raises(Refused, match="contradict each other"):
            dict(_extra_fields(broken))


def test_a_name_of_a_million_parts_is_told_at_once():
    """Looking up every beginning of it would take hours."""
    assert power("os." + "a." * 10**6 + "b") == "can run any command"
    assert power("x." * 10**6 + "y") == "runs code of the module x"


def test_a_key_that_is_there_twice_is_found_at_once():
    """Comparing each of the keys with those before it would take an hour."""
    keys = ", ".join(f'"{i}": 0' for i in range(300_000))
    with pytest.raises(Refused, match="holds the key 'a' twice"):
        parse_json(f'{{{keys}, "a": 0, "a": 0}}')


def test_values_that_are_replaced_outlive_the_walk():
    """Results are known by the identities of what they replace, which a new object must not get."""
    walk, pair = _Walk(), (1, [2])
    content = [pair]
    before = sys.getrefcount(pair)
    walk.plain(content, 0)
    assert content == [(1, [2])] and content[0] is not pair
    assert sys.getrefcount(pair) >= before
