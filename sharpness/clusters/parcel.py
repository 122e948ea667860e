"""Values that many tasks share, written to a file that each worker reads once."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sharpness.errors import SystemRefusal
from sharpness.files import write_atomically
from sharpness.locks import is_running, node

#: Tensors with at least this many bytes are stored in files of their own, one for all parcels that contain them.
LARGE = 2**20
#: Marks a device other than the CPU, or a tensor on one, in the pickle stream.
ELSEWHERE = "elsewhere"
#: In a worker: the last opened parcel, by its digest.
_opened: dict[str, Any] = {}


@dataclass(frozen=True)
class Parcel:
    """A value for workers, identified by the digest of its bytes; equal values have equal digests.

    Attributes:
        digest: SHA-256 of the bytes. It is checked before unpickling, so a replaced file is never unpickled.
        file: path of the file with the bytes; None if they are in ``content``.
        content: the bytes, if there is no file.
    """

    digest: str
    file: str | None = None
    content: bytes | None = None

    def open(self) -> Any:
        """Return the value. A process caches the last one, so its tasks read, trace and standardise it only once.

        Raises:
            SystemRefusal: the file is missing or has other content.
        """
        if self.digest not in _opened:
            value = self._read()
            _opened.clear()
            _opened[self.digest] = value
        return _opened[self.digest]

    def _read(self) -> Any:
        if self.file is None:
            assert self.content is not None
            return _Reader(io.BytesIO(self.content), None).load()
        folder = Path(self.file).parent
        return _Reader(io.BytesIO(_checked(Path(self.file), self.digest)), folder).load()


@contextmanager
def parcelled(value: Any, folder: Path | None) -> Iterator[Parcel]:
    """Create a parcel of a value; its files exist until the context ends.

    Tensors on a GPU are sent as CPU tensors and moved to the worker's GPU if it has one.

    Args:
        folder: a folder on a disk that the workers see; None sends the bytes with every task.
    """
    written: list[Path] = []
    buffer = io.BytesIO()
    if folder is None:
        _Writer(buffer, None, written).dump(value)
        yield Parcel(_digest(buffer.getvalue()), None, buffer.getvalue())
        return
    folder = _own_folder(folder)
    try:
        _Writer(buffer, folder, written).dump(value)
        content = buffer.getvalue()
        written.append(folder / f".{_digest(content)[:16]}.parcel")
        _write(written[-1], content)
        yield Parcel(_digest(content), str(written[-1].absolute()))
    finally:
        for path in written:
            with suppress(OSError):
                path.unlink()
        with suppress(OSError):  # not empty while another parcel of this process is in use
            folder.rmdir()


def _own_folder(folder: Path) -> Path:
    """Return the folder for the parcels of this process inside ``folder``, and remove those of killed processes.

    Parcels of two processes may have the same digest, such as two parts of a study with the same data: in a common
    folder, the first to end would remove the files that the workers of the other still read.
    """
    prefix = f".sent-{node()}-"
    for left in folder.glob(f"{prefix}*"):
        pid = left.name.removeprefix(prefix)
        if pid.isdecimal() and not is_running(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    own = folder / f"{prefix}{os.getpid()}"
    own.mkdir(parents=True, exist_ok=True)
    return own


class _Writer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, folder: Path | None, written: list[Path]) -> None:
        super().__init__(file)
        self.folder, self.written = folder, written
        # The tensors are kept alive, because a new tensor could get the id of a deleted one.
        self.elsewhere: dict[int, tuple[int, Tensor]] = {}

    def persistent_id(self, thing: Any) -> Any:
        if isinstance(thing, Tensor) and thing.device.type != "cpu":
            return self._from_elsewhere(thing)
        if isinstance(thing, torch.device) and thing.type != "cpu":
            return (ELSEWHERE,)
        # Views and parameters are pickled as usual, which preserves shared memory, and so are layouts and bits that the
        # bytes of the elements do not include.
        if self.folder is None or type(thing) is not Tensor or thing.layout != torch.strided or thing.requires_grad:
            return None
        if thing.is_nested or thing.is_quantized or thing.is_conj() or thing.is_neg() or thing.nbytes < LARGE:
            return None
        if not thing.is_contiguous() or thing.nbytes < thing.untyped_storage().nbytes():
            return None
        content = thing.flatten().view(torch.uint8).numpy().tobytes()  # NumPy lacks some types, such as float8
        digest = _digest(content)
        path = self.folder / f".{digest[:16]}.tensor"
        if path not in self.written:
            self.written.append(path)
            if not path.exists():
                _write(path, content)
        return digest, path.name, str(thing.dtype).removeprefix("torch."), tuple(thing.shape)

    def _from_elsewhere(self, thing: Tensor) -> Any:
        """Return the number of a tensor, with its content the first time, so that references stay references."""
        known = id(thing) in self.elsewhere
        number, _ = self.elsewhere.setdefault(id(thing), (len(self.elsewhere), thing))
        kind = isinstance(thing, nn.Parameter), thing.requires_grad
        return (ELSEWHERE, number) if known else (ELSEWHERE, number, thing.detach().cpu(), *kind)


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, folder: Path | None) -> None:
        super().__init__(file)
        self.folder = folder
        self.known: dict[Any, Tensor] = {}

    def persistent_load(self, about: Any) -> Tensor | torch.device:
        if about[0] == ELSEWHERE:
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            if len(about) == 1:
                return device
            number, *new = about[1:]
            if new:
                tensor = new[0].to(device)
                self.known[number] = nn.Parameter(tensor, new[2]) if new[1] else tensor.requires_grad_(new[2])
            return self.known[number]
        assert self.folder is not None
        digest, name, dtype, shape = about
        # Tensors with the same bytes share a file, but may differ in type and shape.
        if about not in self.known:
            content = bytearray(_checked(self.folder / name, digest))
            self.known[about] = torch.frombuffer(content, dtype=getattr(torch, dtype)).reshape(shape)
        return self.known[about]


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda partial: partial.write_bytes(content))


def _checked(path: Path, digest: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SystemRefusal(
            f"{path}: {error.strerror}: workers must see the folder of the output, on a disk that all nodes share"
        ) from None
    if _digest(content) != digest:
        raise SystemRefusal(f"{path} is not what was written for the workers: give the same command again")
    return content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
