"""``hf:NAME_OR_FOLDER``, image classifiers of Hugging Face's transformers, of the hub or of a folder.

Code that comes with a model is never run (``trust_remote_code=False``), and weights are read from safetensors alone.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sharpness.errors import UserError
from sharpness.extensions import in_one_line
from sharpness.models.hubs.hub import Published, library, made, not_here, prepared_otherwise

#: Values of Pillow's ``Resampling``.
RESAMPLING = {0: "nearest", 1: "Lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "Hamming"}
#: From this side on, ConvNeXT's processor, the one with ``crop_pct``, stretches images and crops nothing.
STRETCHED = 384


def only_logits(module: nn.Module, inputs: Any, output: Any) -> Tensor:
    """The logits of an output with several fields, as a hook: names of parameters stay those of files."""
    return output if isinstance(output, Tensor) else output["logits"]


class HuggingFace:
    """The library ``transformers``."""

    def make(self, name: str, num_classes: int | None, in_channels: int | None, **arguments: Any) -> nn.Module:
        wanted = f"hf:{name}"
        given = {"num_labels": num_classes, "num_channels": in_channels}
        arguments |= {key: value for key, value in given.items() if value is not None}
        transformers = library("transformers", wanted)
        absent = UserError(f"{wanted}: no config.json is on this machine: give the folder that holds it, as hf:FOLDER")
        config = _local(wanted, absent, transformers.AutoConfig, name, False, **arguments)
        return _answering(made(wanted, transformers.AutoModelForImageClassification.from_config, config))

    def published(self, name: str, download: bool) -> Published:
        wanted, absent = f"hf:{name}", not_here(f"hf:{name}")
        transformers = library("transformers", wanted)
        classifier = transformers.AutoModelForImageClassification
        model, told = _local(wanted, absent, classifier, name, download, use_safetensors=True, output_loading_info=True)
        if missing := sorted(told["missing_keys"]):
            raise UserError(
                f"{wanted} has no weights of {', '.join(missing[:3])}, which would be random: give a classifier"
            )
        images = _local(wanted, absent, transformers.AutoImageProcessor, name, download).to_dict()
        if not images.get("do_normalize", True):
            channels = len(images.get("image_mean") or (0.0,) * 3)
            images |= {"image_mean": (0.0,) * channels, "image_std": (1.0,) * channels}
        mean, std = (tuple(map(float, images[key])) for key in ("image_mean", "image_std"))
        size, resize, notes = _crop(images)
        resample = images.get("resample")
        how = None if resample is None else RESAMPLING.get(int(resample), "another")
        notes += prepared_otherwise(how, "transformers")
        return Published(_answering(model), int(model.config.num_labels), mean, std, size, resize, notes)


def _local(wanted: str, absent: UserError, kind: Any, name: str, download: bool, **arguments: Any) -> Any:
    """``kind.from_pretrained(name)``, without access to the network unless ``download`` is true.

    Raises:
        UserError: it is not here, of another kind, or brings code of its own.
    """
    try:
        return kind.from_pretrained(name, local_files_only=not download, trust_remote_code=False, **arguments)
    except OSError as error:
        if "safetensors" in str(error):  # pickles are not opened by others' code
            raise UserError(
                f"{wanted}: {in_one_line(error)}: save it as safetensors, save_pretrained(FOLDER)"
            ) from None
        if download:
            raise UserError(f"{wanted}: {in_one_line(error)}") from None
        raise absent from None
    except Exception as error:
        raise UserError(f"{wanted}: {in_one_line(error)}") from None


def _answering(model: nn.Module) -> nn.Module:
    model.register_forward_hook(only_logits)
    return model


def _crop(images: dict[str, Any]) -> tuple[int, int, tuple[str, ...]]:
    """Side of the central square, the shorter side before that crop, and a note where the library does not crop."""
    size, square = images.get("size") or {}, images.get("crop_size") or {}
    short = size.get("shortest_edge")
    if short is None or ("crop_pct" in images and short >= STRETCHED):
        height, width = (size["height"], size["width"]) if short is None else (short, short)
        note = f"transformers stretches images to {height} x {width}, --images keeps the central square"
        return int(height), int(height), () if images.get("do_center_crop") else (note,)
    if square and images.get("do_center_crop", True):
        return int(square["height"]), int(short), ()
    return int(short), int(short / (images.get("crop_pct") or 1)), ()


HUB = HuggingFace()
