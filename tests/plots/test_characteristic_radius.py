"""Bounds, radii and rises: the numbers that go in are the numbers on the axes."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from sharpness.errors import UserError
from sharpness.plots import BoundCurve, plot_agreement, plot_bound, plot_bound_panels, plot_radii

RADII = np.geomspace(1e-3, 10, 9)


def curve(size=1.0, **changed):
    """``0.1 + size (rho + 1 / rho)``: smallest at 1."""
    one = BoundCurve(
        RADII, 0.1, 0.1 + size * RADII, 0.1 + size * RADII + RADII**2, size / RADII, 0.1 + RADII**9, 1.0,
        0.1 + 2 * size, 1.0,
    )  # fmt: skip
    return one._replace(**changed)


@pytest.fixture
def ax():
    return Figure().subplots()


def drawn(ax):
    return {line.get_label(): line.get_ydata() for line in ax.lines}


def test_a_bound_its_terms_and_the_loss_are_drawn_with_the_minimum(ax):
    one = curve()
    assert plot_bound(one, ax, title="cat") is ax
    lines = drawn(ax)
    np.testing.assert_array_equal(lines["bound"], one.linear + one.complexity)
    np.testing.assert_array_equal(lines["complexity term"], one.complexity)
    np.testing.assert_array_equal(lines["loss to first order"], one.linear)
    np.testing.assert_array_equal(lines["to second order"], one.quadratic)
    np.testing.assert_array_equal(lines["loss, measured"], one.measured)
    (best,) = [line for line in ax.lines if line.get_gid() == "best"]
    assert [best.get_xdata()[0], best.get_ydata()[0]] == [1.0, 2.1]
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_title()) == ("log", "log", "cat")
    assert ax.get_legend().get_texts()[-1].get_text().startswith("minimum")


def test_the_picture_ends_above_the_bound_though_the_loss_goes_on(ax):
    plot_bound(curve(), ax)
    low, high = ax.get_ylim()
    assert low < 0.1 and 1000 < high < 1e4 < curve().measured.max()


def test_a_radius_that_is_used_has_a_line_if_it_is_another(ax):
    plot_bound(curve(used=0.01), ax)
    (used,) = [line for line in ax.lines if line.get_gid() == "used"]
    assert set(used.get_xdata()) == {0.01}
    assert "radius used" in [t.get_text() for t in ax.get_legend().get_texts()]


def test_what_is_not_positive_or_not_finite_leaves_a_gap(ax):
    measured = np.where(RADII > 1, np.nan, np.where(RADII > 0.1, -1.0, 2.0))
    plot_bound(curve(measured=measured), ax)
    np.testing.assert_array_equal(drawn(ax)["loss, measured"], np.where(RADII > 0.1, np.nan, 2.0))
    plot_bound(curve(loss=np.nan, measured=np.full(9, np.nan), best=np.nan, lowest=np.nan, used=np.nan), ax)


def test_panels_share_limits_and_have_one_legend():
    axes = plot_bound_panels({"a": curve(), "b": curve(5.0, used=0.1)})
    assert axes[0].get_ylim() == axes[1].get_ylim() and axes[0].get_xlim() == axes[1].get_xlim()
    assert [ax.get_title() for ax in axes] == ["a", "b"]
    (legend,) = axes[0].figure.legends
    labels = [t.get_text() for t in legend.get_texts()]
    assert len(labels) == len(set(labels)) == 7


def test_the_legend_takes_a_place_that_is_left_over():
    axes = plot_bound_panels({str(i): curve() for i in range(5)}, columns=3)
    assert len(axes) == 5 and not axes[0].figure.legends
    assert [ax.get_legend() is not None for ax in axes[0].figure.axes] == [False] * 5 + [True]


def test_panels_take_as_many_axes_as_there_are():
    given = list(Figure().subplots(1, 2))
    assert plot_bound_panels({"a": curve(), "b": curve()}, given) == given
    with pytest.raises(UserError, match="1 panels need 1 Axes, 2 were given"):
        plot_bound_panels({"a": curve()}, given)


def test_radii_of_equal_gradients_lie_on_the_line_of_the_counts(ax):
    n = np.array([1000, 101, 11, 2])
    rho = 0.3 * (n - 1.0) ** -0.25
    plot_radii({"a": (n, rho)}, ax)
    points, line = ax.lines
    np.testing.assert_array_equal(points.get_xdata(), n)
    np.testing.assert_array_equal(points.get_ydata(), rho)
    np.testing.assert_allclose(line.get_ydata(), 0.3 * (line.get_xdata() - 1) ** -0.25)
    assert (line.get_xdata().min(), line.get_xdata().max()) == pytest.approx((2, 1000))


def test_classes_without_a_radius_and_of_one_image_are_drawn_as_far_as_they_are(ax):
    plot_radii({"a": (np.array([1, 5, 9]), np.array([1.0, np.nan, 2.0])), "b": (np.array([3]), np.array([np.nan]))}, ax)
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [1, 9])
    assert np.isfinite(ax.lines[1].get_ydata()).all()


def test_rises_stand_at_both_predictions_beside_the_line_where_they_agree(ax):
    first, second, measured = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, -1.0, 5.0, 6.0]), np.array([3, 4, -1, 9.0])
    plot_agreement({"a": (first, second, measured)}, ax, names=["p", "q", "r", "s"])
    opened, filled, equal = ax.lines
    assert opened.get_markerfacecolor() == "white"
    assert list(zip(opened.get_xdata(), opened.get_ydata(), strict=True)) == [(2, 3), (6, 9)]
    assert list(zip(filled.get_xdata(), filled.get_ydata(), strict=True)) == [(1, 3), (2, 4), (4, 9)]
    assert [t.get_text() for t in ax.texts] == ["p", "q", "s"]
    assert equal.get_linestyle() == "--"
    assert ax.get_legend().get_texts()[-1].get_text() == "not shown: 1"


def test_rises_that_are_not_finite_are_counted_and_classes_without_samples_are_not(ax):
    nan = np.nan
    plot_agreement({"a": (np.array([1.0, 1, nan]), np.array([1.0, 1, nan]), np.array([1.0, nan, nan]))}, ax)
    assert ax.get_legend().get_texts()[-1].get_text() == "not shown: 1"


def test_the_legend_of_five_models_stays_on_the_page():
    names = ["CE", "LDAM-DRW", "MiSLAS", "GCL", "CC-SAM"]
    figure = plot_radii({name: (np.array([100, 10]), np.array([0.1, 0.2])) for name in names}).figure
    figure.draw_without_rendering()
    assert figure.axes[0].get_legend().get_window_extent().x1 < figure.bbox.x1 - 2 / 72 * figure.dpi
