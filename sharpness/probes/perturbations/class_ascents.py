"""Projected ascents of every class and of all samples, or of batches of them; unfinished work is saved."""

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
    """Split positions 0 to ``samples - 1`` at random into batches of m; the last may be smaller. None is one batch.

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
        row: class of the samples, or C for samples of all classes.
        indices: indices of the samples.
        whole: whether these are all samples of the row.
    """

    row: int
    indices: np.ndarray
    whole: bool


class Ascents:
    """The ascents of a worst case, classes first.

    Args:
        base: the loss of every sample at the centre.
        m: number of samples per batch, or None.

    Attributes:
        numbers: (items, 9): summed loss at the centre and at the worst point, weight; correct predictions, samples;
            gradients; and sums over samples of a_i^2, a_i^2 r_i and (a_i r_i)^2, where r_i is the rise of a sample.
        slope: (k,) sum over the classes so far of weight times gradient at the centre, in float64. It gives the
            gradient of all samples, as one batch, without another pass over the data.
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
        """Run the remaining ascents; save them in ``work`` from time to time and at the end, also after an error."""
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
        """Loss, worst loss, rise, accuracy at the worst points, and standard error of the rise, (5, C + 1).

        Columns are the classes and, last, all samples. The standard error is over samples, with the worst points fixed,
        see :func:`~sharpness.engine.class_sums.mean_error`.
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
        """Compute the numbers of an item, (9,), and the slope including it."""
        objective, slope = self.objective, self.slope
        everything = self._everything(item)
        part = objective if everything else objective.restrict(item.indices)
        center = self._center(item.indices)
        weight = float(center.weight.sum())
        # Classes come first: the gradient of all samples is the sum of theirs and needs no further pass.
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
