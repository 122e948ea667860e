"""Readers of other people's checkpoints, one module for each family; the most telling containers are tried first."""

from sharpness import registries
from sharpness.checkpoints.families.family import Family
from sharpness.checkpoints.families.reading import Options, Reading
from sharpness.registry import Registry

#: By name, in the order in which they are asked.
FAMILIES: Registry[Family] = registries.FAMILIES

__all__ = ["FAMILIES", "Family", "Options", "Reading"]
