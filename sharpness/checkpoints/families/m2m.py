"""M2m (family D): a ResNet-32 with names and shortcuts of its own, fed with pixels in [0, 1] that it normalises itself.

The repository calls the network through a normalising wrapper; the file holds the network alone. Images in [0, 1]
minus the recorded mean, over the recorded standard deviation, are what the model here takes, as every other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sharpness.checkpoints.families.datasets import M2M_CIFAR100, setups, with_notes
from sharpness.checkpoints.families.family import Family
from sharpness.checkpoints.families.reading import Code, Options, Reading, assemble, is_state, recorded
from sharpness.checkpoints.heads import COLUMNS, HeadHabits
from sharpness.checkpoints.prefixes import strip_prefixes

NAMES = {
    "conv_1_3x3.": "conv1.",
    "bn_1.": "bn1.",
    "stage_": "layer",
    ".conv_a.": ".conv1.",
    ".bn_a.": ".bn1.",
    ".conv_b.": ".conv2.",
    ".bn_b.": ".bn2.",
}
_TAILS = with_notes(
    setups("exp_m2m", "first_n"),
    "M2m keeps the first 10 % of every test class for validation and reports on the rest",
)
SETUPS = _TAILS | {100: replace(_TAILS[100], normalization=M2M_CIFAR100)}
CODE = Code("M2m", SETUPS, HeadHabits(columns="cosine", square=COLUMNS), shortcut="end")


def matches(content: Any) -> bool:
    """True of a ``net`` with the names of layers that only this code's network has.

    A ``net`` beside a ``rng_state`` proves nothing: mixup's published code, and scripts made from it, write both.
    """
    own = isinstance(content, Mapping) and is_state(content.get("net"))
    return own and any("conv_1_3x3" in name for name in content["net"])


def read(content: Any, path: str, options: Options) -> Reading:
    """Read the network under ``net``, with the usual names of its layers."""
    state, prefix = strip_prefixes(content["net"])
    renamed = {}
    for name, tensor in state.items():
        for old, new in NAMES.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    return assemble(
        CODE, renamed, path, options, prefix=prefix, **recorded(content, "acc"), input_range=[0.0, 1.0],
        notes=["shortcuts append their zero channels, unlike in other ResNet-32"],
    )  # fmt: skip


FAMILY = Family("m2m", matches, read)
