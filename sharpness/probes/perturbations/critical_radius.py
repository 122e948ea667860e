r"""The critical radius of a class along given directions, from forward passes only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from sharpness.engine.class_sums import ClassSums
from sharpness.errors import UserError, choose, require_whole
from sharpness.objective import Objective
from sharpness.probes.directions.gaussian import check_direction, gaussian
from sharpness.probes.directions.run_steps import last_update
from sharpness.probes.shared.column import Column, table_of
from sharpness.probes.shared.comparison import common_fields
from sharpness.probes.shared.cost import Cost, announce
from sharpness.probes.shared.probe import Given, comparable
from sharpness.progress import progress
from sharpness.results import MeasureResult
from sharpness.results.estimates import Estimate
from sharpness.statistics.estimate import interval, mean_and_error

DIRECTIONS = ("random", "gradient", "class_gradient", "update")
#: Radii of the search: first, smallest and largest.
FIRST, LEAST, LARGEST = 2.0**-8, 2.0**-30, 2.0
#: Ratio of the ends of a bracket at which bisection stops.
RATIO = 1.05
#: Usual number of evaluations per direction, for estimating the duration.
POINTS = 25


@comparable
def critical_radius(
    objective: Objective,
    directions: str | Sequence[str] = ("random", "gradient", "class_gradient"),
    draws: int = 5,
    *,
    factor: float = 2.0,
    drop: float = 0.1,
    update: Any = None,
    seed: int = 0,
    **given: Unpack[Given],
) -> MeasureResult:
    r"""Find how far the weights can move along given directions before a class is lost, using only forward passes.

    The critical radius of class c along d is the smallest r at which :math:`L_c(w + r \|w\| d / \|d\|)` reaches
    ``factor`` times :math:`L_c(w)`, or the accuracy of c falls ``drop`` below its accuracy at w, whichever comes first.
    Radii are doubled from 1/256 until both have happened, then bisected to 5 %; if a threshold is crossed several
    times, any of the crossings may be found. It takes about 25 forward passes per direction and thus suits networks
    that are too large for curvature.

    Args:
        objective: an objective, a model with ``data`` or a checkpoint; or ``{label: one of these}``, to compare them.
        directions: some of ``"random"`` (filter-normalised, the same for every model), ``"gradient"`` (of the loss,
            upwards), ``"class_gradient"`` (each class along its own) and ``"update"``.
        draws: number of random directions, over which their standard errors are taken.
        factor: factor on the loss, above 1.
        drop: drop in accuracy, in (0, 1].
        update: (k,) the last update of the weights, which the direction ``"update"`` continues. By default, for a
            checkpoint of a run with snapshots, the update since the last snapshot before it.
        seed: seed of the random directions.
        given: ``data`` and ``options``: see :class:`~sharpness.probes.shared.probe.Given`.

    Returns:
        A table with one measure for each kind of direction, the smaller of the two radii; the suffixes ``_loss`` and
        ``_accuracy`` give each separately. NaN if a radius is not reached within twice the norm of the weights.
        Standard errors are over random directions; single directions have none.

    Raises:
        UserError: an unknown direction, settings out of range, ``"update"`` for a model whose run has no snapshots,
            weights that are all zero, or a direction that vanishes.

    The loss :math:`w^2` doubles at :math:`\sqrt 2\, w`, that is at radius 0.414:

    >>> import torch
    >>> from sharpness import Objective
    >>> model, data = torch.nn.Linear(1, 1, bias=False), (torch.ones(1, 1), torch.zeros(1))
    >>> objective = Objective(model, data, loss=lambda u, t: u[:, 0] ** 2)
    >>> bool(abs(critical_radius(objective, "gradient").of("gradient") - 0.414) < 0.02)
    True
    """
    kinds = [directions] if isinstance(directions, str) else list(directions)
    for kind in kinds:
        choose("direction", kind, DIRECTIONS)
    if update is not None and "update" not in kinds:
        kinds.append("update")
    if not kinds:
        raise UserError("directions=(): give some, such as 'random'")
    if not 1 < factor < np.inf or not 0 < drop <= 1:
        raise UserError(f"factor={factor}, drop={drop}: give a factor above 1 and a drop in (0, 1]")
    require_whole("draws", draws, 2 if "random" in kinds else 1, ", for a standard error" if "random" in kinds else "")
    require_whole("seed", seed)
    if "update" in kinds and update is None:
        update = last_update(objective)
    # Refuse a random loss before searching for radii.
    objective.check()
    search = _Search(objective, factor, drop)
    lines = draws + len(kinds) - 1 if "random" in kinds else len(kinds)

    def expected() -> float:
        cost, n = Cost.of(objective), objective.num_samples
        return lines * (POINTS * cost.forward(n) + cost.gradient(n))

    announce(f"critical radii along {lines} direction{'s' * (lines > 1)}", expected)
    found: dict[str, np.ndarray] = {}
    with progress(lines, "critical radius", "directions") as bar:
        for kind in kinds:
            found[kind] = search.along(kind, draws, seed, update, bar.update)
    return _table(objective, found, factor=factor, drop=drop, draws=draws, seed=seed)


class _Search:
    """The search for radii along directions.

    ``along`` returns (directions, 2, C + 1): radii by loss and by accuracy, for every class and for all samples.
    """

    def __init__(self, objective: Objective, factor: float, drop: float) -> None:
        self.objective, self.factor, self.drop = objective, factor, drop
        self.evaluate = objective.evaluation()
        self.norm = objective.weight_norm
        if not self.norm:
            raise UserError("all weights in scope are zero: radii relative to their norm mean nothing")

    def along(self, kind: str, draws: int, seed: int, update: Any, done: Callable[[int], object]) -> np.ndarray:
        objective, found = self.objective, []
        if kind == "random":
            for draw in range(draws):
                found.append(self._radii(self.evaluate, gaussian(objective, draw, seed)))
                done(1)
            return np.stack(found)
        if kind == "class_gradient":
            found = [self._of_classes()]
        else:
            direction = self._gradient(objective) if kind == "gradient" else check_direction(objective, update)
            found = [self._radii(self.evaluate, direction)]
        done(1)
        return np.stack(found)

    def _of_classes(self) -> np.ndarray:
        """Radii of each class along its own gradient, and of all samples along theirs."""
        objective = self.objective
        radii = self._radii(self.evaluate, self._gradient(objective))
        radii[:, :-1] = np.nan
        for c in np.flatnonzero(objective.class_samples):
            part = objective.restrict(int(c))
            radii[:, c] = self._radii(self._evaluation(part), self._gradient(part))[:, c]
        return radii

    def _gradient(self, part: Objective) -> Tensor:
        """The gradient of some samples; recalibrated BatchNorm statistics are those of all samples."""
        with self.objective.at(torch.zeros(part.num_parameters)):
            return part.gradient()

    def _evaluation(self, part: Objective) -> Callable[[Tensor | None], ClassSums]:
        """:meth:`Objective.evaluation` of some samples; recalibrated BatchNorm statistics are those of all samples."""
        if part.batchnorm == "eval":
            return part.evaluation()

        def evaluate(displacement: Tensor | None) -> ClassSums:
            with self.objective.at(torch.zeros(part.num_parameters) if displacement is None else displacement):
                return part.evaluate()

        return evaluate

    def _radii(self, evaluate: Callable[[Tensor | None], ClassSums], direction: Tensor) -> np.ndarray:
        """Find the radii by loss and by accuracy (2, C + 1) along one direction."""
        length = float(direction.double().norm())
        if not 0 < length < np.inf:
            raise UserError("a direction vanishes, or is not finite: there is no way to go, leave it out of directions")
        unit = direction * (self.norm / length)
        base = _numbers(evaluate(None))
        limits = np.stack([self.factor * base[0], self.drop - base[1]])
        # A loss of zero never doubles, and an accuracy below the drop cannot fall by that much.
        open_to = np.stack([base[0] > 0, base[1] >= self.drop])
        seen: dict[float, np.ndarray] = {}

        def crossed(r: float) -> np.ndarray:
            if r not in seen:
                loss, accuracy = _numbers(evaluate(r * unit))
                # A loss that is not finite counts as crossed.
                with np.errstate(invalid="ignore"):
                    over = np.stack([~(loss < limits[0]), -accuracy >= limits[1] - 1e-12])
                seen[r] = over & open_to
            return seen[r]

        low, high = np.zeros_like(base), np.full_like(base, np.inf)
        r = FIRST
        while r <= LARGEST and (open_to & np.isinf(high)).any():
            now = crossed(r) & np.isinf(high)
            high[now] = r
            low[np.isinf(high)] = r
            r *= 2
        r = FIRST / 2
        while r >= LEAST and (waiting := (low == 0) & np.isfinite(high)).any():
            now = crossed(r)
            high[waiting & now] = r
            low[waiting & ~now] = r
            r /= 2
        low[low == 0] = LEAST
        # Classes that share a bracket share its evaluations.
        while (wide := np.isfinite(high) & (high > RATIO * low)).any():
            middle = float(np.sqrt(low[wide] * high[wide])[0])
            inside = wide & (low < middle) & (middle < high)
            now = crossed(middle)
            high[inside & now] = middle
            low[inside & ~now] = middle
        return np.where(np.isfinite(high), np.sqrt(low * high), np.nan)


def _numbers(sums: ClassSums) -> np.ndarray:
    """Losses and accuracies of every class and, last, of all samples, (2, C + 1)."""
    return np.stack([np.append(sums.class_means, sums.mean), np.append(sums.class_accuracies, sums.accuracy)])


def _table(objective: Objective, found: dict[str, np.ndarray], **settings: Any) -> MeasureResult:
    """Make the table of means over directions; a class without a radius along one direction has no mean."""
    columns: dict[str, np.ndarray] = {}
    for kind, radii in found.items():
        columns[kind] = np.fmin(radii[:, 0], radii[:, 1])
        columns |= {f"{kind}_loss": radii[:, 0], f"{kind}_accuracy": radii[:, 1]}
    if not objective.has_answers:
        columns = {name: radii for name, radii in columns.items() if not name.endswith("_accuracy")}
    groups = objective.present_groups.values()
    rows = {}
    for name, radii in columns.items():
        of_groups = [radii[:, members].mean(axis=1) if members else np.full(len(radii), np.nan) for members in groups]
        means, errors = mean_and_error(np.column_stack([radii, *of_groups]))
        ends = interval(means, errors, len(radii) - 1, keeps_sign=True)
        rows[name] = Column(Estimate(means, errors, *ends), f"{len(radii)} directions")
    counts = np.full(objective.num_classes, -1) if objective.train_counts is None else objective.train_counts
    described = {
        name: {
            "title": f"Critical radius, {name.replace('_', ' ')}", "unit": "weight norms", "lower_is_flatter": False
        }
        for name in columns
    }  # fmt: skip
    fields = common_fields(objective, probe="critical_radius", **settings)
    return table_of(rows, counts, described=described, **fields)
