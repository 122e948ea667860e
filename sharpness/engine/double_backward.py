r"""Curvature by autograd alone: what the engine does for a model that it cannot trace, and what it is checked against.

Everything is a sum over samples, accumulated in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sharpness.engine.class_sums import PerSampleLoss, WeightedBatch
from sharpness.errors import UserError

Forward = Callable[[Tensor], Tensor]


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Attention by its math kernel, because fused attention has no double backward.

    Raises:
        UserError: an operation has no second derivative; the message names it.
    """
    with sdpa_kernel(SDPBackend.MATH):
        try:
            yield
        except RuntimeError as error:
            message = str(error).splitlines()[0]
            if "not implemented" not in message and "once_differentiable" not in message:
                raise
            raise UserError(
                f"an operation of the model has no second derivative ({message}): replace it by one that has, or take "
                "the parameters behind it out of scope with parameters="
            ) from error


def gradient_sum(
    forward: Forward, parameters: Sequence[Tensor], batches: Iterable[WeightedBatch], loss: PerSampleLoss
) -> Tensor:
    r""":math:`\sum_i a_i \nabla_w \ell_i`, flat, shape (k,)."""
    total = _zeros(parameters)
    for x, y, a in batches:
        value = (a * loss(forward(x), y)).sum()
        total += flat(torch.autograd.grad(value, parameters, materialize_grads=True)).double()
    return total


def hvp_sum(
    forward: Forward,
    parameters: Sequence[Tensor],
    batches: Iterable[WeightedBatch],
    loss: PerSampleLoss,
    vector: Tensor,
) -> Tensor:
    r""":math:`\sum_i a_i \nabla_w^2 \ell_i \, v`, flat, shape (k,): the gradient of the slope along v."""
    total, pieces = _zeros(parameters), split(vector, parameters)
    for x, y, a in batches:
        with twice_differentiable():
            value = (a * loss(forward(x), y)).sum()
            first = torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True)
            if any(g.requires_grad for g in first):
                second = _pull([g for g in first if g.requires_grad], parameters, pieces, first)
                total += flat(second).double()
    return total


def ggn_sum(
    forward: Forward,
    parameters: Sequence[Tensor],
    batches: Iterable[WeightedBatch],
    loss: PerSampleLoss,
    vector: Tensor,
) -> Tensor:
    r""":math:`\sum_i a_i J_i' (\nabla_u^2 \ell_i) J_i v`, with J the Jacobian of the outputs u; flat, shape (k,).

    ``J v`` is the derivative of ``J' s``, which is linear in s.
    """
    total, pieces = _zeros(parameters), split(vector, parameters)
    for x, y, a in batches:
        with twice_differentiable():
            u = forward(x)
            s = torch.zeros_like(u, requires_grad=True)
            pulled = torch.autograd.grad(u, parameters, s, create_graph=True, materialize_grads=True)
            (slope,) = _pull([g for g in pulled if g.requires_grad], [s], pieces, pulled)
            outputs = u.detach().requires_grad_()
            value = (a * loss(outputs, y)).sum()
            (first,) = torch.autograd.grad(value, outputs, create_graph=True, materialize_grads=True)
            if not first.requires_grad:
                continue
            (bent,) = torch.autograd.grad(first, outputs, slope, materialize_grads=True)
            total += flat(torch.autograd.grad(u, parameters, bent, materialize_grads=True)).double()
    return total


def quadratic_forms(
    forward: Callable[[Sequence[Tensor], Tensor], Tensor],
    parameters: Sequence[Tensor],
    batches: Iterable[WeightedBatch],
    loss: PerSampleLoss,
    vector: Tensor,
) -> Tensor:
    r""":math:`v' \nabla_w^2 \ell_i v` of every sample, shape (n,), in float64: two derivatives along v, forward.

    Args:
        forward: of (parameters, inputs).
    """
    pieces = tuple(split(vector, parameters))
    start = tuple(p.detach() for p in parameters)
    forms = []
    for x, y, _ in batches:

        def losses(*w: Tensor, x: Tensor = x, y: Tensor = y) -> Tensor:
            return loss(forward(w, x), y)

        def slopes(*w: Tensor, losses: Callable[..., Tensor] = losses) -> Tensor:
            return torch.func.jvp(losses, w, pieces)[1]

        with twice_differentiable():
            forms.append(torch.func.jvp(slopes, start, pieces)[1].detach().double())
    return torch.cat(forms)


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """One vector (k,) of all entries."""
    return torch.cat([t.reshape(-1) for t in tensors])


def split(vector: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The pieces of a flat vector (k,) in the shapes of the parameters."""
    pieces = vector.split([p.numel() for p in parameters])
    return [v.view_as(p) for v, p in zip(pieces, parameters, strict=True)]


def _pull(outputs: list[Tensor], inputs: Sequence[Tensor], pieces: list[Tensor], of: Sequence[Tensor]) -> list[Tensor]:
    along = [v for v, g in zip(pieces, of, strict=True) if g.requires_grad]
    return list(torch.autograd.grad(outputs, inputs, along, materialize_grads=True, allow_unused=True))


def _zeros(parameters: Sequence[Tensor]) -> Tensor:
    size = sum(p.numel() for p in parameters)
    return torch.zeros(size, dtype=torch.float64, device=parameters[0].device)
