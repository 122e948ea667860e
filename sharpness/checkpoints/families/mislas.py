"""MiSLAS (family B): backbone, classifier, last block on Places-LT, learnable weight scaling of the second stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sharpness.checkpoints.families.datasets import setups
from sharpness.checkpoints.families.family import Family
from sharpness.checkpoints.families.reading import Code, Options, Reading, assemble, is_state, recorded
from sharpness.checkpoints.networks import State, block_counts
from sharpness.checkpoints.prefixes import strip_prefixes
from sharpness.errors import UserError

REQUIRED = ("state_dict_model", "state_dict_classifier")
PARTS = (*REQUIRED, "state_dict_block", "state_dict_lws_model")
CODE = Code("MiSLAS", setups(large_order="introsort"))


def matches(content: Any) -> bool:
    """True of a file with ``state_dict_model``."""
    return isinstance(content, Mapping) and "state_dict_model" in content


def read(content: Any, path: str, options: Options) -> Reading:
    """Both stages write all their parts; those of a second file replace the first one's."""
    parts = {part: content[part] for part in PARTS if part in content}
    known: dict[str, Any] = {}
    if options.stage2 is not None:
        second = options.stage2 if isinstance(options.stage2, Mapping) else {}
        replaced = {part: second[part] for part in PARTS if part in second}
        if not replaced:
            raise UserError(f"{options.stage2_path} is no second stage of MiSLAS: it has none of {', '.join(PARTS)}")
        content, parts, known = second, parts | replaced, {"stage2": options.stage2_path}
    for part in PARTS:
        if part in REQUIRED or part in parts:
            require_state(parts.get(part), part, path)
    state, prefix = strip_prefixes(parts["state_dict_model"])
    if "state_dict_block" in parts:
        state |= last_block(state, parts["state_dict_block"])
    head = strip_prefixes(parts["state_dict_classifier"])[0]
    scaled = "state_dict_lws_model" in parts
    if scaled:
        head |= strip_prefixes(parts["state_dict_lws_model"])[0]
        known["notes"] = ["the recorded accuracy is stage 1's until stage 2 beats it"]
    return assemble(
        CODE, state, path, options, head, prefix, stage=2 if scaled else 1,
        **recorded(content, "best_acc1"), **known,
    )  # fmt: skip


def require_state(state: Any, part: str, path: str) -> None:
    """Raise a :class:`UserError` unless a part of a file is a state dict."""
    if not is_state(state):
        raise UserError(
            f"{path} lacks {part!r}, or it holds no tensors by name: give the file that has it as stage2= (--stage2)"
        )


def last_block(state: Mapping[str, Tensor], block: Mapping[str, Tensor]) -> State:
    """The entries of a block that was saved apart (``layer5`` in the code for Places-LT), as the last group's next."""
    counts = block_counts(state)
    names = strip_prefixes(block)[0]
    outer = {n.partition(".")[0] for n in names}
    if len(outer) == 1 and "conv1.weight" not in names:
        names = {n.partition(".")[2]: t for n, t in names.items()}
    return {f"layer{len(counts)}.{counts[-1]}.{n}": t for n, t in names.items()} if counts else {}


FAMILY = Family("mislas", matches, read, usual_files=("model_best.pth.tar", "current.pth.tar"), two_files=True)
