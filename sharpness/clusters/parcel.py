"""Values that many tasks share, written once into a file that each worker reads once."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sharpness.errors import SystemRefusal
from sharpness.files import write_atomically

#: Tensors of more bytes lie in files of their own, once, however many parcels hold them.
LARGE = 2**20
#: What stands for a tensor that is not on the CPU, or for the device.
ELSEWHERE = "elsewhere"
#: In a worker: the last parcel that was opened, by its digest.
_opened: dict[str, Any] = {}


@dataclass(frozen=True)
class Parcel:
    """A value for workers, by the digest of its bytes; equal values have equal parcels.

    Attributes:
        digest: SHA-256 of the bytes, which is why a file that somebody put there instead is never unpickled.
        file: where the bytes are; None where they are in ``content``.
    """

    digest: str
    file: str | None = None
    content: bytes | None = None

    def open(self) -> Any:
        """The value. A process keeps the last one, so that its tasks read, trace and standardise it once.

        Raises:
            SystemRefusal: the file is gone, or another one.
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
    """A parcel of a value for as long as tasks need it.

    Tensors of a GPU are sent as those of the CPU, and come to the worker's GPU where it has one.

    Args:
        folder: on a disk that workers see; without one every task carries the bytes.
    """
    written: list[Path] = []
    buffer = io.BytesIO()
    if folder is None:
        _Writer(buffer, None, written).dump(value)
        yield Parcel(_digest(buffer.getvalue()), None, buffer.getvalue())
        return
    folder.mkdir(parents=True, exist_ok=True)
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


class _Writer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, folder: Path | None, written: list[Path]) -> None:
        super().__init__(file)
        self.folder, self.written = folder, written
        # The tensors are kept, because another one could get the id of one that is gone.
        self.elsewhere: dict[int, tuple[int, Tensor]] = {}

    def persistent_id(self, thing: Any) -> Any:
        if isinstance(thing, Tensor) and thing.device.type != "cpu":
            return self._from_elsewhere(thing)
        if isinstance(thing, torch.device) and thing.type != "cpu":
            return (ELSEWHERE,)
        # Views and parameters stay as they are: what shares memory shares it afterwards.
        if self.folder is None or type(thing) is not Tensor or thing.nbytes < LARGE or thing.requires_grad:
            return None
        if (
            not thing.is_contiguous()
            or thing.nbytes < thing.untyped_storage().nbytes()
            or thing.dtype == torch.bfloat16
        ):
            return None
        content = thing.numpy().tobytes()
        digest = _digest(content)
        path = self.folder / f".{digest[:16]}.tensor"
        if path not in self.written:
            self.written.append(path)
            if not path.exists():
                _write(path, content)
        return digest, path.name, str(thing.dtype).removeprefix("torch."), tuple(thing.shape)

    def _from_elsewhere(self, thing: Tensor) -> Any:
        """Its number, and the first time its content: what is one tensor here is one there."""
        known = id(thing) in self.elsewhere
        number, _ = self.elsewhere.setdefault(id(thing), (len(self.elsewhere), thing))
        kind = isinstance(thing, nn.Parameter), thing.requires_grad
        return (ELSEWHERE, number) if known else (ELSEWHERE, number, thing.detach().cpu(), *kind)


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, folder: Path | None) -> None:
        super().__init__(file)
        self.folder = folder
        self.known: dict[str | int, Tensor] = {}

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
        if name not in self.known:
            content = bytearray(_checked(self.folder / name, digest))
            self.known[name] = torch.frombuffer(content, dtype=getattr(torch, dtype)).reshape(shape)
        return self.known[name]


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
