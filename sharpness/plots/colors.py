"""A common colour scale for all panels of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize

from sharpness.errors import UserError
from sharpness.plots.style import SURFACE_COLORS, color_map, figure_of

#: The mapping from values to colours, and the name of the colour map.
Scale = tuple[Normalize, str]
#: Maximum number of decades of a logarithmic scale; smaller values have the colour of its lower end.
DECADES = 6
#: Colour map of scales with both signs.
SIGNED_COLORS = "RdBu_r"


def shared_limits(values: Mapping[str, np.ndarray], log: bool = True) -> tuple[float, float]:
    """The limits (low, high) of a common colour scale for all of ``{label: array}``, of any shapes.

    They are the extremes of the finite values. A logarithmic scale ignores values that are not positive and spans at
    most 6 decades; a linear scale with both signs is symmetric around zero.

    >>> shared_limits({"a": np.array([[1.0, -2.0]]), "b": np.array([[np.nan, 100.0]])})
    (1.0, 100.0)

    Raises:
        UserError: no value that the scale could show.
    """
    shown = _shown(list(values.values()), log)
    if not len(shown):
        raise UserError("no finite " + ("positive value: give log=False for a linear scale" if log else "value"))
    low, high = float(shown.min()), float(shown.max())
    if log:
        low = max(low, high / 10**DECADES)
        return (low, high) if low < high else (low / 10**0.5, high * 10**0.5)
    if low < 0 < high:
        return -max(-low, high), max(-low, high)
    half = (abs(low) or 1.0) / 2
    return (low, high) if low < high else (low - half, high + half)


def color_scale(limits: tuple[float, float], log: bool) -> Scale:
    """The colour scale from ``limits[0]`` to ``limits[1]``, diverging if zero is between them.

    Raises:
        UserError: a logarithmic scale that does not start above zero.
    """
    if log and limits[0] <= 0:
        raise UserError(f"limits {limits} of a logarithmic scale: they must be positive, or give log=False")
    if log:
        return LogNorm(*limits), color_map(SURFACE_COLORS)
    return Normalize(*limits), color_map(SIGNED_COLORS if limits[0] < 0 < limits[1] else SURFACE_COLORS)


def color_bar(places: list[Axes], values: Sequence[np.ndarray], scale: Scale, label: str) -> None:
    """Draw one colour bar for all panels, with arrows at ends that ``values`` exceed."""
    norm, colors = scale
    shown = _shown(values, isinstance(norm, LogNorm))
    under, over = bool((shown < norm.vmin).any()), bool((shown > norm.vmax).any())
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    figure_of(places).colorbar(
        ScalarMappable(norm, colors), ax=places, label=label, pad=0.02, aspect=30, extend=extend[under, over]
    )


def _shown(values: Sequence[np.ndarray], log: bool) -> np.ndarray:
    """The values (n,) that the scale can show."""
    flat = np.concatenate([np.empty(0), *(np.ravel(v) for v in values)])
    return flat[np.isfinite(flat) & ((flat > 0) | (not log))]
