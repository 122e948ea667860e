"""BagofTricks-LT and BBN: ``{"state_dict", "best_result", "best_epoch", ...}`` with ``backbone`` and ``classifier``.

Its linear classifiers (``FC``, ``cRT``, ``LWS``) have a bias, and ``FCNorm``, the one of its LDAM, has none: it is a
cosine head that is stored as ``[C, d]``, with the scale, 30, in the loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sharpness.checkpoints.families.family import Family
from sharpness.checkpoints.families.plain import SETUPS
from sharpness.checkpoints.families.reading import Code, Options, Reading, assemble, is_state, recorded
from sharpness.checkpoints.heads import HeadHabits
from sharpness.checkpoints.prefixes import strip_prefixes

CODE = Code("BagofTricks-LT or BBN", SETUPS, HeadHabits(rows="cosine"))
_TOLD = "a head without bias is FCNorm in this code: taken as cosine, head= (--head) decides otherwise"


def matches(content: Any) -> bool:
    """True of a backbone and a classifier under ``state_dict``, beside ``best_result`` and ``best_epoch``."""
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    if state is None or not is_state(state) or not {"best_result", "best_epoch"} <= set(content):
        return False
    parts = {name.removeprefix("module.").partition(".")[0] for name in state}
    return parts == {"backbone", "classifier"}


def read(content: Any, path: str, options: Options) -> Reading:
    """Read the backbone, and the classifier as its head."""
    state, prefix = strip_prefixes(content["state_dict"])
    parts: dict[str, dict[str, Any]] = {"backbone": {}, "classifier": {}}
    for name, tensor in state.items():
        part, _, inner = name.partition(".")
        parts[part][inner] = tensor
    bare = not any(name.endswith("bias") for name in parts["classifier"])
    return assemble(
        CODE, parts["backbone"], path, options, parts["classifier"], prefix,
        **recorded(content, "best_result", percent=False),
        notes=[_TOLD] if bare and options.head is None else [],
    )  # fmt: skip


FAMILY = Family("bagoftricks", matches, read)
