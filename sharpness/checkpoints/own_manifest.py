"""What our own manifests hold, field by field: what is there must be of its kind; what is missing is for whoever needs
it to tell.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sharpness.data import LongTail
from sharpness.errors import UserError, shown

#: Fields by which other people's files are described, and which would make one of ours pass for theirs.
FOREIGN = ("family", "head_readings", "class_order", "dataset", "subset")
Check = Callable[[Any], bool]


def check_manifest(manifest: dict[str, Any], path: Path) -> None:
    """Refuse a manifest with fields that are of another kind than those that ``sharpness train`` writes.

    Raises:
        UserError: names the first field, with its value.
    """
    for name, value in manifest.items():
        check = CHECKS.get(name)
        if name in FOREIGN or (check is not None and not check(value)):
            told = shown(reprlib.repr(value), 120)
            raise UserError(f"{path} is damaged: its manifest has {shown(str(name))} {told}: train it again")
    if "longtail" in manifest:
        try:
            longtail = LongTail.from_dict(manifest["longtail"])
        except (UserError, ValueError, TypeError, OverflowError, ArithmeticError) as error:
            told = shown(str(error), 160)
            raise UserError(f"{path} is damaged: its manifest describes no training set ({told})") from None
        if longtail.num_classes != manifest["model"]["num_classes"]:
            raise UserError(
                f"{path} is damaged: its manifest has {manifest['model']['num_classes']} outputs for "
                f"{longtail.num_classes} classes: train it again"
            )


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_text, value))


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _wholes(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_whole, value))


def _named(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_text, value))


def _options(value: Any) -> bool:
    return _named(value) and all(isinstance(v, str | bool | int | float | None) for v in value.values())


def _cards(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(_named(card) for card in value)


def _shares(value: Any) -> bool:
    """Accuracies; those of a group without classes are no number."""
    return _named(value) and all(
        type(share) in (int, float) and (math.isnan(share) or 0 <= share <= 1) for share in value.values()
    )


def _constants(value: Any) -> bool:
    if not (_named(value) and value.keys() == {"mean", "std"}):
        return False
    lists = all(isinstance(v, list | tuple) and v and all(map(_number, v)) for v in value.values())
    return lists and len(value["mean"]) == len(value["std"]) and all(std > 0 for std in value["std"])


def _longtail(value: Any) -> bool:
    if not _named(value):
        return False
    named = [value.get(k) for k in ("dataset", "profile", "subset", "group_convention")]
    return (
        all(map(_text, named))
        and _texts(value.get("class_names"))
        and _wholes(value.get("class_counts"))
        and _number(value.get("imbalance"))
    )


def _training(value: Any) -> bool:
    """Settings: epochs and batch sizes of the stages, a seed, and words."""
    checks: dict[str, Check] = {
        "epochs": _wholes, "batch_size": _wholes, "seed": _whole, "precision": _text, "flatten": _texts,
        "helper_sha256": _text, "augmentation": _text, "sharpness": _text, "torch": _text, "device": _text,
    }  # fmt: skip
    return _named(value) and all(check(value[name]) for name, check in checks.items() if name in value)


CHECKS: dict[str, Check] = {
    "method": _text,
    "method_source": _text,
    "label": _text,
    "paper": _text,
    "loss": _text,
    "data_sha256": _text,
    "history_sha256": _text,
    "options": _options,
    "flattening": _texts,
    "stages": _texts,
    "notes": _texts,
    "card": _cards,
    "training": _training,
    "longtail": _longtail,
    "normalization": _constants,
    "accuracy": _shares,
    "epoch": _whole,
}
