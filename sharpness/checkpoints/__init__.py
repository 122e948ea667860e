"""Checkpoints: our own file format, and a reader for every foreign family."""

from sharpness.checkpoints.checkpoint import Checkpoint
from sharpness.checkpoints.container import save_checkpoint
from sharpness.checkpoints.families import FAMILIES
from sharpness.checkpoints.find import find_checkpoints
from sharpness.checkpoints.load import load_checkpoint
from sharpness.checkpoints.manifest import Manifest, Network
from sharpness.checkpoints.safety import read_safely

__all__ = [
    "FAMILIES",
    "Checkpoint",
    "Manifest",
    "Network",
    "find_checkpoints",
    "load_checkpoint",
    "read_safely",
    "save_checkpoint",
]
