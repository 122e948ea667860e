"""Tables and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from sharpness.files import write_atomically
from sharpness.plots import save_figure


def as_text(frame: pd.DataFrame) -> str:
    return frame.to_string(index=False, float_format=lambda v: f"{v:.4g}", na_rep="-")


def as_records(frame: pd.DataFrame) -> str:
    return frame.to_json(orient="records", indent=1)


def write(what: Any, path: Path) -> None:
    """A result as NetCDF, or a table as CSV or JSON."""
    if path.suffix == ".nc":
        what.save(path)
        return
    text = as_records(what) + "\n" if path.suffix == ".json" else what.to_csv(index=False)
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def save_drawn(drawn: Any, path: Path, err: bool = False) -> None:
    """The figure of one Axes or of several, as PDF and PNG; prints their names, on stderr where stdout has a table."""
    figure = np.ravel(np.asarray(drawn, dtype=object))[0].get_figure(root=True)
    for written in save_figure(figure, path):
        click.echo(written, err=err)
