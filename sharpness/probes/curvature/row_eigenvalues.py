r"""The extreme eigenvalues of one row, as a task that any worker can do.

Runs of Lanczos start from the gradient, which the first product of a run computes anyway. On a trained network the
gradient of a class lies mostly in the space of its largest eigenvectors, because the Gauss-Newton part of the Hessian
is made of the gradients of its images (Gur-Ari, Roberts & Dyer, arXiv 1812.04754).

The smallest eigenvector is found in the gradient as well, cut into layers. Layers multiply one another, so that the
loss is like :math:`f(u v)` in the factors u of early and v of late layers: the part of the Hessian that is not
Gauss-Newton couples them, and bends down where one factor grows along its gradient and the other shrinks. With F(l) the
part of :math:`|g|^2` in the layers up to the middle of l,

.. math:: t_l = (1 - 2 F(l)) \, g_l, \qquad t' g = 0.

On a long-tailed ResNet-32 the cosine of the smallest eigenvector with the better of g and t is 0.17 to 0.83, where that
with a random vector is 0.001.
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

#: Products that a run usually takes for the largest eigenvalue, and for the smallest one beside it, with what else a
#: row takes: the gradient that it starts from, and the quadratic forms of its images.
LARGEST, SMALLEST = 8, 12
#: Products of a run that is timed for an estimate.
SHORT = 4
#: Bytes of a basis that is kept though only the ends of a spectrum are needed; its run can be continued.
BASIS = 2**30
#: Arrays of a row that runs and closed forms alike give.
NUMBERS = ("values", "residuals", "converged", "products")
#: Quadratic forms below this part of the largest eigenvalue are rounding.
SEEN = 1e-6
#: Length of a tilted gradient that is rounding: all of the gradient is in one layer.
ROUNDING = 1e-6


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

    def __call__(self, row: int, part: Objective, callback: Callback = ignore) -> Arrays:
        """Solve the row; ``callback`` is called with numbers of products."""
        settings: dict[str, Any] = {
            "tol": self.tol,
            "max_iterations": self.max_iterations,
            # A generator for every row, so that its start vector is the same whichever rows are done already.
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
        pairs = layer_eigenpairs(layer, indices, ahead(row), task, bar.update)
        found = {name: getattr(pairs, name) for name in NUMBERS}
        if pairs.vectors is not None:  # in the model's precision, which limits of their size count with
            found["vectors"] = torch.from_numpy(pairs.vectors).to(rows.whole.dtype).numpy()
        return found | over_images(pairs.values, pairs.forms, rows.whole.weights.double().numpy()[indices])

    return dict(task.work.rows([i for i, _ in rows.present], closed))


def start_vector(gradient: Tensor, sizes: Sequence[int], which: str) -> Tensor | None:
    """Combine the gradient and its tilted version to a vector near the wanted eigenvectors.

    Args:
        gradient: (k,).
        sizes: numbers of entries of all parameters, in the order of the network.
        which: end of the spectrum; the gradient alone serves the largest values.

    Returns:
        A vector (k,) in float64; None where the gradient is 0.

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
