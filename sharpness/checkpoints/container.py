"""Our own checkpoint: tensors and plain values, with everything that a probe needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sharpness.errors import UserError
from sharpness.files import write_atomically
from sharpness.models import ModelSpec, build_model

FORMAT = "sharpness-checkpoint"
VERSION = 1


def save_checkpoint(
    path: Path, model: nn.Module, manifest: dict[str, Any], weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write a checkpoint atomically; what serves training alone, ``model.auxiliary``, is left out.

    Args:
        model: must carry a ``spec`` (as :func:`build_model` makes it).
        weights: what a model of that ``spec`` takes, if ``model`` is trained in another form.
    """
    given = model.state_dict() if weights is None else weights
    state = {
        name: value.detach().cpu().contiguous() for name, value in given.items() if not name.startswith("auxiliary.")
    }
    content = {
        "format": FORMAT,
        "version": VERSION,
        "manifest": {**manifest, "model": model.spec.to_dict()},  # type: ignore[operator, union-attr]
        "state_dict": state,
    }
    write_atomically(path, lambda partial: torch.save(content, partial))


def is_own(content: object) -> bool:
    """Whether this is the content of our own file."""
    return isinstance(content, dict) and content.get("format") == FORMAT


def read_own(content: dict[str, Any], path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The model in eval mode and the manifest of a file that ``sharpness train`` wrote.

    Raises:
        UserError: it is from a newer version.
    """
    if content["version"] > VERSION:
        raise UserError(f"{path} has format version {content['version']}, this release reads {VERSION}: upgrade")
    manifest = content["manifest"]
    model = build_model(**ModelSpec(**manifest["model"]).to_dict())
    model.load_state_dict(content["state_dict"])
    return model.eval(), manifest
