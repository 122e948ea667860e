"""Read a file of weights that anybody may have written, and run nothing of what it says.

``torch.load`` is always called with ``weights_only=True`` and only after the file was seen to be what it says it is:
an archive that does not unfold into more than its own size, a short pickle that names nothing but containers, tensors,
NumPy values and parsed arguments, and tensors that fit into their storages. There is no way to ask for more trust.
"""

from __future__ import annotations

import io
import mmap
import os
import stat
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import IO, Any, NoReturn

import torch

from sharpness.checkpoints.pickles import Refused, Storage, globals_of, refuse_globals, rehearse, shown
from sharpness.checkpoints.plain_values import PLAIN_GLOBALS, as_plain
from sharpness.errors import UserError

LIMIT = 64 * 2**30
"""Largest file that is read, in bytes."""

MAPPED = 256 * 2**20
"""Archives from this size on are mapped, so that an optimizer's state is never read."""

PICKLE = 8 * 2**20
"""Largest pickle that is read, in bytes: it holds names and plain values, and the numbers lie beside it."""

REMEDY = "save the weights alone, torch.save(model.state_dict(), PATH), where you trust it"
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
}


class Tensors(dict[str, torch.Tensor]):
    """Tensors of a safetensors file by name, with its ``metadata`` (texts by name)."""

    metadata: dict[str, str]


def read_safely(path: str | Path, limit: int = LIMIT) -> Any:
    """The tensors and plain values of a file: of ``torch.save`` (archive or old pickle) or safetensors.

    Args:
        path: the file.
        limit: the largest size in bytes that is read.

    Returns:
        What was saved, on the CPU, with NumPy scalars as Python values and ``argparse.Namespace`` as a dict; of a
        safetensors file :class:`Tensors`.

    Raises:
        UserError: one line that says why the file is not read; nothing in it was run.
    """
    path = Path(path)
    try:
        size = _size(path, limit)
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            kind = _kind(path, content)
            if kind == "archive":
                _check_archive(file, size)
            elif kind == "pickle":
                _check_legacy(content, size)
        return _read_safetensors(path) if kind == "safetensors" else _load(path, kind == "archive" and size >= MAPPED)
    except UserError:
        raise
    except Refused as error:
        _refuse(path, f"it {error}")
    except FileNotFoundError:
        _refuse(path, "there is no such file")
    except MemoryError:
        _refuse(path, "it needs more memory than there is")
    except OSError as error:
        _refuse(path, error.strerror or str(error))
    except RecursionError:
        _refuse(path, "it is nested too deeply")
    except Exception as error:
        # A damaged file can raise nearly any exception.
        lines = str(error).strip().splitlines()
        _refuse(path, f"{shown(lines[0], 160) if lines else type(error).__name__}: is it whole?")


def _refuse(path: Path, reason: str) -> NoReturn:
    raise UserError(f"cannot read {''.join(c if c.isprintable() else '?' for c in str(path))}: {reason}") from None


def _size(path: Path, limit: int) -> int:
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise Refused("is a folder: give the file in it")
    if not stat.S_ISREG(found.st_mode):
        raise Refused("is no regular file")
    if found.st_size == 0:
        raise Refused("is empty")
    if found.st_size > limit:
        raise Refused(f"has {found.st_size:,} bytes and the limit is {limit:,}: pass a larger one if that is right")
    return found.st_size


def _kind(path: Path, content: mmap.mmap) -> str:
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


