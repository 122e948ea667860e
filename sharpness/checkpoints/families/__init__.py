"""Readers of other people's checkpoints, one module for each family; the most telling containers are tried first."""

from sharpness.checkpoints.families.family import Family
from sharpness.checkpoints.families.reading import Options, Reading
from sharpness.registries import FAMILIES

__all__ = ["FAMILIES", "Family", "Options", "Reading"]
