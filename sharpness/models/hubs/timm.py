"""``timm:NAME``, networks of PyTorch Image Models; NAME may have the tag of its weights, ``resnet18.a1_in1k``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from sharpness.errors import UserError
from sharpness.models.hubs.hub import Published, library, made, not_here, prepared_otherwise, unknown


class Timm:
    """The library ``timm``. Mean, standard deviation, crop and size come from the ``pretrained_cfg`` of the weights."""

    def make(self, name: str, num_classes: int | None, in_channels: int | None, **arguments: Any) -> nn.Module:
        wanted, timm = f"timm:{name}", self._library(name)
        given = {"num_classes": num_classes, "in_chans": in_channels}
        arguments |= {key: value for key, value in given.items() if value is not None}
        return made(wanted, timm.create_model, name, **{**arguments, "pretrained": False})

    def published(self, name: str, download: bool) -> Published:
        wanted, timm = f"timm:{name}", self._library(name)
        known = made(wanted, timm.models.get_pretrained_cfg, name)
        if known is None or not known.has_weights:
            raise UserError(f"timm has no weights of {name!r}: give a file and --model {wanted}")
        overlay = {}
        if not download:
            file = _on_this_machine(known)
            if file is None:
                raise not_here(wanted)
            overlay = {"file": str(file)}
        model = made(wanted, timm.create_model, name, pretrained=True, pretrained_cfg_overlay=overlay)
        config = model.pretrained_cfg
        # The size that the library's own results are quoted with, where it is not that of training.
        size = int((config.get("test_input_size") or config["input_size"])[-1])
        crop = float(config.get("test_crop_pct") or config["crop_pct"])
        mean, std = (tuple(map(float, config[key])) for key in ("mean", "std"))
        notes = prepared_otherwise(config.get("interpolation"), "timm")
        if (mode := config.get("crop_mode") or "center") != "center":
            notes += (f"timm crops images in the mode {mode!r}, --images keeps the central square",)
        return Published(model, int(model.num_classes), mean, std, size, int(size / crop), notes)

    def _library(self, name: str) -> Any:
        """The library, which has a network of this name.

        Raises:
            UserError: it has none.
        """
        wanted = f"timm:{name}"
        timm = library("timm", wanted)
        if not timm.is_model(name):
            raise unknown(wanted, timm.list_models(), "timm.list_models()")
        return timm


def _on_this_machine(config: Any) -> Path | None:
    """The file of published weights that an earlier download left, if there is one."""
    if config.hf_hub_id:
        cache = library("huggingface_hub", "timm")
        for file in filter(None, (config.hf_hub_filename, "model.safetensors", "pytorch_model.bin")):
            found = cache.try_to_load_from_cache(config.hf_hub_id, file)
            if isinstance(found, str):
                return Path(found)
    kept = Path(torch.hub.get_dir()) / "checkpoints" / Path(config.url or "").name
    return kept if config.url and kept.is_file() else None


HUB = Timm()
