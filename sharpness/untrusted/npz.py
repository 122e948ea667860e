"""Arrays of numbers from an ``.npz`` file, bounded in proportion to its size."""

from __future__ import annotations

import io
import math
import mmap
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sharpness.untrusted.archives import Entry, archive_entries
from sharpness.untrusted.plain_values import is_shape
from sharpness.untrusted.refused import Allowance, Refused
from sharpness.untrusted.regular_files import open_regular

LIMIT = 64 * 2**30
"""Largest file that is read, in bytes."""

FREE, FACTOR = 64 * 2**20, 32
"""Bytes that a file may unfold into: so many, and so many times its own. Images rarely shrink to a tenth."""

HEADER = 2**16
READERS: dict[tuple[int, int], Callable[..., Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_arrays(path: Path, choose: Callable[[Sequence[str]], Sequence[str]]) -> list[np.ndarray[Any, Any]]:
    """Read the arrays of an ``.npz`` that ``choose`` selects by name.

    Raises:
        Refused: the file is no regular one, no plain archive, unfolds into far more than it holds, or one of those
            arrays does not consist of numbers.
        Exception: nearly any, of a damaged file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez_compressed(Path(folder, "a.npz"), x=np.arange(3), y=np.zeros(2))
    ...     read_arrays(Path(folder, "a.npz"), lambda names: names[:1])
    [array([0, 1, 2])]
    """
    file, size = open_regular(path, LIMIT)
    with file:
        if size == 0:
            raise Refused("is empty")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    entries = {entry.name.removesuffix(".npy"): entry for entry in archive_entries(content)}
    allowance = Allowance(FREE + FACTOR * size)
    return [_array(_unfolded(memoryview(content), entries[name], allowance)) for name in choose(list(entries))]


def _unfolded(content: memoryview, entry: Entry, allowance: Allowance) -> bytes | memoryview:
    try:
        allowance.take(entry.size)
    except Refused:
        raise Refused(f"unfolds into {entry.size:,} bytes, far more than it holds: save it with numpy.savez") from None
    held = content[entry.offset : entry.offset + entry.held]
    unfolded = held if entry.stored else zlib.decompressobj(-15).decompress(held, entry.size + 1)
    if len(unfolded) != entry.size or zlib.crc32(unfolded) != entry.checksum:
        raise Refused("is damaged: an array is not what its checksum says")
    return unfolded


def _array(content: bytes | memoryview) -> np.ndarray[Any, Any]:
    stream = io.BytesIO(content[:HEADER])
    version = np.lib.format.read_magic(stream)
    if version not in READERS:
        raise Refused("holds other things than arrays of numbers")
    shape, fortran, dtype = READERS[version](stream)
    if dtype.kind not in "biuf" or dtype.itemsize > 8 or dtype.fields or dtype.subdtype or not is_shape(shape):
        raise Refused("holds other things than arrays of numbers")
    start = stream.tell()
    if math.prod(shape) * dtype.itemsize != len(content) - start:
        raise Refused("holds an array of another shape than it has numbers for")
    # A copy may be written to, which PyTorch wants, in this machine's order of bytes.
    numbers = np.frombuffer(content, dtype, offset=start).reshape(shape, order="F" if fortran else "C")
    return numbers.astype(dtype.newbyteorder("="), order="C", copy=True)
