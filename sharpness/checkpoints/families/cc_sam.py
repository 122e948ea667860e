"""CC-SAM's released code (family E): a bare state dict with two blocks that its forward pass never calls."""

from __future__ import annotations

from typing import Any

from sharpness.checkpoints.families.datasets import setups, with_notes
from sharpness.checkpoints.families.family import Family
from sharpness.checkpoints.families.reading import Code, Options, Reading, assemble, is_state

SETUPS = with_notes(
    setups(subset="seed:42"),
    "the images were drawn from NumPy's global generator, seeded with 42 at program start",
    "the best file does not tell its stage",
)
CODE = Code("CC-SAM", SETUPS, unused=("cb_block.", "rb_block."))


def matches(content: Any) -> bool:
    """True of a bare state with this code's ``cb_block``."""
    return is_state(content) and any("cb_block." in name for name in content)


def read(content: Any, path: str, options: Options) -> Reading:
    """The network has 5, 5 and 4 blocks, so it is a ResNet-30; the dead blocks are left out and listed."""
    return assemble(CODE, content, path, options)


FAMILY = Family("cc-sam", matches, read)
