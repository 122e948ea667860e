"""ImbSAM (family F): a bare state dict of a ResNet-34 for 32x32 images inside an encoder."""

from __future__ import annotations

from typing import Any

from sharpness.checkpoints.families.datasets import setups, with_notes
from sharpness.checkpoints.families.family import Family
from sharpness.checkpoints.families.reading import Code, Options, Reading, assemble, is_state

SETUPS = with_notes(setups(subset="first_n"), "reported accuracies average over images and their mirror images")
CODE = Code("ImbSAM", SETUPS)


def matches(content: Any) -> bool:
    """True of a bare state all of whose entries are of an ``encoder``."""
    return is_state(content) and all(name.removeprefix("module.").startswith("encoder.") for name in content)


def read(content: Any, path: str, options: Options) -> Reading:
    """Read the encoder and its head."""
    return assemble(CODE, content, path, options)


FAMILY = Family("imbsam", matches, read)
