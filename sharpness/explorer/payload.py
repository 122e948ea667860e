"""Content of the explorer: plain values of collected results, and arrays in single precision."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sharpness.errors import UserError
from sharpness.results import (
    EigenvalueResult,
    LayerResult,
    LineResult,
    OwnersResult,
    PlaneResult,
    Result,
    SpectralDensityResult,
)
from sharpness.results.axes import line_label, plane_label
from sharpness.results.collected import Collection, Saved
from sharpness.results.description import Description
from sharpness.results.estimates import Subset
from sharpness.results.landscape import Landscape
from sharpness.results.same import require_equal
from sharpness.results.words import named_matrix

#: Name and version of the format that :func:`payload_of` returns.
SCHEMA = "sharpness.explorer/2"
#: Maximum number of radii of a random perturbation that are offered as quantities.
RADII = 12


def payload_of(collections: Sequence[Collection], title: str) -> dict[str, Any]:
    """The content of an explorer: rows (all samples, groups, classes), trainings, and their numbers.

    The first dimension of arrays is that of the rows; arrays are base64 of little-endian single precision.

    Raises:
        UserError: results of different classes or groups, or no results for classes.
    """
    shown = [c for c in collections if not _grouped(c) and not issubclass(c.kind, LayerResult)]
    if not shown:
        raise UserError("results of groups or layers alone: the explorer shows classes, save one per class as well")
    firsts: dict[str, Any] = {}
    for c in shown:
        source = _source(c)
        while source in firsts:  # results in memory may have the same label
            source += " "
        firsts[source] = _first(c)
    require_equal({name: {"class_names": r.class_names, "groups": r.groups} for name, r in firsts.items()})
    first = next(iter(firsts.values()))
    rows: list[Subset] = [None, *first.groups, *(range(len(first.class_names)) if first.has_classes else ())]
    trainings = list(dict.fromkeys((one.label, one.run) for c in shown for one in _members(c)))
    number = {pair: t for t, pair in enumerate(trainings)}
    found: dict[str, list[Any]] = {"quantities": [], "planes": [], "lines": [], "spectra": [], "owners": []}
    kinds = [c.kind for c in shown]
    # Tables of one kind, such as of train and test images, are distinguished by the names of their files.
    for c in shown:
        several = f"{c.name}: " if kinds.count(c.kind) > 1 else ""
        of: dict[int, Any] = {number[one.label, one.run]: one.result for one in _members(c)}
        if issubclass(c.kind, PlaneResult):
            found["planes"].append(_plane(c.name, of, rows))
        elif issubclass(c.kind, LineResult):
            found["lines"].append(_line(c.name, of, rows))
        elif issubclass(c.kind, OwnersResult):
            found["owners"].append(_owners(c.name, of))
        if not issubclass(c.kind, Landscape):
            found["quantities"] += _quantities(several, of, rows)
            if issubclass(c.kind, SpectralDensityResult | EigenvalueResult):
                found["spectra"].append(_spectra(c.name, of, rows))
    return {
        "schema": SCHEMA,
        "title": title,
        "groups": {name: list(members) for name, members in first.groups.items()},
        "classes": list(first.class_names) if first.has_classes else [],
        "trainings": [{"model": label, "run": run or ""} for label, run in trainings],
        "notes": _notes(shown),
        **found,
    }


def packed(values: Any) -> dict[str, Any]:
    """An array as base64, with its shape.

    >>> packed([[1.0, float("nan")]])
    {'shape': [1, 2], 'data': 'AACAPwAAwH8='}
    """
    with np.errstate(over="ignore"):  # losses beyond single precision are shown as infinite
        array = np.ascontiguousarray(np.asarray(values), dtype="<f4")
    return {"shape": list(array.shape), "data": base64.b64encode(array.tobytes()).decode()}


def _members(c: Collection) -> list[Saved]:
    return [one for of_label in c.members.values() for one in of_label]


def _first(c: Collection) -> Any:
    return _members(c)[0].result


def _source(c: Collection) -> str:
    return ", ".join(map(str, c.paths[:1])) or f"{c.name} of {_members(c)[0].label}"


def _grouped(c: Collection) -> bool:
    """True for results whose rows are groups instead of classes."""
    return bool(_first(c).of_groups)


def _samples(of: Mapping[int, Any], rows: Sequence[Subset]) -> list[int]:
    """Samples of every row, which may differ between tables, such as of training and test images."""
    return [next(iter(of.values())).row(row)["samples"] for row in rows]


def _numbers(result: Result, name: str, rows: Sequence[Subset]) -> np.ndarray:
    """Value and ends of the interval (3, S, ...); NaN for rows that the result lacks."""
    found: list[Any] = []
    for row in rows:
        try:
            value, _, lower, upper = result[name].estimate(row)
            found.append((value, lower, upper))
        except UserError:
            found.append(None)
    shape = next((np.shape(one) for one in found if one is not None), (3,))
    return np.stack([np.full(shape, np.nan) if one is None else np.asarray(one, dtype=float) for one in found], axis=1)


def _quantities(prefix: str, of: dict[int, Any], rows: Sequence[Subset]) -> list[dict[str, Any]]:
    """Every measure of the results; one that depends on a radius is listed at some of the radii."""
    quantities = []
    for name in dict.fromkeys(name for result in of.values() for name in result):
        having = {t: result for t, result in of.items() if name in tuple(result)}
        known, first = {t: _numbers(result, name, rows) for t, result in having.items()}, next(iter(having.values()))
        describe = getattr(first, "description", Description.of)(name)
        if isinstance(first, OwnersResult):
            describe = Description(title=f"Share of the eigenvalue of direction {name}", bounds=(0, 1))
        told = {"flat": describe.lower_is_flatter, "name": name, "share": describe.bounds == (0, 1)}
        told["samples"] = _samples(having, rows)
        radii = getattr(first, "radii", None)
        if next(iter(known.values())).ndim == 2:
            quantities.append({"title": f"{prefix}{_title(name, describe)}", **told, "of": _packed(known)})
        elif radii is not None:
            for i in dict.fromkeys(np.linspace(0, len(radii) - 1, min(len(radii), RADII)).round().astype(int).tolist()):
                at = {t: numbers[:, :, i] for t, numbers in known.items()}
                title = f"{prefix}{describe.title} at random displacements of radius {radii[i]:.3g}"
                quantities.append({"title": title, **told, "of": _packed(at)})
    return quantities


def _title(name: str, described: Description) -> str:
    words = described.title + (f" ({described.unit})" if described.unit else "")
    return words if name == words.lower() or not described.symbol else f"{words} ({name})"


def _packed(known: dict[int, np.ndarray]) -> dict[str, Any]:
    return {str(t): packed(numbers) for t, numbers in known.items()}


def _landscape(result: Landscape, rows: Sequence[Subset]) -> dict[str, Any]:
    values = [result.values(row) for row in rows]
    found = {
        "loss": packed(values),
        "base": packed([result.select(result.base_class_losses, row, np.asarray(result.base_loss)) for row in rows]),
        "evaluated": np.ravel(result.evaluated).astype(int).tolist(),
        "marks": [] if result.marks is None else result.marks.tolist(),
        "names": list(result.mark_names),
    }
    if result.has_labels:
        found["accuracy"] = packed([result.accuracies(row) for row in rows])
    return found


def _plane(name: str, of: dict[int, PlaneResult], rows: Sequence[Subset]) -> dict[str, Any]:
    first = next(iter(of.values()))
    explained = first.provenance.get("explained")
    labels = [plane_label(first.directions, first.normalization, axis, explained) for axis in (0, 1)]
    return {**_landscapes(name, of, rows), "y": first.y.tolist(), "labels": labels}


def _line(name: str, of: dict[int, LineResult], rows: Sequence[Subset]) -> dict[str, Any]:
    first = next(iter(of.values()))
    return {**_landscapes(name, of, rows), "label": line_label(first.directions, first.normalization)}


def _landscapes(name: str, of: Mapping[int, Landscape], rows: Sequence[Subset]) -> dict[str, Any]:
    found = {str(t): _landscape(result, rows) for t, result in of.items()}
    return {"title": name, "samples": _samples(of, rows), "x": next(iter(of.values())).x.tolist(), "of": found}


def _spectra(name: str, of: dict[int, Any], rows: Sequence[Subset]) -> dict[str, Any]:
    """Densities, or eigenvalues, of every row that has them, by the number of the row."""
    kept: dict[str, Any] = {}
    for t, result in of.items():
        each: dict[str, Any] = {}
        for i, row in enumerate(rows):
            if isinstance(row, str) or result.per_class is (row is None):
                continue
            c = row if result.per_class else None
            if isinstance(result, EigenvalueResult):
                ends = np.full((2, *result.values.shape), np.nan)
                if result.lower is not None or result.standard_errors is not None:
                    ends = result.intervals
                one = np.stack([result.values, *ends]) if c is None else np.stack([result.values, *ends])[:, c]
                if np.isfinite(one[0]).any():
                    each[str(i)] = {"values": packed(one), "ranks": result.ranks}
            elif c is None or result.products[c]:
                curve = result.quadrature(c).density()
                each[str(i)] = {
                    "density": packed([curve.grid, curve.density, curve.lower, curve.upper]),
                    "ends": [float(np.nanmin(nodes := result.quadrature(c).nodes)), float(np.nanmax(nodes))],
                }
        kept[str(t)] = each
    matrix = named_matrix(next(iter(of.values())).provenance)
    return {"title": name, "samples": _samples(of, rows), "matrix": matrix, "of": kept}


def _owners(name: str, of: dict[int, OwnersResult]) -> dict[str, Any]:
    return {
        "title": name,
        "of": {
            str(t): {
                "values": packed(r.values), "shares": packed(r.shares), "errors": packed(r.standard_errors),
                "images": packed(r.image_shares), "converged": r.converged.astype(int).tolist(),
            } for t, r in of.items()
        },
    }  # fmt: skip


def _notes(shown: Sequence[Collection]) -> list[str]:
    """One line for every collection, with the settings of its numbers."""
    lines = []
    for c in shown:
        told = _first(c).provenance
        settings = [f"{key} {told[key]}" for key in ("samples", "loss", "batchnorm", "scope", "dtype") if key in told]
        version = f"sharpness {told['sharpness']}" if "sharpness" in told else ""
        lines.append(f"{c.name} ({c.kind.__name__}): {', '.join(filter(None, [*settings, version]))}")
    return lines
