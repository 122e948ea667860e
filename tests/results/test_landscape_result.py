"""Lines and planes as results: pictures of any class without new evaluations, files for other programs."""

import csv
import dataclasses
import struct
from types import SimpleNamespace
from urllib.parse import unquote

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from sharpness import load_result
from sharpness.errors import SystemRefusal, UserError
from sharpness.results import Comparison, LineResult, PlaneResult
from sharpness.results.axes import line_label, plane_label
from sharpness.results.subsets import subset_title

NAMES = ("cat", "pickup truck", "owl")
X, Y = np.linspace(-1, 1, 6), np.array([-0.5, 0.0, 0.25, 1.0])


def common(shape, seed):
    rng = np.random.default_rng(seed)
    return {
        "class_names": NAMES,
        "class_samples": np.array([6, 3, 1]),
        "groups": {"many": (0,), "medium": (), "few": (1, 2)},
        "provenance": {"label": f"model {seed}", "loss": "ce"},
        "x": X,
        "losses": rng.random(shape),
        "class_losses": rng.random((3, *shape)),
        "class_accuracies": rng.random((3, *shape)),
        "directions": "gaussian",
        "normalization": "filter",
        "seed": 0,
        "evaluated": rng.random(shape) < 0.5,
        "interpolation_errors": rng.random(shape),
        "class_interpolation_errors": rng.random((3, *shape)),
        "base_loss": 0.5,
        "base_class_losses": rng.random(3),
        "precision": "float32",
        "precision_error": 0.0,
        "class_precision_errors": np.zeros(3),
    }


def make_plane(seed=0, **changes):
    return PlaneResult(**(common((4, 6), seed) | {"y": Y} | changes))


def make_line(seed=0, **changes):
    return LineResult(**(common((6,), seed) | changes))


@pytest.fixture
def plane():
    """With cells that are not finite."""
    result = make_plane()
    losses = result.losses.copy()
    losses[0, 1], losses[3, 5], losses[2, 0] = np.nan, np.inf, -np.inf
    return dataclasses.replace(result, losses=losses)


@pytest.fixture
def planes():
    return Comparison({"a": make_plane(1), "b": make_plane(2)})


@pytest.fixture
def lines():
    return Comparison({"a": make_line(1), "b": make_line(2)})


def raster(ax):
    mesh = ax.collections[0]
    return mesh.get_array().reshape(4, 6)


@pytest.mark.parametrize(("subset", "classes"), [("few", [1, 2]), ("owl", [2]), (1, [1]), (np.int64(1), [1])])
def test_pictures_of_classes_and_groups_come_from_the_same_plane(planes, subset, classes):
    for quantity, numbers in (("loss", "class_losses"), ("accuracy", "class_accuracies")):
        axes = planes.plot(kind="heatmap", of=subset, quantity=quantity)
        for ax, result in zip(axes, planes.values(), strict=True):
            np.testing.assert_allclose(raster(ax), getattr(result, numbers)[classes].mean(axis=0))


def test_overall_accuracy_weighs_classes_by_their_samples():
    line = make_line()
    np.testing.assert_allclose(line.accuracies(), np.average(line.class_accuracies, axis=0, weights=[6, 3, 1]))
    missing = line.class_accuracies.copy()
    missing[2] = np.nan
    line = make_line(class_samples=np.array([6, 3, 0]), class_accuracies=missing)
    np.testing.assert_allclose(line.accuracies(), np.average(missing[:2], axis=0, weights=[6, 3]))


def test_a_list_of_subsets_becomes_rows(planes):
    axes = planes.plot(kind="heatmap", of=["all", "few", 0])
    shown = [r.values(s) for s in (None, "few", 0) for r in planes.values()]
    for ax, values in zip(axes, shown, strict=True):
        np.testing.assert_allclose(raster(ax), values)
    assert [ax.texts[0].get_text() for ax in axes[::2]] == ["All classes", "Few-shot", "cat"]


@pytest.mark.parametrize(("subset", "title"), [(1, "Class 9"), ("9", "Class 9"), (0, "cat"), ("few", "Few-shot")])
def test_classes_that_are_numbers_are_called_classes(subset, title):
    assert subset_title(make_plane(class_names=("cat", "9", "owl")), subset) == title


