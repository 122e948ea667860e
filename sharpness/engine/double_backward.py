r"""Curvature by autograd alone: used for models that cannot be traced, and as the reference for traced models.

All results are sums over samples, accumulated in float64.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sharpness.engine.autograd import WrittenOut, pulled
from sharpness.engine.class_sums import PerSampleLoss, WeightedBatch
from sharpness.errors import UserError

Forward = Callable[[Tensor], Tensor]
#: torch counts the nesting levels of forward-mode derivatives over all threads together.
_forward_mode = Lock()


@contextmanager
def twice_differentiable(written_out: bool = True) -> Iterator[None]:
    """Use operations whose second derivatives are correct.

    Attention uses its math kernel, because fused attention has no double backward. Functions whose double backward is
    wrong are computed by the formulas in ``autograd.py``.

    Args:
        written_out: whether to replace these functions, which costs a Python call for every operation.

    Raises:
        UserError: an operation has no second derivative; the message names it.
    """
    with sdpa_kernel(SDPBackend.MATH), WrittenOut() if written_out else nullcontext():
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


@torch.enable_grad()
def gradient_sum(
    forward: Forward, parameters: Sequence[Tensor], batches: Iterable[WeightedBatch], loss: PerSampleLoss
) -> Tensor:
    r"""Compute :math:`\sum_i a_i \nabla_w \ell_i`, flat, shape (k,)."""
    total = _zeros(parameters)
    for x, y, a in batches:
        value = (a * loss(forward(x), y)).sum()
        total += flat(torch.autograd.grad(value, parameters, materialize_grads=True)).double()
    return total


@torch.enable_grad()
def hvp_sum(
    forward: Forward,
    parameters: Sequence[Tensor],
    batches: Iterable[WeightedBatch],
    loss: PerSampleLoss,
    vector: Tensor,
) -> Tensor:
    r"""Compute :math:`\sum_i a_i \nabla_w^2 \ell_i \, v`, the gradient of the slope along v.

    Args:
        vector: v, flat (k,), or several vectors as rows (p, k), which share one pass.

    Returns:
        The products, in the shape of ``vector``.

    Raises:
        RuntimeError: there are several vectors, and an operation of the model has no vectorised derivative.
    """
    total = torch.zeros(vector.shape, dtype=torch.float64, device=parameters[0].device)
    pieces, rows = split(vector, parameters), vector.shape[:-1]
    for batch in batches:
        with twice_differentiable():
            first = _first(forward, parameters, batch, loss)
            if any(g.requires_grad for g in first):
                total += flat(_pull(first, parameters, pieces, rows=bool(rows)), rows).double()
    return total


@torch.enable_grad()
def ggn_sum(
    forward: Forward,
    parameters: Sequence[Tensor],
    batches: Iterable[WeightedBatch],
    loss: PerSampleLoss,
    vector: Tensor,
) -> Tensor:
    r"""Compute :math:`\sum_i a_i J_i' (\nabla_u^2 \ell_i) J_i v`, with J the Jacobian of the outputs u; flat (k,)."""
    total, pieces = _zeros(parameters), split(vector, parameters)
    for x, y, a in batches:
        with twice_differentiable():
            u = forward(x)
            slope = _outputs_along(u, parameters, pieces)
            outputs = u.detach().requires_grad_()
            value = (a * loss(outputs, y)).sum()
            (first,) = torch.autograd.grad(value, outputs, create_graph=True, materialize_grads=True)
            if not first.requires_grad:
                continue
            bent = pulled([first], [outputs], [slope], zeros=True)
            total += flat(pulled([u], parameters, bent, zeros=True)).double()
    return total


@torch.enable_grad()
def slopes(
    forward: Forward,
    parameters: Sequence[Tensor],
    batches: Iterable[WeightedBatch],
    loss: PerSampleLoss,
    vector: Tensor,
) -> Tensor:
    r"""Compute :math:`v' \nabla_w \ell_i` for every sample, (n,), in float64: the slope of its loss along ``J v``."""
    found, pieces = [], split(vector, parameters)
    for x, y, _ in batches:
        with twice_differentiable():
            u = forward(x)
            moved = _outputs_along(u, parameters, pieces)
            outputs = u.detach().requires_grad_()
            (first,) = torch.autograd.grad(loss(outputs, y).sum(), outputs, materialize_grads=True)
            found.append((first * moved).reshape(len(u), -1).double().sum(dim=1))
    return torch.cat(found)


def _outputs_along(u: Tensor, parameters: Sequence[Tensor], pieces: list[Tensor]) -> Tensor:
    """Compute ``J v``, the derivative of outputs along a vector, as that of ``J' s``, which is linear in s."""
    s = torch.zeros_like(u, requires_grad=True)
    linear = pulled([u], parameters, [s], create_graph=True, zeros=True)
    _require_second(u, linear)
    return _pull(linear, [s], pieces)[0]


