"""A value per layer and class: rows of the table, cells of the picture."""

import numpy as np
import pytest
from matplotlib.figure import Figure

import sharpness
from sharpness import eigenvalues, trace

PROBES = {
    "lambda_max": lambda p: eigenvalues(p, per_layer=True, per_class=True),
    "lambda_min": lambda p: eigenvalues(p, which="SA", per_layer=True, per_class=True),
    "trace": lambda p: trace(p, per_layer=True, per_class=True, draws=20),
}
ORDER = [1, 2, 0]


@pytest.fixture(params=PROBES)
def found(request, pair):
    return PROBES[request.param](pair)


def test_the_frame_has_a_row_for_every_layer_and_class(found):
    frame = found.to_frame()
    a = found["a"]
    of_trace = a.measure == "trace"
    errors = ["trace_se", "trace_lower", "trace_upper"] if of_trace else ["residual"]
    assert list(frame.columns) == [
        "model", "class", "group", "samples", "layer", "parameters", a.measure, *errors, "converged",
    ]  # fmt: skip
    assert len(frame) == 2 * 2 * 3
    row = frame[(frame.model == "a") & (frame.layer == "2") & (frame["class"] == "dog")]
    assert row[a.measure].item() == a.values[1, 2]
    assert row[errors[0]].item() == (a.standard_errors if of_trace else a.residuals)[1, 2]
    assert row.parameters.item() == 18 and row.samples.item() == 4 and row.group.item() == "few"


def test_one_model_is_a_map_of_layers_and_classes(found):
    ax = found["a"].plot(Figure().subplots())
    assert [t.get_text() for t in ax.get_xticklabels()] == ["cat", "dog", "owl"]
    drawn = np.ma.getdata(ax.images[0].get_array())
    shown = ~np.ma.getmaskarray(ax.images[0].get_array())
    np.testing.assert_array_equal(drawn[shown], found["a"].values[:, ORDER][shown])
    assert shown.any()
    assert (ax.images[0].norm.vmin < 0) == (found["a"].measure == "lambda_min")


def test_several_models_are_panels_on_one_scale(found):
    figure = found.plot()
    panels = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in panels] == ["a", "b"]
    assert len({(ax.images[0].norm.vmin, ax.images[0].norm.vmax) for ax in panels}) == 1
    for ax, label in zip(panels, "ab", strict=True):
        shown = ~np.ma.getmaskarray(ax.images[0].get_array())
        drawn = np.ma.getdata(ax.images[0].get_array())
        np.testing.assert_array_equal(drawn[shown], found[label].values[:, ORDER][shown])


def test_all_samples_together_are_one_column(pair):
    result = eigenvalues(pair["a"], per_layer=True)
    assert result.to_frame()["class"].tolist() == ["all", "all"]
    assert result.to_frame().samples.tolist() == [14, 14]
    ax = result.plot(Figure().subplots())
    assert [t.get_text() for t in ax.get_xticklabels()] == ["all classes"]


def test_groups_stand_in_their_order_however_many_samples_they_have(pair):
    grouped = pair["a"]
    sizes = {"many": [0], "few": [1, 2]}  # one sample of class 0, more of the others
    objective = sharpness.Objective(
        grouped.model, (grouped.x, grouped.y), groups=sizes, class_names=grouped.class_names
    )
    assert objective.class_samples[0] < objective.class_samples[1:].sum()
    ax = eigenvalues(objective, per_layer=True, per_group=True).plot(Figure().subplots())
    assert [t.get_text() for t in ax.get_xticklabels()] == ["many", "few"]
