"""Make ``notebooks/NAME.ipynb`` with outputs from the reviewed sources ``notebooks/NAME.py``.

The sources are in jupytext's percent format (``# %%`` before code, ``# %% [markdown]`` before commented text), which
jupytext, PyCharm and VS Code open as notebooks. ``make notebooks`` runs all of them with clean kernels; ``python
docs/make_notebooks.py own-measure`` runs one.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


class Cell(NamedTuple):
    """A cell of a notebook: ``"code"`` or ``"markdown"``, and its text."""

    kind: str
    source: str


def cells(text: str) -> list[Cell]:
    r"""Return the cells of a text in percent format.

    >>> cells("# ---\n# ---\n\n# %% [markdown]\n# A *word*\n\n# %%\nx = 1\n\n\n# %%\nx\n")
    [Cell(kind='markdown', source='A *word*'), Cell(kind='code', source='x = 1'), Cell(kind='code', source='x')]
    """
    found = []
    for part in re.split(r"(?m)^# %%", text)[1:]:
        head, _, body = part.partition("\n")
        if head.strip() == "[markdown]":
            found.append(Cell("markdown", re.sub(r"(?m)^# ?", "", body).strip()))
        else:
            found.append(Cell("code", body.strip()))
    return found


def executed(path: Path, folder: Path | None = None) -> nbformat.NotebookNode:
    """Run the notebook of a source with a clean kernel in ``folder``, and return it with its outputs."""
    make = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}
    made = [make[cell.kind](cell.source, id=f"cell-{i}") for i, cell in enumerate(cells(path.read_text()))]
    notebook = nbformat.v4.new_notebook(cells=made, metadata=KERNEL)
    resources = {"metadata": {"path": str(folder or path.parent)}}
    NotebookClient(notebook, timeout=600, resources=resources, record_timing=False).execute()
    return notebook


def main() -> None:
    """Run the notebooks named on the command line, or all."""
    for path in [FOLDER / f"{name}.py" for name in sys.argv[1:]] or sorted(FOLDER.glob("*.py")):
        begin = time.perf_counter()
        nbformat.write(executed(path), path.with_suffix(".ipynb"))
        size = path.with_suffix(".ipynb").stat().st_size / 1e6
        print(f"{path.stem}: {time.perf_counter() - begin:.0f} s, {size:.2f} MB", flush=True)


if __name__ == "__main__":
    main()
