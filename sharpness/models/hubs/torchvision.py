"""``torchvision:NAME``, networks of torchvision; NAME may end in that of its weights, ``resnet50.IMAGENET1K_V1``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from sharpness.errors import UserError
from sharpness.models.hubs.hub import Published, library, made, not_here, prepared_otherwise, unknown


class Torchvision:
    """The library ``torchvision``. How images are prepared says the ``transforms()`` of the weights."""

    def make(self, name: str, num_classes: int | None, in_channels: int | None, **arguments: Any) -> nn.Module:
        wanted = f"torchvision:{name}"
        name, models = self._library(name)
        if in_channels not in (None, 3):
            raise UserError(f"{wanted} takes images of 3 channels, not {in_channels}: give a function of your own")
        if num_classes is not None:
            arguments["num_classes"] = num_classes
        return made(wanted, models.get_model, name, **{**arguments, "weights": None})

    def published(self, name: str, download: bool) -> Published:
        wanted, tag = f"torchvision:{name}", name.partition(".")[2] or "DEFAULT"
        name, models = self._library(name)
        known = made(wanted, models.get_model_weights, name)
        if tag not in known.__members__:
            raise UserError(f"{wanted}: no weights {tag!r}: choose one of {', '.join(known.__members__)}")
        weights = known[tag]
        kept = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        if not download and not kept.is_file():
            raise not_here(wanted)
        model = made(wanted, models.get_model, name, weights=weights)
        images = weights.transforms()
        mean, std = tuple(map(float, images.mean)), tuple(map(float, images.std))
        notes = prepared_otherwise(getattr(images.interpolation, "value", None), "torchvision")
        classes = len(weights.meta["categories"])
        return Published(model, classes, mean, std, int(images.crop_size[0]), int(images.resize_size[0]), notes)

    def _library(self, name: str) -> tuple[str, Any]:
        """The network's name without that of its weights, and the models of the library.

        Raises:
            UserError: it has no classifier of this name.
        """
        wanted, name = f"torchvision:{name}", name.partition(".")[0]
        models = library("torchvision", wanted).models
        classifiers = models.list_models(module=models)
        if name not in classifiers:
            raise unknown(
                f"torchvision:{name}", classifiers, "torchvision.models.list_models(module=torchvision.models)"
            )
        return name, models


HUB = Torchvision()
