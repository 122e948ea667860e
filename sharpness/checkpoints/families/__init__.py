"""One reader for every family of checkpoints, asked in this order: the most telling containers first."""

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
from sharpness.checkpoints.families.reading import Options, Reading

#: ``name: module`` with ``matches(content) -> bool`` and ``read(content, path, options) -> Reading``.
FAMILIES = {
    "mislas": mislas,
    "oltr": oltr,
    "m2m": m2m,
    "swa": swa,
    "gcl-places": gcl_places,
    "pof": pof,
    "bagoftricks": bagoftricks,
    "ldam": ldam,
    "cc-sam": cc_sam,
    "imbsam": imbsam,
    "plain": plain,
}

__all__ = ["FAMILIES", "Options", "Reading"]
