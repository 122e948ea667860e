"""The table per class: errors and intervals of classes, groups and of everything."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from sharpness import UserError, measure, trace
from sharpness.results import Comparison, MeasureResult, Runs

ORDER = [1, 2, 0]
#: Arrays with a row for each measure.
ROWS = [name for name, axes in MeasureResult.DIMENSIONS.items() if axes[0] == "measure"]


@pytest.fixture(scope="module")
def found(pair):
    return trace(pair, per_class=True, draws=4, bootstrap=200)


def test_the_frame_has_everything_groups_and_classes_with_errors_and_intervals(found):
    a, frame = found["a"], found["a"].to_frame()
    assert list(frame.columns) == ["class", "group", "samples", "trace", "trace_se", "trace_lower", "trace_upper"]
    assert frame["class"].tolist() == ["all", "many", "few", "owl", "cat", "dog"]
    assert frame.samples.tolist() == [14, 8, 6, 2, 8, 4]
    np.testing.assert_array_equal(frame.trace[3:], a.values[0])
    np.testing.assert_array_equal(frame.trace_se[3:], a.standard_errors[0])
    np.testing.assert_array_equal(frame.trace_lower[3:], a.lower[0])
    np.testing.assert_array_equal(frame.trace_upper[3:], a.upper[0])
    all_row = frame.iloc[0]
    assert [all_row.trace, all_row.trace_se] == [a.overall[0], a.overall_standard_errors[0]]
    assert [all_row.trace_lower, all_row.trace_upper] == [a.overall_lower[0], a.overall_upper[0]]
    few = frame.iloc[2]
    assert few.trace == pytest.approx(a.values[0, [0, 2]].mean())
    assert few.trace_se == a.group_standard_errors[0, 1]
    # Images of different classes are independent: each side of the interval adds in squares.
    sides = np.stack([a.values[0] - a.lower[0], a.upper[0] - a.values[0]])[:, [0, 2]]
    np.testing.assert_allclose([few.trace - few.trace_lower, few.trace_upper - few.trace], np.hypot(*sides.T) / 2)
    assert found.notes[0].startswith("[ ]: 95 % intervals, over images (200 resamples)")


def test_the_trace_of_everything_alone_has_its_error_and_interval_too(pair):
    result = trace(pair["a"], draws=4, bootstrap=200)
    row = result.to_frame().iloc[0]
    assert row.trace_se == result.overall_standard_errors[0] > 0
    assert row.trace_lower < row.trace < row.trace_upper


def test_classes_are_drawn_with_their_intervals_from_most_to_fewest_samples(found):
    ax = found.plot(Figure().subplots())
    assert [t.get_text() for t in ax.get_xticklabels()] == ["cat", "dog", "owl"]
    assert ax.get_ylabel() == "Trace"
    bars = [p.vertices[:, 1].tolist() for c in ax.collections for p in c.get_paths()]
    lines = [line for line in ax.lines if line.get_gid() is None]
    for label, line in zip("ab", lines, strict=False):
        np.testing.assert_array_equal(line.get_ydata(), found[label].values[0, ORDER])
        for c in range(3):
            assert [found[label].lower[0, c], found[label].upper[0, c]] in bars


def test_a_measure_is_drawn_by_its_name_wherever_it_stands_in_the_tables(found):
    b = found["b"]
    more = replace(
        b, names=("other", *b.names), described={},
        **{n: np.concatenate([getattr(b, n) + 1, getattr(b, n)]) for n in (
            "values", "overall", "standard_errors", "overall_standard_errors", "lower", "upper", "overall_lower",
            "overall_upper", "group_standard_errors", "group_lower", "group_upper",
        )},
    )  # fmt: skip
    ax = Comparison({"a": found["a"], "b": more}).plot(Figure().subplots(), measure="trace")
    lines = [line for line in ax.lines if line.get_gid() is None]
    np.testing.assert_array_equal(lines[1].get_ydata(), b.values[0, ORDER])


def test_names_that_are_no_formulas_are_drawn_as_they_are(found):
    odd = replace(found["a"], class_names=(r"$\frac$", "US$", r"$\sigma$"))
    ax = Comparison({"$": odd}).plot(Figure().subplots(), palette={"$": "red"})
    ax.get_figure().draw_without_rendering()
    assert [t.get_text() for t in ax.get_xticklabels()] == [r"US\$", r"$\sigma$", r"\$\frac\$"]


@pytest.mark.parametrize(("ax", "told"), [("ax", "a str"), (Figure(), "a Figure"), ("polar", "polar Axes")])
def test_only_plain_axes_are_drawn_on(found, ax, told):
    with pytest.raises(UserError, match=f"ax= is {told}: give Axes"):
        found.plot(Figure().add_subplot(projection="polar") if ax == "polar" else ax)


@pytest.mark.parametrize("old", [False, True])
def test_bars_over_random_vectors_are_students_and_those_of_files_without_intervals_normal(pair, old):
    result = trace(pair["a"], per_class=True, draws=4, estimator="hutchinson")
    times = stats.t.ppf(0.975, 3)
    if old:
        nothing = dict.fromkeys(("lower", "upper", "overall_lower", "overall_upper", "group_lower", "group_upper"))
        result, times = replace(result, **nothing, over=()), stats.norm.ppf(0.975)
    ax = result.plot(Figure().subplots())
    bars = [p.vertices[:, 1].tolist() for c in ax.collections for p in c.get_paths()]
    for value, error in zip(result.values[0], result.standard_errors[0], strict=True):
        assert any(bar == pytest.approx([value - times * error, value + times * error]) for bar in bars)
    told = [text.get_text() for text in ax.get_legend().get_texts()]
    assert ("bars: 95 % over 4 random vectors" in told) == (not old)


def test_values_within_two_errors_of_zero_are_marked_in_picture_and_table(pair):
    result = trace(pair["a"], per_class=True, draws=4, estimator="hutchinson")
    result = replace(result, values=np.array([[1.0, -1.0, 4.0]]), standard_errors=np.array([[1.0, 0.6, 1.0]]))
    ax = result.plot(Figure().subplots())
    (dots,) = (line for line in ax.lines if line.get_gid() == "near zero")
    assert sorted(dots.get_ydata()) == [-1.0, 1.0]
    assert "white dot: within 2 errors of zero" in [text.get_text() for text in ax.get_legend().get_texts()]
    ringed = result.to_table().set_index("class")["trace"].str.contains("°")
    assert ringed[["owl", "cat", "dog"]].tolist() == [True, True, False]
    assert "°: within two standard errors of zero" in result.notes[0]


def test_intervals_are_wilsons_for_shares_and_keep_the_sign_of_losses_and_ends(pair):
    result = measure(pair["a"], ["accuracy", "loss", "lambda_max", "lambda_min", "random_rise"], draws=5)
    frame = result.to_frame().set_index("class")
    for name, samples in (("owl", 2), ("cat", 8), ("dog", 4), ("all", 14)):
        row = frame.loc[name]
        right = round(row.accuracy * samples)
        wilson = stats.binomtest(right, samples).proportion_ci(method="wilson")
        np.testing.assert_allclose([row.accuracy_lower, row.accuracy_upper], wilson, atol=1e-12)
        for measured in ("loss", "lambda_max", "lambda_min"):
            factor = np.exp(stats.t.ppf(0.975, samples - 1) * row[f"{measured}_se"] / abs(row[measured]))
            ends = sorted([row[measured] / factor, row[measured] * factor])
            np.testing.assert_allclose([row[f"{measured}_lower"], row[f"{measured}_upper"]], ends)
        half = stats.t.ppf(0.975, 4) * row.random_rise_se
        np.testing.assert_allclose([row.random_rise_lower, row.random_rise_upper], row.random_rise + [-half, half])
    few, owl, dog = (frame.loc[name] for name in ("few", "owl", "dog"))
    below = np.hypot(owl.accuracy - owl.accuracy_lower, dog.accuracy - dog.accuracy_lower) / 2
    assert few.accuracy_lower == pytest.approx(few.accuracy - below)
    assert "accuracy, loss, lambda_max, lambda_min over images; random_rise over 5 draws" in result.notes[0]


def test_the_largest_eigenvalue_is_drawn_where_there_is_one_and_else_the_first_measure(pair):
    for names, drawn in ((["loss", "lambda_max"], "lambda_max"), (["loss", "accuracy"], None)):
        result = measure(pair["a"], names)
        expected = result[drawn or result.names[0]].values
        ax = result.plot(Figure().subplots())
        np.testing.assert_array_equal(ax.lines[0].get_ydata(), expected[ORDER])


def test_curvatures_of_many_models_share_a_signed_logarithmic_axis_that_shows_every_value(pair):
    results = measure(pair, ["accuracy", "lambda_max", "lambda_min"])
    axes = results.plot(measure="all")
    assert [ax.get_yscale() for ax in axes] == ["linear", "symlog", "symlog"]
    for ax, name in zip(axes[1:], ("lambda_max", "lambda_min"), strict=True):
        values = np.concatenate([r[name].values for r in results.values()])
        low, high = ax.get_ylim()
        assert (values >= low).all() and (values <= high).all()
        largest, linthresh = np.abs(values).max(), ax.yaxis.get_transform().linthresh
        assert 1e-3 < linthresh / largest <= 1e-2


def test_a_notebook_shows_values_with_errors_and_says_how_many_rows_it_leaves_out(pair):
    table = measure(pair["a"], ["loss"])
    few = Comparison({str(i): table for i in range(9)})._repr_html_()
    assert (
        few.count("<tr") == 1 + 9 * 6
        and "[ ]: 95 % intervals, over images</p>" in few
        and "_se" not in few
        and "more of" not in few
    )
    many = Comparison({str(i): table for i in range(40)})._repr_html_()
    assert many.count("<tr") == 1 + 200 and "40 more of 240 rows" in many
    assert table._repr_html_().count("<tr") == 1 + 6


def test_panels_above_each_other_look_as_single_ones_do(pair):
    result = measure(pair["a"], ["loss", "accuracy"])
    for ax in [*result.plot(measure="all"), result.plot(measure="loss")]:
        assert not ax.spines["top"].get_visible() and ax.yaxis.label.get_fontsize() == 8


def test_the_legend_says_in_which_panels_the_spread_is_a_range(pair):
    """A bar on a linear axis is longer than the range of two trainings, by sqrt(2)."""
    one = measure(pair["a"], ["loss", "lambda_max"])
    runs = Runs([one, replace(one, values=1.1 * one.values)], ["seed 0", "seed 1"])

    def told(names):
        swap = [runs[0].names.index(name) for name in names]
        members = [replace(r, names=names, **{n: getattr(r, n)[swap] for n in ROWS}) for r in runs]
        axes = Comparison({"a": Runs(members, runs.names)}).plot(measure="all")
        return [text.get_text() for text in axes[0].get_legend().get_texts() if "trainings" in text.get_text()]

    sd, extent = "± 1 sd over 2 trainings", "range over 2 trainings"
    assert told(("loss", "lambda_max")) == [sd, f"logarithmic axes: {extent}"]
    assert told(("lambda_max", "loss")) == [extent, f"linear axes: {sd}"]
    assert told(("loss",)) == [sd] and told(("lambda_max",)) == [extent]


def test_error_bars_of_accuracies_end_at_zero_and_one(pair):
    result = measure(pair["a"], ["accuracy"])
    wide = replace(result, standard_errors=np.full_like(result.standard_errors, 2.0))
    ends = np.concatenate([p.vertices[:, 1] for c in wide.plot().collections for p in c.get_paths()])
    assert (ends.min(), ends.max()) == (0, 1)


def test_a_measure_that_one_of_the_models_lacks_is_told(pair):
    results = {"a": measure(pair["a"], "loss,accuracy"), "b": measure(pair["b"], "loss")}
    with pytest.raises(UserError, match="'b' has no measure 'accuracy': choose one of loss"):
        MeasureResult.compare(results, measure="accuracy")


def test_all_measures_are_drawn_with_the_options_of_one(pair):
    look = {"palette": ["#ff0000", "#0000ff"], "order": ["b", "a", "dog", "owl"], "labels": {"dog": "Hund"}}
    axes = measure(pair, "loss,accuracy").plot(measure="all", log=True, title="Both", figsize=(5, 4), **look)
    assert [ax.get_title() for ax in axes] == ["Both", ""]
    assert [text.get_text() for text in axes[0].get_legend().get_texts()][:2] == ["b", "a"]
    assert [label.get_text() for label in axes[1].get_xticklabels()] == ["Hund", "owl"]
    for ax in axes:
        assert ax.lines[0].get_color() == (1.0, 0.0, 0.0) and ax.get_yscale() != "linear"
    assert axes[0].figure.get_size_inches().tolist() == [5, 4]
    bare = measure(pair, "loss,accuracy").plot(measure="all", legend=True, title="Both")
    assert [ax.get_legend() is None for ax in bare] == [False, True], "the first explains all"


def test_a_spread_that_no_panel_shows_is_not_told(pair):
    one = measure(pair["a"], "loss,lambda_max")
    values = np.linspace(1, 2, 600).reshape(2, 300)
    crowd = MeasureResult(
        class_names=tuple(map(str, range(300))), class_samples=np.ones(300, int), groups={}, provenance={},
        names=one.names, described=one.described, values=values, standard_errors=0.1 * values,
        overall=np.ones(2), overall_standard_errors=np.ones(2), train_counts=np.full(300, -1),
    )  # fmt: skip
    axes = Comparison({"a": Runs([crowd, crowd], ["seed 0", "seed 1"])}).plot(measure="all")
    assert not [text for text in axes[0].get_legend().get_texts() if "training" in text.get_text()]