def quadratic_forms(
    forward: Callable[[Sequence[Tensor], Tensor], Tensor],
    parameters: Sequence[Tensor],
    batches: Iterable[WeightedBatch],
    loss: PerSampleLoss,
    vector: Tensor,
    product: Callable[[WeightedBatch, Tensor], Tensor] | None,
) -> Tensor:
    r"""Compute :math:`v' \nabla_w^2 \ell_i v` for every sample, shape (n,), in float64.

    Args:
        forward: function of (parameters, inputs).
        product: function of (batch, vector) that returns the sum over the batch, called for each sample separately.
            None for two forward-mode derivatives along v, if these agree with products.
    """
    forms: list[Tensor] = []
    for x, y, a in batches:
        if product is None:
            forms.append(_along_twice(forward, parameters, (x, y), loss, vector))
        else:
            alone = zip(x.split(1), y.split(1), torch.ones_like(a).split(1), strict=True)
            forms.append(torch.stack([vector.double() @ product(sample, vector) for sample in alone]))
    return torch.cat(forms)


def _along_twice(forward: Any, parameters: Any, samples: Any, loss: PerSampleLoss, vector: Tensor) -> Tensor:
    x, y = samples
    start, pieces = tuple(p.detach() for p in parameters), tuple(split(vector, parameters))

    def losses(*w: Tensor) -> Tensor:
        return loss(forward(w, x), y)

    def slopes(*w: Tensor) -> Tensor:
        return torch.func.jvp(losses, w, pieces)[1]

    with _forward_mode, warnings.catch_warnings(), twice_differentiable():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own: its first jvp compiles by torch.jit.script
        return torch.func.jvp(slopes, start, pieces)[1].detach().double()


def flat(tensors: Sequence[Tensor], rows: Sequence[int] = ()) -> Tensor:
    """Concatenate all entries to one vector (k,), or to one vector per row, (p, k), with ``rows=(p,)``."""
    # Embeddings may have sparse gradients.
    return torch.cat([(t if t.layout is torch.strided else t.to_dense()).reshape(*rows, -1) for t in tensors], dim=-1)


def split(vector: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Split a flat vector (k,), or rows of them (p, k), into the shapes of the parameters."""
    pieces = vector.split([p.numel() for p in parameters], dim=-1)
    return [v.view(vector.shape[:-1] + p.shape) for v, p in zip(pieces, parameters, strict=True)]


def _require_second(value: Tensor, first: Sequence[Tensor]) -> None:
    """Refuse a function marked ``@once_differentiable``: autograd would silently omit derivatives through it."""
    if not any(node.name() == "torch::autograd::Error" for node in graph(first)):
        return
    functions = {getattr(type(node), "_forward_cls", None) for node in graph([value])}
    names = sorted(f.__name__ for f in functions if f is not None)
    raise RuntimeError(f"{' or '.join(names)} is marked @once_differentiable")


def graph(tensors: Sequence[Tensor]) -> set[Any]:
    """Return all autograd nodes from which some tensors were computed."""
    seen: set[Any] = set()
    pending = [t.grad_fn for t in tensors]
    while pending:
        node = pending.pop()
        if node is not None and node not in seen:
            seen.add(node)
            pending += [before for before, _ in node.next_functions]
    return seen


def _first(
    forward: Forward, parameters: Sequence[Tensor], batch: WeightedBatch, loss: PerSampleLoss
) -> Sequence[Tensor]:
    """Compute the gradient of a batch, with a graph for the second derivative."""
    x, y, a = batch
    value = (a * loss(forward(x), y)).sum()
    first = torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True)
    _require_second(value, first)
    return first


def _pull(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], pieces: list[Tensor], rows: bool = False
) -> Sequence[Tensor]:
    """Differentiate the outputs' product with ``pieces`` by the inputs, omitting constant outputs."""
    pairs = [(g, v) for g, v in zip(outputs, pieces, strict=True) if g.requires_grad]
    outputs, along = [g for g, _ in pairs], [v for _, v in pairs]
    if rows:
        return torch.autograd.grad(outputs, inputs, along, materialize_grads=True, is_grads_batched=True)
    return pulled(outputs, inputs, along, zeros=True)


def _zeros(parameters: Sequence[Tensor]) -> Tensor:
    size = sum(p.numel() for p in parameters)
    return torch.zeros(size, dtype=torch.float64, device=parameters[0].device)
