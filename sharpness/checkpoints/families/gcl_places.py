"""GCL on Places-LT (family I): ResNet-152 without its last block, that block, and a normalised classifier, apart.

Both stages save everything, and they spell the block differently: ``block_state_dict`` is the first stage, with scale
30 in its loss, ``state_dict_block`` the second, with scale 15.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sharpness.checkpoints.families.datasets import setups
from sharpness.checkpoints.families.family import Family
from sharpness.checkpoints.families.mislas import last_block, require_state
from sharpness.checkpoints.families.reading import Code, Options, Reading, assemble, recorded
from sharpness.checkpoints.heads import COLUMNS, HeadHabits
from sharpness.checkpoints.prefixes import strip_prefixes
from sharpness.errors import UserError

CODES = {
    stage: Code("GCL on Places-LT", setups(large_order="introsort"), HeadHabits(None, "cosine", COLUMNS, scale))
    for stage, scale in ((1, 30.0), (2, 15.0))
}
SPELLINGS = {
    "model_state_dict": "model",
    "block_state_dict": "block",
    "state_dict_block": "block",
    "classifier_state_dict": "classifier",
}


def matches(content: Any) -> bool:
    """True of a file with ``classifier_state_dict``."""
    return isinstance(content, Mapping) and "classifier_state_dict" in content


def read(content: Any, path: str, options: Options) -> Reading:
    """Parts of a second file replace the first one's."""
    parts = _parts(content)
    known: dict[str, Any] = {}
    stage = 2 if "state_dict_block" in content or options.stage2 is not None else 1
    if options.stage2 is not None:
        replaced = _parts(options.stage2)
        if not replaced:
            raise UserError(f"{options.stage2_path} is no second stage of GCL: it has no 'classifier_state_dict'")
        content, parts = options.stage2, parts | replaced
        known["stage2"] = options.stage2_path
    for part in ("model", "classifier", *(["block"] if "block" in parts else [])):
        require_state(parts.get(part), f"{part}_state_dict", path)
    state, prefix = strip_prefixes(parts["model"])
    if "block" in parts:
        state |= last_block(state, parts["block"])
    return assemble(
        CODES[stage], state, path, options, strip_prefixes(parts["classifier"])[0], prefix, stage=stage,
        **recorded(content, "best_acc1"), **known,
    )  # fmt: skip


def _parts(content: Any) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        return {}
    return {part: content[key] for key, part in SPELLINGS.items() if key in content}


FAMILY = Family("gcl-places", matches, read, two_files=True)
