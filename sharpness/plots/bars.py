"""One value per class and model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Unpack

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sharpness.errors import shown
from sharpness.keywords import Default, typed_keywords
from sharpness.plots.labels import (
    MANY,
    OPEN,
    bars_key,
    doubtful_key,
    draw_doubtful,
    grey,
    label_classes,
    legend_above,
    marker_size,
    not_converged,
    offsets,
    to_zero_key,
)
from sharpness.plots.options import AxisOptions, TextOptions
from sharpness.plots.scales import set_log, set_symlog
from sharpness.plots.style import PAGE, colors_of, marker, new_axes, style
from sharpness.plots.trainings import draw_trainings, trainings_key

Values = Mapping[str, np.ndarray]
#: With more classes than CROWD, quantiles over BLOCKS blocks of neighbours are drawn, and NAMED classes are named.
CROWD, BLOCKS, NAMED = 200, 25, 10


class ValueOptions(TextOptions, total=False):
    """Errors, trainings and counts of a picture of classes.

    Attributes:
        intervals: ``{label: (2, C)}`` lower and upper ends of 95 % intervals, drawn as bars, which are cut off if they
            are much longer than the range of the values. On a logarithmic axis, an end at zero or below is an arrow.
        trainings: ``{label: (S, C)}`` of models that were trained several times: a dot for each training, and a pale
            bar of one standard deviation around the mean, which is the value; on a logarithmic axis, of the range.
            With more than 200 classes, only the mean is drawn.
        flags: ``{label: (C,)}``, True for a value that is not converged: an open marker, which the legend explains.
        counts: (C,) training images, written below the names.
        xlabel: label of the class axis; by default it states the order, or the meaning of the counts.
    """

    intervals: Values | None
    trainings: Values | None
    flags: Values | None
    counts: np.ndarray | None


class ClassOptions(ValueOptions, AxisOptions, total=False):
    """Options of :func:`plot_class_values`.

    Attributes:
        over: the source of variation of the intervals, for the legend.
        bounds: range of possible values, such as (0, 1) for accuracies: bars of a spread end there.
        doubtful: ``{label: (C,)}``, True for a value within two errors of zero: a white dot in its marker.
        floor: values below it are drawn on it as open markers.
        linthresh: the axis is linear between minus this and this, and logarithmic beyond; bars may exceed its limits.
        keys: additional entries of the legend, such as for marks in other panels.
    """

    over: Annotated[str, Default("")]
    bounds: tuple[float, float] | None
    doubtful: Values | None
    floor: float | None
    linthresh: float | None
    keys: Annotated[Sequence[Line2D], Default(())]


@typed_keywords()
def plot_class_values(
    values: Values, names: Sequence[str], ax: Axes | None = None, **options: Unpack[ClassOptions]
) -> Axes:
    """Draw ``{label: (C,)}``: classes side by side, the models of a class next to each other.

    With more than 30 classes, the points become a line per model, and error bars a band. With more than 200, the line
    is the median of blocks of neighbouring classes, the band holds 90 % of them, and the ten largest values are named.

    Args:
        values: a value per class; those that are not finite are left out.
        names: (C,) names of the classes, in the order of the values.
        options: see :class:`ClassOptions`.
    """
    many = len(names) > MANY
    floor, linthresh, title, counts = options["floor"], options["linthresh"], options["title"], options["counts"]
    intervals, trainings = options["intervals"], options["trainings"] or {}
    flags, doubtful = options["flags"] or {}, options["doubtful"] or {}
    log_axis = options["log"] or linthresh is not None
    with style():
        ax = new_axes(ax, width=PAGE)
        points = ClassPoints(ax, list(values), len(names), floor=floor, bounds=options["bounds"], log=log_axis)
        for label, v in values.items():
            points.draw(label, v, "-", flags.get(label), doubtful.get(label), trainings.get(label))
        if linthresh is not None:
            set_symlog(ax, "y", linthresh)  # limits from the values: bars across zero would take up most of the axis
        elif options["log"]:
            set_log(ax, "y", values.values())
        if floor is not None:
            ax.set_ylim(bottom=floor)
        # After the limits are set by the values, because on a logarithmic axis bars are cut at them.
        for label, ends in (intervals or {}).items():
            points.draw_intervals(label, ends)
        if not log_axis and intervals is not None:
            limit_bars(ax, list(values.values()))
        label_classes(ax, names, counts, options["xlabel"], numbered=not many or counts is not None)
        points.separate_classes()
        points.name_largest(values, names)
        if floor is None and any((v < 0).any() for v in values.values()):
            ax.axhline(0, color="0.6", linewidth=0.6, zorder=0)
        ax.set(ylabel=options["ylabel"], title=title or "")
        if options["legend"]:
            explained = [*points.trainings_keys(), *options["keys"], *points.keys(options["over"])]
            # By label, because entries for other panels may repeat those of this one.
            legend_above(ax, title, list({str(key.get_label()): key for key in explained}.values()))
    return ax


class ClassPoints:
    """Drawer of the models of every class, side by side, which also collects the entries of the legend.

    Args:
        labels: labels of the models.
        classes: number of classes.
        floor, bounds, log: as in :func:`plot_class_values`.
    """

    def __init__(
        self,
        ax: Axes,
        labels: Sequence[str],
        classes: int,
        *,
        floor: float | None = None,
        bounds: tuple[float, float] | None = None,
        log: bool = False,
    ) -> None:
        self.ax, self.labels, self.floor, self.bounds, self.log = ax, list(labels), floor, bounds, log
        self.many, self.crowd = classes > MANY, classes > CROWD
        self.size = marker_size(ax, len(labels), classes)
        self.places = dict(zip(labels, offsets(len(labels), classes), strict=True))
        self.colors = dict(zip(labels, colors_of(self.labels), strict=True))
        self._flagged = self._barred = self._doubted = self._to_zero = False
        self._not_converged, self._named = 0, False
        self._trainings: list[np.ndarray] = []

    def draw(
        self,
        label: str,
        values: np.ndarray,
        line: str,
        flags: np.ndarray | None = None,
        doubtful: np.ndarray | None = None,
        trainings: np.ndarray | None = None,
        named: bool = True,
    ) -> None:
        """Draw the values (C,) of a model as markers, or for many classes as a ``line``; in the legend if ``named``."""
        at, sign = self.places[label], marker(self.labels.index(label))
        look: dict[str, Any] = {"color": self.colors[label], "markersize": self.size}
        if self.crowd:  # a thousand markers or error bars would be noise
            self._draw_blocks(label, values, line, named)
            self._not_converged += 0 if flags is None else int(np.asarray(flags, dtype=bool).sum())
            return
        below = np.zeros(len(values), bool) if self.floor is None else values < self.floor
        self.ax.plot(at, values, line if self.many else sign, label=label if named else None, **look)
        if trainings is not None:
            self._trainings.append(trainings)
            draw_trainings(self.ax, at, trainings, look["color"], self.size, self.many, self.bounds, self.log)
        if flags is not None and (opened := np.asarray(flags, dtype=bool) & ~below).any():
            self._flagged = True
            self.ax.plot(at[opened], values[opened], sign, **look, **OPEN)
        if doubtful is not None and not self.many:
            self._doubted |= draw_doubtful(self.ax, at, values, doubtful & ~below, self.size)
        if below.any():
            self.ax.plot(at[below], np.full(below.sum(), self.floor), sign, clip_on=False, **look, **OPEN)

    def _draw_blocks(self, label: str, values: np.ndarray, line: str, named: bool) -> None:
        """Draw the median of every block of neighbouring classes, and a band that holds 90 % of them."""
        drawn = np.where(np.isfinite(values), values, np.nan)
        drawn = drawn if self.floor is None else np.maximum(drawn, self.floor)
        blocks = [b for b in np.array_split(np.arange(len(values)), BLOCKS) if np.isfinite(drawn[b]).any()]
        at = [self.places[label][b].mean() for b in blocks]
        low, middle, high = np.array([np.nanquantile(drawn[b], (0.05, 0.5, 0.95)) for b in blocks]).reshape(-1, 3).T
        self.ax.plot(at, middle, line, color=self.colors[label], label=label if named else None)
        self.ax.fill_between(at, low, high, color=self.colors[label], alpha=0.18, linewidth=0)

    def name_largest(self, values: Values, names: Sequence[str]) -> None:
        """Mark and name the largest values of all models, if there are too many classes to see each."""
        if not self.crowd or not any(np.isfinite(v).any() for v in values.values()):
            return
        found = [(float(v), label, c) for label, of in values.items() for c, v in enumerate(of) if np.isfinite(v)]
        found = sorted(found, reverse=True)
        if found[0][0] == found[min(NAMED, len(found) - 1)][0]:
            return  # more classes share the largest value than can be named
        self._named = True
        tops: dict[int, tuple[float, str]] = {}
        for value, label, c in found[:NAMED]:
            sign, at = marker(self.labels.index(label)), self.places[label][c]
            self.ax.plot(at, value, sign, color=self.colors[label], markersize=2.5, clip_on=False)
            tops.setdefault(c, (value, label))  # a class is named once, at its largest value
        # Make room above for upright names, on any scale.
        self.ax.set_ylim(top=max(self.ax.get_ylim()[1], found[0][0]))
        bottom, top = self.ax.transData.transform([(0, y) for y in self.ax.get_ylim()])[:, 1]
        self.ax.set_ylim(top=self.ax.transData.inverted().transform((0, top + 0.4 * (top - bottom)))[1])
        # Names are in a row: next to their marks, those of neighbouring classes would overlap.
        chosen = sorted(tops)
        left, right = self.ax.get_xlim()
        gap = 7 / 72 * self.ax.figure.dpi * (right - left) / self.ax.bbox.width
        places = spread_out(np.array([self.places[tops[c][1]][c] for c in chosen]), gap, right)
        line = {"arrowstyle": "-", "linewidth": 0.3, "color": "0.6", "shrinkA": 0, "shrinkB": 1}
        for c, at in zip(chosen, places, strict=True):
            value, label = tops[c]
            self.ax.annotate(
                shown(names[c], 14), (self.places[label][c], value), (at, 0.99), color=self.colors[label],
                textcoords=self.ax.get_xaxis_transform(), rotation=90, ha="center", va="top", fontsize=5.5,
                arrowprops=line,
            )  # fmt: skip

    def draw_intervals(self, label: str, ends: np.ndarray, linewidth: float = 0.8, alpha: float = 1) -> None:
        """Draw bars, or with many classes a band, between lower and upper ends (2, C) where both are finite.

        On a logarithmic axis, they do not change the limits.
        """
        at, shade, known = self.places[label], self.colors[label], np.isfinite(ends).all(axis=0)
        if not known.any() or self.crowd:
            return
        self._barred = True
        bottom, top = self.ax.get_ylim()
        strictly = self.ax.get_yscale() == "log"
        low = np.where(known & (ends[0] <= 0), bottom, ends[0]) if strictly else ends[0]
        if self.many:
            self.ax.fill_between(at, low, ends[1], where=known, color=shade, alpha=0.18, linewidth=0)
        else:
            self.ax.vlines(at[known], low[known], ends[1][known], color=shade, linewidth=linewidth, alpha=alpha)
        if strictly and (lost := known & (ends[0] <= 0)).any():
            self._to_zero = True
            arrows: dict[str, Any] = {"markersize": 3, "clip_on": False, "gid": "to zero"}
            self.ax.plot(at[lost], np.full(lost.sum(), bottom), "v", color=shade, markeredgewidth=0, **arrows)
        if self.log:
            self.ax.set_ylim(bottom, top)

    def separate_classes(self) -> None:
        """Draw pale lines between the classes."""
        for edge in [] if self.many else np.arange(1, len(self.places[self.labels[0]])) - 0.5:
            self.ax.axvline(edge, color="0.92", linewidth=0.5, zorder=0)

    def trainings_keys(self) -> list[Line2D]:
        """Return the legend entries for the spreads over trainings that are drawn."""
        return trainings_key(self._trainings, not self.many, self.log)

    def keys(self, over: str) -> list[Line2D]:
        """Return the legend entries for what is drawn; ``over`` is the source of variation of the intervals."""
        found = [doubtful_key()] if self._doubted else []
        if self.crowd:
            size = len(self.places[self.labels[0]]) // BLOCKS
            largest = f"; the {NAMED} largest are named" if self._named else ""
            found.append(grey(f"median and 5 to 95 % of {size} neighbours{largest}", linewidth=3))
            if self._not_converged:
                found.append(grey(f"{self._not_converged} not converged", linestyle=""))
        found += [bars_key(over, "bands" if self.many else "bars")] if self._barred else []
        found += [to_zero_key()] if self._to_zero else []
        return found + ([not_converged()] if self._flagged else [])


def spread_out(places: np.ndarray, gap: float, right: float) -> np.ndarray:
    """Move sorted positions to the right until they are a gap apart, or to the left if they would pass the right end.

    >>> spread_out(np.array([0.0, 0.5, 3.0, 9.8, 9.9]), 1, 10).tolist()
    [0.0, 1.0, 3.0, 9.0, 10.0]
    """
    moved = places.astype(float)
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    limit = right
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], limit)
        limit = moved[i] - gap
    return moved


def limit_bars(ax: Axes, values: Sequence[np.ndarray]) -> None:
    """Extend the axis by at most the range of the values and zero: longer bars are cut off, to keep values apart."""
    known = np.concatenate([np.ravel(v)[np.isfinite(np.ravel(v))] for v in values])
    if not len(known):
        return
    low, high = min(known.min(), 0.0), max(known.max(), 0.0)
    room = high - low
    if room > 0:
        least, most = low - room, high + room
        bottom, top = ax.dataLim.y0, ax.dataLim.y1
        # Margins relative to what is shown: those of bars that are cut off would leave empty space at the other end.
        margin = float(ax.margins()[1]) * (min(top, most) - max(bottom, least))  # type: ignore[index]
        ax.set_ylim(max(bottom - margin, least), min(top + margin, most))
