"""NetCDF files of results, with a checksum of their bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

import xarray as xr

from sharpness.errors import UserError, shown
from sharpness.files import write_atomically
from sharpness.untrusted.refused import Refused
from sharpness.untrusted.regular_files import open_regular

LIMIT = 64 * 2**30
"""Largest file that is read, in bytes: eigenvectors are as long as the network."""
#: Suffixes of tables, of pictures, and of all files that are not NetCDF.
TABLES = (".csv", ".json", ".parquet", ".xlsx", ".html")
PICTURES = (".png", ".pdf", ".svg", ".vtk")
OTHERS = (*TABLES, *PICTURES, ".tsv", ".txt", ".npz", ".npy", ".feather", ".tex", ".md", ".pkl", ".pt", ".pth")
_ATTRIBUTE = "sha256"
_BLANK = b"0" * hashlib.sha256().digest_size * 2
#: The bytes before the checksum in the file: the padded name of the attribute, the type code of text, the length.
_BEFORE = _ATTRIBUTE.encode() + b"\0\0" + (2).to_bytes(4, "big") + len(_BLANK).to_bytes(4, "big")
_PIECE = 2**22


def write_dataset(data: xr.Dataset, path: str | Path) -> Path:
    """Write a NetCDF file, whole or not at all, with the SHA-256 of its bytes as an attribute.

    The checksum is that of the file with zeros in its place. NetCDF itself has no checksum, so a bit flipped by a disk
    or a copy would go unnoticed.

    Raises:
        UserError: the name has the suffix of another format.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending in OTHERS:
        table = ending.strip(".") if ending in TABLES else "csv"
        raise UserError(
            f"{shown(str(path))}: results are saved as NetCDF, under a name that ends in .nc; .to_frame().to_"
            f"{table.replace('xlsx', 'excel')}(path) writes their table, .plot() draws them"
        )

    def write(partial: Path) -> None:
        data.assign_attrs({_ATTRIBUTE: _BLANK.decode()}).to_netcdf(partial, engine="scipy")
        with partial.open("r+b") as file:
            at, digest = _checksum(file)
            file.seek(at)
            file.write(digest)

    write_atomically(path, write)
    return path


def read_dataset(path: Path) -> xr.Dataset:
    """Read what :func:`write_dataset` wrote, or a file of a version without checksums.

    Raises:
        Refused: not a NetCDF file, or one that has changed since it was written.
    """
    file, _ = open_regular(path, LIMIT)
    with file:
        if file.read(3) != b"CDF":
            raise Refused("does not start as a NetCDF file")
        at, digest = _checksum(file)
        file.seek(at)
        if at and file.read(len(digest)) != digest:
            raise Refused(
                "was changed after it was written, its checksum says: probe again, or delete its attribute "
                f"{_ATTRIBUTE!r} if you changed it"
            )
        file.seek(0)
        with xr.open_dataset(file, engine="scipy", decode_times=False, decode_timedelta=False) as opened:
            return opened.load()


def _checksum(file: BinaryIO) -> tuple[int, bytes]:
    """Position of the checksum in a file, 0 without one, and the checksum of its bytes."""
    file.seek(0)
    digest, at, read, rest = hashlib.sha256(), 0, 0, b""
    while piece := file.read(_PIECE):
        # The end of a piece is held back, because the attribute may span two pieces.
        rest += piece
        if not at and (position := rest.find(_BEFORE)) >= 0 and len(rest) >= position + len(_BEFORE) + len(_BLANK):
            at = read + position + len(_BEFORE)
            start = at - read
            rest = rest[:start] + _BLANK + rest[start + len(_BLANK) :]
        keep = 0 if at else len(_BEFORE) + len(_BLANK)
        done = max(0, len(rest) - keep)
        digest.update(rest[:done])
        read, rest = read + done, rest[done:]
    digest.update(rest)
    return at, digest.hexdigest().encode()
