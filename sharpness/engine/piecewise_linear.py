"""Functions of torch that are affine, apart from kinks, in their active inputs together."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from sharpness.engine.operations import Operation, PiecewiseLinear, Smooth

Rule = Callable[[Sequence[bool]], Operation]

RANKS = ("1d", "2d", "3d")
#: Modules without parameters, of one input.
MODULES = tuple(
    getattr(nn, name + rank)
    for name in ("MaxPool", "AvgPool", "AdaptiveMaxPool", "AdaptiveAvgPool", "ZeroPad", "ConstantPad", "ReflectionPad",
                 "ReplicationPad", "CircularPad")
    for rank in RANKS
) + (
    nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.Upsample, nn.LeakyReLU, nn.ReLU6, nn.Hardtanh,
    nn.Threshold, nn.Hardshrink, nn.Softshrink, nn.AlphaDropout, nn.FeatureAlphaDropout,
)  # fmt: skip
#: Functions of one activation, their first argument, by name; methods of tensors have the same names.
OF_ONE = frozenset([
    "flatten", "unflatten", "reshape", "view", "squeeze", "unsqueeze", "permute", "transpose", "movedim", "swapaxes",
    "expand", "contiguous", "clone", "mean", "sum", "neg", "roll", "flip", "dropout", "pad", "interpolate",
    "pixel_shuffle", "leaky_relu", "relu6", "hardtanh", *(
        kind + rank for kind in ("avg_pool", "max_pool", "adaptive_avg_pool") for rank in RANKS
    ),
])  # fmt: skip
#: Quotients by what is not active.
QUOTIENTS = (operator.truediv, torch.div, torch.true_divide, "div", "div_")
#: Products, of which one factor at most is active.
PRODUCTS = (operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_")
#: Functions that are affine in all tensors together.
OF_SEVERAL = (operator.add, operator.iadd, operator.sub, operator.isub, operator.neg, torch.add, torch.sub, torch.cat,
              torch.concat, torch.stack, "add", "add_", "sub", "sub_")  # fmt: skip
HOME = (torch, F, torch._C._nn)


def rule_of_module(m: nn.Module, node: fx.Node, function: Callable[..., Any]) -> Rule | None:
    """Return the rule of a module that is piecewise linear, None for any other one."""
    hooked = bool(m._forward_hooks or m._forward_pre_hooks)
    if hooked or type(m) not in MODULES or len(node.args) != 1 or node.kwargs or getattr(m, "return_indices", False):
        return None
    return lambda active: PiecewiseLinear(active, function)


def rule_of_call(node: fx.Node, nodes: Sequence[fx.Node], function: Callable[..., Any]) -> Rule | None:
    """Return the rule of a call that is piecewise linear, None for any other one.

    Args:
        node: the call.
        nodes: its arguments that are nodes, each once: the inputs of ``function``.
        function: the call as a function of them.
    """
    target = node.target
    first = node.args[0] if node.args else None
    if target in OF_SEVERAL:
        return lambda active: PiecewiseLinear(active, function)
    if any(isinstance(value, fx.Node) for value in node.kwargs.values()):  # torch.mul(x, other=x)
        return None
    at_most_one = target in PRODUCTS and sum(isinstance(a, fx.Node) for a in node.args) == len(nodes)
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    of_torch = isinstance(target, str) or any(getattr(home, name, None) is target for home in HOME)
    only_first = (name in OF_ONE and of_torch) or target in QUOTIENTS
    with_indices = name.startswith("max_pool") and any(a is True for a in (*node.args, *node.kwargs.values()))
    if with_indices or not (at_most_one or only_first) or not isinstance(first, fx.Node | float | int):
        return None

    def rule(active: Sequence[bool]) -> Operation:
        places = [n for n, on in zip(nodes, active, strict=True) if on]
        fits = len(places) == 1 if at_most_one else places == [first] and node.args[1:].count(first) == 0
        return (PiecewiseLinear if fits else Smooth)(active, function)

    return rule
