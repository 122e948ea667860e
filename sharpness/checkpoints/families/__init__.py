"""Readers of other people's checkpoints, one module for each family; the most telling containers are tried first."""

from sharpness.checkpoints.families import (
    bagoftricks,
    cc_sam,
    gcl_places,
    imbsam,
    ldam,
    m2m,
    mislas,
    oltr,
    plain,
    pof,
    swa,
)
from sharpness.checkpoints.families.family import Family
from sharpness.checkpoints.families.reading import Options, Reading

#: By name, in the order in which they are asked.
FAMILIES: dict[str, Family] = {
    module.FAMILY.name: module.FAMILY
    for module in (mislas, oltr, m2m, swa, gcl_places, pof, bagoftricks, ldam, cc_sam, imbsam, plain)
}

__all__ = ["FAMILIES", "Family", "Options", "Reading"]