def test_a_class_called_all_is_that_class():
    named = make_plane(class_names=("all", "b", "c"))
    np.testing.assert_allclose(raster(named.plot(kind="heatmap", of="all")), named.class_losses[0])


@pytest.mark.parametrize("kind", ["filled", "contour", "heatmap", "surface"])
def test_planes_draw_on_given_axes_and_leave_everything_as_it_was(planes, kind):
    before = dict(matplotlib.rcParams)
    options = {"projection": "3d"} if kind == "surface" else {}
    axes = Figure().subplots(1, 2, subplot_kw=options)
    assert planes.plot(list(axes), kind=kind) == list(axes)
    assert dict(matplotlib.rcParams) == before


def test_filled_contours_are_what_a_plane_draws_by_itself():
    ax = Figure().subplots()
    assert make_plane().plot(ax) is ax
    assert ax.collections[0].filled
    assert ax.get_xlabel() == "Direction 1 (in filter norms)"


def test_marks_of_a_plane_are_models_or_a_trajectory():
    marks = np.array([[-0.5, 0.5], [0.5, 0.25]])
    for directions, names, gid in (("models", ("A", "B"), "models"), ("trajectory", (), "trajectory")):
        ax = make_plane(marks=marks, mark_names=names, directions=directions, normalization=None).plot()
        (drawn,) = [line for line in ax.lines if line.get_gid() == gid]
        np.testing.assert_array_equal(drawn.get_xydata(), marks)


def test_evaluated_points_are_those_of_the_result():
    result = make_plane()
    ax = result.plot(points=True)
    (dots,) = [line for line in ax.lines if line.get_gid() == "evaluated"]
    assert len(dots.get_xydata()) == result.evaluated.sum()


def test_lines_of_models_share_a_panel(lines):
    ax = Figure().subplots()
    assert lines.plot(ax, of="few", log=True) is ax
    for drawn, result in zip(ax.lines, lines.values(), strict=True):
        np.testing.assert_allclose(drawn.get_ydata(), result.class_losses[1:].mean(axis=0))
    assert ax.get_yscale() == "log"
    assert ax.get_xlabel() == "Distance along the direction (in filter norms)"


def test_subsets_of_one_line_share_a_panel():
    line = make_line()
    ax = line.plot(of=["all", "many", "owl"], quantity="accuracy")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), line.accuracies())
    np.testing.assert_allclose(ax.lines[2].get_ydata(), line.class_accuracies[2])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["All classes", "Many-shot", "owl"]
    assert ax.lines[0].get_color() == "#000000"
    assert ax.get_ylabel() == "Accuracy"


def test_subsets_of_several_lines_are_a_panel_each(lines):
    axes = lines.plot(of=[None, "few"])
    assert [ax.get_title() for ax in axes] == ["a", "b"]
    for ax, result in zip(axes, lines.values(), strict=True):
        np.testing.assert_allclose(ax.lines[0].get_ydata(), result.losses)
        np.testing.assert_allclose(ax.lines[1].get_ydata(), result.values("few"))
    assert axes[0].get_ylim() == axes[1].get_ylim()


def test_models_on_a_line_are_ticks_with_names():
    ax = make_line(marks=np.array([[0.0], [1.0]]), mark_names=("CE", "SAM"), directions="models").plot()
    assert [line.get_xdata()[0] for line in ax.lines if line.get_gid() == "mark"] == [0, 1]
    assert [t.get_text() for t in ax.texts] == ["CE", "SAM"]


@pytest.mark.parametrize(
    ("directions", "normalization", "line", "first", "second"),
    [
        ("gaussian", "filter", "in filter norms", "in filter norms", "in filter norms"),
        ("gaussian", "layer", "in layer norms", "in layer norms", "in layer norms"),
        ("gaussian", None, "in standard deviations", "in standard deviations", "in standard deviations"),
        ("hessian", None, "Length of the step", "Eigenvector 1 (length of the step)", "Eigenvector 2"),
        ("trajectory", None, "Length of the step", "Component 1 (length of the step)", "Component 2"),
        ("models", None, "way to the other model", "Direction 1 (length of the step)", "Direction 2 (length"),
        ("given", None, "Multiple of the direction", "Direction 1", "Direction 2"),
        ("gradient+gaussian", "filter", "Multiple", "Gradient (length", "Direction 2 (in filter norms)"),
    ],
)
def test_axes_say_what_they_measure(directions, normalization, line, first, second):
    assert line in line_label(directions, normalization)
    assert first in plane_label(directions, normalization, 0)
    assert second in plane_label(directions, normalization, 1)


