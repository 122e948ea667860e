"""Levels that all surfaces of a picture share, even if a loss explodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap, LogNorm, Normalize

from sharpness.errors import UserError, choose

#: Scales of levels, and the default quantile of the values for the last level.
SCALES = {"clipped": 0.9, "linear": 1.0, "log": 1.0}
#: Colour maps with a pale middle, for values of both signs.
DIVERGING = ("RdBu_r", "RdBu", "coolwarm", "bwr", "seismic", "PuOr", "PuOr_r", "PiYG", "PRGn", "BrBG")
#: A logarithmic scale starts at most this many decades below 1, or below the highest value if that is less: losses in
#: single precision resolve no more.
DECADES = 8
#: The ends of a scale that values exceed.
Extend = Literal["neither", "min", "max", "both"]


@dataclass(frozen=True)
class Levels:
    """The levels of one or several pictures.

    Attributes:
        edges: (n + 1,), rising.
        log: whether continuous heights and colours between them are logarithmic.
        extend: ``"neither"``, ``"min"``, ``"max"`` or ``"both"``: the ends that values exceed.
    """

    edges: np.ndarray
    log: bool = False
    extend: Extend = "max"

    def colors(self, name: str, bands: bool) -> Colormap:
        """The named colour map for :meth:`bands` or :meth:`shades`; a diverging one has its middle at zero.

        Colours on both sides follow the square root of the value, so that small values of either sign are visible.
        """
        if name not in DIVERGING:
            return colormaps[name]
        steps = np.linspace(0, 1, 256)
        values = np.interp(steps * (len(self.edges) - 1), np.arange(len(self.edges)), self.edges)
        if not bands:
            values = self.edges[0] + steps * np.ptp(self.edges)
        sides = np.sign(values) * np.sqrt(np.abs(values) / np.abs(self.edges).max())
        return ListedColormap(colormaps[name](0.5 + 0.5 * sides), name)

    def bands(self) -> BoundaryNorm:
        """One colour between two levels, and another beyond an end that values exceed."""
        return BoundaryNorm(self.edges, 256, extend=self.extend)

    def shades(self) -> Normalize:
        """Continuous colours."""
        return (LogNorm if self.log else Normalize)(self.edges[0], self.edges[-1])

    def heights(self, values: np.ndarray) -> np.ndarray:
        """Heights on an axis: logarithms to base 10 on a logarithmic scale; cut off flat at both ends, NaN stays."""
        values = np.where(np.isfinite(values), values, np.nan)
        cut = np.clip(values, self.edges[0], self.edges[-1])
        return np.log10(cut) if self.log else cut


def levels_of(
    surfaces: Sequence[np.ndarray], scale: str = "clipped", clip: float | None = None, edges: np.ndarray | None = None
) -> Levels:
    """The levels of surfaces (any shapes): those of :func:`shared_levels`, unless ``edges`` are given."""
    edges = shared_levels(surfaces, clip=clip, scale=scale) if edges is None else np.asarray(edges, dtype=float)
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all() or (scale == "log" and edges[0] <= 0):
        raise UserError(f"levels {edges.tolist()}: give two or more that rise, above zero on a logarithmic scale")
    below = any(bool((s[np.isfinite(s)] < edges[0]).any()) for s in surfaces)
    above = any(bool((s[np.isfinite(s)] > edges[-1]).any()) for s in surfaces)
    extend: Extend = "both" if below and above else "min" if below else "max" if above else "neither"
    return Levels(edges, scale == "log", extend)


def shared_levels(
    surfaces: Sequence[np.ndarray], number: int = 12, clip: float | None = None, scale: str = "clipped"
) -> np.ndarray:
    """Contour levels (number + 1,) that all surfaces share, from their lowest point up to a quantile of their values.

    Cells that are not finite are ignored.

    Args:
        clip: the quantile; by default 0.9 for a clipped scale, so that a single steep corner does not wash out the
            rest, and 1, the highest point, for the others.
        scale: ``"clipped"``: evenly in the square root of the height above the lowest point, so that the bottom of a
            bowl is visible; ``"linear"``: evenly; ``"log"``: evenly in the logarithm of the value, from the smallest
            one above zero, but no lower than 1e-8 times the highest one or, if that is above 1, than 1e-8.

    Raises:
        UserError: an unknown scale, a quantile outside (0, 1], no finite value, or none above zero for ``"log"``.

    >>> shared_levels([np.array([[0.0, 4.0]])], number=2, clip=1.0).tolist()
    [0.0, 1.0, 4.0]
    >>> shared_levels([np.array([[0.0, 0.01, np.inf, 100.0]])], number=2, scale="log").round(9).tolist()
    [0.01, 1.0, 100.0]
    """
    choose("scale", scale, list(SCALES))
    clip = SCALES[scale] if clip is None else clip
    if not 0 < clip <= 1:
        raise UserError(f"clip={clip!r}: give a quantile above 0 and up to 1")
    values = np.concatenate([np.empty(0), *(s[np.isfinite(s)] for s in surfaces)])
    if not len(values):
        raise UserError("no finite value to draw")
    if scale == "log":
        return _logarithmic(values[values > 0], number, clip)
    low, high = float(values.min()), float(np.quantile(values, clip))
    if high <= low:
        high = low + max(abs(low), 1.0) * 1e-6
    return low + (high - low) * np.linspace(0, 1, number + 1) ** (2 if scale == "clipped" else 1)


def signed_levels(surfaces: Sequence[np.ndarray], number: int = 12, clip: float = 1.0) -> np.ndarray:
    """Contour levels of both signs that all surfaces share: squares of even steps up and down from zero.

    They range from the lowest value to the quantile ``clip``. Zero is within a band, because a level at zero would
    trace the noise of a flat surface.

    Raises:
        UserError: no finite value.

    >>> signed_levels([np.array([-4.0, 6.25, 6.25, 6.25])], number=5).tolist()
    [-6.25, -2.25, -0.25, 0.25, 2.25, 6.25]
    """
    found = np.concatenate([np.empty(0), *(s[np.isfinite(s)] for s in surfaces)])
    if not len(found):
        raise UserError("no finite value to draw")
    high = max(float(np.quantile(found, clip)), 1e-6)
    down, up = np.sqrt([max(-float(found.min()), 0.0), high])
    above = round((number + 1) * up / (up + down))
    # If the top is much closer to zero than the bottom, its steps would be too many: they start at the bottom instead.
    step = up / (above - 0.5) if above > 1 else down / (number - 0.5)
    above, below = (max(1, np.ceil(side / step + 0.5 - 1e-9)) for side in (up, down))
    edges = (np.arange(-below, above) + 0.5) * step
    return np.sign(edges) * edges**2


def _logarithmic(values: np.ndarray, number: int, clip: float) -> np.ndarray:
    if not len(values):
        raise UserError("scale='log': no value is above zero; take 'clipped' or 'linear'")
    high = float(np.quantile(values, clip))
    low = max(float(values.min()), min(high, 1.0) / 10**DECADES)
    if high <= low * (1 + 1e-6):
        low, high = low / 10**0.5, high * 10**0.5
    return np.geomspace(low, high, number + 1)


def level_labels(levels: np.ndarray, log: bool = False) -> list[str]:
    r"""Labels of levels with the same number of decimals, as few as distinguish neighbours.

    If that takes more than six digits, and always for ``log`` levels, each label has as few digits as it needs, with a
    power of ten.

    >>> level_labels(np.array([0.0, 0.7712, 1.5]))
    ['0.0', '0.8', '1.5']
    >>> level_labels(np.array([2.3012, 2.3034, 2.311]))
    ['2.3012', '2.3034', '2.3110']
    >>> level_labels(np.array([0.05, 13.0, 203.0, 3.3e6]))
    ['0.05', '13', '200', '$3.3\\times10^{6}$']
    """
    gaps = np.diff(levels)
    room = 0.05 * np.minimum(np.append(gaps, np.inf), np.append(np.inf, gaps))
    largest = float(np.abs(levels).max(initial=0))
    before = len(f"{largest:.0f}")
    for decimals in range(7 - before if largest >= 1e-3 and not log else 0):
        rounded = np.round(levels, decimals) + 0.0  # no minus before a zero
        if (np.abs(rounded - levels) <= room).all():
            return [f"{level:.{decimals}f}".replace("-", "\N{MINUS SIGN}") for level in rounded]
    labels = []
    for level, within in zip(levels, room, strict=True):
        digits = next((d for d in range(2, 9) if abs(float(f"{level:.{d}g}") - level) <= within), 8)
        labels.append("0" if abs(level) < 0.02 * within and not log else _number(float(level), digits))
    return labels


def decade_ticks(low: float, high: float, most: int = 5) -> tuple[np.ndarray, list[str]]:
    """Positions and labels of powers of ten between two values; if few, of 1, 2 and 5 times these, or even ratios.

    >>> decade_ticks(0.02, 3e12)[1]
    ['$10^{-1}$', '$10^{2}$', '$10^{5}$', '$10^{8}$', '$10^{11}$']
    >>> decade_ticks(0.3, 12.0)[1]
    ['0.5', '1', '2', '5', '10']
    """
    first, last = np.floor(np.log10(low)), np.floor(np.log10(high) + 1e-9)
    powers = 10.0 ** np.arange(np.ceil(np.log10(low) - 1e-9), last + 1)
    if len(powers) >= 3:
        powers = powers[:: -(-len(powers) // most)]
        return powers, [f"$10^{{{np.log10(p):.0f}}}$" for p in powers]
    ticks = np.outer(10.0 ** np.arange(first, last + 1), [1, 2, 5]).ravel()
    ticks = ticks[(ticks >= low * (1 - 1e-9)) & (ticks <= high * (1 + 1e-9))]
    if len(ticks) >= 3:
        ticks = ticks[:: -(-len(ticks) // most)]
        return ticks, [_number(float(t), 1) for t in ticks]
    ticks = np.geomspace(low, high, most)
    return ticks, level_labels(ticks, log=True)


def _number(value: float, digits: int) -> str:
    """The number with a given number of digits, with a power of ten if it is far from 1."""
    if 1e-3 <= abs(value) < 1e5:
        return np.format_float_positional(float(f"{value:.{digits}g}"), trim="-")
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return rf"${mantissa}\times10^{{{int(power)}}}$"
