"""The rise of the loss after one step of ascent."""

from __future__ import annotations

from dataclasses import dataclass

from sharpness.probes.measures.measure import Measure, Passes, Subject, require_positive
from sharpness.probes.perturbations.worst_case import worst_case
from sharpness.probes.shared.column import Column
from sharpness.results import MeasureResult


@dataclass(frozen=True)
class Ascent:
    """Settings of the worst rise, see :func:`~sharpness.worst_case`.

    Args:
        rho: length of the ascent step.
    """

    rho: float = 0.05

    def __post_init__(self) -> None:
        require_positive("rho", self.rho)


def worst_rise(subject: Subject, settings: Ascent) -> dict[str, Column]:
    """Compute the rise of every class along its own gradient, with errors over images at that point."""
    found = worst_case(subject.objective, settings.rho, resume=subject.resume)
    assert isinstance(found, MeasureResult)
    return {"worst_rise": Column.of_result(found, "worst_rise", "images")}


WORST_RISE = Measure(
    "worst_rise", worst_rise, Ascent, lambda settings: Passes(forwards=4, gradients=1), title="Worst rise",
    lower_is_flatter=True,
    explained="its rise after one step of ascent of length {rho:g}",
)  # fmt: skip
