"""Classifiers, a backbone and a head, and the registry that builds them by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from sharpness.errors import UserError
from sharpness.models.factory import model_from, source_of
from sharpness.models.frozen_trunk import FrozenTrunk
from sharpness.models.heads import CosineHead, LearnableWeightScaling, build_head
from sharpness.models.resnet import PLANS, build_resnet
from sharpness.models.resnet_cifar import CifarResNet
from sharpness.registry import Registry

#: Networks of torchvision that also come with the stem for small images, as ``resnet10-cifar``.
CIFAR_STEM = ("resnet10", "resnet18", "resnet34", "resnet50")
#: Networks that also come with all but their last block frozen, as ``resnet152-trunk``.
TRUNKS = ("resnet10", "resnet50", "resnet152")
#: Networks by name: functions of ``in_channels`` to a backbone, images to features of size ``num_features``; added ones
#: may also take ``num_classes`` and make a whole network, images to logits.
BACKBONES: Registry[Callable[..., nn.Module]] = Registry(
    "model",
    "sharpness.models",
    {
        **{f"resnet{depth}": partial(CifarResNet, depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
        "resnet32-m2m": partial(CifarResNet, 32, shortcut="end"),
        **{name: partial(build_resnet, name) for name in PLANS},
        **{f"{name}-cifar": partial(build_resnet, name, stem="cifar") for name in CIFAR_STEM},
        **{f"{name}-trunk": partial(build_resnet, name, kind=FrozenTrunk) for name in TRUNKS},
    },
    python="sharpness.models.BACKBONES",
    option="--model",
    wanted="a function or class that makes a network anew, which seeds and files ask for",
    fits=lambda made: callable(made) and not isinstance(made, nn.Module),
    find=source_of,
)


#: The head of a network that is made whole.
OWN = "own"


@dataclass(frozen=True)
class ModelSpec:
    """The arguments that build an architecture, in plain values.

    Attributes:
        source: ``"package.module:factory"`` of an architecture that does not come with this package.
    """

    architecture: str
    num_classes: int
    in_channels: int = 3
    head: str = "linear"
    scale: float | None = None
    source: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "source" or value}


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
        self.spec = replace(self.spec, scale=float(scale))

    def add_weight_scaling(self) -> None:
        """Put learnable weight scaling, ones at first, over the present head."""
        like = next(self.head.parameters())
        self.head = LearnableWeightScaling(self.head, self.spec.num_classes).to(like.device, like.dtype)
        self.spec = replace(self.spec, head=self.spec.head + "+lws")


def build_model(
    architecture: str,
    num_classes: int,
    in_channels: int = 3,
    head: str = "linear",
    scale: float | None = None,
) -> Classifier:
    """A fresh network from the registry, initialised from torch's global generator.

    Args:
        architecture: a name in :data:`BACKBONES`, such as ``"resnet32"``; ``"package.module:factory"``; or a network of
            a library, such as ``"timm:resnet18"``.
        head: a name in :data:`~sharpness.models.heads.HEADS`; cosine heads have a ``scale``, 30 unless given.

    >>> sum(p.numel() for p in build_model("resnet32", num_classes=10).parameters())
    464154
    """
    factory = BACKBONES.choose(architecture)
    if architecture not in BACKBONES.built_in():
        spec = ModelSpec(architecture, num_classes, in_channels, head, scale, BACKBONES.place(architecture))
        return build_own(factory, spec)
    backbone = factory(in_channels)
    built = build_head(head, int(backbone.num_features), num_classes, scale)  # type: ignore[arg-type]
    return Classifier(backbone, built, ModelSpec(architecture, num_classes, in_channels, head, _scale(head, scale)))


def build_own(made_by: Callable[..., nn.Module] | nn.Module, spec: ModelSpec) -> Classifier:
    """Build a classifier from a factory of the user's, or from a network.

    A factory that takes ``num_classes`` makes a whole network, images to logits, which here is a backbone with nothing
    behind it. Any other makes a backbone, which gets the head of the method.

    Raises:
        UserError: it cannot be made, or is whole where the method has a head of its own, or says no ``num_features``.
    """
    takes = set() if isinstance(made_by, nn.Module) else _parameters(made_by)
    given: dict[str, Any] = {name: getattr(spec, name) for name in ("num_classes", "in_channels") if name in takes}
    made = model_from(made_by, given)
    if spec.head == OWN or "num_classes" in takes:
        if spec.head not in (OWN, "linear"):
            raise UserError(
                f"model {spec.architecture} is whole and the method has a {spec.head} head: let the factory take no "
                "num_classes and return features, with their number as num_features"
            )
        return Classifier(made, nn.Identity(), replace(spec, head=OWN, scale=None))
    size = getattr(made, "num_features", None)
    if not isinstance(size, int):
        raise UserError(
            f"model {spec.architecture} has no num_features: let its factory take num_classes and return logits, or "
            "return features, with their number as num_features"
        )
    head = build_head(spec.head, size, spec.num_classes, spec.scale)
    return Classifier(made, head, replace(spec, scale=_scale(spec.head, spec.scale)))


def _scale(head: str, scale: float | None) -> float | None:
    return 30.0 if scale is None and head.startswith("cosine") else scale


def _parameters(factory: Callable[..., Any]) -> set[str]:
    """Names of what a function takes by name."""
    try:
        found = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return set()
    return {p.name for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
