"""CC-SAM's released code (family E): a bare state dict with two blocks that its forward pass never calls."""

from __future__ import annotations

from typing import Any

from sharpness.checkpoints.families.datasets import setups, with_notes
from sharpness.checkpoints.families.family import Family
from sharpness.checkpoints.families.reading import Options, Reading, assemble, is_state

TITLE = "CC-SAM"
UNUSED = ("cb_block.", "rb_block.")
SETUPS = with_notes(
    setups(subset="seed:42"),
    "the images were drawn from NumPy's global generator, seeded with 42 at program start",
    "the best file does not tell its stage",
)


def matches(content: Any) -> bool:
    """True of a bare state with this code's ``cb_block``."""
    return is_state(content) and any("cb_block." in name for name in content)


def read(content: Any, path: str, options: Options) -> Reading:
    """The network has 5, 5 and 4 blocks, so it is a ResNet-30; the dead blocks are left out and listed."""
    return assemble(TITLE, content, path, options, unused=UNUSED, setups=SETUPS)


FAMILY = Family("cc-sam", matches, read)
