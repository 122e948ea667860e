"""Tables in Markdown, where they go, sections that are made once, and notes of progress on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
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


class Sections:
    """The sections of a run of hours: written one by one, and not made again where the output file has them.

    A section is known by its title and by the line below, which says what it is of.

    Args:
        header: of the machine and its software: a file with another one is refused, not mixed with this run.
        output: the file; without one everything is made.
    """

    def __init__(self, header: list[str], output: Path | None) -> None:
        self.header, self.output, self.made = header, output, dict[tuple[str, str], list[str]]()
        if output is None or not output.exists():
            return
        above, *sections = output.read_text().split("\n## ")
        if above.split("\n")[: len(header)] != header:
            sys.exit(f"{output} is of another machine or other versions: move it away, or give another --output")
        for section in sections:
            title, _, of, *lines = section.rstrip("\n").split("\n")
            self.made[title, of.partition("; load ")[0]] = ["## " + title, "", of, *lines, ""]

    def add(self, title: str, of: str, make: Callable[[], list[str]]) -> None:
        """Make and write a section, unless the file has it."""
        if (title, of) in self.made:
            note(f"{title}; {of}: kept from the run before")
            return
        note(f"{title}; {of}")
        load = f"load average {os.getloadavg()[0]:.1f} before"
        self.made[title, of] = [f"## {title}", "", f"{of}; {load}", "", *make(), ""]
        keep(self.lines, self.output)

    @property
    def lines(self) -> list[str]:
        """All of the report."""
        return [*self.header, "", *(line for section in self.made.values() for line in section)]


def note(text: str) -> None:
    print(f"... {text}", file=sys.stderr, flush=True)
