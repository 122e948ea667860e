"""Classifiers, a backbone and a head, and the registry that builds them by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from sharpness.models.heads import CosineHead, LearnableWeightScaling, build_head
from sharpness.models.resnet import PLANS, build_resnet
from sharpness.models.resnet_cifar import CifarResNet
from sharpness.registry import Registry

#: Networks by name: functions of ``in_channels`` to a backbone, images to features of size ``num_features``.
BACKBONES: Registry[Callable[..., nn.Module]] = Registry(
    "model",
    "sharpness.models",
    {
        **{f"resnet{depth}": partial(CifarResNet, depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
        "resnet32-m2m": partial(CifarResNet, 32, shortcut="end"),
        **{name: partial(build_resnet, name) for name in PLANS},
        **{f"{name}-cifar": partial(build_resnet, name, stem="cifar") for name in ("resnet18", "resnet34", "resnet50")},
    },
    python="sharpness.models.BACKBONES",
    option="--model",
    wanted="a function that makes a network",
    fits=lambda made: callable(made) and not isinstance(made, nn.Module),
)


@dataclass(frozen=True)
class ModelSpec:
    """The arguments that build an architecture, in plain values."""

    architecture: str
    num_classes: int
    in_channels: int = 3
    head: str = "linear"
    scale: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Classifier(nn.Module):
    """``logits = head(backbone(x))``, calibrated: images (n, channels, h, w) to logits (n, C).

    Attributes:
        auxiliary: a part that some methods train or consult beside the network; ``forward`` does not use it, and
            checkpoints leave it out.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.auxiliary: nn.Module | None = None
        self.spec = spec

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))

    def rescale(self, scale: float) -> None:
        """Change the logit scale of a cosine head, as GCL does between its stages."""
        head = self.head.head if isinstance(self.head, LearnableWeightScaling) else self.head
        if not isinstance(head, CosineHead):
            raise ValueError(f"a {type(head).__name__} has no scale")
        head.scale = float(scale)
        self.spec = ModelSpec(**{**asdict(self.spec), "scale": float(scale)})

    def add_weight_scaling(self) -> None:
        """Put learnable weight scaling, ones at first, over the present head."""
        factor_like = next(self.head.parameters())
        self.head = LearnableWeightScaling(self.head, self.spec.num_classes).to(factor_like.device)
        self.spec = ModelSpec(**{**asdict(self.spec), "head": self.spec.head + "+lws"})


def build_model(
    architecture: str,
    num_classes: int,
    in_channels: int = 3,
    head: str = "linear",
    scale: float | None = None,
) -> Classifier:
    """A fresh network from the registry, initialised from torch's global generator.

    Args:
        architecture: a name in :data:`BACKBONES`, such as ``"resnet32"``.
        head: a name in :data:`~sharpness.models.heads.HEADS`; cosine heads have a ``scale``, 30 unless given.

    >>> sum(p.numel() for p in build_model("resnet32", num_classes=10).parameters())
    464154
    """
    backbone = BACKBONES.choose(architecture)(in_channels)
    built = build_head(head, int(backbone.num_features), num_classes, scale)  # type: ignore[arg-type]
    if scale is None and head.startswith("cosine"):
        scale = 30.0
    return Classifier(backbone, built, ModelSpec(architecture, num_classes, in_channels, head, scale))
