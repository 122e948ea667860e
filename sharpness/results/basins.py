"""Basins of a plane: depth, area, saddles, and which of them holds the model (0-dimensional persistence)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import scipy

from sharpness.errors import UserError
from sharpness.results.kept import Content, KeptTable
from sharpness.untrusted.refused import Refused

#: Neighbours of a cell, including diagonal ones.
NEIGHBOURS = np.ones((3, 3), dtype=int)


@dataclass(frozen=True)
class Basin:
    """A basin of a surface on a grid: the cells below the level at which water would overflow.

    Attributes:
        x, y: position of its lowest point.
        bottom: the loss there.
        saddle: the lowest pass to another basin that is deep enough; infinite if there is none.
        edge: the lowest loss on the edge of the plane that a path from the bottom reaches without rising above it.
        area: in units of x times y, of its cells below ``level``.
        mask: (ny, nx) True for its cells.
    """

    x: float
    y: float
    bottom: float
    saddle: float
    edge: float
    area: float
    mask: np.ndarray

    @property
    def level(self) -> float:
        """The loss at which it ends: at a saddle or at the edge of the plane, whichever is lower."""
        return min(self.saddle, self.edge)

    @property
    def depth(self) -> float:
        """The level minus the bottom; a lower bound if the basin ends at the edge of the plane."""
        return self.level - self.bottom

    @property
    def open(self) -> bool:
        """True if the basin ends at the edge of the plane: outside it may be deeper."""
        return self.edge < self.saddle


@dataclass(frozen=True)
class Basins(KeptTable):
    """All basins of one surface, the deepest bottom first.

    Attributes:
        found: the basins.
        model: index of the basin that holds the model; None if it is above all their levels, or outside of the plane.
        least: minimum persistence of a basin.
    """

    NUMBERS = ("x", "y", "bottom", "saddle", "edge", "area")
    ARRAYS: ClassVar[dict[str, tuple[str, ...]]] = {"mask": ("j", "i")}

    found: tuple[Basin, ...]
    model: int | None
    least: float

    def content(self) -> Content:
        """The numbers and cells of all basins, and which holds the model."""
        rows = pd.DataFrame([{name: getattr(one, name) for name in self.NUMBERS} for one in self.found])
        masks = np.stack([one.mask for one in self.found]).astype(np.int8)
        return Content(rows, {"mask": masks}, {"model": self.model, "least": self.least})

    @classmethod
    def of_content(cls, content: Content) -> Basins:
        """The basins with these rows and cells."""
        model, least = content.plain.get("model"), content.plain.get("least")
        held = model is None or (type(model) is int and 0 <= model < len(content.rows))
        if not held or not isinstance(least, float):
            raise Refused("names a basin that it does not have: find them again")
        rows = content.rows.to_dict("records")
        found = [Basin(**row, mask=mask != 0) for row, mask in zip(rows, content.arrays["mask"], strict=True)]
        return cls(tuple(found), model, least)

    @property
    def own(self) -> Basin | None:
        """The basin that holds the model."""
        return None if self.model is None else self.found[self.model]

    def to_frame(self) -> pd.DataFrame:
        """One row for each basin."""
        rows = [
            {
                "basin": i + 1, "x": b.x, "y": b.y, "bottom": b.bottom, "saddle": b.saddle, "depth": b.depth,
                "area": b.area, "open": b.open, "holds_model": i == self.model,
            }
            for i, b in enumerate(self.found)
        ]  # fmt: skip
        return pd.DataFrame(rows)


def basins_of(
    z: np.ndarray, x: np.ndarray, y: np.ndarray, least: float | None = None, model: tuple[float, float] = (0.0, 0.0)
) -> Basins:
    """Find the basins of a surface by union-find over its cells, from the lowest to the highest.

    A cell without lower neighbours starts a basin. A cell where two basins meet is their saddle. The one with the
    higher bottom counts if its persistence, this saddle minus its bottom, is at least ``least``; shallower ones are
    merged into the other. Every basin ends at the lowest of its saddles.

    Args:
        z: (ny, nx) losses; cells that are not finite are walls.
        x: (nx,) positions of the columns.
        y: (ny,) positions of the rows.
        least: minimum persistence; by default a hundredth of the range of finite values.
        model: position of the model.

    Returns:
        The basins, by their bottoms.

    Raises:
        UserError: a surface without finite values, or a negative persistence.

    >>> x = np.linspace(-2, 2, 41)
    >>> found = basins_of((x**2 - 1) ** 2 + x[:, None] ** 2, x, x, model=(1.0, 0.0))
    >>> len(found.found), round(found.own.x, 6), round(found.own.saddle, 6)
    (2, 1.0, 1.0)
    """
    z = np.asarray(z, dtype=float)
    finite = np.isfinite(z)
    if not finite.any():
        raise UserError("no value of the surface is finite: there is no basin")
    if least is None:
        least = float(np.ptp(z[finite])) / 100
    if not 0 <= least < np.inf:
        raise UserError(f"least={least}: give a persistence, a finite number of at least 0")
    saddles, edges = _merged(np.where(finite, z, np.inf), least)
    cells = np.outer(_widths(y), _widths(x))
    found = []
    for root in sorted(saddles, key=lambda cell: z.flat[cell]):
        level = min(saddles[root], edges[root])
        j, i = np.unravel_index(root, z.shape)
        # At the edge itself, or on a flat surface, a basin is its lowest cell.
        below = (z < level) if z.flat[root] < level else (np.arange(z.size).reshape(z.shape) == root)
        parts, _ = scipy.ndimage.label(below & finite, NEIGHBOURS)
        mask = parts == parts[j, i]
        area = float(cells[mask].sum())
        found.append(Basin(float(x[i]), float(y[j]), float(z[j, i]), saddles[root], edges[root], area, mask))
    at = int(np.argmin(np.abs(y - model[1]))), int(np.argmin(np.abs(x - model[0])))
    inside = _covers(x, model[0]) and _covers(y, model[1])
    holds = [k for k, basin in enumerate(found) if inside and basin.mask[at]]
    return Basins(tuple(found), holds[0] if holds else None, float(least))


def _merged(z: np.ndarray, least: float) -> tuple[dict[int, float], dict[int, float]]:
    """Saddles and edges of all basins that are deep enough, by the cells of their bottoms."""
    rows, columns = z.shape
    flat, parent = z.ravel(), np.full(z.size, -1)
    saddles: dict[int, float] = {}
    edges: dict[int, float] = {}

    def root_of(cell: int) -> int:
        while parent[cell] != cell:
            parent[cell] = parent[parent[cell]]
            cell = int(parent[cell])
        return cell

    for cell in np.argsort(flat, kind="stable").tolist():
        if np.isinf(flat[cell]):
            break
        row, column = divmod(cell, columns)
        around = {
            root_of(r * columns + c)
            for r in range(max(0, row - 1), min(rows, row + 2))
            for c in range(max(0, column - 1), min(columns, column + 2))
            if parent[r * columns + c] >= 0
        }
        parent[cell] = cell
        edges[cell], saddles[cell] = np.inf, np.inf
        if row in (0, rows - 1) or column in (0, columns - 1):
            edges[cell] = float(flat[cell])
        # All are merged into the oldest, which has the lowest bottom.
        family = sorted([*around, cell], key=lambda root: (flat[root], root == cell))
        oldest = family[0]
        for other in family[1:]:
            parent[other] = oldest
            if other != cell and flat[cell] - flat[other] >= least:
                # Both may have a lower pass already, to a basin that was merged into them.
                for one in (other, oldest):
                    saddles[one] = min(saddles[one], float(flat[cell]))
            else:
                # Too shallow for a basin of its own: the oldest now reaches the same edge.
                edges[oldest] = min(edges[oldest], max(edges[other], float(flat[cell])))
                saddles.pop(other), edges.pop(other)
    return saddles, edges


def _covers(places: np.ndarray, place: float) -> bool:
    """True if a place is between the ends of an axis: beyond them, the nearest cell says nothing about it."""
    slack = 1e-9 * float(np.ptp(places))  # an end at 0 may be rounded
    return bool(np.min(places) - slack <= place <= np.max(places) + slack)


def _widths(places: np.ndarray) -> np.ndarray:
    """The widths of the cells around positions, (n,)."""
    if len(places) < 2:
        return np.ones(len(places))
    return np.abs(np.gradient(np.asarray(places, dtype=float)))


def stability(found: Sequence[Basins]) -> pd.DataFrame:
    """Summarise in one row how the basin that holds the model depends on the seed of the directions.

    ``holds_model`` is the fraction of planes in which a basin holds the model; depth, area and number of basins are
    means over the planes, with standard deviations ``<name>_sd``.

    Raises:
        UserError: fewer than two planes.
    """
    if len(found) < 2:
        raise UserError(f"{len(found)} planes: a spread over seeds needs at least 2")
    own = [one.own for one in found]
    numbers: dict[str, list[Any]] = {
        "depth": [np.nan if b is None else b.depth for b in own],
        "area": [np.nan if b is None else b.area for b in own],
        "basins": [len(one.found) for one in found],
    }
    row: dict[str, Any] = {"planes": len(found), "holds_model": np.mean([b is not None for b in own])}
    for name, values in numbers.items():
        known = np.array(values, dtype=float)[np.isfinite(values)]
        row[name] = known.mean() if len(known) else np.nan
        row[f"{name}_sd"] = known.std(ddof=1) if len(known) > 1 else np.nan
    return pd.DataFrame([row])
