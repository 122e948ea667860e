"""Auxiliary modules that a stage trains or uses in addition to the network, as ``network.auxiliary``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, nn

from sharpness.checkpoints import load_checkpoint
from sharpness.data import LongTailData
from sharpness.data.standardization import Standardization
from sharpness.engine.undisturbed import seeded
from sharpness.errors import UserError
from sharpness.methods import Recipe, Stage
from sharpness.models import Classifier, Frozen
from sharpness.training.pretrained import Pretrained, fresh_network

PREVIOUS = "previous"


@dataclass(frozen=True)
class Helper:
    """A network read from a file, and the SHA-256 of the file."""

    model: nn.Module
    sha256: str


def read_helper(recipe: Recipe, data: LongTailData) -> Helper | None:
    """Read the helper network that a stage of the recipe loads from a checkpoint; None if no stage does.

    Raises:
        UserError: no such checkpoint, or one for other classes, channels or normalisation.
    """
    paths = [s.helper for s in recipe.stages if s.helper not in (None, PREVIOUS)]
    if not paths:
        return None
    checkpoint = load_checkpoint(str(paths[0]))
    model = checkpoint.model.float()
    normalization, own = checkpoint.manifest.normalization, Standardization(data.train.mean, data.train.std)
    if normalization not in (None, own):
        raise UserError(f"helper={paths[0]} takes images normalised by {normalization}, these are by {own}: train one")
    try:
        with torch.no_grad():
            classes = model(data.train.normalize(data.train.images[:2].cpu())).shape[1]
    except RuntimeError as error:
        raise UserError(f"helper={paths[0]} does not take these images: {str(error).splitlines()[0]}") from None
    if classes != data.num_classes:
        raise UserError(f"helper={paths[0]} is for {classes} classes, {data.longtail.dataset} has "
                        f"{data.num_classes}: train one")  # fmt: skip
    return Helper(model, checkpoint.sha256)


def add_parts(
    stage: Stage,
    network: Classifier,
    data: LongTailData,
    generator: Generator,
    helper: Helper | None,
    recipe: Recipe,
    pretrained: Pretrained | None = None,
) -> None:
    """Attach the helper or the modules that a stage needs, in place of those of the previous stage.

    Args:
        stage: stage to be entered.
        network: network of the run.
        data: data of the run.
        generator: generator whose seed initialises new weights; torch's global generator is restored.
        helper: the result of ``read_helper``.
        recipe: recipe of the stage.
        pretrained: initial weights of a new network, if they come from a file.
    """
    network.auxiliary = None
    if stage.helper is None:
        with seeded(generator.initial_seed()):
            network.auxiliary = stage.loss.parts(network, data.train_counts)
    elif stage.helper == PREVIOUS:
        network.auxiliary = Frozen(network)
        fresh = fresh_network(network.spec, recipe, pretrained, generator.initial_seed())
        network.backbone, network.head = fresh.backbone, fresh.head
    elif helper is not None:
        network.auxiliary = Frozen(helper.model)
    device = data.train.images.device
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
