r"""The extreme eigenvalues of one row, as a task for any worker.

Lanczos iterations start from the gradient, which the first product computes anyway. On a trained network, the gradient
of a class lies mostly in the space of its largest eigenvectors, because the Gauss-Newton part of the Hessian consists
of the gradients of its images (Gur-Ari, Roberts & Dyer, arXiv 1812.04754).

The smallest eigenvector can also be approximated by the gradient, with layers weighted differently. Layers multiply one
another, so that the loss is like :math:`f(u v)` in the factors u of early and v of late layers. The part of the Hessian
that is not Gauss-Newton couples them, and has negative curvature where one factor grows along its gradient while the
other shrinks. With F(l) the fraction of :math:`|g|^2` in the layers up to the middle of l,

.. math:: t_l = (1 - 2 F(l)) \, g_l, \qquad t' g = 0.

On a long-tailed ResNet-32, the cosine between the smallest eigenvector and the better of g and t is 0.17 to 0.83,
compared to 0.001 for a random vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.curvature.lanczos import lanczos, lanczos_memory
from sharpness.curvature.lanczos_state import LanczosState
from sharpness.curvature.recurrence import extremes
from sharpness.engine.class_sums import mean_error
from sharpness.engine.memory import memory_budget
from sharpness.objective import Objective
from sharpness.probes.curvature.classifier import layer_eigenpairs
from sharpness.probes.curvature.last_layer import Ahead, LastLayer
from sharpness.probes.curvature.resampling import resampled_ends
from sharpness.probes.curvature.rows import Callback, Rows, ignore
from sharpness.probes.shared.work import Arrays, Work

#: Products that a run usually takes for the largest eigenvalue, and in addition for the smallest one. They include the
#: gradient at the start and the quadratic forms of the images.
LARGEST, SMALLEST = 8, 12
#: Number of products of a run that is timed for an estimate.
SHORT = 4
#: Maximum bytes of a basis that is stored even if only eigenvalues are needed, so that the run can be resumed.
BASIS = 2**30
#: Arrays of a row that both Lanczos runs and closed forms give.
NUMBERS = ("values", "residuals", "converged", "products")
#: Quadratic forms below this fraction of the largest eigenvalue are rounding errors.
SEEN = 1e-6
#: A tilted gradient shorter than this is rounding error: the whole gradient is in one layer.
ROUNDING = 1e-6


@dataclass(frozen=True)
class RowEigenvalues:
    """A function of the number and the objective of a row. Its settings are the arguments of ``eigenvalues``.

    Args:
        work: storage for interrupted runs.
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

    def __call__(self, row: int, part: Objective, callback: Callback = ignore) -> Arrays:
        """Solve the row; ``callback`` is called with numbers of products."""
        settings: dict[str, Any] = {
            "tol": self.tol,
            "max_iterations": self.max_iterations,
            # One generator per row, so that its start vector does not depend on which rows are already done.
            "generator": torch.Generator().manual_seed(self.seed),
            "dtype": part.dtype,
            "device": part.device,
            "callback": callback,
        }
        with part.operator(kind=self.kind) as operator:
            kept = None if self.needs_no_basis(part) else self.work.unfinished(row)
            state = None if kept is None else LanczosState.of(kept, part.device)
            callback(0 if state is None else state.products)
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
                callback(more)
        return found

    def needs_no_basis(self, part: Objective) -> bool:
        """True if no eigenvectors are needed and the basis would be large: eigenvalues alone take three vectors."""
        vectors = self.k > 1 or self.keep_vectors or self.bootstrap or self.standard_errors
        return not vectors and lanczos_memory(part.num_parameters, self.max_iterations, part.dtype) > BASIS


def over_images(values: np.ndarray, forms: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Compute standard errors of eigenvalues (m,) over images, and the share of the most important image.

    Args:
        values: (m,) eigenvalues.
        forms: (m, n) v' H_i v of every image.
        weights: (n,) weights of the images.

    Returns:
        ``errors`` and ``top_share``, (m,) each.
    """
    sizes = np.abs(forms) * weights
    total = sizes.sum(axis=1)
    # Along directions that affect no sample, such as a shift of all logits, forms are rounding errors.
    seen = total > SEEN * weights.sum() * np.abs(values).max()
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(seen, sizes.max(axis=1) / total, np.nan)
    return {"errors": np.array([mean_error(one, weights) for one in forms]), "top_share": share}


def solved(rows: Rows, task: RowEigenvalues, bar: Any, executor: Executor | None = None) -> dict[int, Arrays]:
    """Solve all rows: in closed form for a last layer, by products otherwise."""
    layer = None if task.bootstrap else LastLayer.of(rows.whole)
    if layer is not None:
        # The probabilities of a row, two copies in a product, and a selection of them may not fit into memory.
        needed = 4 * 8 * int(max(rows.samples)) * len(layer.rows)
        layer = layer if needed <= memory_budget(torch.device("cpu")) else None
    if layer is None or 2 * task.k > rows.whole.num_parameters:
        return rows.map(task.work, task, bar, executor, basis=task.max_iterations)

    ahead = Ahead(layer, {i: rows.indices(i) for i, _ in rows.present})

    def closed(row: int) -> Arrays:
        bar.set_postfix_str(rows.names[row])
        indices = ahead.samples[row]
        pairs = layer_eigenpairs(layer, indices, ahead(row), task, bar.update)
        found = {name: getattr(pairs, name) for name in NUMBERS}
        if pairs.vectors is not None:  # in the model's precision, as assumed by the limits on their size
            found["vectors"] = torch.from_numpy(pairs.vectors).to(rows.whole.dtype).numpy()
        return found | over_images(pairs.values, pairs.forms, rows.whole.weights.double().numpy()[indices])

    return dict(task.work.rows([i for i, _ in rows.present], closed))


def start_vector(gradient: Tensor, sizes: Sequence[int], which: str) -> Tensor | None:
    """Combine the gradient and its tilted version to a vector near the wanted eigenvectors.

    Args:
        gradient: (k,).
        sizes: numbers of entries of all parameters, in the order of the network.
        which: end of the spectrum; for the largest eigenvalues, the gradient alone is used.

    Returns:
        A vector (k,) in float64; None if the gradient is 0 or not finite.

    >>> start_vector(torch.tensor([3.0, 4.0]), [1, 1], "LA").tolist()
    [0.6, 0.8]
    >>> g = torch.tensor([1.0, 1.0])
    >>> (start_vector(g, [1, 1], "both") - start_vector(g, [1, 1], "LA")).round(decimals=3).tolist()
    [0.707, -0.707]
    """
    g = gradient.double()
    if not bool(torch.isfinite(g).all()) or not bool(g.any()):
        return None
    g = g / g.norm()
    if which == "LA":
        return g
    shares = torch.stack([piece.square().sum() for piece in g.split(list(sizes))])
    tilt = 1 - 2 * (shares.cumsum(0) - shares / 2)
    tilted = g * tilt.repeat_interleave(torch.tensor(sizes, device=g.device))
    length = tilted.norm()
    return g + tilted / length if length > ROUNDING else g
