"""``relu(x * w + b + z)`` as one operation of oneDNN, on CPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def available(w: Tensor) -> bool:
    """True if oneDNN has the operation for weights of this kind on this processor."""
    if w.device.type != "cpu" or w.ndim != 4 or w.dtype is torch.float64:
        return False
    if not (hasattr(torch.ops.mkldnn, "_convolution_pointwise") and torch.backends.mkldnn.is_available()):
        return False
    # On processors with only AVX2, oneDNN's operations raise in bfloat16, but torch's convolution has a kernel.
    return w.dtype is not torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


@dataclass(frozen=True)
class FusedConvolution:
    """The function of x (n, in, h, w) and, optionally, z with the shape of the result.

    Args:
        w: weights, in the dtype and memory layout of the inputs.
        b: bias, if there is one.
        geometry: the arguments of ``torch.ops.aten.convolution`` after the bias.
        relu: whether the ReLU is part of it.
    """

    w: Tensor
    b: Tensor | None
    geometry: Any
    relu: bool

    def __call__(self, x: Tensor, z: Tensor | None = None, in_place: bool = False) -> Tensor:
        """Return the result; ``in_place`` overwrites z with it."""
        stride, padding, dilation, _, _, groups = self.geometry
        layer = (self.w, self.b, padding, stride, dilation, groups)
        kernels, relu = torch.ops.mkldnn, "relu" if self.relu else None
        if z is None:
            return kernels._convolution_pointwise(x, *layer, relu or "none", [], "")
        if in_place:
            return kernels._convolution_pointwise_.binary(z, x, *layer, "add", 1.0, relu, [], None)
        return kernels._convolution_pointwise.binary(x, z, *layer, "add", 1.0, relu, [], None)

    def differentiable(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """Return the result, which autograd can differentiate once by x and z, but not by the weights."""
        return _ByActivations.apply(x, z, self)


class _ByActivations(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, z: Tensor | None, layer: FusedConvolution) -> Tensor:
        y = layer(x, z)
        ctx.layer = layer
        ctx.save_for_backward(x, *([y] if layer.relu else []))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, *y = ctx.saved_tensors
        if y:
            g = torch.ops.aten.threshold_backward(g, y[0], 0)
        of_x, of_z, _ = ctx.needs_input_grad
        w = ctx.layer.w
        by_x = (
            torch.ops.aten.convolution_backward(g, x, w, None, *ctx.layer.geometry, [True, False, False])[0]
            if of_x
            else None
        )
        return by_x, g if of_z else None, None
