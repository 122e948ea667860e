"""Sharpness over a training: measures of all samples and of every group, epoch by epoch, with events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from sharpness.errors import UserError, choose
from sharpness.results.description import Description
from sharpness.results.kept import Content, KeptTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Columns of a history.
COLUMNS = ("epoch", "of", "measure", "value", "residual", "products", "seconds", "share", "lr", "event")


def events_by(epoch: float, happened: Mapping[float, str]) -> str:
    """The text of an epoch's events, and of earlier events with their epochs.

    >>> events_by(165, {161: "lr 0.001", 165: "stage 2"})
    'lr 0.001 (161); stage 2'
    """
    told = [text if when == epoch else f"{text} ({when:g})" for when, text in happened.items() if text]
    return "; ".join(told)


@dataclass(frozen=True)
class History(KeptTable):
    """Measures over a training.

    Attributes:
        rows: a row for every epoch, subset and measure: ``epoch``, ``of`` ("all" or a group), ``measure``, ``value``,
            the ``residual`` of an eigenvalue and its ``products``, ``seconds`` that the epoch's measures took, the
            ``share`` of the time since the start that measuring took, ``lr`` and ``event``.
    """

    TEXTS = ("of", "measure", "event")
    NUMBERS = ("epoch", "value", "residual", "products", "seconds", "share", "lr")

    rows: pd.DataFrame

    def content(self) -> Content:
        """The rows."""
        return Content(self.rows, {}, {})

    @classmethod
    def of_content(cls, content: Content) -> History:
        """The history with these rows."""
        return cls(content.rows[list(COLUMNS)])

    def to_frame(self) -> pd.DataFrame:
        """All rows."""
        return self.rows.copy()

    @property
    def share(self) -> float:
        """The fraction of the time that measuring took; NaN if nothing was timed."""
        return float(self.rows["share"].iloc[-1]) if len(self.rows) else float("nan")

    @property
    def events(self) -> dict[float, str]:
        """The events, by the epoch at which each is first recorded."""
        told = self.rows[self.rows["event"].astype(object).fillna("") != ""]
        return {float(r.epoch): str(r.event) for r in told.drop_duplicates("epoch").itertuples()}

    def plot(self, measure: str = "lambda_max", ax: Axes | None = None, of: Sequence[str] | None = None) -> Axes:
        """Draw a measure over epochs, a line for all samples and one for each group.

        Grey lines are events. With the largest eigenvalue, a dotted line shows 2 / lr, above which plain gradient
        descent is unstable.

        Args:
            measure: name of the measure.
            ax: Axes to draw on; by default new ones.
            of: subsets; by default all.

        Raises:
            UserError: nothing was measured, or an unknown measure or subset.
        """
        from sharpness.plots import plot_lines

        if not len(self.rows):
            raise UserError("nothing was measured: the budget may be too small for a single measurement")
        choose("measure", measure, list(dict.fromkeys(self.rows["measure"])))
        part = self.rows[self.rows["measure"] == measure]
        there = list(dict.fromkeys(part["of"]))
        for name in of or ():
            choose("subset", name, there)
        curves = {name: part[part["of"] == name] for name in of or there}
        lines: dict[str, Any] = {
            name: (r["epoch"].to_numpy(float), r["value"].to_numpy(float)) for name, r in curves.items()
        }
        shown = Description.of(measure)
        ax = plot_lines(lines, ax, xlabel="Epoch", ylabel=shown.label, log=shown.symlog)
        rates = part.drop_duplicates("epoch")[["epoch", "lr"]].query("lr > 0")
        if measure == "lambda_max" and len(rates):
            low, high = ax.get_ylim()
            ax.plot(
                rates["epoch"],
                2 / rates["lr"],
                ":",
                color="0.4",
                label="2 / lr",
                gid="stability",
                drawstyle="steps-mid",
            )
            # The eigenvalues determine the limits; the line is included only if it is near.
            near = float(2 / rates["lr"].max())
            ax.set_ylim(low, max(high, 1.1 * near) if near < 3 * high else high)
            ax.legend(fontsize=6.5)
        for epoch, text in self.events.items():
            ax.axvline(epoch, color="0.6", linewidth=0.8, zorder=0.5, gid="event")
            look: dict[str, Any] = {"rotation": 90, "va": "top", "ha": "right", "fontsize": 5.5}
            ax.annotate(text, (epoch, 1), xycoords=("data", "axes fraction"), **look)
        return ax
