"""Download the official CIFAR archives: resumable and verified, with complete files only.

Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009, https://www.cs.toronto.edu/~kriz.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import tarfile
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from sharpness.errors import UserError, choose
from sharpness.progress import tqdm

CHUNK = 1 << 18
ATTEMPTS = 5
TIMEOUT = 30.0


@dataclass(frozen=True)
class Archive:
    """A tar archive: its address, its checksum, and the folder that it unpacks to."""

    url: str
    md5: str
    folder: str

    @property
    def filename(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[-1]


ARCHIVES: dict[str, Archive] = {
    "cifar10": Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "c58f30108f718f92721af3b95e74349a",
        "cifar-10-batches-py",
    ),
    "cifar100": Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "eb9058c3a382ffc7106e4002c42a8d85",
        "cifar-100-python",
    ),
}


def download(name: str, root: Path) -> Path:
    """Download one of :data:`ARCHIVES` to ``root`` and unpack it there.

    Data are written to ``<archive>.part``, where an interrupted download is resumed, by this call or a later one. Only
    a file with the right checksum gets the archive's name. A complete archive is not downloaded again.

    Args:
        name: ``cifar10`` or ``cifar100``.
        root: the data folder, created if missing.

    Returns:
        The unpacked folder.

    Raises:
        UserError: a failure of the network, the server, the disk or the checksum; the message says where to put the
            files by hand.
    """
    choose("archive", name, list(ARCHIVES))
    archive = ARCHIVES[name]
    target = root / archive.filename
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not (target.is_file() and md5_of(target) == archive.md5):
            part = root / f"{archive.filename}.part"
            _fetch(archive, part, root)
            if md5_of(part) != archive.md5:
                part.unlink()
                raise UserError(f"{archive.url} has a wrong checksum, discarded: {_by_hand(archive, root)}")
            os.replace(part, target)
        _unpack(target, root)
    except (OSError, tarfile.TarError) as error:
        reason = f"cannot store {archive.filename} in {root} ({error})"
        raise UserError(f"{reason}: {_by_hand(archive, root)}") from None
    return root / archive.folder


def _by_hand(archive: Archive, root: Path) -> str:
    return f"fetch {archive.url} by hand and unpack it so that {root / archive.folder} exists"


def md5_of(path: Path) -> str:
    """MD5 of a file, the checksum that CIFAR publishes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _fetch(archive: Archive, part: Path, root: Path) -> None:
    """Download to ``part`` until it is complete, and resume after each broken connection."""
    reason = ""
    for _ in range(ATTEMPTS):
        before = part.stat().st_size if part.exists() else 0
        try:
            if _transfer(archive, part, before):
                return
            reason = f"the connection broke after {part.stat().st_size:,} bytes"
        except urllib.error.HTTPError as error:
            if error.code == 416:  # nothing is left to send; the checksum is verified by the caller
                return
            reason = f"HTTP {error.code} {error.reason}"
            break
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = str(getattr(error, "reason", "") or error or type(error).__name__)
            if not part.exists() or part.stat().st_size == before:
                break
    raise UserError(f"cannot download {archive.url} ({reason}): try again, or {_by_hand(archive, root)}")


def _transfer(archive: Archive, part: Path, done: int) -> bool:
    """Download over one connection; returns True if the file is then complete."""
    headers = {"Range": f"bytes={done}-"} if done else {}
    request = urllib.request.Request(archive.url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        content_range = response.headers.get("Content-Range", "")
        continues = response.status == 206 and content_range.startswith(f"bytes {done}-")
        done = done if continues else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        bar = tqdm(total=total, initial=done, unit="B", unit_scale=True, desc=archive.filename, disable=None)
        with bar, part.open("ab" if continues else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    return total is None or part.stat().st_size >= total


def _unpack(archive: Path, root: Path) -> None:
    """Unpack to a temporary folder and move the files one by one, so that no partial file is ever visible."""
    with tempfile.TemporaryDirectory(dir=root, prefix=".unpack-") as folder:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        for source in sorted(Path(folder).rglob("*")):
            place = root / source.relative_to(folder)
            if source.is_dir():
                place.mkdir(exist_ok=True)
            else:
                os.replace(source, place)