def test_components_of_a_trajectory_say_how_much_of_it_they_hold():
    path = make_plane(directions="trajectory", normalization=None, provenance={"explained": [0.973, 0.02]})
    ax = path.plot()
    assert ax.get_xlabel() == "Component 1, 97% (length of the step)"
    assert ax.get_ylabel().replace("\n", " ") == "Component 2, 2% (length of the step)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"of": "medium"}, "group 'medium' has no classes"),
        ({"of": "cow"}, "unknown class or group 'cow'"),
        ({"of": ["few", 7]}, "unknown class or group 7"),
        ({"of": 0.5}, "unknown class or group 0.5"),
        ({"of": []}, "names nothing to draw"),
        ({"quantity": "error"}, "unknown quantity 'error'"),
    ],
)
def test_mistakes_are_told(options, message, planes, lines):
    for results in (planes, lines):
        with pytest.raises(UserError, match=message):
            results.plot(**options)


def test_nothing_is_drawn_where_nothing_is_finite():
    with pytest.raises(UserError, match="no finite value"):
        make_plane(losses=np.full((4, 6), np.nan)).plot()


def test_interactive_offers_everything_groups_and_classes(planes):
    figure = planes.plot(kind="interactive")
    assert [b.label for b in figure.layout.updatemenus[0].buttons] == ["All classes", "Many-shot", "Few-shot", *NAMES]
    np.testing.assert_allclose(figure.data[4].z, np.minimum(planes["a"].values("few"), figure.data[4].z.max()), 1e-6)
    single = planes["a"].interactive(of="few")
    assert len(single.data) == 1 and not single.layout.updatemenus
    with pytest.raises(UserError, match="takes no ax"):
        planes.plot(Figure().subplots(), kind="interactive")


def read_vtk(path):
    """A reader of the legacy binary format, after its description and not after our writer."""
    raw = path.read_bytes()
    position = 0

    def line():
        nonlocal position
        end = raw.index(b"\n", position)
        text, position = raw[position:end].decode("ascii"), end + 1
        return text.split()

    def numbers(count, code):
        nonlocal position
        values = np.array(struct.unpack_from(f">{count}{code}", raw, position))
        position += count * struct.calcsize(code)
        assert raw[position : position + 1] == b"\n"
        position += 1
        return values

    assert line()[:3] == ["#", "vtk", "DataFile"]
    title = line()
    assert len(" ".join(title)) < 256
    assert [line(), line()] == [["BINARY"], ["DATASET", "STRUCTURED_GRID"]]
    word, *size = line()
    assert word == "DIMENSIONS"
    nx, ny, nz = map(int, size)
    word, count, kind = line()
    assert (word, int(count), nz, kind) == ("POINTS", nx * ny, 1, "double")
    points = numbers(3 * nx * ny, "d").reshape(-1, 3)
    assert line() == ["POINT_DATA", str(nx * ny)]
    arrays = {}
    while position < len(raw):
        word, name, kind, components = line()
        assert (word, components) == ("SCALARS", "1")
        assert line() == ["LOOKUP_TABLE", "default"]
        arrays[unquote(name)] = numbers(nx * ny, {"double": "d", "unsigned_char": "B"}[kind])
    return (nx, ny), points, arrays


