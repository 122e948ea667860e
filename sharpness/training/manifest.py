"""Manifests of the checkpoints of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from sharpness.checkpoints import Manifest
from sharpness.data import LongTailData, augmentation_label
from sharpness.data.standardization import Standardization
from sharpness.flattening import build_operation, operation_label
from sharpness.methods import METHODS, Recipe
from sharpness.methods.card import stage_card
from sharpness.training.pretrained import Pretrained
from sharpness.training.state import RunState
from sharpness.version import __version__


def manifest_of(
    recipe: Recipe, data: LongTailData, identity: dict[str, Any], device: str, pretrained: Pretrained | None = None
) -> Manifest:
    """Return the part of the manifest that is constant during a run.

    Args:
        recipe: recipe of the run.
        data: data of the run.
        identity: everything that distinguishes the run from others; its settings are under ``training``.
        device: type of the device.
        pretrained: the initial weights, if they come from a file.
    """
    method, training, other = identity["method"], identity["training"], data.other_augmentation
    # Images in memory have no transform: their data set gives them one size.
    transform = getattr(getattr(data.train.images, "source", None), "transform", None)
    unusual = [*([augmentation_label(other)] if other else []), *(["pretrained"] if pretrained else [])]
    card = [stage_card(s, data.augmentation, recipe.shards) for s in recipe.stages]
    for stage in card:
        if "augmented" in stage and training.get("cropped"):
            stage["augmented"] += f", of {training['cropped']}"
    if pretrained is not None:
        card[0] |= {"begins at": pretrained.card}
    return Manifest(
        method=method,
        method_source=METHODS.place(method),
        label="+".join([METHODS.label(method), *map(operation_label, training["flatten"])])
        + (f" ({', '.join(unusual)})" if unusual else ""),
        paper=recipe.paper,
        options=identity["options"],
        flattening=[f"{o!r}: {o.paper}" for o in map(build_operation, training["flatten"])],
        stages=[repr(s) for s in recipe.stages],
        card=card,
        notes=list(recipe.notes),
        training={**training, "sharpness": __version__, "torch": str(torch.__version__), "device": device},
        longtail=data.longtail,
        data_sha256=identity["data_sha256"],
        image_sides=transform.sides if transform else {},
        normalization=Standardization(data.train.mean, data.train.std),
    )


def at_present(manifest: Manifest, recipe: Recipe, state: RunState, **more: Any) -> Manifest:
    """Return the manifest of the current weights.

    Args:
        manifest: the constant part of the manifest.
        recipe: recipe of the run.
        state: current state of the run.
        more: additional fields.
    """
    last = state.history[-1] if state.history else {}
    return replace(
        manifest,
        loss=repr(recipe.stages[state.stage].loss),
        epoch=len(state.history),
        accuracy={k: v for k, v in last.items() if k.startswith("accuracy")},
        **more,
    )
