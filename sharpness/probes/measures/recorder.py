"""Measures over epochs, for all samples and every group; eigenvalue iterations start from the previous vectors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.curvature.lanczos import lanczos
from sharpness.errors import UserError, require_whole
from sharpness.objective import Objective
from sharpness.probes.measures.measure import require_positive
from sharpness.probes.measures.registry import chosen_measures
from sharpness.probes.measures.table import measure

#: Default measures of a history.
USUAL = ("accuracy", "loss", "lambda_max")
LAMBDA = "lambda_max"


class Recorder:
    """Rows of a history from objectives of one architecture.

    The largest eigenvalue of a group is that of the loss over all its samples, as with ``per_group``; all other values
    of a group are means over its classes.

    Args:
        measures: names of measures; the largest eigenvalue starts from its previous vector and takes few products.
        tol: relative residual of eigenvalues.
        max_iterations: maximum number of products per eigenvalue.
        seed: seed of the first start vectors, and of the random numbers of other measures.

    Raises:
        UserError: an unknown measure, or settings out of range.
    """

    def __init__(
        self, measures: str | Sequence[str] = USUAL, tol: float = 1e-2, max_iterations: int = 40, seed: int = 0
    ) -> None:
        self.names = [one.name for one in chosen_measures(measures)]
        require_positive("tol", tol)
        require_whole("max_iterations", max_iterations, 1)
        self.tol, self.max_iterations, self.seed = tol, max_iterations, seed
        self.vectors: dict[str, Tensor] = {}

    def rows(self, objective: Objective, epoch: float) -> list[dict[str, Any]]:
        """Measure, and return a row for every subset and measure."""
        begin = time.perf_counter()
        groups = {name: objective.restrict(name) for name, members in objective.present_groups.items() if members}
        parts = {"all": objective} | groups
        others = [name for name in self.names if name != LAMBDA]
        if not objective.has_answers:
            others = [name for name in others if name != "accuracy"]
        found: list[dict[str, Any]] = []
        if others:
            table = measure(objective, others, tol=self.tol, max_iterations=self.max_iterations, seed=self.seed)
            found += [
                {"of": of, "measure": name, "value": float(table[name].of(None if of == "all" else of))}
                for of in parts
                for name in others
            ]
        if LAMBDA in self.names:
            found += [{"of": of, "measure": LAMBDA, **self._largest(of, part)} for of, part in parts.items()]
        seconds = time.perf_counter() - begin
        empty = {"residual": np.nan, "products": 0}
        return [{"epoch": epoch, **empty, **row, "seconds": seconds} for row in found]

    def _largest(self, of: str, part: Objective) -> dict[str, Any]:
        start = self.vectors.get(of)
        with part.operator() as operator:
            pairs = lanczos(
                operator, operator.size, tol=self.tol, max_iterations=self.max_iterations, dtype=part.dtype,
                generator=torch.Generator().manual_seed(self.seed), device=part.device,
                start=start if start is not None and len(start) == operator.size else None,
            )  # fmt: skip
        self.vectors[of] = pairs.vectors[0].detach().cpu()
        return {
            "value": float(pairs.values[0]), "residual": float(pairs.residuals[0]), "products": int(pairs.products)
        }  # fmt: skip


def small_sample(objective: Objective, samples: int, seed: int = 0) -> Objective:
    """Draw at most ``samples`` samples of every class, each weighted by the number of samples it represents.

    Raises:
        UserError: a number below 1.
    """
    require_whole("samples", samples, 1)
    if not objective.num_samples:
        raise UserError("no samples: there is nothing to watch")
    draw, classes = np.random.default_rng(seed), objective.classes.numpy()
    kept, factors = [], []
    for c in np.flatnonzero(objective.class_samples):
        members = np.flatnonzero(classes == c)
        chosen = np.sort(draw.choice(members, min(samples, len(members)), replace=False))
        kept.append(chosen)
        factors.append(np.full(len(chosen), len(members) / len(chosen)))
    found = objective.restrict(np.concatenate(kept))
    weights = found.weights * torch.as_tensor(np.concatenate(factors)).to(found.weights)
    found.samples = replace(found.samples, weights=weights)
    return found
