"""Build a reproducible sdist and wheel of the current commit: ``python docs/release.py -o dist``.

``SOURCE_DATE_EPOCH`` is the time of the commit. The README becomes the description on the package index, where relative
links do not work: ``--url https://github.com/OWNER/sharpness/blob/v1.0.0`` makes them absolute (for pictures, with
``raw`` instead of ``blob``).
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: Markdown links and pictures with targets in the repository.
LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^]]*)\]\((?P<target>(?!https?:|#|mailto:)[^)\s]+)\)")


def absolute(text: str, url: str) -> str:
    """Make the relative links of a text absolute.

    >>> absolute("[a](docs/a.md) ![b](b.png) [c](https://c.org) [d](#d)", "https://h.org/o/r/blob/v1")
    '[a](https://h.org/o/r/blob/v1/docs/a.md) ![b](https://h.org/o/r/raw/v1/b.png) [c](https://c.org) [d](#d)'
    """

    def replaced(found: re.Match[str]) -> str:
        base = url.rstrip("/")
        if found["picture"]:
            base = base.replace("/blob/", "/raw/")
        return f"{found['picture']}[{found['text']}]({base}/{found['target']})"

    return LINK.sub(replaced, text)


def build(target: Path, url: str | None = None) -> list[Path]:
    """Build sdist and wheel from the committed files, and return their paths."""
    target.mkdir(parents=True, exist_ok=True)
    told = subprocess.run(["git", "-C", ROOT, "log", "-1", "--format=%ct"], check=True, capture_output=True, text=True)
    epoch = int(told.stdout)
    archive = subprocess.run(["git", "-C", ROOT, "archive", "HEAD"], check=True, capture_output=True).stdout
    with tempfile.TemporaryDirectory() as scratch:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tree:
            tree.extractall(scratch, filter="data")
        if url is not None:
            readme = Path(scratch) / "README.md"
            readme.write_text(absolute(readme.read_text(encoding="utf-8"), url), encoding="utf-8")
        code = f"""from setuptools import build_meta
build_meta.build_sdist({str(target.resolve())!r})
build_meta.build_wheel({str(target.resolve())!r})"""
        environment = os.environ | {"SOURCE_DATE_EPOCH": str(epoch)}
        made = [sys.executable, "-c", code]
        done = subprocess.run(made, cwd=scratch, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
    for sdist in target.glob("*.tar.gz"):
        timeless(sdist, epoch)
    return sorted([*target.glob("*.tar.gz"), *target.glob("*.whl")])


def timeless(sdist: Path, epoch: int) -> None:
    """Rewrite an sdist with fixed time, owner and order; setuptools uses those of the machine."""
    packed = io.BytesIO()
    with (
        tarfile.open(sdist) as old,
        gzip.GzipFile("", "wb", fileobj=packed, mtime=epoch) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda one: one.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
            member.mode, member.pax_headers = 0o755 if member.isdir() or member.mode & 0o100 else 0o644, {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    sdist.write_bytes(packed.getvalue())


def main() -> None:
    """Build, and print the paths of the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist", help="folder [dist]")
    parser.add_argument("--url", help="what links of the README are made absolute by")
    given = parser.parse_args()
    print(*build(given.output, given.url), sep="\n")


if __name__ == "__main__":
    main()
