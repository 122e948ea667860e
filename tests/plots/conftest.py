"""Planes whose pictures are known."""

import numpy as np
import pytest

from sharpness.plots import Panel


@pytest.fixture
def bowl():
    """``x^2 + 2 y^2`` on an uneven rectangle of 4 x 6 points."""
    x, y = np.linspace(-1, 1, 6), np.array([-0.5, 0.0, 0.25, 1.0])
    return Panel(x, y, np.add.outer(2 * y**2, x**2))


@pytest.fixture
def torn(bowl):
    """The same, infinite in two corners and NaN inside."""
    z = bowl.z.copy()
    z[0, 0], z[3, 5], z[2, 2] = np.inf, -np.inf, np.nan
    return bowl._replace(z=z)
