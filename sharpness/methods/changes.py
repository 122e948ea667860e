"""Changes of a network between two stages, as data: each is called before a stage's first epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from sharpness.engine.undisturbed import seeded
from sharpness.flattening.spectral_normalization import normalize, normalized_layers
from sharpness.models import Classifier, build_head
from sharpness.steps import Context


class Change(Protocol):
    """A change of a network in place; random numbers come from ``context.generator`` only, ``context.epoch`` is 0.

    Its effect on the structure must not depend on the weights: a resumed run repeats it on others.
    """

    def __call__(self, network: Classifier, context: Context) -> None: ...


@dataclass(frozen=True)
class AddWeightScaling:
    """Put learnable weight scaling, ones at first, over the head (Kang et al., ICLR 2020)."""

    def __call__(self, network: Classifier, context: Context) -> None:
        network.add_weight_scaling()


@dataclass(frozen=True)
class Rescale:
    """Give a cosine head the logit scale ``scale``."""

    scale: float

    def __call__(self, network: Classifier, context: Context) -> None:
        network.rescale(self.scale)


@dataclass(frozen=True)
class NewHead:
    """Initialise the head again, as that of a fresh network."""

    def __call__(self, network: Classifier, context: Context) -> None:
        spec = network.spec
        seed = int(torch.randint(0, 2**63 - 1, (1,), generator=context.generator))
        with seeded(seed):
            fresh = build_head(spec.head, int(network.backbone.num_features), spec.num_classes, spec.scale)  # type: ignore[arg-type]
            if normalized_layers(network.head):
                normalize(fresh, nn.Linear)
        network.head.load_state_dict(fresh.state_dict())
