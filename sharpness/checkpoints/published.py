"""Networks of libraries with their published weights, read as checkpoints: ``timm:NAME`` and its kin."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from sharpness.checkpoints.checkpoint import Checkpoint
from sharpness.checkpoints.manifest import Manifest, Network
from sharpness.data.standardization import Standardization
from sharpness.errors import UserError
from sharpness.models.hubs import Architecture
from sharpness.registries import HUBS


def published_checkpoint(network: Architecture, download: bool, num_classes: int | None) -> Checkpoint:
    """The checkpoint of published weights: what its authors standardise and crop images by is in its manifest.

    Args:
        network: of a library.
        download: fetch weights that are not on this machine.
        num_classes: C, to be checked.

    Raises:
        UserError: the library or the weights are not here, or they tell other classes apart.
    """
    found = HUBS[network.hub].published(network.name, download)
    if num_classes not in (None, found.num_classes):
        raise UserError(f"num_classes={num_classes} was given, but {network} tells {found.num_classes} apart")
    manifest = Manifest(
        Network(network.name, found.num_classes, len(found.mean)),
        Standardization(found.mean, found.std),
        label=network.name.rpartition("/")[2],
        family=network.hub,
        notes=found.notes,
        extra={"size": found.size, "resize": found.resize},
    )
    return Checkpoint(found.model.eval(), manifest, str(network), _sha256(found.model))


def _sha256(model: nn.Module) -> str:
    """SHA-256 of names and bytes of all weights: a library may find them in any of several files."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
