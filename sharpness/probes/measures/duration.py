"""The expected duration of a table of measures."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

from sharpness.clusters import width
from sharpness.objective import Objective
from sharpness.probes.curvature.exact_trace import ExactTrace
from sharpness.probes.measures.measure import Measure, Passes
from sharpness.probes.shared.cost import Cost, announce


def expected(total: Passes, cost: Cost, sizes: Sequence[int]) -> float:
    """Expected seconds of work on classes of given sizes; rows share the workers, and each occupies one of them."""
    samples = sum(sizes)
    rows = [total.products * cost.product(size) for size in sizes]
    if len(sizes) > 1:
        rows.append(total.of_all * cost.product(samples))
    alone = total.forwards * cost.forward(samples) + total.gradients * sum(cost.gradient(size) for size in sizes)
    return alone + cost.side_by_side(rows)


def announce_table(
    objective: Objective, settings: dict[Measure, Any], models: int, label: str | None, executor: Executor | None
) -> None:
    """Announce the measures and their expected duration."""
    passes = [measure.passes(chosen) for measure, chosen in settings.items()]
    total = Passes(*(sum(numbers) for numbers in zip(*passes, strict=True)))
    total = total._replace(draws=max((p.draws for p in passes), default=0))  # measures share the trace
    sizes = objective.class_samples[objective.class_samples > 0].tolist()
    rows = len(sizes) + (len(sizes) > 1 and total.of_all > 0) if total.products or total.draws else 0

    def seconds() -> float:
        cost = Cost.of(objective, rows if executor is None else min(rows, 1), bool(total.gradients or total.draws))
        if executor is not None:
            cost = replace(cost, workers=width(executor))
        return models * expected(settled(total, objective), cost, sizes)

    whose = f"{label or 'the model'} and {models - 1} more" if models > 1 else label or "the model"
    announce(
        f"measuring {', '.join(m.name for m in settings)} of {whose} on {objective.num_samples} samples of "
        f"{int((objective.class_samples > 0).sum())} classes",
        seconds,
    )


def settled(total: Passes, objective: Objective) -> Passes:
    """Replace random vectors by the backward passes of an exact trace, if it will be taken, or by their products."""
    if not total.draws:
        return total
    exact = ExactTrace.instead_of(int(total.draws), objective)
    if exact is None:
        return total._replace(draws=0, products=total.products + total.draws)
    # A pass has two of a gradient's three convolutions, those by inputs and by weights.
    return total._replace(draws=0, gradients=total.gradients + 2 / 3 * exact.passes)
