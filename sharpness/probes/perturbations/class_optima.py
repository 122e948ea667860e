r"""Displacements of the weights to each class's own optimum, by damped Gauss-Newton steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from sharpness.engine.class_sums import mean_error
from sharpness.errors import UserError, require_whole
from sharpness.objective import Objective
from sharpness.probes.curvature.rows import rows_of
from sharpness.probes.shared.cost import Cost, announce
from sharpness.probes.shared.probe import Resumed, comparable
from sharpness.probes.shared.work import Arrays
from sharpness.progress import progress
from sharpness.results import OptimaResult

#: A step that lowers the damped loss by less than this fraction ends the search.
ENOUGH = 1e-3
#: Relative residual of conjugate gradients, and maximum number of halvings of a step that raises the loss.
CG_TOL, HALVINGS = 1e-4, 8


@comparable
def class_optima(
    objective: Objective,
    damping: float = 0.01,
    steps: int = 8,
    cg_steps: int = 30,
    *,
    per_group: bool = False,
    match_samples: int | None = None,
    keep_vectors: bool = True,
    seed: int = 0,
    **given: Unpack[Resumed],
) -> OptimaResult:
    r"""Find the displacement of the weights to each class's own optimum, and how these displacements conflict.

    .. math:: d_c = \arg\min_d \; L_c(w + d) + \tfrac{\mu}{2}\, \|d\|^2 / \|w\|^2

    by Gauss-Newton steps from d = 0, each solved by conjugate gradients and halved until it lowers the damped loss. The
    damping :math:`\mu` makes the optimum finite for losses without a minimum, such as cross-entropy on separable
    images: moving by the norm of all weights costs :math:`\mu / 2`. Standard errors of lengths use the infinitesimal
    jackknife: with :math:`u = (G + \mu / \|w\|^2)^{-1} d_c / \|d_c\|`, the standard error of the mean of :math:`u'
    \nabla \ell_i` over the class's images at the optimum.

    Args:
        objective: an objective, a model with ``data`` or a checkpoint; or ``{label: one of these}``, to compare them.
        damping: :math:`\mu`; 0 for none.
        steps: maximum number of Gauss-Newton steps.
        cg_steps: maximum number of conjugate-gradient steps (products) per Gauss-Newton step.
        per_group: find the optima of groups, over all their images, instead of those of classes.
        match_samples: first draw this many images of each class, with ``seed``.
        keep_vectors: keep the displacements, one float per parameter and class.
        seed: seed for drawing images.
        given: see :class:`~sharpness.probes.shared.probe.Resumed`.

    Returns:
        Lengths (relative to the norm of the weights), losses at the optima, cosines between classes (the conflict
        matrix), and the loss of every class at the optimum of every other.
        For a mapping, a :class:`~sharpness.Comparison` of such results by label.

    Raises:
        UserError: settings out of range, or weights that are all zero.

    The optimum of class 0 is at :math:`w_1 = 1`, that of class 1 at :math:`w_2 = 2`; the model is at w = (3, 4):

    >>> import torch
    >>> from sharpness import Objective
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
    >>> x, t = torch.eye(2), torch.tensor([1.0, 2.0])
    >>> objective = Objective(model, (x, t), loss=lambda u, t: (u[:, 0] - t) ** 2, classes=[0, 1])
    >>> found = class_optima(objective, damping=0)
    >>> found.lengths.round(4).tolist(), found.cosines.round(4).tolist()
    ([0.4, 0.4], [[1.0, 0.0], [0.0, 1.0]])
    """
    if not 0 <= damping < np.inf:
        raise UserError(f"damping={damping}: give a finite number, at least 0")
    for name, value in (("steps", steps), ("cg_steps", cg_steps)):
        require_whole(name, value, least=1)
    rows = rows_of(objective, not per_group, seed, {"per_group": per_group, "match_samples": match_samples})
    whole, norm = rows.whole, rows.whole.weight_norm
    if not norm:
        raise UserError("all weights in scope are zero: displacements relative to their norm mean nothing")
    settings = {"damping": damping, "steps": steps, "cg_steps": cg_steps, "match_samples": match_samples}
    fields = rows.fields(probe="class_optima", **settings)
    whole.check()
    most = steps * cg_steps

    def expected() -> float:
        cost, n = Cost.of(whole, rows=1), whole.num_samples
        return 10 * (cost.forward(n) + cost.gradient(n)) + most * cost.product(n)

    announce(f"optima of {len(rows.present)} rows, at most {most} products each", expected)
    # Rows are computed one after another in this process, because every step moves the model that they share.
    search = _Search(whole, damping, norm, steps, cg_steps)
    count, k = len(rows.parts), whole.num_parameters
    vectors, numbers = np.full((count, k), np.nan), np.full((5, count), np.nan)
    converged, products = np.zeros(count, dtype=bool), np.zeros(count, dtype=int)
    with progress(None, "optima", "products") as bar:
        parts = dict(rows.present)

        def optimum(i: int) -> Arrays:
            bar.set_postfix_str(rows.names[i])
            return search.optimum(parts[i], bar.update)

        for i, found in rows.work(given["resume"], fields["provenance"]).rows(parts, optimum):
            vectors[i], numbers[:, i] = found["vector"], found["numbers"]
            converged[i], products[i] = found["converged"], found["products"]
    # The loss of every class at the optimum of every other.
    losses_at = np.full((count, count), np.nan)
    for i in parts:
        with whole.at(torch.as_tensor(vectors[i])):
            losses_at[i, list(parts)] = [part.loss() for part in parts.values()]
    lengths, length_errors, losses, optimum_losses, loss_errors = numbers
    return OptimaResult(
        lengths=lengths,
        length_errors=length_errors,
        losses=losses,
        optimum_losses=optimum_losses,
        optimum_loss_errors=loss_errors,
        cosines=_cosines(vectors),
        losses_at=losses_at,
        converged=converged,
        vectors=vectors if keep_vectors else None,
        products=products,
        **fields,
    )


class _Search:
    """Damped Gauss-Newton steps on one class.

    Args:
        whole: the objective of all classes. Its weights are moved, so that recalibrated BatchNorm statistics are those
            of all samples.
        damping: damping of displacements in units of ``norm``.
        norm: norm of the weights.
    """

    def __init__(self, whole: Objective, damping: float, norm: float, steps: int, cg_steps: int) -> None:
        self.whole, self.mu, self.norm, self.steps, self.cg_steps = whole, damping / norm**2, norm, steps, cg_steps

    def optimum(self, part: Objective, update: Callable[[int], object]) -> Arrays:
        """Find the displacement to the optimum of a class, its numbers, and whether the search has converged."""
        displacement = torch.zeros(part.num_parameters, dtype=part.dtype, device=part.device)
        with self.whole.at(displacement):
            start = loss = damped = part.loss()
        converged, products = False, 0
        for _ in range(self.steps):
            with self.whole.at(displacement):
                step, solved = self._solve(part, -(part.gradient() + self.mu * displacement), update)
            products += solved
            for halving in range(HALVINGS):
                tried = displacement + step / 2**halving
                with self.whole.at(tried):
                    here = part.loss()
                value = here + self.mu / 2 * float(tried.double().square().sum())
                if value < damped:
                    break
            else:  # no shorter step lowers the loss: rounding, or a saddle point of the damped loss
                converged = True
                break
            displacement, loss, gain, damped = tried, here, damped - value, value
            if gain <= ENOUGH * max(damped, 1e-12):
                converged = True
                break
        # Standard errors over images at the optimum.
        length, length_error, weights = float(displacement.double().norm()), np.nan, part.weights.double().numpy()
        with self.whole.at(displacement):
            loss_error = mean_error(part.evaluate_samples().losses, weights)
            if length > 0:
                bent, solved = self._solve(part, displacement / length, update)
                products += solved
                length_error = mean_error(part.slopes(bent), weights)
        numbers = length / self.norm, length_error / self.norm, start, loss, loss_error
        return {
            "vector": displacement.cpu().numpy(), "numbers": numbers, "converged": converged, "products": products
        }  # fmt: skip

    def _solve(self, part: Objective, right: Tensor, update: Callable[[int], object]) -> tuple[Tensor, int]:
        """Solve ``(G + mu) x = right`` at the present weights by conjugate gradients; also return the products."""
        x, residual = torch.zeros_like(right, dtype=torch.float64), right.double().clone()
        direction, size = residual.clone(), float(residual.square().sum())
        done, start = 0, size
        with part.operator(kind="ggn") as operator:
            while done < self.cg_steps and size > CG_TOL**2 * start:
                image = operator(direction.to(part.dtype)).double() + self.mu * direction
                done += 1
                update(1)
                bend = float(direction @ image)
                if bend <= 1e-14 * float(direction.square().sum()):  # no curvature, so the step has no length
                    break
                x += size / bend * direction
                residual -= size / bend * image
                size, before = float(residual.square().sum()), size
                direction = residual + size / before * direction
        return x.to(part.dtype), done


def _cosines(vectors: np.ndarray) -> np.ndarray:
    """Cosines between rows; NaN for rows that are zero or NaN."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        units = np.where(norms > 0, vectors / norms, np.nan)
    return np.clip(units @ units.T, -1, 1)
