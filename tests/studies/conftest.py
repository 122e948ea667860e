"""Studies of small networks: what is drawn and resumed does not hang on their size."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def small(shallow_resnet8):
    """Cells train and measure it many times."""


@pytest.fixture(autouse=True)
def undrawn(blank_pictures):
    """What files a study writes does not hang on how they are drawn: those of whole modules are."""
