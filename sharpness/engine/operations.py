r"""Operations with the four passes of a Hessian-vector product.

For ``y = f(x_1, ..., x_m)``, with g the derivative of the loss by y and a dot for d/dt along the vector (Pearlmutter
1994):

.. code-block:: text

    forward             y    = f(x)
    backward            g_j  = (df/dx_j)' g
    forward_tangent     y.   = sum_j (df/dx_j) x_j.
    backward_tangent    g_j. = (df/dx_j)' g.  +  (d/dt df/dx_j)' g

The first two depend only on weights and data. They leave values in the operation's *state* that are used by every
later product with the same batch. Without a backward pass, g counts as 0, and the last two passes compute a
Gauss-Newton product.

For second derivatives of single samples, a fifth pass follows the tangents. The second derivative of a composition is
the sum of the second derivatives of its parts, each multiplied by the derivative of the later parts:

.. code-block:: text

    bend                v' H_i v = sum over operations of  g_i' f''(x., x.)_i

For exact traces (``diagonal.py``), two more passes follow a forward pass alone, for any g and any number of times:

.. code-block:: text

    pull                g_j = (df/dx_j)' g                        of activations
    pull_apart          the same of a parameter, by sample: (df_i/dx_j)' g_i, stacked

An input is active if a parameter in scope reaches it. Derivatives by other inputs, and their tangents, are None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from sharpness.engine.autograd import WrittenOut, pulled

#: One entry per input: a tensor, or None where it is not active.
PerInput = list[Any]


class State:
    """The part of a tape that belongs to one operation: its inputs and output gradient for one batch."""

    __slots__ = ("carry", "gradient", "kept")

    def __init__(self, *kept: Any) -> None:
        self.kept = kept
        self.gradient: Any = None  # g and values computed from it; None before the backward pass
        self.carry: Any = None  # from forward_tangent to backward_tangent of one product

    def tensors(self) -> list[Tensor]:
        """Return all tensors of the state, except those that autograd saves itself."""
        return [t for t in tree_leaves((self.kept, self.gradient)) if isinstance(t, Tensor)]


class Operation:
    """Base class: a function with four passes. ``active`` marks inputs that depend on a parameter in scope.

    Attributes:
        piecewise_linear: the function is affine, apart from kinks, in each active input while the others are fixed.
        parameters: places of the inputs that may be parameters in :meth:`pull_apart`.
    """

    piecewise_linear: ClassVar[bool] = False
    parameters: ClassVar[Sequence[int]] = ()

    def __init__(self, active: Sequence[bool]) -> None:
        self.active = tuple(active)

    def forward(self, *inputs: Any) -> tuple[Tensor, State]:
        raise NotImplementedError

    def value(self, *inputs: Any) -> Any:
        """Return the result without a state."""
        return self.forward(*inputs)[0]

    def backward(self, state: State, g: Tensor, wanted: Sequence[bool]) -> PerInput:
        """Return derivatives by the wanted inputs; derivatives by other active inputs only matter in later passes."""
        raise NotImplementedError

    def forward_tangent(self, state: State, tangents: PerInput) -> Tensor:
        raise NotImplementedError

    def backward_tangent(self, state: State, g_dot: Tensor) -> PerInput:
        raise NotImplementedError

    def bend(self, state: State) -> PerInput:
        """Return the elements of ``g f''(x., x.)`` in parts, each with the shape of an activation, by input.

        Called after :meth:`forward_tangent`, in place of :meth:`backward_tangent`. Empty if f is linear.
        """
        return []

    def pull(self, state: State, g: Tensor) -> PerInput:
        """Return derivatives by the active inputs that are activations; the state does not change."""
        raise NotImplementedError

    def pull_apart(self, state: State, g: Tensor, samples: slice) -> PerInput:
        """Return derivatives by the active inputs that are parameters for each of some samples, (m, *shape)."""
        raise NotImplementedError


class Linear(Operation):
    """``y = x w' + b``, x (..., d), w (m, d): six matrix products per Hessian product; the state keeps x and g."""

    piecewise_linear = True
    parameters = (1, 2)

    def forward(self, x: Tensor, w: Tensor, b: Tensor | None = None) -> tuple[Tensor, State]:
        return F.linear(x, w, b), State(x, w)

    def backward(self, state: State, g: Tensor, wanted: Sequence[bool]) -> PerInput:
        state.gradient = g
        x, w = state.kept
        return self._pull(g, x, w, wanted)

    def forward_tangent(self, state: State, tangents: PerInput) -> Tensor:
        x, w = state.kept
        x_dot, w_dot, *rest = tangents
        state.carry = x_dot, w_dot
        b_dot = rest[0] if rest else None
        parts = [F.linear(*pair) for pair in ((x_dot, w), (x, w_dot)) if None not in pair]
        if b_dot is not None:
            parts.append(b_dot if parts else b_dot.expand(*x.shape[:-1], -1))
        return sum(parts[1:], start=parts[0])

    def backward_tangent(self, state: State, g_dot: Tensor) -> PerInput:
        (x, w), (x_dot, w_dot) = state.kept, state.carry
        state.carry = None
        total = self._pull(g_dot, x, w, self.active)
        g = state.gradient
        if g is not None and x_dot is not None and w_dot is not None:
            total[0] = total[0] + g @ w_dot
            total[1] = total[1] + _rows(g).T @ _rows(x_dot)
        return total

    def bend(self, state: State) -> PerInput:
        (x_dot, w_dot), g = state.carry, state.gradient
        state.carry = None
        return [] if g is None or x_dot is None or w_dot is None else [2 * g * F.linear(x_dot, w_dot)]

    def pull(self, state: State, g: Tensor) -> PerInput:
        x, w = state.kept
        return self._pull(g, x, w, (self.active[0], *[False] * (len(self.active) - 1)))

    def pull_apart(self, state: State, g: Tensor, samples: slice) -> PerInput:
        x, g = (t[samples].flatten(1, -2) if t.ndim > 2 else t[samples, None] for t in (state.kept[0], g))
        _, w_active, *rest = self.active
        return [None, g.mT @ x if w_active else None, *(g.sum(1) if active else None for active in rest)]

    def _pull(self, g: Tensor, x: Tensor, w: Tensor, wanted: Sequence[bool]) -> PerInput:
        x_active, w_active, *rest = wanted
        total = [g @ w if x_active else None, _rows(g).T @ _rows(x) if w_active else None]
        return total + [_rows(g).sum(0) if active else None for active in rest]


