"""Classifier heads, from features to calibrated logits.

The softmax of *calibrated* logits is the one that the method was trained with. A head may declare
``filter_axes``, which names the axis of a weight that runs over classes when that is not axis 0.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.errors import UserError, choose


class LinearHead(nn.Linear):
    """``u = W z + b`` with W of shape (C, d), b of shape (C,)."""

    def __init__(self, num_features: int, num_classes: int, bias: bool = True) -> None:
        super().__init__(num_features, num_classes, bias)
        nn.init.kaiming_normal_(self.weight)


class CosineHead(nn.Module):
    r"""Normalised classifier, ``u_c = s * cos(z, w_c)``, with the weight stored as (d, C).

    The layout is that of LDAM, GCL and RSG (Cao et al. 2019). The scale s belongs to the loss in those
    repositories; here it is applied to the logits, because the landscape of raw cosines looks flatter by s in
    the gradient and by s^2 in the curvature.

    >>> head = CosineHead(num_features=3, num_classes=2, scale=30.0)
    >>> bool(head(head.weight.T).diagonal().allclose(torch.tensor([30.0, 30.0])))
    True
    """

    filter_axes: ClassVar[dict[str, int]] = {"weight": 1}

    def __init__(self, num_features: int, num_classes: int, scale: float = 30.0) -> None:
        super().__init__()
        if not scale > 0:
            raise UserError(f"the scale of a cosine head is {scale}: give a positive number, usually 30")
        self.scale = float(scale)
        weight = torch.empty(num_features, num_classes).uniform_(-1, 1)
        self.weight = nn.Parameter(F.normalize(weight, dim=0))

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * (F.normalize(features, dim=1) @ F.normalize(self.weight, dim=0))

    def extra_repr(self) -> str:
        return f"num_features={self.weight.shape[0]}, num_classes={self.weight.shape[1]}, scale={self.scale:g}"


class LearnableWeightScaling(nn.Module):
    """``u' = a * u`` with a learnable ``a`` of shape (C,), ones at first, over any other head (Kang et al. 2020).

    As in MiSLAS the factor multiplies the whole output of the head, bias included.
    """

    def __init__(self, head: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.head = head
        self.factor = nn.Parameter(torch.ones(num_classes))

    def forward(self, features: Tensor) -> Tensor:
        return self.factor * self.head(features)


def linear_map(head: nn.Module, features: Tensor) -> tuple[Tensor, Tensor] | None:
    """The matrix (C, d) that a head multiplies features by, without its bias, and the features (n, d) that it takes.

    Those of a cosine head are unit rows times the scale, and unit features. None for a module that is no head.

    >>> head = CosineHead(num_features=2, num_classes=2, scale=10.0)
    >>> weight, unit = linear_map(head, torch.tensor([[3.0, 4.0]]))
    >>> bool((unit @ weight.T).allclose(head(torch.tensor([[3.0, 4.0]]))))
    True
    """
    if isinstance(head, nn.Linear):
        return head.weight, features
    if isinstance(head, CosineHead):
        return head.scale * F.normalize(head.weight, dim=0).T, F.normalize(features, dim=1)
    if isinstance(head, LearnableWeightScaling):
        found = linear_map(head.head, features)
        return None if found is None else (head.factor[:, None] * found[0], found[1])
    return None if (made := getattr(head, "linear_map", None)) is None else made(features)


HEADS = ("linear", "cosine", "linear+lws", "cosine+lws")


def build_head(kind: str, num_features: int, num_classes: int, scale: float | None = None) -> nn.Module:
    """Build a fresh head of one of the ``HEADS``; ``+lws`` adds learnable weight scaling."""
    choose("head", kind, HEADS)
    if kind.startswith("linear"):
        if scale is not None:
            raise UserError(f"scale={scale} was given for a linear head: only cosine heads have a scale")
        head: nn.Module = LinearHead(num_features, num_classes)
    else:
        head = CosineHead(num_features, num_classes, 30.0 if scale is None else scale)
    return LearnableWeightScaling(head, num_classes) if kind.endswith("+lws") else head
