"""Sections of a report: pictures with captions, and tables, of every collection of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sharpness.errors import UserError
from sharpness.files import write_atomically
from sharpness.plots import figure_of, save_figure
from sharpness.results import PlaneResult, SpectralDensityResult
from sharpness.results.caption import caption, write_caption
from sharpness.results.collected import Collection
from sharpness.results.latex import as_latex
from sharpness.results.many_classes import abridged
from sharpness.results.record import record, write_sidecar, write_table
from sharpness.results.tables import as_html
from sharpness.results.words import named_matrix

#: Headings and options of pictures, by the kind of results, in the order of a report; ``{matrix}`` is that of results.
SHOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "MeasureResult": ("Measures of every class", {"measure": "all"}),
    "EigenvalueResult": ("Extreme eigenvalues of the {matrix}", {}),
    "SpectralDensityResult": ("Spectral density of the {matrix}", {}),
    "OwnersResult": ("Shares of the classes in the sharpest directions", {}),
    "LayerResult": ("Curvature of the layers", {}),
    "OptimaResult": ("Distances to the classes' own optima", {}),
    "PerturbationResult": ("Losses under random perturbation", {"kind": "radii"}),
    "CharacteristicRadiusResult": ("Characteristic radii", {}),
    "LineResult": ("Loss along a line", {}),
    "PlaneResult": ("Loss over a plane", {}),
}
#: Kinds whose tables have a row for every point or draw; these tables are only written to files.
LONG = ("LineResult", "PlaneResult", "PerturbationResult")


@dataclass
class Section:
    """One part of a report.

    Attributes:
        title: heading.
        picture: file of the picture, or None.
        caption: caption by headings.
        tables: HTML of tables, by their headings.
        files: all files that were written for it.
        note: why something is missing, or an empty text.
    """

    title: str
    picture: Path | None = None
    caption: Mapping[str, str] = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    note: str = ""


def section_of(c: Collection, name: str, folder: Path, command: Mapping[str, Any] | None) -> Section:
    """Draw and tabulate a collection; files are ``NAME.*`` in the folder."""
    results = c.results
    title, options = SHOWN.get(c.kind.__name__, (c.kind.__name__, {}))
    first = next(iter(results.each().values()))
    title = title.format(matrix=named_matrix(first.provenance))
    if isinstance(first, PlaneResult):
        options = {"of": [None, *(g for g in first.groups if first.classes_of(g))]}
    elif isinstance(first, SpectralDensityResult) and first.per_class:
        # Some classes may have no spectrum: the rarest one that has is drawn.
        known = np.flatnonzero(np.all([r.products > 0 for r in results.each().values()], axis=0))
        options = {"of": int(known[np.argmin(first.class_samples[known])])} if len(known) else {}
        title += f", {first.class_names[options['of']]}" if options else ""
    section = Section(title)
    try:
        drawn = results.plot(**options)
    except UserError as error:
        section.note = f"Not drawn: {error}."
    else:
        section.picture = folder / f"{name}.png"
        section.caption = caption(title, results)
        section.files += save_figure(figure_of(drawn, outermost=True), section.picture)
        section.files.append(write_caption(section.picture, section.caption))
    _tabulate(section, results, folder / name, command)
    return section


def _tabulate(section: Section, results: Any, stem: Path, command: Mapping[str, Any] | None) -> None:
    """Write the table of results as CSV and LaTeX, and add it to the section, with classes in a separate table."""
    first = next(iter(results.each().values()))
    if hasattr(first, "evaluated"):
        return  # a grid of losses for every class, which is in the .nc file
    frame = results.to_frame()
    path = stem.with_suffix(".csv")
    write_table(frame, path, results, command)
    section.files += [path, path.with_name(f"{path.name}.json")]
    if type(first).__name__ in LONG:
        return
    table, numbers = results.to_table(), results.summary()
    classes = numbers["class"].isin(first.class_names) if first.groups else pd.Series(False, index=numbers.index)
    parts = {"": ~classes, "-classes": classes} if classes.any() and not classes.all() else {"": ~classes | classes}
    for suffix, rows in parts.items():
        short, left_out = abridged(table[rows], numbers[rows], first.class_names)
        _write_latex(section, short, results, stem.with_name(f"{stem.name}{suffix}.tex"), command)
        heading = "Classes" if suffix else "All samples and groups" if len(parts) > 1 else "Table"
        section.tables[heading] = as_html(short, len(short), [] if suffix else results.notes) + "".join(
            f"<p>{escape(line)}</p>" for line in left_out
        )


def _write_latex(
    section: Section, table: pd.DataFrame, results: Any, path: Path, command: Mapping[str, Any] | None
) -> None:
    first = next(iter(results.each().values()))
    text = as_latex(table, results.notes, first.symbols)
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    write_sidecar(path, text, record(table, results, command))
    section.files += [path, path.with_name(f"{path.name}.json")]


def names_of(collections: Sequence[Collection]) -> list[str]:
    """Unique file names of collections: the kind, and a number if there are several."""
    found: list[str] = []
    for c in collections:
        plain = c.kind.__name__.removesuffix("Result").lower()
        found.append(plain if plain not in found else f"{plain}-{sum(n.startswith(plain) for n in found) + 1}")
    return found