class ReLU(Operation):
    """``y = max(x, 0)``, with derivative 0 at 0; the state keeps y, which the next layer keeps anyway."""

    piecewise_linear = True

    def forward(self, x: Tensor) -> tuple[Tensor, State]:
        y = torch.relu(x)
        return y, State(y)

    def backward(self, state: State, g: Tensor, wanted: Sequence[bool]) -> PerInput:
        return [torch.ops.aten.threshold_backward(g, state.kept[0], 0)]

    def forward_tangent(self, state: State, tangents: PerInput) -> Tensor:
        return torch.ops.aten.threshold_backward(tangents[0], state.kept[0], 0)

    def backward_tangent(self, state: State, g_dot: Tensor) -> PerInput:
        return self.backward(state, g_dot, self.active)

    def pull(self, state: State, g: Tensor) -> PerInput:
        return self.backward(state, g, self.active)


class Add(Operation):
    """``y = x_1 + x_2``, broadcast."""

    piecewise_linear = True

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, State]:
        return a + b, State(tuple(a.shape), tuple(b.shape))

    def backward(self, state: State, g: Tensor, wanted: Sequence[bool]) -> PerInput:
        return [g.sum_to_size(shape) if on else None for shape, on in zip(state.kept, self.active, strict=True)]

    def forward_tangent(self, state: State, tangents: PerInput) -> Tensor:
        a, b = tangents
        if a is not None and b is not None:
            return a + b
        one = a if a is not None else b
        return one.expand(torch.broadcast_shapes(*state.kept))

    def backward_tangent(self, state: State, g_dot: Tensor) -> PerInput:
        return self.backward(state, g_dot, self.active)

    def pull(self, state: State, g: Tensor) -> PerInput:
        return self.backward(state, g, self.active)


