"""Studies of small networks: what is drawn and resumed does not hang on their width."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def narrow(narrow_resnet8):
    """Cells train and measure it many times."""
