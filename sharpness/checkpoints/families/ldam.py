"""LDAM-DRW and its relatives: RSG, Saddle-LongTail, Focal-SAM and GCL on CIFAR (family A).

``{"epoch", "arch", "state_dict", "best_acc1", "optimizer"}``. A head without bias is normalised and its scale, 30,
is in the loss. GCL's second stage saves the classifier alone: give it as ``stage2``; its scale is 20.

PyTorch's ImageNet example, and the many scripts made from it, write the same entries. So a file with a linear head is
this family's only if its folder is named as this code names it, and the network is for small images; or if the caller
says so. Otherwise nothing is known of its data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sharpness.checkpoints.families import plain
from sharpness.checkpoints.families.datasets import setups
from sharpness.checkpoints.families.family import Family
from sharpness.checkpoints.families.reading import Code, Options, Reading, assemble, is_state, recorded
from sharpness.checkpoints.heads import COLUMNS, HeadHabits
from sharpness.checkpoints.networks import block_counts, some
from sharpness.checkpoints.prefixes import strip_prefixes
from sharpness.errors import UserError, shown

HEADS = HeadHabits(columns="cosine", square=COLUMNS)
#: RSG reads the large sets in label order, Saddle-LongTail sorts their classes as MiSLAS does.
SORTED = setups() | {
    classes: replace(setup, notes=(*setup.notes, "this order is Saddle-LongTail's: --class-order label for others"))
    for classes, setup in setups(large_order="introsort").items()
    if classes in (1000, 8142)
}
CODE = Code("LDAM-DRW, RSG, Saddle-LongTail, Focal-SAM or GCL", SORTED, HEADS, ignored=("RSG",))
#: RSG's scale on Places-LT and iNaturalist 2018, by number of classes; elsewhere it is the usual one.
RSG_SCALES = {365: 50.0, 8142: 50.0}
_DOUBT = "LDAM-DRW and its relatives write such files as well: family='ldam' (--family ldam) takes it as theirs"


def matches(content: Any) -> bool:
    """Any ``state_dict`` with this family's entries beside it, or with its normalised head."""
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    if state is None or not is_state(state):
        return False
    foreign = {"pytorch-lightning_version", "best_prec1", *plain.KEYS["ema"], *plain.KEYS["swa"]} & set(content)
    heads = [n.split(".")[-1] for n in state if n.split(".")[-2:-1] in (["linear"], ["fc_"])]
    return not foreign and (bool({"best_acc1", "arch"} & set(content)) or heads == ["weight"])


def read(content: Any, path: str, options: Options) -> Reading:
    """Read the network under ``state_dict``; as a plain one where nothing is peculiar to this family."""
    state, prefix = strip_prefixes(content["state_dict"])
    cut = [name for name in state if name.startswith(".") or name == "eight"]
    if cut:
        raise UserError(
            f"{path} has names whose first 7 characters were cut off ({some(cut)}), which RSG's code does to "
            "models trained on one chosen GPU: which entry is which cannot be recovered"
        )
    if set(state) <= {"weight", "bias"}:
        raise UserError(
            f"{path} holds a classifier alone, as GCL's second stage saves it: "
            "load_checkpoint(STAGE_1_FILE, stage2=THIS_FILE), or STAGE_1_FILE --stage2 THIS_FILE"
        )
    # The name of the run's folder is the only place where this code writes the imbalance.
    imbalance = re.search(r"_(exp|step)_(0\.\d*[1-9])(_|$)", str(Path(path).resolve().parent))
    # Other code saves the same keys: the family is assumed only where something is peculiar to it.
    certain = options.named or options.stage2 is not None or _is_normalised(state) or any("RSG" in n for n in state)
    if not certain and not (imbalance and _is_for_small_images(state)):
        return plain.read(content, path, options, [_DOUBT])
    known: dict[str, Any] = {
        **recorded(content, "best_acc1"),
        "arch": shown(content["arch"]) if isinstance(content.get("arch"), str) else None,
        "stage": 1,
    }
    if imbalance:
        known["imbalance"], known["profile"] = round(1 / float(imbalance[2]), 6), imbalance[1]
    else:
        known["notes"] = ["the imbalance is not recorded: pass imbalance= with data="]
    rsg = any("RSG" in name or name.startswith("fc_.") for name in state)
    code = replace(CODE, setups=setups(), heads=_heads_of_rsg(state)) if rsg else CODE
    if options.stage2 is None:
        return assemble(code, state, path, options, prefix=prefix, **known)
    second = options.stage2.get("state_dict") if isinstance(options.stage2, Mapping) else None
    if second is None or not is_state(second):
        raise UserError(f"{options.stage2_path} is no second stage of GCL: it should hold 'state_dict'")
    head = strip_prefixes(second)[0]
    body = {n: t for n, t in state.items() if not n.startswith(("linear.", "fc.", "fc_."))}
    known |= {"stage": 2, "stage2": options.stage2_path, **recorded(options.stage2, "best_acc1")}
    return assemble(replace(code, heads=replace(HEADS, scale=20.0)), body, path, options, head, prefix, **known)


def _is_normalised(state: Mapping[str, Tensor]) -> bool:
    """True if the head is stored as ``[d, C]`` without bias; d is the width of the last, widest convolutions."""
    features = max((len(t) for t in state.values() if t.ndim == 4), default=0)
    heads = {n: t for n, t in state.items() if n.rpartition(".")[0] in ("linear", "fc", "fc_")}
    weights = [t for n, t in heads.items() if n.endswith(".weight")]
    return len(heads) == len(weights) == 1 and weights[0].ndim == 2 and len(weights[0]) == features


def _heads_of_rsg(state: Mapping[str, Tensor]) -> HeadHabits:
    """The habits of RSG's heads, whose scale depends on the data set."""
    widths = [t.shape[1] for n, t in state.items() if n in ("fc_.weight", "linear.weight") and t.ndim == 2]
    return replace(HEADS, scale=RSG_SCALES.get(widths[0], HEADS.scale)) if widths else HEADS


def _is_for_small_images(state: Mapping[str, Tensor]) -> bool:
    """True for a ResNet of three groups of blocks whose shortcuts have no parameters."""
    return len(block_counts(state)) == 3 and not any(part in n for n in state for part in ("downsample", "shortcut"))


FAMILY = Family("ldam", matches, read, usual_files=("ckpt.best.pth.tar", "ckpt.pth.tar"), two_files=True)
