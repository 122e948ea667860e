"""Tables in Markdown, where they go, and notes of progress on stderr."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    marks = ["---", *["---:"] * (len(header) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in (header, marks, *rows)]


def spread(values: np.ndarray) -> str:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def report(lines: list[str], output: Path | None) -> None:
    """Print the lines, and keep them in a file if there is one."""
    print("\n".join(lines))
    keep(lines, output)


def keep(lines: list[str], output: Path | None) -> None:
    """Write the lines into the file if there is one, so far: what comes after them may take hours, or fail."""
    if output:
        output.write_text("\n".join(lines) + "\n")


def note(text: str) -> None:
    print(f"... {text}", file=sys.stderr, flush=True)