class Scaling(Operation):
    """``y = s x + t`` per channel, x (n, channels, ...): a BatchNorm that does not follow a convolution."""

    piecewise_linear = True
    parameters = (1, 2)

    def forward(self, x: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, State]:
        return x * channels(s, x) + channels(t, x), State(x, s)

    def backward(self, state: State, g: Tensor, wanted: Sequence[bool]) -> PerInput:
        state.gradient = g
        x, s = state.kept
        return self._pull(g, x, s, wanted)

    def forward_tangent(self, state: State, tangents: PerInput) -> Tensor:
        (x, s), (x_dot, s_dot, t_dot) = state.kept, tangents
        state.carry = x_dot, s_dot
        parts = [a * channels(b, x) for a, b in ((x_dot, s), (x, s_dot)) if a is not None and b is not None]
        if t_dot is not None:
            parts.append(channels(t_dot, x) if parts else channels(t_dot, x).expand(x.shape))
        return sum(parts[1:], start=parts[0])

    def backward_tangent(self, state: State, g_dot: Tensor) -> PerInput:
        (x, s), (x_dot, s_dot), g = state.kept, state.carry, state.gradient
        state.carry = None
        total = self._pull(g_dot, x, s, self.active)
        if g is not None and x_dot is not None and s_dot is not None:
            total[0] = total[0] + g * channels(s_dot, x)
            total[1] = total[1] + by_channel(g * x_dot)
        return total

    def bend(self, state: State) -> PerInput:
        (x_dot, s_dot), g = state.carry, state.gradient
        state.carry = None
        return [] if g is None or x_dot is None or s_dot is None else [2 * g * x_dot * channels(s_dot, x_dot)]

    def pull(self, state: State, g: Tensor) -> PerInput:
        x, s = state.kept
        return self._pull(g, x, s, (self.active[0], False, False))

    def pull_apart(self, state: State, g: Tensor, samples: slice) -> PerInput:
        x, g = state.kept[0][samples], g[samples]
        sums = ((g * x) if self.active[1] else None, g if self.active[2] else None)
        return [None, *(None if part is None else part.flatten(2).sum(2) if g.ndim > 2 else part for part in sums)]

    def _pull(self, g: Tensor, x: Tensor, s: Tensor, wanted: Sequence[bool]) -> PerInput:
        of_x, of_s, of_t = wanted
        return [
            g * channels(s, x) if of_x else None,
            by_channel(g * x) if of_s else None,
            by_channel(g) if of_t else None,
        ]


