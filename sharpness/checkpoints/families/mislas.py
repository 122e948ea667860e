"""MiSLAS (family B): backbone, classifier, last block on Places-LT, learnable weight scaling of the second stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sharpness.checkpoints.families.datasets import BY_COUNT, MISLAS_INAT, Recipe, recipes
from sharpness.checkpoints.families.reading import Options, Reading, accuracy, assemble, epoch_of, is_state
from sharpness.checkpoints.networks import State
from sharpness.checkpoints.prefixes import strip_prefixes
from sharpness.errors import UserError

FAMILY = "MiSLAS"
PARTS = ("state_dict_model", "state_dict_classifier", "state_dict_block", "state_dict_lws_model")
RECIPES = recipes(large_order=BY_COUNT) | {
    8142: Recipe("inaturalist2018", MISLAS_INAT, {"list": "the published split list"}, BY_COUNT)
}


def matches(content: Any) -> bool:
    return isinstance(content, Mapping) and "state_dict_model" in content


def read(content: Any, path: str, options: Options) -> Reading:
    """Both stages write all parts; those of a second file replace the first one's."""
    content = dict(content) | (dict(options.stage2) if isinstance(options.stage2, Mapping) else {})
    for part in PARTS[:2]:
        if not is_state(content.get(part)):
            raise UserError(f"{path} lacks {part!r}, which MiSLAS always saves: is it whole?")
    state, prefix = strip_prefixes(content["state_dict_model"])
    if "state_dict_block" in content:
        state |= last_block(state, content["state_dict_block"])
    head = strip_prefixes(content["state_dict_classifier"])[0]
    if "state_dict_lws_model" in content:
        head |= strip_prefixes(content["state_dict_lws_model"])[0]
    notes = ["the best accuracy of stage 1 is kept until stage 2 beats it"] if "state_dict_lws_model" in content else []
    extra: dict[str, Any] = {"stage2": options.stage2_path} if options.stage2_path else {}
    return assemble(
        FAMILY, state, path, options, head=head, prefix=prefix, recipes=RECIPES, notes=notes,
        stage=2 if "state_dict_lws_model" in content else 1, epoch=epoch_of(content),
        accuracy=accuracy(content.get("best_acc1"), percent=True), **extra,
    )  # fmt: skip


def last_block(state: Mapping[str, Tensor], block: Mapping[str, Tensor]) -> State:
    """The entries of a block that was saved apart, as the next one of the last group."""
    group = max(int(n[5 : n.index(".")]) for n in state if n.startswith("layer"))
    index = 1 + max(int(n.split(".")[1]) for n in state if n.startswith(f"layer{group}."))
    names = strip_prefixes(block)[0]
    if all(n.startswith("block.") for n in names):
        names = {n.removeprefix("block."): t for n, t in names.items()}
    return {f"layer{group}.{index}.{n}": t for n, t in names.items()}
