"""The soft rank of the Hessian, which is invariant to scaling the loss."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sharpness.errors import require_whole
from sharpness.probes.measures.extreme_eigenvalues import LARGEST, Lanczos, ends_of_spectra
from sharpness.probes.measures.measure import ERROR, Measure, Passes, Subject
from sharpness.probes.measures.trace import Hutchinson, hessian_trace
from sharpness.probes.shared.column import Column, sample_freedom
from sharpness.results.estimates import Estimate
from sharpness.statistics.estimate import interval


@dataclass(frozen=True)
class SoftRank(Lanczos):
    """Settings of the soft rank: those of the largest eigenvalue and of the trace.

    Args:
        trace_draws: number of random vectors of the trace.
    """

    trace_draws: int = Hutchinson.trace_draws

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole("trace_draws", self.trace_draws, 2, ERROR)


def soft_rank(subject: Subject, settings: SoftRank) -> dict[str, Column]:
    r"""Compute :math:`\operatorname{tr} H_c / \lambda_\max(H_c)`; both are taken from the table if it has them.

    Errors are those of the trace, over images if it is exact, otherwise over random vectors; the eigenvalue counts as
    exact up to its residual. The value of a group is the mean over its classes, with an upper bound of its error, as
    classes may share the vectors.
    """
    known = dict(subject.known)
    if "trace" not in known:
        chosen = Hutchinson(settings.trace_draws, settings.seed, settings.coordinates)
        known |= hessian_trace(subject, chosen)
    if "lambda_max" not in known:
        ends = Lanczos(settings.tol, settings.max_iterations, settings.seed, settings.coordinates)
        known |= ends_of_spectra(replace(subject, names=("lambda_max",)), ends)
    rows = subject.objective.num_classes + 1
    top = known["lambda_max"].rows.value[:rows]
    with np.errstate(divide="ignore", invalid="ignore"):
        value, error = (np.asarray(part)[:rows] / top for part in known["trace"].rows[:2])
    members = subject.objective.present_groups.values()
    means = [[part[m].mean() if m else np.nan for m in members] for part in (value, np.abs(error))]
    value, error = np.append(value, means[0]), np.append(np.abs(error), means[1])
    over, freedom = known["trace"].over, np.full(len(value), settings.trace_draws - 1)
    if over == "images":  # an exact trace
        sizes = subject.objective.class_samples
        freedom = np.append(sample_freedom(subject.objective), [sizes[m].sum() - 1 for m in members]).astype(int)
    bounds = interval(value, error, freedom)
    return {"soft_rank": Column(Estimate(value, error, *bounds), over)}


def _passes(settings: SoftRank) -> Passes:
    return Passes(products=LARGEST, of_all=LARGEST, draws=settings.trace_draws)


SOFT_RANK = Measure(
    "soft_rank", soft_rank, SoftRank, _passes, title="Soft rank", usual=False,
    explained="the trace of its Hessian over the largest eigenvalue{in_coordinates}",
)  # fmt: skip
