"""Saved models: our own container."""

from sharpness.checkpoints.container import Checkpoint, load_checkpoint, read_safely, save_checkpoint

__all__ = ["Checkpoint", "load_checkpoint", "read_safely", "save_checkpoint"]