def test_the_vtk_file_holds_every_point_at_its_place(plane, tmp_path):
    (nx, ny), points, arrays = read_vtk(plane.to_vtk(tmp_path / "plane.vtk"))
    assert (nx, ny) == (6, 4)
    for number, (x, y, z) in enumerate(points):
        i, j = int(np.flatnonzero(x == X)[0]), int(np.flatnonzero(y == Y)[0])
        assert (i, j, z) == (number % nx, number // nx, 0), "x runs fastest"
        np.testing.assert_equal(arrays["loss"][number], plane.losses[j, i])
        np.testing.assert_equal(arrays["loss_class_pickup truck"][number], plane.class_losses[1, j, i])
        assert arrays["loss_few"][number] == plane.values("few")[j, i]
        assert arrays["accuracy_few"][number] == plane.accuracies("few")[j, i]
        assert arrays["accuracy"][number] == plane.accuracies()[j, i]
        assert arrays["accuracy_class_owl"][number] == plane.class_accuracies[2, j, i]
        assert arrays["evaluated"][number] == plane.evaluated[j, i]
        assert arrays["loss_interpolation_error"][number] == plane.interpolation_errors[j, i]
    assert next(iter(arrays)) == "loss", "what ParaView shows first"
    assert [p.name for p in tmp_path.iterdir()] == ["plane.vtk"]


def test_the_table_of_a_plane_has_accuracies_and_how_far_off_everything_may_be():
    plane = make_plane(class_accuracy_interpolation_errors=np.random.default_rng(5).random((3, 4, 6)))
    frame = plane.to_frame()
    assert len(frame) == 24 * 6 and frame["class"].unique().tolist() == ["all", "many", "few", *plane.class_names]
    table = frame.set_index(["class", "y", "x"])
    errors = plane.class_accuracy_interpolation_errors
    for j, i in [(0, 0), (3, 5), (1, 4)]:
        row, few, owl = (table.loc[(name, Y[j], X[i])] for name in ("all", "few", "owl"))
        assert row["accuracy"] == plane.accuracies()[j, i]
        assert few["accuracy"] == plane.class_accuracies[1:, j, i].mean() and few["group"] == "few"
        assert owl["accuracy"] == plane.class_accuracies[2, j, i] and owl["group"] == "few"
        found = row["evaluated"], row["loss_interpolation_error"], owl["loss_interpolation_error"]
        assert found == (
            plane.evaluated[j, i], plane.interpolation_errors[j, i], plane.class_interpolation_errors[2, j, i],
        )  # fmt: skip
        assert row["accuracy_interpolation_error"] == pytest.approx(errors[:, j, i] @ [0.6, 0.3, 0.1])
        assert few["accuracy_interpolation_error"] == pytest.approx(errors[1:, j, i].mean())
    assert list(make_line().to_frame()) == ["class", "group", "samples", "x", "loss", "accuracy"]


def test_a_file_that_does_not_tell_the_errors_of_its_accuracies_has_none():
    plane = make_plane()
    np.testing.assert_array_equal(np.isnan(plane.accuracy_interpolation_errors()), ~plane.evaluated)
    assert not plane.accuracy_interpolation_errors("few")[plane.evaluated].any()


def test_accuracies_between_evaluated_points_are_drawn_with_a_line_about_their_error(caplog):
    errors = np.zeros((3, 4, 6))
    errors[:, 2, 3] = 0.25
    evaluated = errors[0] == 0
    with caplog.at_level("INFO", "sharpness"):
        make_plane(class_accuracy_interpolation_errors=errors, evaluated=evaluated).plot(quantity="accuracy")
        make_plane(class_accuracy_interpolation_errors=errors, evaluated=evaluated).plot()
        make_plane(evaluated=np.ones((4, 6), dtype=bool)).plot(quantity="accuracy")
    (line,) = caplog.messages
    assert line.startswith("accuracy of 4 % of the cells is interpolated, overall within an estimated 0.25 on average")


@pytest.mark.parametrize(("subset", "base"), [(None, 0.5), ("pickup truck", 2.0), ("few", 2.5)])
def test_rises_are_over_the_models_own_loss_whatever_its_size(subset, base):
    """Two surfaces of one shape, a thousand apart: one scale for both."""
    low, high = make_plane(), make_plane()
    own = {"base_loss": 0.5, "base_class_losses": np.array([1.0, 2.0, 3.0])}
    low = dataclasses.replace(low, **own)
    high = dataclasses.replace(
        high, losses=low.losses + 1000, class_losses=low.class_losses + 1000,
        base_loss=1000.5, base_class_losses=own["base_class_losses"] + 1000,
    )  # fmt: skip
    np.testing.assert_allclose(low.rises(subset), low.values(subset) - base)
    axes = Comparison({"low": low, "high": high}).plot(kind="heatmap", quantity="rise", of=subset)
    for ax in axes:
        np.testing.assert_allclose(raster(ax), low.values(subset) - base, atol=1e-9)
    bar = next(ax for ax in axes[0].figure.axes if ax not in axes)
    assert bar.get_ylabel() == "Rise of the loss"
    line = make_line(**own)
    ax = line.plot(quantity="rise", of=subset)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), line.values(subset) - base)
    assert ax.get_ylabel() == "Rise of the loss"


