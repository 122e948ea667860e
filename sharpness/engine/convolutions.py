"""Convolutions, with or without a folded BatchNorm, as operations with four passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from sharpness.engine.operations import Operation, PerInput, State, by_channel, channels

NO_GRADIENT: Any = (None, None, None)


class Convolution(Operation):
    r"""``y = x * w + b``: six convolutions per product; the state keeps x and g.

    .. code-block:: text

        y.   = x. * w + x * w. + b.
        g_x. = g. *' w + g *' w.          g_w. = corr(x, g.) + corr(x., g)          g_b. = sum g.
    """

    piecewise_linear = True
    parameters: ClassVar[Sequence[int]] = (1, 2)

    def __init__(self, active: Sequence[bool], stride: Any, padding: Any, dilation: Any, groups: int) -> None:
        super().__init__(active)
        self.rank = len(stride)
        self.geometry = (list(stride), list(padding), list(dilation), False, [0] * self.rank, groups)

    def forward(self, x: Tensor, w: Tensor, b: Tensor | None = None) -> tuple[Tensor, State]:
        return self._convolve(x, w, b), State(x, w)

    def backward(self, state: State, g: Tensor, wanted: Sequence[bool]) -> PerInput:
        state.gradient = g
        x, w = state.kept
        return [*self._pull(g, x, w, wanted[:2]), *(by_channel(g) if on else None for on in wanted[2:])]

    def forward_tangent(self, state: State, tangents: PerInput) -> Tensor:
        x, w = state.kept
        x_dot, w_dot, *rest = tangents
        state.carry = x_dot, w_dot
        return self._push(x, w, x_dot, w_dot, rest[0] if rest else None)[0]

    def backward_tangent(self, state: State, g_dot: Tensor) -> PerInput:
        (x, w), (x_dot, w_dot), g = state.kept, state.carry, state.gradient
        state.carry = None
        total = self._pull(g_dot, x, w, self.active[:2])
        if g is not None and x_dot is not None and w_dot is not None:
            for sum_so_far, more in zip(total, self._pull(g, x_dot, w_dot, (True, True)), strict=True):
                sum_so_far.add_(more)
        return [*total, *(by_channel(g_dot) if on else None for on in self.active[2:])]

    def bend(self, state: State) -> PerInput:
        (x_dot, w_dot), g = state.carry, state.gradient
        state.carry = None
        return [] if g is None or x_dot is None or w_dot is None else [2 * g * self._convolve(x_dot, w_dot)]

    def pull(self, state: State, g: Tensor) -> PerInput:
        x, w = state.kept
        return [*self._pull(g, x, w, (self.active[0], False)), *[None] * (len(self.active) - 2)]

    def pull_apart(self, state: State, g: Tensor, samples: slice) -> PerInput:
        of_weight = self._correlate(state, g, samples) if self.active[1] else None
        return [None, of_weight, *(g[samples].flatten(2).sum(2) if active else None for active in self.active[2:])]

    def _correlate(self, state: State, g: Tensor, samples: slice) -> Tensor:
        """Return corr(x, g) of some samples, (m, *shape of w)."""
        x, w = state.kept[:2]
        alone = torch.func.vmap(lambda x, g: self._pull(g[None], x[None], w, (False, True))[1])
        return alone(x[samples], g[samples])

    def _convolve(self, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return torch.ops.aten.convolution(x, w, b, *self.geometry)

    def _push(
        self, x: Tensor, w: Tensor, x_dot: Tensor | None, w_dot: Tensor | None, b_dot: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return ``y.`` and the part of it that comes from ``w.``."""
        by_weight = None if w_dot is None else self._convolve(x, w_dot, b_dot if x_dot is None else None)
        if x_dot is not None:
            y_dot = self._convolve(x_dot, w, b_dot)
            return (y_dot if by_weight is None else y_dot.add_(by_weight)), by_weight
        if by_weight is not None:
            return by_weight, by_weight
        still = torch.zeros_like(self._convolve(x, w))
        return still.add_(channels(b_dot, still)), None

    def _pull(self, g: Tensor, x: Tensor, w: Tensor, wanted: Sequence[bool]) -> PerInput:
        if not any(wanted):
            return [None, None]
        stride, padding, *rest = self.geometry
        if any(n > 1 for n in w.shape[2:]) or any(padding) or not any(step > 1 for step in stride):
            return list(torch.ops.aten.convolution_backward(g, x, w, None, *self.geometry, [*wanted, False])[:2])
        # A 1 x 1 kernel only uses every stride-th pixel, so this computes the same sums over these with stride 1. With
        # a stride and channels last, oneDNN's AVX2 kernel writes out of bounds (torch 2.13, 3 to 6 channels).
        seen = (slice(None), slice(None), *(slice(None, None, step) for step in stride))
        geometry = ([1] * self.rank, padding, *rest)
        of_seen, of_weight, _ = torch.ops.aten.convolution_backward(g, x[seen], w, None, *geometry, [*wanted, False])
        if not wanted[0]:
            return [None, of_weight]
        of_x = torch.zeros_like(x)
        of_x[seen] = of_seen
        return [of_x, of_weight]