def _check_archive(file: IO[bytes], size: int) -> None:
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        names = Counter(record.filename for record in records)
        folder = records[0].filename.split("/")[0] if records else ""
        if f"{folder}/constants.pkl" in names:
            raise Refused(f"is a TorchScript archive, which holds code: {REMEDY}")
        if any(record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1 for record in records):
            raise Refused("is a compressed archive, which torch.save never writes: unpack it, or save it again")
        if any(record.file_size != record.compress_size for record in records):
            raise Refused("is an archive whose entries claim other sizes than they have")
        if sum(record.file_size for record in records) > size:
            raise Refused(f"unfolds into more than the {size:,} bytes of the file")
        if max(names.values(), default=0) > 1:
            raise Refused("holds two entries of one name")
        if f"{folder}/data.pkl" not in names:
            raise Refused("is an archive, and not one of torch.save")
        sizes = {record.filename: record.file_size for record in records}
        if sizes[f"{folder}/data.pkl"] > PICKLE:
            _refuse_length()
        pickled = archive.read(f"{folder}/data.pkl")

    def storage(saved: tuple[Any, ...]) -> Storage:
        kind, key, claimed = _storage_id(saved, 5)
        held = sizes.get(f"{folder}/data/{key}")
        if held is None:
            raise Refused(f"lacks the numbers of storage {shown(str(key))}: is it whole?")
        if claimed > held:
            raise Refused(f"declares a tensor of {claimed:,} bytes and holds {held:,} bytes of it")
        return Storage(kind.item_size, claimed)

    refuse_globals(globals_of(pickled))
    rehearse(io.BytesIO(pickled), storage)


def _refuse_length() -> NoReturn:
    raise Refused(f"holds a pickle of more than {PICKLE:,} bytes beside its numbers, which no weights need: {REMEDY}")


def _storage_id(saved: Any, length: int) -> tuple[Any, Any, int]:
    """Type, key and bytes of a storage that a pickle names."""
    if not isinstance(saved, tuple) or len(saved) != length or saved[0] != "storage":
        raise Refused(f"holds a whole model or an unknown reference: {REMEDY}")
    kind, key, count = saved[1], saved[2], saved[4]
    if not getattr(kind, "item_size", 0) or type(count) is not int or count < 0 or not isinstance(key, str | int):
        raise Refused("names a storage that is none")
    return kind, key, kind.item_size * count


def _check_legacy(content: mmap.mmap, size: int) -> None:
    """The five pickles of ``torch.save`` before 1.6, and that the storages after them are there."""
    sizes: dict[Any, int] = {}

    def storage(saved: tuple[Any, ...]) -> Storage:
        kind, key, claimed = _storage_id(saved, 6)
        if claimed > size:
            raise Refused(f"declares a tensor of {claimed:,} bytes in a file of {size:,}: is it whole?")
        sizes[key] = max(claimed, sizes.get(key, 0))
        if saved[5] is not None:
            _, offset, count = saved[5]
            if min(offset, count) < 0 or (offset + count) * kind.item_size > claimed:
                raise Refused("names a part of a storage that is not in it")
            claimed = count * kind.item_size
        return Storage(kind.item_size, claimed)

    saved: Any = None
    for i in range(LEGACY_PICKLES):
        start = content.tell()
        stream = io.BytesIO(content[start : start + PICKLE])
        try:
            refuse_globals(globals_of(stream))
        except (ValueError, UnicodeDecodeError):
            if stream.tell() == PICKLE:
                _refuse_length()
            raise
        stream.seek(0)
        saved = rehearse(stream, storage)
        content.seek(start + stream.tell())
        if i == 0 and saved != torch.serialization.MAGIC_NUMBER:
            raise Refused(f"is a pickle, but not of torch.save: {REMEDY}")
    held = size - content.tell()
    if sum(sizes.get(key, 0) + 8 for key in saved) > held:
        raise Refused(f"declares {sum(sizes.values()):,} bytes of numbers and holds {held:,}: is it whole?")


def _load(path: Path, mapped: bool) -> Any:
    allowed: list[Any] = [(stand_in, name) for name, stand_in in PLAIN_GLOBALS.items()]
    with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
        warnings.simplefilter("ignore")
        return as_plain(torch.load(path, map_location="cpu", weights_only=True, mmap=mapped or None))


def _read_safetensors(path: Path) -> Tensors:
    from safetensors import safe_open

    with safe_open(path, framework="pt", device="cpu") as file:
        tensors = Tensors((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118
        tensors.metadata = dict(file.metadata() or {})
    return tensors
