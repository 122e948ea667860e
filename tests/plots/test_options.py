"""Options of every picture: one set, checked, shown by help, and obeyed by every kind of picture."""

import inspect
import warnings

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from sharpness.errors import UserError
from sharpness.plots import PlotOptions
from sharpness.plots.options import COMMON, WIDTHS
from sharpness.results import Comparison, LineResult, PerturbationResult, Result, Runs, SpectralDensityResult

X = np.linspace(-1, 1, 5)
LINE = {
    "class_names": ("cat", "dog"),
    "class_samples": np.array([4, 2]),
    "groups": {},
    "provenance": {},
    "x": X,
    "directions": "gaussian",
    "normalization": "filter",
    "precision": "float32",
    "class_accuracies": np.full((2, 5), np.nan),
    "seed": 0,
    "evaluated": np.ones(5, dtype=bool),
    "interpolation_errors": np.zeros(5),
    "class_interpolation_errors": np.zeros((2, 5)),
    "base_loss": 1.0,
    "base_class_losses": np.ones(2),
    "precision_error": 0.0,
    "class_precision_errors": np.zeros(2),
}


def line(factor):
    losses = 1 + factor * X**2
    return LineResult(losses=losses, class_losses=np.stack([losses, 2 * losses]), **LINE)


@pytest.fixture
def lines():
    return Comparison({"CE": line(1.0), "SAM": line(0.5), "GCL": line(2.0)})


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"order": "CE"}, "order='CE': give a list of names"),
        ({"order": ["CE", "CE"]}, "each once"),
        ({"order": []}, "at least one"),
        ({"labels": ["CE"]}, "give a mapping"),
        ({"width": "triple"}, "'single', 'double' or inches"),
        ({"width": 0.2}, "inches from 1 to 40"),
        ({"width": float("nan")}, "inches from 1 to 40"),
        ({"figsize": 3}, "width and height"),
        ({"figsize": (3, 300)}, "inches from 1 to 40"),
        ({"figsize": (3, 3), "width": 3}, "give one of them"),
        ({"width": 3, "ax": object()}, "leave one of them out"),
        ({"log": "y"}, "True or False"),
    ],
)
def test_values_that_no_picture_can_have_are_refused_in_one_line(given, message):
    with pytest.raises(UserError, match=message) as caught:
        PlotOptions(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "kind", [k for k in Result.REGISTRY.values() if "compare" in k.__dict__], ids=lambda k: k.__name__
)
def test_help_shows_every_option_with_its_meaning(kind):
    names = inspect.signature(kind.plot).parameters
    assert {*COMMON} <= {*names} and "options" not in names
    text = inspect.getdoc(kind.plot)
    assert text.count("Args:") == 1
    assert all(f"\n    {name}: " in text for name in ("order", "labels", "palette", "figsize", "width", "title"))


def test_help_of_a_comparison_and_of_trainings_is_that_of_their_kind(lines):
    for several in (lines, Runs([line(1.0), line(2.0)])):
        assert [*inspect.signature(several.plot).parameters][1:] == [*inspect.signature(LineResult.plot).parameters][2:]


def test_an_unknown_option_lists_what_there_is(lines):
    with pytest.raises(UserError, match="no option 'colour'.*quantity.*palette") as caught:
        lines.plot(colour="red")
    assert all(name in str(caught.value) for name in COMMON)


def test_order_chooses_and_sorts_models_and_labels_rename_them(lines):
    ax = lines.plot(order=["GCL", "CE"], labels={"GCL": "Gaussian clouds"})
    assert legend(ax) == ["Gaussian clouds", "CE"]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), lines["GCL"].losses)


@pytest.mark.parametrize("options", [{"order": ["GLC"]}, {"labels": {"GLC": "a"}}])
def test_a_model_that_is_not_there_is_named_beside_those_that_are(options, lines):
    with pytest.raises(UserError, match="no model 'GLC' here: choose from CE, SAM, GCL"):
        lines.plot(**options)


def test_two_models_have_two_names(lines):
    with pytest.raises(UserError, match="a name of its own"):
        lines.plot(labels={"CE": "SAM"})


