"""Changes of a network between two stages, as plain data; they are applied before the first epoch of a stage."""

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
    """An in-place change of a network; random numbers come from ``context.generator`` only, and ``context.epoch`` is 0.

    The resulting structure must not depend on the weights, because a resumed run applies the change to other weights.
    """

    def __call__(self, network: Classifier, context: Context) -> None: ...


@dataclass(frozen=True)
class AddWeightScaling:
    """Add learnable weight scaling, initialised with ones, to the head (Kang et al., ICLR 2020)."""

    def __call__(self, network: Classifier, context: Context) -> None:
        network.add_weight_scaling()


@dataclass(frozen=True)
class Rescale:
    """Set the logit scale of a cosine head."""

    scale: float

    def __call__(self, network: Classifier, context: Context) -> None:
        network.rescale(self.scale)


@dataclass(frozen=True)
class NewHead:
    """Re-initialise the head like that of a new network."""

    def __call__(self, network: Classifier, context: Context) -> None:
        spec = network.spec
        seed = int(torch.randint(0, 2**63 - 1, (1,), generator=context.generator))
        with seeded(seed):
            fresh = build_head(spec.head, int(network.backbone.num_features), spec.num_classes, spec.scale)  # type: ignore[arg-type]
            if normalized_layers(network.head):
                normalize(fresh, nn.Linear)
        network.head.load_state_dict(fresh.state_dict())
