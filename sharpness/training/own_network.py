"""Training of the user's own networks: checks before training, and a fingerprint."""

from __future__ import annotations

import hashlib

import torch

from sharpness.data import LongTailData
from sharpness.errors import UserError
from sharpness.extensions import in_one_line
from sharpness.flattening import ClassConditionalStep, ModelPerturbation
from sharpness.flattening.spectral_normalization import normalized_layers
from sharpness.methods import Recipe
from sharpness.methods.cc_sam_head import ClassConditionalHead
from sharpness.models import OWN, Classifier, Staged


def check_network(network: Classifier, recipe: Recipe, data: LongTailData) -> None:
    """Check before training that a user's network provides what the recipe needs and accepts the images.

    Raises:
        UserError: it does not.
    """
    name = network.spec.architecture
    if network.spec.head == OWN and (needs := _use_of_the_head(recipe)):
        raise UserError(
            f"{recipe.method} {needs}, and model {name} is whole: let its factory take no num_classes and return "
            "features, with their number as num_features"
        )
    blocks = [s for s in recipe.stages if getattr(s.rule, "scope", "all") not in ("all", "head")]
    if blocks and not isinstance(network.backbone, Staged):
        raise UserError(
            f"{recipe.method} perturbs the last block of a sharpness.models.Staged network, which model {name} is not: "
            "give scope='classifier' or 'all'"
        )
    for stage in recipe.stages:
        if isinstance(stage.rule, ModelPerturbation):
            stage.rule.perturbed_weights(network)  # raises if it has no convolutions
    if recipe.normalization and not normalized_layers(network):
        raise UserError(f"sn divides 2-d convolutions and a linear head, and model {name} has neither: leave it out")
    # A forward pass of two images, so that a wrong shape is found before the folder of the run is created.
    images = data.train.normalize(data.train.images[:2].cpu())
    network.eval()
    try:
        with torch.no_grad():
            logits = network(images)
    except Exception as error:
        shape = " x ".join(map(str, images.shape[1:]))
        raise UserError(f"model {name} does not take images of {shape}: it raised {in_one_line(error)}") from None
    wanted = (len(images), data.num_classes)
    if not isinstance(logits, torch.Tensor) or logits.shape != wanted:
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
        raise UserError(f"model {name} returned {found} for {len(images)} images: return logits {wanted}")


def _use_of_the_head(recipe: Recipe) -> str:
    """Describe a recipe's use of a separate head or backbone; empty if there is none."""
    if recipe.normalization:
        return "normalises the weights of backbone and head"
    for stage in recipe.stages:
        rule = stage.rule
        if stage.trainable != "all":
            return f"trains the {stage.trainable.partition('.')[0]} alone"
        if stage.enter:
            return "changes the head between its stages"
        if isinstance(rule, ClassConditionalHead) or (isinstance(rule, ClassConditionalStep) and rule.scope != "all"):
            return "perturbs the head alone"
    return ""


def fingerprint(network: Classifier) -> str:
    """Return the SHA-256 of names, shapes and types of all weights, because two functions may have the same name."""
    told = [f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in network.state_dict().items()]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()
