"""Scales of colours that panels share."""

import numpy as np
import pytest
from matplotlib.colors import LogNorm

from sharpness.errors import UserError
from sharpness.plots import shared_limits
from sharpness.plots.colors import color_scale


def test_limits_are_the_extremes_over_all_panels():
    panels = {"a": np.array([[1.0, np.nan]]), "b": np.array([[0.1, np.inf], [-3.0, 50.0]])}
    assert shared_limits(panels) == (0.1, 50.0)
    assert shared_limits({"a": np.array([2.0, 5.0])}, log=False) == (2.0, 5.0)


def test_a_logarithmic_scale_shows_six_decades():
    np.testing.assert_allclose(shared_limits({"a": np.array([1e-12, 100.0])}), (1e-4, 100))


def test_a_linear_scale_of_both_signs_is_symmetric_and_diverges():
    limits = shared_limits({"a": np.array([-1.0, 4.0])}, log=False)
    assert limits == (-4.0, 4.0)
    assert color_scale(limits, log=False)[1] != color_scale((1.0, 4.0), log=False)[1]


@pytest.mark.parametrize("log", [True, False])
def test_equal_values_still_have_a_scale(log):
    low, high = shared_limits({"a": np.full(3, 7.0)}, log)
    assert low < 7 < high
    low, high = shared_limits({"a": np.zeros(3)}, log=False)
    assert low < 0 < high


def test_nothing_to_show_is_told():
    with pytest.raises(UserError, match="no finite positive value: give log=False"):
        shared_limits({"a": np.array([-1.0, np.nan])})
    with pytest.raises(UserError, match="no finite value"):
        shared_limits({}, log=False)


def test_a_logarithmic_scale_begins_above_zero():
    assert isinstance(color_scale((1.0, 2.0), log=True)[0], LogNorm)
    with pytest.raises(UserError, match="must be positive"):
        color_scale((0.0, 2.0), log=True)
