"""Small multiples: who shares which scale, on which Axes, with which names."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from sharpness.errors import UserError
from sharpness.plots import Marks, Panel, plot_plane_grid, plot_planes
from sharpness.plots.frames import inner_ticks


def scaled(panel, factor):
    return panel._replace(z=factor * panel.z)


def boundaries(ax):
    return ax.collections[0].norm.boundaries


def by_gid(ax, gid):
    return [line for line in ax.lines if line.get_gid() == gid]


def test_panels_share_levels_and_bare_tuples_are_panels(bowl):
    axes = Figure().subplots(1, 2)
    drawn = plot_planes({"a": tuple(bowl)[:3], "b": scaled(bowl, 9)}, axes)
    assert drawn == list(axes)
    np.testing.assert_array_equal(boundaries(axes[0]), boundaries(axes[1]))
    assert [ax.get_title() for ax in axes] == ["a", "b"]


def test_rows_have_levels_of_their_own_unless_all_share(bowl):
    rows = {"all": {"a": bowl, "b": scaled(bowl, 2)}, "few": {"a": scaled(bowl, 5), "b": scaled(bowl, 7)}}
    own = plot_plane_grid(rows)
    np.testing.assert_array_equal(boundaries(own[2]), boundaries(own[3]))
    assert boundaries(own[2])[-1] > boundaries(own[0])[-1]
    common = plot_plane_grid(rows, share="all")
    assert len({tuple(boundaries(ax)) for ax in common}) == 1
    count = [len(axes[0].figure.axes) - 4 for axes in (own, common)]
    assert count == [2, 1], "a colour bar for each scale"


def test_titles_stand_above_the_first_row_and_rows_are_named(bowl):
    axes = plot_plane_grid({"All": {"a": bowl, "b": bowl}, "Few": {"a": bowl, "b": bowl}})
    assert [ax.get_title() for ax in axes] == ["a", "b", "", ""]
    assert [[t.get_text() for t in ax.texts] for ax in axes] == [["All"], [], ["Few"], []]


def test_axes_are_named_once_where_there_are_three_columns(bowl):
    axes = plot_planes(dict.fromkeys("abc", bowl), xlabel="X (unit)", ylabel="Y")
    assert [ax.get_xlabel() for ax in axes] == ["", "X (unit)", ""]
    assert [ax.get_ylabel() for ax in axes] == ["Y", "", ""]


def test_more_than_six_models_go_on_below(bowl):
    axes = plot_planes({str(n): bowl for n in range(8)})
    rows = [round(ax.get_subplotspec().rowspan.start) for ax in axes]
    assert rows == [0] * 6 + [1] * 2
    assert len(axes[0].figure.axes) == 9, "eight panels and a bar"
    assert [bool(ax.get_ylabel()) for ax in axes] == [True, *[False] * 5, True, False]


@pytest.mark.parametrize("kind", ["filled", "heatmap", "surface"])
def test_the_bar_has_an_arrow_where_values_are_cut_off(kind, bowl):
    for clip, extend in ((0.8, "max"), (1.0, "neither")):
        axes = plot_planes({"a": bowl}, kind=kind, clip=clip)
        bars = [ax for ax in axes[0].figure.axes if ax is not axes[0]]
        assert bars[0]._colorbar.extend == extend


def test_a_single_axes_is_honoured_and_nothing_is_left_open(bowl):
    ax = Figure().subplots()
    assert plot_planes({"a": bowl}, ax) == [ax]
    plot_planes({"a": bowl})
    assert not plt.get_fignums()


def test_arrays_are_not_touched(torn):
    before = [a.copy() for a in torn[:3]]
    for a in torn[:3]:
        a.flags.writeable = False
    for kind in ("filled", "contour", "heatmap", "surface"):
        plot_planes({"a": torn}, kind=kind)
    for a, b in zip(torn[:3], before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "pie"}, "unknown kind of picture 'pie'"),
        ({"scale": "cubic"}, "unknown scale"),
        ({"axes": []}, "1 panels need 1 Axes, 0 were given"),
        ({"kind": "surface", "axes": Figure().subplots()}, "projection='3d'"),
    ],
)
def test_mistakes_are_told(options, message, bowl):
    with pytest.raises(UserError, match=message):
        plot_planes({"a": bowl}, **options)
    with pytest.raises(UserError, match="unknown share"):
        plot_plane_grid({"": {"a": bowl}}, share="none")


def test_the_centre_is_marked_if_it_is_on_the_panel(bowl):
    ax, beside = Figure().subplots(1, 2)
    plot_planes({"a": bowl}, ax)
    plot_planes({"a": bowl._replace(x=bowl.x + 5)}, beside)
    assert by_gid(ax, "center")[0].get_xydata().tolist() == [[0, 0]]
    assert not by_gid(beside, "center")


def test_models_are_marked_and_named_and_those_elsewhere_are_not(bowl):
    ax = Figure().subplots()
    marks = Marks(np.array([[0.0, 0.0], [0.5, 0.5], [9.0, 9.0]]), ("CE", "SAM", "far"))
    plot_planes({"a": bowl._replace(marks=marks)}, ax)
    assert by_gid(ax, "models")[0].get_xydata().tolist() == [[0, 0], [0.5, 0.5]]
    assert [t.get_text() for t in ax.texts] == ["CE", "SAM"]
    assert not by_gid(ax, "center"), "a model stands there"


def test_a_trajectory_is_a_path_whose_ends_differ(bowl):
    ax = Figure().subplots()
    path = np.array([[0.9, 0.9], [0.5, 0.2], [0.1, 0.1]])
    plot_planes({"a": bowl._replace(marks=Marks(path, (), connected=True))}, ax)
    np.testing.assert_array_equal(by_gid(ax, "trajectory")[0].get_xydata(), path)
    assert by_gid(ax, "start")[0].get_xydata().tolist() == [[0.9, 0.9]]
    assert by_gid(ax, "end")[0].get_xydata().tolist() == [[0.1, 0.1]]
    assert by_gid(ax, "start")[0].get_marker() != by_gid(ax, "end")[0].get_marker()
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["trajectory", "start", "end"]


def test_evaluated_points_are_shown_on_demand(bowl):
    evaluated = np.random.default_rng(0).random(bowl.z.shape) < 0.4
    panel = bowl._replace(evaluated=evaluated)
    without, with_points = Figure().subplots(1, 2)
    plot_planes({"a": panel}, without)
    plot_planes({"a": panel}, with_points, points=True)
    assert not by_gid(without, "evaluated")
    drawn = {tuple(p) for p in by_gid(with_points, "evaluated")[0].get_xydata()}
    assert drawn == {(panel.x[i], panel.y[j]) for j, i in np.argwhere(evaluated)}


def test_oblong_planes_fill_their_panel():
    axes = Figure().subplots(1, 2)
    for ax, width in zip(axes, (1, 20), strict=True):
        x, y = np.linspace(0, width, 4), np.linspace(0, 1, 4)
        plot_planes({"a": Panel(x, y, np.add.outer(y, x))}, ax)
    assert axes[0].get_aspect() == 1 and axes[1].get_aspect() == "auto"


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (-0.5, 0.5), (-3.7, 11.4), (0, 1e-3), (2, 2.03)])
def test_ticks_are_inside_and_few(low, high):
    for narrow in (False, True):
        ticks = inner_ticks(low, high, narrow)
        assert (ticks > low).all() and (ticks < high).all()
        assert 2 <= len(ticks) <= (2 if narrow else 6)
