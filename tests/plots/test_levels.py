"""Levels: shared, rising, and right on planes that explode."""

import re

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.colors import LogNorm

from sharpness.errors import UserError
from sharpness.plots import shared_levels
from sharpness.plots.levels import Levels, decade_ticks, level_labels, levels_of, signed_levels


def test_levels_are_shared_span_the_data_and_grow_from_the_bottom():
    levels = shared_levels([np.array([[2.0, 6.0]]), np.array([[3.0, np.nan]])], number=4, clip=1.0)
    np.testing.assert_allclose(levels, 2 + 4 * np.array([0, 1 / 16, 4 / 16, 9 / 16, 1]))


def test_the_last_level_is_the_quantile_of_all_finite_values():
    values = [np.random.default_rng(0).exponential(size=(5, 6)), np.array([[np.inf, 7.0, np.nan]])]
    finite = np.append(values[0].ravel(), 7.0)
    for scale, default in (("clipped", 0.9), ("linear", 1.0), ("log", 1.0)):
        assert shared_levels(values, scale=scale)[-1] == pytest.approx(np.quantile(finite, default), rel=1e-12)
        assert shared_levels(values, scale=scale, clip=0.5)[-1] == pytest.approx(np.median(finite), rel=1e-12)


def test_linear_levels_are_even_and_logarithmic_ones_have_equal_ratios():
    values = [np.array([[0.5, 8.0, 32.0]])]
    np.testing.assert_allclose(np.diff(shared_levels(values, 5, scale="linear")), (32 - 0.5) / 5)
    logarithmic = shared_levels(values, 3, scale="log")
    np.testing.assert_allclose(logarithmic, [0.5, 2, 8, 32])


def test_logarithmic_levels_leave_out_zeros_and_begin_eight_decades_below_the_top_or_one():
    np.testing.assert_allclose(shared_levels([np.array([0.0, 1e-3, 1.0])], 3, scale="log"), [1e-3, 1e-2, 1e-1, 1])
    assert shared_levels([np.array([0.0, 1e-300, 1e-4])], scale="log")[0] == pytest.approx(1e-12)
    assert shared_levels([np.array([0.0, 1e-300, 1e4])], scale="log")[0] == pytest.approx(1e-8)
    assert shared_levels([np.array([0.003, 1e13])], scale="log")[0] == pytest.approx(0.003), "the centre stays"


@pytest.mark.parametrize("scale", ["clipped", "linear", "log"])
@pytest.mark.parametrize("value", [1.0, 1e-12, 1e9])
def test_levels_of_a_flat_plane_still_rise(scale, value):
    assert (np.diff(shared_levels([np.full((2, 2), value)], scale=scale)) > 0).all()


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([np.nan, np.inf], {}, "no finite value"),
        ([0.0, -1.0], {"scale": "log"}, "no value is above zero"),
        ([1.0], {"scale": "cubic"}, "unknown scale 'cubic'"),
        ([1.0], {"clip": 0.0}, "clip=0.0"),
        ([1.0], {"clip": 1.5}, "clip=1.5"),
    ],
)
def test_what_has_no_levels_is_refused(values, options, message):
    with pytest.raises(UserError, match=message):
        shared_levels([np.array(values)], **options)


@pytest.mark.parametrize(
    ("values", "extend"), [([1, 2], "neither"), ([0, 2], "min"), ([1, 3], "max"), ([0, 3, np.inf], "both")]
)
def test_arrows_stand_where_there_are_values_beyond_the_ends(values, extend):
    assert levels_of([np.array(values, dtype=float)], edges=np.array([1.0, 1.5, 2.0])).extend == extend


@pytest.mark.parametrize("edges", [[1.0], [1.0, 1.0], [2.0, 1.0]])
def test_given_levels_must_rise(edges):
    with pytest.raises(UserError, match="two or more that rise"):
        levels_of([np.ones(2)], edges=np.array(edges))
    with pytest.raises(UserError, match="above zero"):
        levels_of([np.ones(2)], "log", edges=np.array([0.0, 1.0]))


def test_heights_are_cut_off_and_keep_nan():
    values = np.array([0.1, 5.0, 1e9, np.nan, np.inf])
    linear = levels_of([values], edges=np.array([1.0, 100.0])).heights(values)
    np.testing.assert_array_equal(linear, [1, 5, 100, np.nan, np.nan])
    log = levels_of([values], "log", edges=np.array([1.0, 100.0]))
    np.testing.assert_allclose(log.heights(values), [0, np.log10(5), 2, np.nan, np.nan])
    assert isinstance(log.shades(), LogNorm)


def test_bands_tell_apart_what_is_beyond_the_last_level():
    bands = levels_of([np.array([0.0, 9.0])], edges=np.array([0.0, 1.0, 2.0])).bands()
    assert len({int(bands(v)) for v in (0.5, 1.5, 9.0)}) == 3


def test_labels_differ_where_levels_do():
    for levels in (np.linspace(2.30, 2.31, 9), np.geomspace(1e-7, 1e7, 9), shared_levels([np.array([0.0, 1.0])])):
        labels = level_labels(levels)
        assert len(set(labels)) == len(levels)
        assert not any(re.search(r"\de", text) for text in labels)


def test_labels_are_close_to_what_they_stand_for():
    levels = np.sort(np.random.default_rng(0).exponential(size=40))
    gap = np.diff(levels).min()
    for level, text in zip(levels, level_labels(levels), strict=True):
        assert abs(float(text) - level) <= 0.05 * np.abs(levels - level)[np.abs(levels - level) >= gap].min() + 1e-12


@pytest.mark.parametrize("top", [0.03, 1.74, 26.5, 940.0])
def test_labels_of_one_scale_have_the_same_number_of_decimals(top):
    for levels in (shared_levels([np.array([0.0, top])], clip=1.0)[::3], np.linspace(0, top, 5)):
        assert len({len(text.partition(".")[2]) for text in level_labels(levels)}) == 1


def test_logarithmic_labels_keep_their_first_digits():
    assert level_labels(np.array([53.0, 8.9e5, 1.5e10]), log=True)[0] == "53"


@pytest.mark.parametrize(("low", "high"), [(0.003, 1e13), (1e-8, 1e-5), (0.5, 32), (0.9, 1.1), (1.0, 1e3)])
def test_logarithmic_ticks_are_powers_of_ten_where_these_are_many(low, high):
    ticks, texts = decade_ticks(low, high)
    assert 2 <= len(ticks) == len(texts) <= 7
    assert (ticks >= low * 0.999).all() and (ticks <= high * 1.001).all()
    if high / low >= 1e3:
        assert texts == [f"$10^{{{round(np.log10(t))}}}$" for t in ticks]
        np.testing.assert_allclose(np.log10(ticks), np.round(np.log10(ticks)))


def test_zero_has_the_middle_colour_of_a_diverging_map_and_signs_have_sides_of_their_own():
    levels = Levels(signed_levels([np.array([-1.0, 9.0])]))
    middle = np.array(colormaps["RdBu_r"](0.5)[:3])
    bands = levels.colors("RdBu_r", bands=True)
    assert np.abs(np.array(bands(levels.bands()(0.0))[:3]) - middle).max() < 0.08
    for bands_or_shades, norm in ((True, levels.bands()), (False, levels.shades())):
        colors = levels.colors("RdBu_r", bands_or_shades)
        assert colors(norm(-0.9))[2] > colors(norm(-0.9))[0], "blue"
        assert colors(norm(8.0))[0] > colors(norm(8.0))[2], "red"
    assert levels.edges[0] <= -1 and levels.edges[-1] == 9, "nothing is cut off"
