"""The trace of the Hessian."""

from __future__ import annotations

from dataclasses import dataclass

from sharpness.errors import choose, require_whole
from sharpness.objective.coordinates import COORDINATES
from sharpness.probes.curvature.trace import trace
from sharpness.probes.measures.measure import ERROR, Measure, Passes, Subject
from sharpness.probes.shared.column import Column
from sharpness.results import MeasureResult


@dataclass(frozen=True)
class Hutchinson:
    """Settings of the trace.

    Args:
        trace_draws: number of random vectors, where the trace is not exact.
        seed: seed of the random vectors.
        coordinates: coordinates of the parameters; None for those of the objective.
    """

    trace_draws: int = 30
    seed: int = 0
    coordinates: str | None = None

    def __post_init__(self) -> None:
        if self.coordinates is not None:
            choose("coordinates", self.coordinates, COORDINATES)
        require_whole("trace_draws", self.trace_draws, 2, ERROR)
        require_whole("seed", self.seed)


def hessian_trace(subject: Subject, settings: Hutchinson) -> dict[str, Column]:
    """Compute the trace of every class: exactly, where few backward passes give it, otherwise Hutchinson's estimate.

    All classes use the same vectors z, so the weighted sum of their z' H_c z is z' H z, and the estimate for all
    samples needs no further products.
    """
    found = trace(
        subject.objective, True, settings.trace_draws, settings.seed, coordinates=settings.coordinates,
        resume=subject.resume, executor=subject.executor,
    )  # fmt: skip
    assert isinstance(found, MeasureResult)
    return {"trace": Column.of_result(found, "trace", found.over[0])}


TRACE = Measure(
    "trace", hessian_trace, Hutchinson, lambda settings: Passes(draws=settings.trace_draws), title="Trace",
    lower_is_flatter=True, symlog=True, usual=False,
    explained="the trace of its Hessian{in_coordinates}, exact or by {trace_draws} random vectors",
)  # fmt: skip