class ScaledConvolution(Convolution):
    r"""``y = s (x * w) + t`` per output channel, which replaces a convolution followed by BatchNorm.

    All six convolutions use the folded weight ``s w`` or its tangent ``e = s. w + s w.``; the remaining operations of
    BatchNorm have the size of the weights. With ``c = corr(x, g)`` and < , > summed per output channel:

    .. code-block:: text

        g_w  = s c        g_s  = <c, w>                      g_t  = sum g
        y.   = x. * (s w) + x * e + t.                       g_x. = g. *' (s w) + g *' e
        a    = corr(x, g.) + corr(x., g)
        g_w. = s a + s. c        g_s. = <a, w> + <c, w.>     g_t. = sum g.

    If g_w is not wanted, c is not computed, which saves a convolution: with ``r = s. / s`` and ``b = a + r c =
    corr(x, g. + r g) + corr(x., g)``, the sums <c, s w> = sum g (y - t) and <c, e> = sum g (x * e) suffice for
    ``g_w. = s b`` and ``g_s. = <b, w> + <c, e> / s - 2 r <c, w>``.
    """

    parameters = (1, 2, 3)
    #: Smallest scale to divide by, relative to the largest scale or shift; below it, y - t cancels too much.
    SMALLEST = 1e-3

    def forward(self, x: Tensor, w: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, State]:  # type: ignore[override]
        folded = w * _filters(s, w)
        y = self._convolve(x, folded, t)
        return y, State(x, w, s, t, folded, [y])

    def backward(self, state: State, g: Tensor, wanted: Sequence[bool]) -> PerInput:
        x, w, s, t, folded, spare = state.kept
        y = spare.pop()
        shift = by_channel(g)
        largest = torch.maximum(s.abs().max(), t.abs().max())
        direct = self.active[1] and not wanted[1] and bool(s.abs().min() > self.SMALLEST * largest)
        c = None
        if direct or not any(self.active[1:3]):
            (by_input, _), by_scale = self._pull(g, x, folded, (wanted[0], False)), None
            if self.active[2]:
                by_scale = (by_channel(g * y) - t * shift) / s
        else:
            by_input, c = self._pull(g, x, folded, (wanted[0], True))
            by_scale = _by_filter(c * w)
        state.gradient = g, c, by_scale
        by_weight = c * _filters(s, w) if wanted[1] and c is not None else None
        return [by_input, by_weight, by_scale if self.active[2] else None, shift if self.active[3] else None]

    def forward_tangent(self, state: State, tangents: PerInput) -> Tensor:
        x, w, s, _, folded, _ = state.kept
        x_dot, w_dot, s_dot, t_dot = tangents
        terms = [d for d in (_times(s_dot, w), _times(s, w_dot)) if d is not None]
        e = sum(terms[1:], start=terms[0]) if terms else None
        g, c, _ = state.gradient or NO_GRADIENT
        if e is not None and x_dot is None and t_dot is not None:
            y_dot, by_weight = self._push(x, folded, None, e, None)
            y_dot = y_dot + channels(t_dot, y_dot)
        else:
            y_dot, by_weight = self._push(x, folded, x_dot, e, t_dot)
        product = None
        if g is not None and c is None and s_dot is not None and by_weight is not None:
            product = by_channel(g * by_weight)
        state.carry = x_dot, e, w_dot, s_dot, product
        return y_dot

    def backward_tangent(self, state: State, g_dot: Tensor) -> PerInput:
        x, w, s, _, folded, _ = state.kept
        x_dot, e, w_dot, s_dot, product = state.carry
        g, c, by_scale = state.gradient or NO_GRADIENT
        state.carry = None
        weights = any(self.active[1:3])
        ratio: Any = s_dot / s if g is not None and c is None and s_dot is not None and weights else None
        # Without c, `a` is b in the class docstring. The derivative by the weights then uses g. + r g and that by the
        # inputs only g., so they need separate calls.
        if ratio is None:
            by_input, a = self._pull(g_dot, x, folded, (self.active[0], weights))
        else:
            by_input, _ = self._pull(g_dot, x, folded, (self.active[0], False))
            _, a = self._pull(torch.addcmul(g_dot, channels(ratio, g), g), x, folded, (False, True))
        if g is not None and x_dot is not None and e is not None:
            more, further = self._pull(g, x_dot, e, (True, True))
            by_input.add_(more)
            a.add_(further)
        result = [by_input, None, None, by_channel(g_dot) if self.active[3] else None]
        if self.active[1]:
            result[1] = a * _filters(s, w)
            if c is not None and s_dot is not None:
                result[1] += c * _filters(s_dot, w)
        if self.active[2]:
            result[2] = _by_filter(a * w)
            if ratio is not None:
                result[2] += product / s - 2 * ratio * by_scale
            elif c is not None and w_dot is not None:
                result[2] += _by_filter(c * w_dot)
        return result

    def pull(self, state: State, g: Tensor) -> PerInput:
        x, folded = state.kept[0], state.kept[4]
        return [*self._pull(g, x, folded, (self.active[0], False)), None, None]

    def pull_apart(self, state: State, g: Tensor, samples: slice) -> PerInput:
        _, w, s, *_ = state.kept
        by_weight, by_scale = None, None
        if any(self.active[1:3]):
            c = self._correlate(state, g, samples)
            by_weight = c * _filters(s, w) if self.active[1] else None
            by_scale = (c * w).flatten(2).sum(2) if self.active[2] else None
        return [None, by_weight, by_scale, g[samples].flatten(2).sum(2) if self.active[3] else None]

    def bend(self, state: State) -> PerInput:
        """Return ``2 g (x. * e + x * (s. w.))``."""
        x, (x_dot, e, w_dot, s_dot, _) = state.kept[0], state.carry
        g = (state.gradient or NO_GRADIENT)[0]
        state.carry = None
        by_both = None if w_dot is None else _times(s_dot, w_dot)
        pairs = [(a, b) for a, b in ((x_dot, e), (x, by_both)) if a is not None and b is not None]
        return [] if g is None else [2 * g * self._convolve(*pair) for pair in pairs]


def _filters(v: Tensor, w: Tensor) -> Tensor:
    """Reshape a vector over output channels for broadcasting over weights (channels, ...)."""
    return v.view(-1, *[1] * (w.ndim - 1))


def _times(v: Tensor | None, w: Tensor | None) -> Tensor | None:
    return None if v is None or w is None else w * _filters(v, w)


def _by_filter(w: Tensor) -> Tensor:
    return w.flatten(1).sum(1)
