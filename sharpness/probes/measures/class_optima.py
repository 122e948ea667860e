"""The displacement to a class's own optimum, and the loss at that optimum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sharpness.probes.measures.measure import Measure, Passes, Subject
from sharpness.probes.perturbations.class_optima import class_optima
from sharpness.probes.shared.column import Column
from sharpness.results import OptimaResult
from sharpness.results.estimates import Estimate


@dataclass(frozen=True)
class Optima:
    """Settings of the optima, see :func:`~sharpness.class_optima`.

    Args:
        damping: damping of the displacement.
    """

    damping: float = 0.01


def optima(subject: Subject, settings: Optima) -> dict[str, Column]:
    """Compute both columns for all classes; the optimum of all samples together is not computed."""
    found = class_optima(subject.objective, settings.damping, keep_vectors=False, resume=subject.resume)
    assert isinstance(found, OptimaResult)
    columns = {}
    for name in found:
        rows = [found._estimate(name, c) for c in range(len(found.class_names))]
        rows += [Estimate(np.nan, np.nan, np.nan, np.nan), *(found._estimate(name, g) for g in found.groups)]
        columns[name] = Column(Estimate(*np.array([np.ravel(r) for r in rows], dtype=float).T), "images")
    return columns


def _passes(settings: Optima) -> Passes:
    # Most searches stop after a few steps.
    return Passes(forwards=10, gradients=5, products=100)


DISPLACEMENT = Measure(
    "displacement", optima, Optima, _passes, title="Displacement to the optimum", unit="weight norms", symlog=True,
    usual=False, explained="the displacement to its own optimum, damped by {damping:g}",
)  # fmt: skip
OPTIMUM_LOSS = Measure(
    "optimum_loss", optima, Optima, _passes, title="Loss at the own optimum", symlog=True, usual=False,
    explained="the value at its own optimum, damped by {damping:g}",
)  # fmt: skip
