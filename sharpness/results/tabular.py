"""Tables of a result, of several trainings or of several models: as text, LaTeX, HTML and a file."""

from __future__ import annotations

from abc import abstractmethod
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import xarray as xr

from sharpness.results.latex import as_latex
from sharpness.results.many_classes import abridged
from sharpness.results.netcdf import write_dataset
from sharpness.results.tables import as_html, with_errors

if TYPE_CHECKING:
    from sharpness.results.base import Result


class Tabular:
    """Numbers that can be read, printed and saved."""

    @property
    @abstractmethod
    def notes(self) -> list[str]:
        """Lines below the table."""

    @abstractmethod
    def to_dataset(self) -> xr.Dataset:
        """The numbers as an xarray data set."""

    @abstractmethod
    def _numbers_read(self) -> pd.DataFrame:
        """The numbers of the printed table; for several trainings, their means and spreads."""

    @property
    @abstractmethod
    def _first(self) -> Result:
        """One of the results, from which common properties are read."""

    def _heading(self) -> str:
        """The subject of the table in one line; empty if the table itself states it."""
        return ""

    def to_table(self) -> pd.DataFrame:
        """The table as text for reading, with numbers rounded to their errors.

        Cells are ``value [lower, upper]``, or ``value ± se`` without an interval. For several trainings they are ``mean
        ± sd [lower, upper]``, with the standard deviation over trainings and the average interval of one.
        """
        return with_errors(self._numbers_read())

    def to_latex(self, rows: str | None = None) -> str:
        """The table for LaTeX, with the rules of booktabs; a comment above it explains its marks.

        Args:
            rows: ``"all"`` for every class; by default, with more than 100 classes, only the ten sharpest.
        """
        table, notes = (self.to_table(), self.notes) if rows == "all" else brief(self)
        return as_latex(table, notes, self._first.symbols)

    def save(self, path: str | Path) -> Path:
        """Write one NetCDF file, which xarray opens; read it back with :func:`~sharpness.load_result`."""
        return write_dataset(self.to_dataset(), path)

    def _repr_html_(self) -> str:
        told = self._heading()
        told = f"<p><b>{type(self._first).__name__}</b> {escape(told)}</p>" if told else ""
        table, notes = brief(self)
        return told + as_html(table, self._first.ROWS, notes)


def brief(shown: Tabular) -> tuple[pd.DataFrame, list[str]]:
    """The printed table, reduced to the sharpest of many classes, and the lines below it."""
    first: Any = shown._first
    numbers = shown._numbers_read()
    table, left_out = abridged(with_errors(numbers), numbers, first.class_names)
    return table, [*shown.notes, *left_out]
