"""Provenance of a result: model, samples, loss and versions, as plain values."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import torch

from sharpness.data import are_labels, told_of
from sharpness.version import __version__

if TYPE_CHECKING:
    from sharpness.objective.values import Values


def provenance(objective: Values) -> dict[str, Any]:
    """Record what a result of an objective needs to be understood and repeated."""
    heads = [m for m in objective.model.modules() if hasattr(m, "scale") and hasattr(m, "filter_axes")]
    # Plain values: they are written to files, and digested as keys of unfinished work.
    return {
        "model": type(objective.model).__name__,
        "model_sha256": objective.model_sha256(),
        "data_sha256": objective.data_sha256,
        "samples": objective.num_samples,
        "class_samples": objective.class_samples.tolist(),
        "loss": objective.loss_name,
        "targets": "labels" if are_labels(objective.y) else told_of(objective.y),
        "classes": objective.classes_from,
        "group_convention": objective.group_convention,
        "logit_scale": float(heads[0].scale) if heads else 1.0,  # type: ignore[arg-type]
        "logits": objective.logits,
        **({} if objective.temperature is None else objective.temperature.provenance()),
        "scope": objective.scope,
        "num_parameters": objective.num_parameters,
        "coordinates": objective.coordinates,
        "batchnorm": objective.batchnorm,
        "dtype": objective.precision,
        "device": objective.device.type,
        "sharpness": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
