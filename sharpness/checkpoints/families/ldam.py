"""LDAM-DRW and its relatives: RSG, Saddle-LongTail, Focal-SAM and GCL on CIFAR (family A).

``{"epoch", "arch", "state_dict", "best_acc1", "optimizer"}``. A head without bias is normalised and its scale, 30,
is in the loss. GCL's second stage saves the classifier alone: give it as ``stage2``; its scale is 20.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharpness.checkpoints.families.plain import KEYS
from sharpness.checkpoints.families.reading import Options, Reading, accuracy, assemble, epoch_of, is_state
from sharpness.checkpoints.networks import some
from sharpness.checkpoints.pickles import shown
from sharpness.checkpoints.prefixes import strip_prefixes
from sharpness.errors import UserError

FAMILY = "LDAM-DRW, RSG, Saddle-LongTail, Focal-SAM or GCL"
STAGE2_SCALE = 20.0


def matches(content: Any) -> bool:
    """Any ``state_dict`` with this family's entries beside it, or with its normalised head."""
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    if state is None or not is_state(state):
        return False
    foreign = {"pytorch-lightning_version", "best_prec1", *KEYS["ema"], *KEYS["swa"]} & set(content)
    heads = [n.split(".")[-1] for n in state if n.split(".")[-2:-1] in (["linear"], ["fc_"])]
    return not foreign and (bool({"best_acc1", "arch"} & set(content)) or heads == ["weight"])


def read(content: Any, path: str, options: Options) -> Reading:
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
            "load_checkpoint(STAGE_1_FILE, stage2=THIS_FILE)"
        )
    known: dict[str, Any] = {
        "epoch": epoch_of(content),
        "accuracy": accuracy(content.get("best_acc1"), percent=True),
        "arch": shown(content["arch"]) if isinstance(content.get("arch"), str) else None,
        "stage": 1,
    }
    imbalance = re.search(r"_(exp|step)_(0\.\d*[1-9])(_|$)", str(Path(path).resolve().parent))
    if imbalance:
        known["imbalance"], known["profile"] = round(1 / float(imbalance[2]), 6), imbalance[1]
    else:
        known["notes"] = ["the imbalance is not recorded: pass imbalance= with data="]
    if options.stage2 is None:
        return assemble(FAMILY, state, path, options, prefix=prefix, ignored=("RSG",), **known)
    second = options.stage2.get("state_dict") if isinstance(options.stage2, Mapping) else None
    if second is None or not is_state(second):
        raise UserError(f"{options.stage2_path} is no second stage of GCL: it should hold 'state_dict'")
    head = strip_prefixes(second)[0]
    body = {n: t for n, t in state.items() if not n.startswith(("linear.", "fc.", "fc_."))}
    known |= {"stage": 2, "epoch": epoch_of(options.stage2), "stage2": options.stage2_path}
    known["accuracy"] = accuracy(options.stage2.get("best_acc1"), percent=True)
    return assemble(
        FAMILY, body, path, options, head=head, prefix=prefix, default_scale=STAGE2_SCALE, ignored=("RSG",), **known
    )
