"""Heads between a linear and a cosine one, as some released code has them."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.errors import UserError, choose

UNITS = ("none", "features", "weights", "both")


class ScaledHead(nn.Module):
    r"""``u_c = s * (<z, w_c> + b_c)`` with W of shape (C, d), where z, w_c, or both are first brought to length 1.

    Args:
        unit: one of ``UNITS``; ``"none"`` with a scale is a linear head with a temperature.
        bias: whether there is b, which the scale multiplies as well: it is in the loss.

    >>> head = ScaledHead(2, 2, unit="features", scale=3.0)
    >>> _ = head.weight.data.copy_(torch.eye(2))
    >>> head(torch.tensor([[4.0, 3.0]])).allclose(torch.tensor([[2.4, 1.8]]))
    True
    """

    filter_axes: ClassVar[dict[str, int]] = {"weight": 0}

    def __init__(
        self, num_features: int, num_classes: int, unit: str = "none", scale: float = 1.0, bias: bool = False
    ) -> None:
        super().__init__()
        choose("unit", unit, UNITS)
        if not (scale > 0 and math.isfinite(scale)):
            raise UserError(f"the scale of a head is {scale}: give a positive number")
        self.unit, self.scale = unit, float(scale)
        self.weight = nn.Parameter(torch.empty(num_classes, num_features).uniform_(-1, 1) / num_features**0.5)
        self.bias = nn.Parameter(torch.zeros(num_classes)) if bias else None

    def linear_map(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The matrix (C, d) without the bias, and the features (n, d) that it multiplies."""
        w, z = self._units(features)
        return self.scale * w, z

    def forward(self, features: Tensor) -> Tensor:
        w, z = self._units(features)
        return self.scale * F.linear(z, w, self.bias)

    def _units(self, features: Tensor) -> tuple[Tensor, Tensor]:
        z = F.normalize(features, dim=1) if self.unit in ("features", "both") else features
        w = F.normalize(self.weight, dim=1) if self.unit in ("weights", "both") else self.weight
        return w, z

    def extra_repr(self) -> str:
        classes, features = self.weight.shape
        return f"num_features={features}, num_classes={classes}, unit={self.unit}, scale={self.scale:g}"