def test_a_palette_is_a_list_a_mapping_or_a_name(lines):
    def drawn(palette):
        return [to_hex(curve.get_color()) for curve in lines.plot(palette=palette).lines]

    assert drawn(["#ff0000", "#00ff00", "#0000ff"]) == ["#ff0000", "#00ff00", "#0000ff"]
    usual = drawn(None)
    assert drawn({"SAM": "#ff0000"}) == [usual[0], "#ff0000", usual[2]]
    assert len({*drawn("viridis")}) == 3 and drawn("viridis") != usual
    with pytest.raises(UserError, match="palette"):
        lines.plot(palette="no such palette")
    with pytest.raises(UserError, match="nothing is called 'GLC'"):
        lines.plot(palette={"GLC": "red"})


@pytest.mark.parametrize("width", ["single", "double", 4.5])
def test_a_figure_is_as_wide_as_asked_for(width, lines):
    figure = lines.plot(width=width).figure
    assert figure.get_size_inches()[0] == WIDTHS.get(width, width)
    panels = lines.plot(of=[None, "cat"], width=width)
    assert panels[0].figure.get_size_inches()[0] == WIDTHS.get(width, width)


def test_figsize_is_both(lines):
    assert lines.plot(figsize=(5, 4)).figure.get_size_inches().tolist() == [5, 4]


def test_axes_of_ones_own_have_their_size(lines):
    ax = Figure().subplots()
    assert lines.plot(ax, title="Lines") is ax and ax.get_title() == "Lines"
    with pytest.raises(UserError, match="the figure of ax has its size"):
        lines.plot(ax, width="single")


def test_the_title_of_several_panels_stands_above_them(lines):
    panels = lines.plot(of=[None, "dog"], title="All and dogs")
    assert panels[0].figure.get_suptitle() == "All and dogs"
    with pytest.raises(UserError, match="titles of their own"):
        lines.plot(list(Figure().subplots(1, 3)), of=[None, "dog"], title="t")


def test_a_logarithmic_axis_shows_both_signs():
    rising = Comparison({"CE": line(1.0)})
    assert rising.plot(log=True).get_yscale() == "log"
    assert Comparison({"CE": line(-1.0)}).plot(quantity="rise", log=True).get_yscale() == "symlog"


def test_options_of_another_kind_of_picture_say_so():
    draws = PerturbationResult(
        class_names=("cat",), class_samples=np.array([4]), groups={}, provenance={}, radii=np.array([0.1, 0.2]),
        losses=np.ones((2, 3)), class_losses=np.ones((2, 3, 1)), class_accuracies=np.ones((2, 3, 1)), base_loss=1.0,
        base_class_losses=np.ones(1), base_class_accuracies=np.ones(1), normalization="filter", distribution="gaussian",
        seed=0,
    )  # fmt: skip
    with pytest.raises(UserError, match="band='no' does not apply to this kind of picture: it takes"):
        draws.plot(kind="draws", band="no")


def test_a_density_has_its_axis_and_takes_its_smoothing_by_its_old_name():
    nodes = np.array([[0.0, 1.0, 3.0]])
    density = SpectralDensityResult(
        class_names=("all",), class_samples=np.array([4]), groups={}, provenance={"num_parameters": 9}, nodes=nodes,
        weights=np.full((1, 3), 1 / 3), products=np.array(3), sample_products=12,
    )  # fmt: skip
    with pytest.raises(UserError, match="always on a logarithmic axis"):
        density.plot(log=False)
    new = density.plot(smoothing=0.3).lines[0].get_ydata()
    with pytest.warns(FutureWarning, match=r"plot\(smoothing=\)"):
        np.testing.assert_array_equal(density.plot(width=0.3).lines[0].get_ydata(), new)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert density.plot(width="double").figure.get_size_inches()[0] == WIDTHS["double"]


def test_curves_differ_in_more_than_colour(lines):
    assert len({str(curve.get_linestyle()) + str(curve._unscaled_dash_pattern) for curve in lines.plot().lines}) == 3
