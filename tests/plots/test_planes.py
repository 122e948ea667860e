"""Small multiples: who shares which scale, on which Axes, with which names."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from sharpness.errors import UserError
from sharpness.plots import Marks, Panel, plot_plane_grid, plot_planes
from sharpness.plots.frames import inner_ticks
from sharpness.plots.levels import Levels
from sharpness.plots.scale_bars import bar_ticks


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


@pytest.mark.parametrize("number", [2, 3, 7])
def test_axes_are_named_once(bowl, number):
    axes = plot_planes({str(n): bowl for n in range(number)}, xlabel="X (unit)", ylabel="Y")
    assert not any(ax.get_xlabel() or ax.get_ylabel() for ax in axes)
    assert (axes[0].figure.get_supxlabel(), axes[0].figure.get_supylabel()) == ("X (unit)", "Y")


@pytest.mark.parametrize(("number", "rows"), [(6, [6]), (7, [4, 3]), (8, [4, 4]), (13, [5, 5, 3])])
def test_more_than_six_models_go_on_below_in_rows_about_equally_long(bowl, number, rows):
    axes = plot_planes({str(n): bowl for n in range(number)})
    starts = [ax.get_subplotspec().rowspan.start for ax in axes]
    assert [starts.count(row) for row in range(len(rows))] == rows
    assert len(axes[0].figure.axes) == number + 1, "and a bar"
    numbered = [ax for ax in axes if ax.xaxis.get_tick_params()["labelbottom"]]
    assert numbered == axes[-rows[0] :], "those that have no panel below"


def texts_of(figure):
    """Every text that is drawn with its box."""
    figure.draw_without_rendering()
    found = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    axes = {ax: [t for t in ax.findobj(Text) if t in found] for ax in figure.axes}
    return [t for t in found if not any(t in own for own in axes.values())], axes


@pytest.mark.every(3)
@pytest.mark.parametrize("kind", ["filled", "contour", "surface"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (4, 1), (1, 5), (1, 8), (2, 6)])
def test_names_lie_inside_the_figure_and_on_no_axes_and_on_no_other_name(bowl, kind, rows, columns):
    models = {f"LDAM-DRW + SAM {n}": bowl for n in range(columns)}
    table = {"" if rows == 1 else f"Medium-shot {n}": models for n in range(rows)}
    units = {"xlabel": "Direction 1 (in filter norms)", "ylabel": "Direction 2 (in filter norms)"}
    figure = plot_plane_grid(table, kind=kind, **units)[0].figure
    texts, own = texts_of(figure)
    assert texts or (rows, columns) == (1, 1)
    legends = [t for legend in figure.legends for t in legend.get_texts()]
    names = [t for t in texts if t not in legends]
    titles = [ax.title for ax in figure.axes if ax.get_title()]
    labels = [t for ax in figure.axes for t in (ax.xaxis.label, ax.yaxis.label) if t.get_text()]
    page = figure.bbox
    for name in [*names, *titles, *labels, *legends]:
        box = name.get_window_extent()
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, name
    for name in [*names, *legends]:
        assert not any(name.get_window_extent().overlaps(ax.bbox) for ax in figure.axes), name
    boxes = [t.get_window_extent() for t in [*names, *titles, *labels, *legends]]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize(("rows", "columns"), [(1, 3), (1, 8), (2, 6), (4, 1)])
def test_panels_fill_the_width_of_the_figure(bowl, rows, columns):
    square = bowl._replace(y=np.array([-1.0, -0.5, 0.0, 1.0]))
    axes = plot_plane_grid({str(r): {str(c): square for c in range(columns)} for r in range(rows)})
    axes[0].figure.draw_without_rendering()
    used = axes[0].figure.get_tightbbox()
    width, height = axes[0].figure.get_size_inches()
    assert used.width > 0.97 * width and used.height > 0.93 * height


def test_bars_of_several_rows_have_their_names_above_each_other(bowl):
    axes = plot_plane_grid({"a": {"m": bowl}, "b": {"m": scaled(bowl, 1e3)}, "c": {"m": scaled(bowl, 1e9)}})
    figure = axes[0].figure
    figure.draw_without_rendering()
    bars = [ax for ax in figure.axes if ax not in axes]
    places = [ax.yaxis.label.get_window_extent().x0 for ax in bars]
    assert len(places) == 3 and np.ptp(places) < 2 / 72 * figure.dpi


def test_a_bar_takes_the_room_of_given_axes_and_is_as_high_as_they_are(bowl):
    figure = Figure(figsize=(6.9, 2.6))
    left, right = figure.subplots(1, 2)
    room = left.get_position()
    plot_planes({"a": bowl}, left)
    plot_planes({"b": bowl}, right)
    figure.draw_without_rendering()
    bar = figure.axes[2]
    assert bar.get_position().y0 == pytest.approx(left.get_position().y0)
    assert bar.get_position().y1 == pytest.approx(left.get_position().y1)
    assert left.get_position().x1 < bar.get_position().x0
    assert bar.get_tightbbox().x1 < figure.bbox.width * room.x1
    assert not bar.get_tightbbox().overlaps(right.get_tightbbox())


def test_a_power_of_ten_stands_on_a_bar_of_bands_where_its_logarithm_is():
    ticks, texts = bar_ticks(Levels(np.geomspace(0.1, 1e5, 5), log=True), bands=True)
    place = np.interp(ticks, np.geomspace(0.1, 1e5, 5), np.arange(5))
    powers = np.array([int(text[5:-2]) for text in texts])
    np.testing.assert_allclose(place, (powers + 1) / 6 * 4)


@pytest.mark.parametrize("kind", ["filled", "surface"])
def test_no_axis_has_a_factor_at_its_end(kind):
    x = np.linspace(-2e8, 2e8, 5)
    axes = plot_planes({"a": Panel(x, x, 1e10 * np.add.outer((x / 1e8) ** 2, (x / 1e8) ** 2))}, kind=kind)
    axes[0].figure.draw_without_rendering()
    for ax in axes[0].figure.axes:
        for axis in (ax.xaxis, ax.yaxis, *([ax.zaxis] if hasattr(ax, "zaxis") else [])):
            assert not axis.get_offset_text().get_text()


def test_lines_say_what_their_numbers_are(bowl):
    figure = plot_planes({"a": bowl}, kind="contour", label="Rise of the loss")[0].figure
    assert figure.legends[0].get_texts()[0].get_text() == "lines: rise of the loss"


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


@pytest.mark.parametrize("kind", ["filled", "heatmap"])
@pytest.mark.parametrize("levels", [None, np.array([-1.0, -0.5, 0.5, 2.0])])
def test_rows_that_share_levels_show_a_value_in_one_colour(levels, kind, bowl):
    """Only one of the rows has values beyond the ends."""
    rows = {"all": {"a": bowl}, "few": {"a": bowl._replace(z=5 * bowl.z - 3)}}
    look = {"levels": None if levels is None else dict.fromkeys(rows, levels), "clip": 0.8, "colors": "RdBu_r"}
    axes = plot_plane_grid(rows, share="all", kind=kind, **look)
    found = [(ax.images + list(ax.collections))[0] for ax in axes]
    values = np.linspace(-4, 4, 50)
    np.testing.assert_array_equal(found[0].to_rgba(values), found[1].to_rgba(values))


def test_other_levels_of_rows_that_share_them_are_refused(bowl):
    rows = {"all": {"a": bowl}, "few": {"a": bowl}}
    levels = {"all": np.array([0.0, 1.0]), "few": np.array([0.0, 2.0])}
    with pytest.raises(UserError, match="share='all': levels of 'all' and 'few' differ"):
        plot_plane_grid(rows, share="all", levels=levels)
