"""GCL on Places-LT (family I): ResNet-152 without its last block, that block, and a normalised classifier, apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sharpness.checkpoints.families.mislas import last_block
from sharpness.checkpoints.families.reading import Options, Reading, accuracy, assemble, epoch_of, is_state
from sharpness.checkpoints.prefixes import strip_prefixes
from sharpness.errors import UserError

FAMILY = "GCL on Places-LT"
STAGE2_SCALE = 15.0


def matches(content: Any) -> bool:
    return isinstance(content, Mapping) and "classifier_state_dict" in content


def read(content: Any, path: str, options: Options) -> Reading:
    """Parts of a second file replace the first one's, and the scale of the second stage, 15, its 30."""
    if options.stage2 is not None and not isinstance(options.stage2, Mapping):
        raise UserError(f"{options.stage2_path} is no second stage of GCL: it should hold 'classifier_state_dict'")
    content = dict(content) | dict(options.stage2 or {})
    for part in ("model_state_dict", "classifier_state_dict"):
        if not is_state(content.get(part)):
            raise UserError(f"{path} lacks {part!r}: give the file that holds it as stage2=")
    state, prefix = strip_prefixes(content["model_state_dict"])
    block = content.get("block_state_dict", content.get("state_dict_block"))
    if is_state(block):
        state |= last_block(state, block)
    second = options.stage2 is not None
    extra: dict[str, Any] = {"stage2": options.stage2_path} if second else {}
    return assemble(
        FAMILY, state, path, options, head=strip_prefixes(content["classifier_state_dict"])[0], prefix=prefix,
        default_scale=STAGE2_SCALE if second else 30.0, stage=2 if second else None, epoch=epoch_of(content),
        accuracy=accuracy(content.get("best_acc1"), percent=True), **extra,
        notes=["class order: check it against the lists, MiSLAS's loader sorts classes by training count"],
    )  # fmt: skip