def with_an_empty_class(make):
    """Class "owl" has no samples, hence no numbers."""
    result = make()
    empty = {"class_samples": np.array([6, 3, 0])}
    for name in ("class_losses", "class_accuracies"):
        empty[name] = getattr(result, name).copy()
        empty[name][2] = np.nan
    return dataclasses.replace(result, **empty)


@pytest.mark.parametrize("make", [make_line, make_plane])
def test_a_group_is_the_mean_of_its_classes_that_have_samples(make):
    result = with_an_empty_class(make)
    np.testing.assert_array_equal(result.values("few"), result.class_losses[1])
    np.testing.assert_array_equal(result.accuracies("few"), result.class_accuracies[1])
    result.plot(of="few")


@pytest.mark.parametrize("make", [make_line, make_plane])
def test_a_class_without_samples_is_named_where_it_cannot_be_drawn(make):
    result = with_an_empty_class(make)
    for subset in ("owl", 2, ["owl"]):
        with pytest.raises(UserError, match="owl: no samples here, there is nothing to draw"):
            result.plot(of=subset)
    result.plot(of=["all", "owl"])
    alone = dataclasses.replace(result, groups={"few": (2,)})
    with pytest.raises(UserError, match="Few-shot: no samples here"):
        alone.plot(of="few")


def test_the_suffix_says_how_to_export(plane, tmp_path):
    assert plane.export(tmp_path / "p.vtk").read_bytes() == plane.to_vtk(tmp_path / "q.vtk").read_bytes()
    assert load_result(plane.export(tmp_path / "p.nc")).to_frame().equals(plane.to_frame())
    assert plane.export(str(tmp_path / "p.html")).read_text(encoding="utf-8").rstrip().endswith("</html>")
    with plane.export(tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(r["loss"]) for r in rows if r["class"] == "few"] == plane.values("few").ravel().tolist()
    with pytest.raises(UserError, match=r"suffix of an export '\.png': choose one of \.csv, \.nc, \.vtk, \.html"):
        plane.export(tmp_path / "p.png")
    with pytest.raises(UserError, match=r"choose one of \.csv, \.nc$"):
        make_line().export(tmp_path / "line.vtk")


@pytest.mark.parametrize("suffix", [".csv", ".nc", ".vtk", ".html"])
def test_a_failed_export_leaves_the_old_file(plane, tmp_path, monkeypatch, suffix):
    path = plane.export(tmp_path / f"plane{suffix}")
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(SystemRefusal, match="disk full"):
        plane.export(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_netcdf_file_explains_itself(plane, tmp_path):
    with xr.open_dataset(plane.save(tmp_path / "plane.nc"), engine="scipy") as data:
        assert set(data.coords) >= {"x", "y"}
        assert data["losses"].dims == ("y", "x")
        assert data["x"].attrs["units"] == "filter norms"
        assert data["class_losses"].attrs["classes"] == "cat, pickup truck, owl"
        for name in (
            "x",
            "y",
            "losses",
            "class_losses",
            "class_accuracies",
            "interpolation_errors",
            "class_interpolation_errors",
            "evaluated",
        ):
            assert data[name].attrs["long_name"] and data[name].attrs["units"]
        assert float(data["losses"].sel(x=X[3], y=Y[2])) == plane.losses[2, 3]


def test_a_class_is_named_alike_by_any_integer():
    result = SimpleNamespace(groups={}, class_names=("cat", "owl"), has_classes=True)
    assert subset_title(result, 1) == subset_title(result, np.int64(1)) == "owl"
