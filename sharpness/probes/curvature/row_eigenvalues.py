"""The extreme eigenvalues of one row, as a task that any worker can do."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sharpness.curvature.lanczos import lanczos, lanczos_memory
from sharpness.curvature.lanczos_state import LanczosState
from sharpness.curvature.recurrence import extremes
from sharpness.engine.class_sums import mean_error
from sharpness.engine.memory import memory_budget
from sharpness.objective import Objective
from sharpness.probes.curvature.classifier import layer_eigenpairs
from sharpness.probes.curvature.last_layer import Ahead, LastLayer
from sharpness.probes.curvature.resampling import resampled_ends
from sharpness.probes.curvature.rows import Rows, Told, unheard
from sharpness.probes.curvature.start_vectors import start_vector
from sharpness.probes.shared.work import Arrays, Work

#: Products that a run usually takes for the largest eigenvalue, and for the smallest one beside it, with what else a
#: row takes: the gradient that it starts from, and the quadratic forms of its images.
LARGEST, SMALLEST = 8, 12
#: Bytes of a basis that is kept though only the ends of a spectrum are needed; its run can be continued.
BASIS = 2**30
#: Arrays of a row that runs and closed forms alike give.
NUMBERS = ("values", "residuals", "converged", "products")
#: Quadratic forms below this part of the largest eigenvalue are rounding.
SEEN = 1e-6


@dataclass(frozen=True)
class RowEigenvalues:
    """Solves a row: call it with its number and its objective. The arguments are those of ``eigenvalues``.

    Args:
        work: where a run that is interrupted is kept.
    """

    work: Work
    k: int
    which: str
    tol: float
    max_iterations: int
    seed: int
    kind: str = "hessian"
    bootstrap: int = 0
    standard_errors: bool = False
    keep_vectors: bool = False

    def __call__(self, row: int, part: Objective, told: Told = unheard) -> Arrays:
        """The arrays of the row, after any number of calls of ``told`` with a number of products."""
        settings: dict[str, Any] = {
            "tol": self.tol,
            "max_iterations": self.max_iterations,
            # A generator for every row, so that its start vector is the same whichever rows are done already.
            "generator": torch.Generator().manual_seed(self.seed),
            "dtype": part.dtype,
            "device": part.device,
            "callback": told,
        }
        with part.operator(kind=self.kind) as operator:
            kept = self.work.unfinished(row)
            state = None if kept is None else LanczosState.of(kept, part.device)
            told(0 if state is None else state.products)
            if state is None and operator.keeps:
                sizes = [p.numel() for p in part.parameters]
                settings["start"] = start_vector(operator.gradient(), sizes, self.which)
            if self.needs_no_basis(part):
                return vars(extremes(operator, operator.size, self.which, **settings))
            pairs = lanczos(
                operator,
                operator.size,
                self.k,
                self.which,
                checkpoint=lambda state: self.work.save_unfinished(row, state.arrays),
                state=state,
                **settings,
            )
            found = {name: getattr(pairs, name) for name in NUMBERS}
            if self.keep_vectors:
                found["vectors"] = pairs.vectors.cpu().numpy()
            if self.bootstrap or self.standard_errors:
                forms = np.stack([part.quadratic_forms(v, operator=operator) for v in pairs.vectors])
                found |= over_images(pairs.values, forms, part.weights.double().numpy())
            if self.bootstrap:
                ends, more = resampled_ends(part, operator, pairs, self.which, self.k, self.bootstrap, self.seed)
                found |= {"lower": ends[0], "upper": ends[1], "products": pairs.products + more}
                told(more)
        return found

    def needs_no_basis(self, part: Objective) -> bool:
        """True if nothing asks for eigenvectors, and a basis would be large: the ends alone take three vectors."""
        vectors = self.k > 1 or self.keep_vectors or self.bootstrap or self.standard_errors
        return not vectors and lanczos_memory(part.num_parameters, self.max_iterations, part.dtype) > BASIS


def over_images(values: np.ndarray, forms: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Standard errors of eigenvalues (m,) over images, and the part of the image that counts most.

    Args:
        values: the eigenvalues.
        forms: (m, n) v' H_i v of every image.
        weights: (n,) of the images.

    Returns:
        ``errors`` and ``top_share``, (m,) each.
    """
    sizes = np.abs(forms) * weights
    total = sizes.sum(axis=1)
    # Along a direction that no sample sees, such as a shift of all logits, they are rounding: nobody has a share.
    seen = total > SEEN * weights.sum() * np.abs(values).max()
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(seen, sizes.max(axis=1) / total, np.nan)
    return {"errors": np.array([mean_error(one, weights) for one in forms]), "top_share": share}


def solved(rows: Rows, task: RowEigenvalues, bar: Any, executor: Executor | None = None) -> dict[int, Arrays]:
    """The arrays of every row: of a last layer in closed form, of anything else by products."""
    layer = None if task.bootstrap else LastLayer.of(rows.whole)
    if layer is not None:
        # Probabilities of a row, twice in a product, and what is chosen of them: of many images and classes too much.
        needed = 4 * 8 * int(max(rows.samples)) * len(layer.rows)
        layer = layer if needed <= memory_budget(torch.device("cpu")) else None
    if layer is None or 2 * task.k > rows.whole.num_parameters:
        return rows.map(task.work, task, bar, executor, basis=task.max_iterations)

    ahead = Ahead(layer, {i: rows.indices(i) for i, _ in rows.present})

    def closed(row: int) -> Arrays:
        bar.set_postfix_str(rows.names[row])
        indices = ahead.samples[row]
        pairs = layer_eigenpairs(
            layer, indices, ahead(row), task.k, task.which, task.kind == "hessian", task.keep_vectors, seed=task.seed,
            tol=task.tol, max_iterations=task.max_iterations, callback=bar.update,
        )  # fmt: skip
        found = {name: getattr(pairs, name) for name in NUMBERS}
        if pairs.vectors is not None:  # in the model's precision, which limits of their size count with
            found["vectors"] = torch.from_numpy(pairs.vectors).to(rows.whole.dtype).numpy()
        return found | over_images(pairs.values, pairs.forms, rows.whole.weights.double().numpy()[indices])

    return dict(task.work.rows([i for i, _ in rows.present], closed))
