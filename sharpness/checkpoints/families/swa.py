"""Stochastic weight averaging (family G): the weights of the run and their average in one file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sharpness.checkpoints.families.datasets import CIFAR, Setup
from sharpness.checkpoints.families.family import Family
from sharpness.checkpoints.families.reading import Code, Options, Reading, assemble, is_state, recorded
from sharpness.errors import UserError

SETUPS = {10: Setup("cifar10", CIFAR, None, "label"), 100: Setup("cifar100", CIFAR, None, "label")}


def matches(content: Any) -> bool:
    """True of a file with ``swa_state_dict``."""
    return isinstance(content, Mapping) and is_state(content.get("swa_state_dict"))


def read(content: Any, path: str, options: Options) -> Reading:
    """``weights="swa"`` takes the average, whose BatchNorm statistics are right only if the run updated them."""
    averaged = options.weights == "swa"
    state = content.get("swa_state_dict" if averaged else "state_dict")
    if not is_state(state):
        raise UserError(f"{path} lacks 'state_dict': take the average, weights='swa' (--weights swa)")
    note = (
        "averaged weights: their BatchNorm statistics hold only if the run recomputed them, otherwise "
        "pass batchnorm='recalibrate'"
        if averaged
        else "the file holds averaged weights as well: weights='swa'"
    )
    code = Code("SWA", SETUPS)
    return assemble(code, state, path, options, weights=options.weights, notes=[note], **recorded(content))


FAMILY = Family("swa", matches, read, weights=("model", "swa"))
