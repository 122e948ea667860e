"""Projected ascents of every class and of all samples, or of batches of them, with unfinished work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sharpness.engine.class_sums import SampleSums
from sharpness.errors import UserError
from sharpness.objective import Objective
from sharpness.probes.perturbations.projected_ascent import Ball, climb
from sharpness.probes.shared.work import Work
from sharpness.progress import progress


def split_batches(samples: int, m: int | None, seed: int) -> list[np.ndarray]:
    """Positions 0 to ``samples - 1`` at random in batches of m, the last one of what is left; all in one if m is None.

    >>> [len(batch) for batch in split_batches(7, 3, seed=0)]
    [3, 3, 1]
    """
    if m is None or m >= samples:
        return [np.arange(samples)]
    order = np.random.default_rng(seed).permutation(samples)
    return [np.sort(order[i : i + m]) for i in range(0, samples, m)]


@dataclass(frozen=True)
class Item:
    """Samples with a common ascent.

    Attributes:
        row: the class of its samples, or C for samples of all classes.
        indices: of its samples.
        whole: whether these are all of its row.
    """

    row: int
    indices: np.ndarray
    whole: bool


class Ascents:
    """The ascents of a worst case, classes first.

    Args:
        base: the loss at the centre, of every sample.
        m: samples of a batch, or None.

    Attributes:
        numbers: (items, 9): summed loss at the centre and at the worst point, weight; correct predictions, samples;
            gradients; and of the rises r_i over samples, sums of a_i^2, a_i^2 r_i and (a_i r_i)^2.
        slope: (k,) the sum over classes so far of weight times gradient at the centre, float64. That of all samples,
            as one batch, needs no pass over the data.
        done: number of finished items.
    """

    def __init__(self, objective: Objective, base: SampleSums, m: int | None, seed: int) -> None:
        self.objective, self.base, self.seed = objective, base, seed
        labels = objective.classes.numpy()
        rows = {int(c): np.flatnonzero(labels == c) for c in np.flatnonzero(objective.class_samples)}
        rows[objective.num_classes] = np.arange(len(labels))
        self.items = [
            Item(row, indices[batch], len(batch) == len(indices))
            for row, indices in rows.items()
            for batch in split_batches(len(indices), m, seed)
        ]
        self.numbers = np.full((len(self.items), 9), np.nan)
        self.slope = torch.zeros(objective.num_parameters, dtype=torch.float64, device=objective.device)
        self.done = 0

    @property
    def gradients(self) -> int:
        return int(self.numbers[:, 5].sum())

    def run(self, ball: Ball, steps: int, work: Work) -> None:
        """Do what is left, and keep it in ``work`` now and then and in the end, also that of an error."""
        self._load(work)
        needed = [steps - self._everything(item) for item in self.items]
        try:
            with (
                progress(sum(needed), "worst case", "gradients", done=sum(needed[: self.done])) as bar,
                self.objective.at(torch.zeros_like(self.slope)),
            ):
                while self.done < len(self.items):
                    i = self.done
                    self.numbers[i], slope = self._climb(self.items[i], ball, steps, bar.update)
                    bar.update(needed[i] - int(self.numbers[i, 5]))
                    self.slope, self.done = slope, i + 1
                    if work.due:
                        self._save(work)
        finally:
            self._save(work)

    def table(self) -> np.ndarray:
        """Loss, worst loss, rise, accuracy at the worst points, standard error of the rise.

        Of the classes and, last, overall: (5, C + 1). The standard error is over samples, at the points that were
        found, see :func:`~sharpness.engine.class_sums.mean_error`.
        """
        rows = np.full((self.objective.num_classes + 1, 5), np.nan)
        owners = np.array([item.row for item in self.items])
        for row in set(owners.tolist()):
            loss, worst, weight, right, samples, _, squares, first, second = self.numbers[owners == row].sum(axis=0)
            rise = worst / weight - loss / weight
            error = np.nan
            if samples > 1:
                spread = max(second - 2 * rise * first + rise**2 * squares, 0.0)
                error = np.sqrt(samples / (samples - 1) * spread) / weight
            rows[row] = loss / weight, worst / weight, rise, right / weight, error
        return rows.T

    def _climb(self, item: Item, ball: Ball, steps: int, update: Callable[[int], object]) -> tuple[np.ndarray, Tensor]:
        """The numbers of an item, (9,), and the slope with it."""
        objective, slope = self.objective, self.slope
        everything = self._everything(item)
        part = objective if everything else objective.restrict(item.indices)
        center = self._center(item.indices)
        weight = float(center.weight.sum())
        # Classes come first: the gradient of all samples is the sum of theirs, and costs no pass of its own.
        if everything:
            gradient = (slope / weight).to(objective.dtype)
        else:
            gradient = part.gradient()
            update(1)
            if item.row < objective.num_classes:
                slope = slope + weight * gradient.double()
        if not bool(torch.isfinite(gradient).all()):
            where = f"class {objective.class_names[item.row]}" if item.row < objective.num_classes else "all samples"
            raise UserError(f"the gradient of {where} is not finite, though its loss is: no direction leads up")

        best, more = climb(objective, part, center, gradient, ball, steps, self.seed, update)
        found = center.loss, best.loss, center.weight, best.correct, best.count
        squares, rises = center.rows[1] ** 2, best.losses - center.losses
        spread = squares.sum(), (squares * rises).sum(), (squares * rises**2).sum()
        return np.array([*(sums.sum() for sums in found), more + (not everything), *spread]), slope

    def _everything(self, item: Item) -> bool:
        return item.whole and item.row == self.objective.num_classes

    def _center(self, indices: np.ndarray) -> SampleSums:
        """The loss of some samples at the centre."""
        rows = torch.from_numpy(self.base.rows[:, indices])
        return SampleSums.of(rows, self.objective.classes[indices], self.objective.num_classes)

    def _load(self, work: Work) -> None:
        found = work.load("ascents")
        if found is not None:
            self.numbers, self.done = found["numbers"], int(found["done"])
            self.slope = torch.from_numpy(found["slope"]).to(self.slope.device)

    def _save(self, work: Work) -> None:
        if self.done:
            work.save("ascents", {"numbers": self.numbers, "done": self.done, "slope": self.slope.cpu().numpy()})
