"""Parts of OLTR (Liu et al. 2019): attention and a layer after the backbone, and the meta-embedding classifier."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.errors import UserError
from sharpness.models.resnet import ResNet

REACH, SCALE = 10.0, 16.0


class ModulatedAttention(nn.Module):
    r"""``A(x) = x + a \odot conv_mask(softmax(theta(x)^T phi(x)) g(x))`` of maps (n, planes, side, side).

    The softmax runs over positions, as in a non-local block; ``a``, one weight for each position, is a softmax of a
    linear function of all maps, so that their side is fixed, 7 for images of 224 pixels.
    """

    def __init__(self, planes: int, inner: int, positions: int) -> None:
        super().__init__()
        self.g = nn.Conv2d(planes, inner, 1)
        self.theta = nn.Conv2d(planes, inner, 1)
        self.phi = nn.Conv2d(planes, inner, 1)
        self.conv_mask = nn.Conv2d(inner, planes, 1, bias=False)
        self.fc_spatial = nn.Linear(positions * planes, positions)

    def forward(self, x: Tensor) -> Tensor:
        shape, side = x.shape[2:], math.isqrt(self.fc_spatial.out_features)
        if tuple(shape) != (side, side):
            raise UserError(
                f"OLTR's attention takes maps of {side}x{side} and gets {shape[0]}x{shape[1]}: give images of "
                f"{32 * side}x{32 * side} pixels, size={32 * side} (--size)"
            )
        similar = (self.theta(x).flatten(2).transpose(1, 2) @ self.phi(x).flatten(2)).softmax(dim=-1)
        attended = (similar @ self.g(x).flatten(2).transpose(1, 2)).transpose(1, 2)
        mask = self.conv_mask(attended.unflatten(2, shape))
        weights = self.fc_spatial(x.flatten(1)).softmax(dim=1)
        return x + weights.unflatten(1, (1, *shape)) * mask


class OltrFeatures(nn.Module):
    """A ResNet with attention before its pooling, a linear layer and ReLU after it, or either."""

    def __init__(self, body: ResNet, modulatedatt: nn.Module | None, fc_add: nn.Linear | None) -> None:
        super().__init__()
        self.body, self.modulatedatt, self.fc_add = body, modulatedatt, fc_add
        self.num_features = body.num_features if fc_add is None else fc_add.out_features

    def forward(self, x: Tensor) -> Tensor:
        x = self.body.forward_to(x, self.body.num_groups)
        if self.modulatedatt is not None:
            x = self.modulatedatt(x)
        x = x.mean(dim=(2, 3))
        return x if self.fc_add is None else F.relu(self.fc_add(x))


class MetaEmbeddingHead(nn.Module):
    r"""Features z (n, d) to ``u_c = s * <v / (1 + |v|), w_c / |w_c|>`` of the meta embedding v.

    ``v = 10 / min_c |z - m_c| * (z + tanh(S z) \odot sum_c softmax(H z)_c m_c)``, with the centroids m (C, d) of the
    training features as memory, the selector S and the hallucinator H, both with bias. The centroids are a buffer:
    the loss on the logits does not train them.

    >>> head = MetaEmbeddingHead(num_features=3, num_classes=2)
    >>> _ = head.centroids.copy_(torch.eye(2, 3))
    >>> head(torch.tensor([[1.0, 2.0, 3.0]])).abs().max().item() < 16
    True
    """

    centroids: Tensor

    def __init__(self, num_features: int, num_classes: int, scale: float = SCALE) -> None:
        super().__init__()
        if not scale > 0:
            raise UserError(f"the scale of a meta-embedding classifier is {scale}: give a positive number, usually 16")
        self.scale = float(scale)
        self.fc_hallucinator = nn.Linear(num_features, num_classes)
        self.fc_selector = nn.Linear(num_features, num_features)
        self.weight = nn.Parameter(torch.empty(num_classes, num_features).uniform_(-1, 1) / num_features**0.5)
        self.register_buffer("centroids", torch.zeros(num_classes, num_features))

    def forward(self, features: Tensor) -> Tensor:
        # The distance alone is differentiated: that of cdist has no second derivative.
        with torch.no_grad():
            nearest = torch.cdist(features, self.centroids).argmin(dim=1)
        distance = (features - self.centroids[nearest]).norm(dim=1, keepdim=True)
        memory = self.fc_hallucinator(features).softmax(dim=1) @ self.centroids
        embedded = REACH / distance * (features + self.fc_selector(features).tanh() * memory)
        squashed = embedded / (1 + embedded.norm(dim=1, keepdim=True))
        return self.scale * squashed @ F.normalize(self.weight, dim=1).T