class Smooth(Operation):
    r"""Any function with one result or a tuple of results, differentiated by autograd's double backward.

    The state keeps the graph of ``G(u, x) = (df/dx)' u``, which is linear in u, at ``u = g``. A single backward pass
    through this graph from the tangents ``x.`` gives both ``(df/dx) x.`` (by u) and ``(d/dt df/dx)' g`` (by x).
    """

    def __init__(self, active: Sequence[bool], function: Callable[..., Any]) -> None:
        super().__init__(active)
        self.function = function

    def value(self, *inputs: Any) -> Any:
        return self.function(*inputs)

    def forward(self, *inputs: Any) -> tuple[Any, State]:
        leaves = [x.detach().requires_grad_() if on else x for x, on in zip(inputs, self.active, strict=True)]
        with torch.enable_grad(), WrittenOut():  # modes are per thread, and a batch may run in another thread
            y = self.function(*leaves)
        state = State([x for x, on in zip(leaves, self.active, strict=True) if on], y)
        return tuple(t.detach() for t in y) if isinstance(y, tuple) else y.detach(), state

    def backward(self, state: State, g: Any, wanted: Sequence[bool] = ()) -> PerInput:
        leaves, y = state.kept
        u = [t.detach().requires_grad_() for t in _several(g)]
        with torch.enable_grad():
            slopes = pulled(_several(y), leaves, u, create_graph=True, zeros=True)
        state.gradient = u, slopes
        return self._spread([t.detach() for t in slopes])

    def forward_tangent(self, state: State, tangents: PerInput) -> Any:
        leaves, y = state.kept
        if state.gradient is None:
            self.backward(state, [torch.zeros_like(t) for t in _several(y)])
        u, slopes = state.gradient
        given = zip(slopes, (d for d in tangents if d is not None), strict=True)
        used = [(t, d.to(t.dtype)) for t, d in given if t.requires_grad]
        found = pulled([t for t, _ in used], [*u, *leaves], [d for _, d in used], retain_graph=True)
        state.carry = found[len(u) :], tangents
        y_dot = tuple(torch.zeros_like(t) if d is None else d for t, d in zip(u, found, strict=False))
        return y_dot if isinstance(y, tuple) else y_dot[0]

    def backward_tangent(self, state: State, g_dot: Any) -> PerInput:
        leaves, y = state.kept
        g_dot = [d.to(t.dtype) for t, d in zip(_several(y), _several(g_dot), strict=True)]
        straight = pulled(_several(y), leaves, g_dot, retain_graph=True, zeros=True)
        (curved, _), state.carry = state.carry, None
        return self._spread([p if c is None else p + c for p, c in zip(straight, curved, strict=True)])

    def bend(self, state: State) -> PerInput:
        (curved, tangents), state.carry = state.carry, None
        return [None if c is None else c * d for c, d in zip(self._spread(curved), tangents, strict=True)]

    def pull(self, state: State, g: Any) -> PerInput:
        leaves, y = state.kept
        return self._spread(pulled(_several(y), leaves, _several(g), retain_graph=True, zeros=True))

    def slopes(self, state: State) -> list[Tensor]:
        """Return the derivatives by the active inputs that :meth:`backward` computed."""
        return [t.detach() for t in state.gradient[1]]

    def second_tangent(self, state: State, tangents: PerInput) -> PerInput:
        """Return ``f''(x., x.)`` for each result, None where it is 0; call after :meth:`backward`."""
        leaves, y = state.kept
        u, slopes = state.gradient
        along = [d for d in tangents if d is not None]

        def pushed(outputs: Sequence[Any], by: Sequence[Tensor], graph: bool) -> list[Any]:
            pairs = [(t, d) for t, d in zip(outputs, along, strict=True) if t is not None and t.requires_grad]
            if not pairs:
                return [None] * len(by)
            ts, ds = zip(*pairs, strict=True)
            return list(pulled(ts, by, ds, create_graph=graph, retain_graph=True))

        with torch.enable_grad():
            first = pushed(slopes, u, graph=True)
            bent = [t is not None and t.requires_grad for t in first]
            v = [torch.zeros_like(t, requires_grad=True) for t, on in zip(first, bent, strict=True) if on]
            if not v:
                return [None] * len(first)
            again = pulled([t for t, on in zip(first, bent, strict=True) if on], leaves, v, create_graph=True)
        rest = iter(pushed(again, v, graph=False))
        return [next(rest) if on else None for on in bent]

    def _spread(self, of_active: Sequence[Tensor]) -> PerInput:
        rest = iter(of_active)
        return [next(rest) if on else None for on in self.active]


class PiecewiseLinear(Smooth):
    """A function that is affine in its active inputs together, apart from kinks, such as pooling or a reshape."""

    piecewise_linear = True


def channels(v: Any, x: Tensor) -> Tensor:
    """Reshape a vector over channels for broadcasting over x (n, channels, ...)."""
    return v.view(-1, *[1] * (x.ndim - 2))


def by_channel(g: Tensor) -> Tensor:
    """Sum over samples and positions: (n, channels, ...) to (channels,)."""
    return g.movedim(1, -1).reshape(-1, g.shape[1]).sum(0)


def _several(y: Any) -> list[Tensor]:
    return list(y) if isinstance(y, list | tuple) else [y]


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])
