"""Make the pictures and tables of the repository, and the tables that its pages quote: `make gallery`.

python docs/gallery.py [demo] [studies] [cifar10-lt]

demo        figures/demo and the README's first table: the demo on fresh trainings, and its correlations (eight minutes)
studies     figures/digits-lt: flattening operations, and CC-SAM taken apart (ten minutes)
cifar10-lt  figures/cifar10-lt, of the zoo's models, which needs $SHARPNESS_DATA (half an hour on two cores)

By default, only the demo. Files are written below runs/gallery, and those for readers are copied. Numbers differ
between processors, because training is chaotic.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from sharpness.cli import main

ROOT = Path(__file__).parent.parent
WORK = ROOT / "runs" / "gallery"
#: Files to keep of a folder: pictures, their captions, and short tables.
KEPT = ("*.png", "*.txt", "*summary.*", "runs.csv", "eigenvalues.csv", "measure.csv")
CIFAR = (
    *("zoo:", "--limit-per-class", "20", "--plane", "21", "--adaptive", "0.05", "--direction-seeds", "0,1"),
    *("--tol", "0.01", "--jobs", "2"),
)


def call(*arguments: str | Path) -> None:
    """Run a command of the command line, and exit if it fails."""
    if code := main([str(argument) for argument in arguments]):
        sys.exit(code)


def keep(drawn: Path, name: str) -> None:
    """Replace the pictures and tables of ``figures/name``."""
    folder = ROOT / "figures" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for pattern in KEPT:
        for file in sorted(drawn.glob(pattern)):
            shutil.copy(file, folder)


def quoted(page: str, name: str, text: str) -> str:
    """Return ``page`` with ``text`` between the two comments that name its file."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    found, number = re.subn(
        f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: begin + text + end, page, flags=re.DOTALL
    )
    if number != 1:
        raise SystemExit(f"{name} is quoted {number} times: put the two comments around one place")
    return found


def demo() -> None:
    runs, out = WORK / "demo", WORK / "out" / "demo"
    call("demo", "--runs", runs, "--out", out)
    tables = [WORK / "out" / f"{split}.csv" for split in ("train", "test")]
    for table in tables:
        call("measure", runs, "--split", table.stem, "--coordinates", "filter", "-o", table)
    call("correlate", tables[0], "--test", tables[1], "--plot", out / "correlation")
    keep(out, "demo")
    readme, source = ROOT / "README.md", "figures/demo/summary.md"
    readme.write_text(quoted(readme.read_text(), source, (ROOT / source).read_text()))


def studies() -> None:
    out = WORK / "out" / "digits-lt"
    for study in ("flattening", "microbenchmark"):
        call("figures", "--study", study, "--runs", WORK / study, "--out", out)
    for file in out.iterdir():
        shutil.copy(file, ROOT / "figures" / "digits-lt")


def cifar10_lt() -> None:
    call("figures", *CIFAR, "--runs", WORK / "cifar10-lt", "--out", ROOT / "figures" / "cifar10-lt")


PARTS = {"demo": demo, "studies": studies, "cifar10-lt": cifar10_lt}

if __name__ == "__main__":
    parts = sys.argv[1:] or ["demo"]
    if wrong := [part for part in parts if part not in PARTS]:
        raise SystemExit(f"{', '.join(wrong)}: choose among {', '.join(PARTS)}")
    for part in parts:
        PARTS[part]()
