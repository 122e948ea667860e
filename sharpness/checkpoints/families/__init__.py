"""Readers of checkpoints, one for a family: ``matches(content)`` and ``read(content, path, options)``."""

from sharpness.checkpoints.families.reading import Options, Reading
from sharpness.registries import FAMILIES

__all__ = ["FAMILIES", "Options", "Reading"]
