"""Several trainings of one label: mean and spread over them in numbers, tables, files and pictures."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import sharpness
from sharpness import Objective, UserError, load_result
from sharpness.plots import plot_class_values
from sharpness.plots.trainings import spread_ends
from sharpness.results import Comparison, PerturbationResult, Runs

LABELS = {"CE": 3, "GCL": 2, "one": None}
PROBES = {
    "measure": lambda what: sharpness.measure(what, "accuracy,loss,lambda_max,random_rise", draws=3),
    "eigenvalues": lambda what: sharpness.eigenvalues(what, which="both", per_class=True, keep_vectors=False),
    "perturbation": lambda what: sharpness.random_perturbation(what, (0.1, 0.2), draws=4),
    "line": lambda what: sharpness.line(what, (-1, 1, 5)),
    "plane": lambda what: sharpness.plane(what, (-1, 1, 5), (-1, 1, 4)),
    "density": lambda what: sharpness.spectral_density(what, per_class=True, draws=2, steps=6),
    "layers": lambda what: sharpness.eigenvalues(what, per_class=True, per_layer=True),
    "radius": lambda what: sharpness.characteristic_radius(what, steps=3),
}


@pytest.fixture(scope="module")
def models():
    """``{label: [objectives]}``, and a single one, of equal networks with other weights."""
    torch.manual_seed(3)
    x, y = torch.randn(30, 4), torch.arange(30) % 3

    def build():
        network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        groups = {"many": (0,), "few": (1, 2)}
        return Objective(network, (x.double(), y), groups=groups, train_counts=[50, 20, 5])

    return {label: build() if n is None else [build() for _ in range(n)] for label, n in LABELS.items()}


@pytest.fixture(scope="module", params=PROBES)
def found(request, models):
    return PROBES[request.param](models)


def single(models):
    """Every objective under a label of its own."""
    flat = {"one": models["one"]}
    return flat | {f"{label}{i}": one for label in ("CE", "GCL") for i, one in enumerate(models[label])}


def test_every_probe_gives_the_results_of_each_training_and_their_mean_and_spread(request, models, found):
    probe = PROBES[request.node.callspec.params["found"]]
    alone = probe(single(models))
    assert list(found) == list(LABELS)
    assert {label: len(r) for label, r in found.items() if isinstance(r, Runs)} == {"CE": 3, "GCL": 2}
    for label in ("CE", "GCL"):
        members = [alone[f"{label}{i}"] for i in range(LABELS[label])]
        mean, spread = found[label].mean, found[label].spread
        for name in members[0].DIMENSIONS:
            values = getattr(members[0], name)
            if values is None or np.asarray(values).dtype.kind != "f" or name in ("vectors", "x", "y"):
                continue
            stacked = np.stack([getattr(r, name) for r in members])
            np.testing.assert_array_equal(found[label].over(lambda r, name=name: getattr(r, name)), stacked)
            np.testing.assert_allclose(mean[name], stacked.mean(axis=0), rtol=1e-12, equal_nan=True)
            np.testing.assert_allclose(spread[name], stacked.std(axis=0, ddof=1), rtol=1e-9, atol=1e-15)


def test_the_table_has_every_training_and_the_text_mean_and_spread(found):
    frame, summary = found.to_frame(), found.summary()
    assert list(frame.columns[:2]) == ["model", "run"]
    assert {(m, r) for m, r in zip(frame.model, frame.run, strict=True)} == {
        *((label, f"run {i + 1}") for label, n in LABELS.items() if n for i in range(n)), ("one", ""),
    }  # fmt: skip
    assert set(summary.model) == set(LABELS) and len(summary) < len(frame)
    of_ce = frame[frame.model == "CE"]
    rows = len(of_ce) // 3
    numbers = [c for c in frame if f"{c}_sd" in summary]
    assert numbers
    for name in numbers:
        stacked = of_ce[name].to_numpy(float).reshape(3, rows)
        np.testing.assert_allclose(summary[summary.model == "CE"][name], stacked.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(summary[summary.model == "CE"][f"{name}_sd"], stacked.std(axis=0, ddof=1), rtol=1e-9)
    assert found.to_table().astype(str).apply(lambda c: c.str.contains("±")).to_numpy().any()
    assert "±" in found["CE"]._repr_html_() and "model" in found._repr_html_()


def test_a_file_keeps_all_trainings(found, tmp_path):
    path = found["CE"].save(tmp_path / "runs.nc")
    again = load_result(path)
    assert isinstance(again, Runs) and again.names == found["CE"].names
    pd.testing.assert_frame_equal(again.to_frame(), found["CE"].to_frame())
    assert [r.provenance for r in again] == [r.provenance for r in found["CE"]]
    pd.testing.assert_frame_equal(Comparison({"CE": again}).to_table(), Comparison({"CE": found["CE"]}).to_table())


def test_every_kind_is_drawn_with_and_without_a_single_one(found):
    for results in (found, Comparison({"CE": found["CE"]}), Comparison({"CE": Runs(found["CE"].results[:1])})):
        drawn = results.plot()
        first = np.ravel(np.asarray(drawn, dtype=object))[0]
        (first if not hasattr(first, "figure") else first.figure).canvas.draw()
    assert found["GCL"].plot() is not None


def spread_bars(ax):
    return [c for c in ax.collections if c.get_gid() == "spread"]


def test_a_picture_of_classes_shows_one_standard_deviation_and_each_training(models):
    table = PROBES["measure"]({"CE": models["CE"]})
    ax = table.plot(measure="loss")
    losses = table["CE"].over(lambda r: r.values[1])
    (bars,) = spread_bars(ax)
    ends = np.array([path.vertices[:, 1] for path in bars.get_paths()])
    mean, sd = losses.mean(axis=0), losses.std(axis=0, ddof=1)
    assert (mean > sd).all()
    np.testing.assert_allclose(ends, np.stack([mean - sd, mean + sd], axis=1))
    dots = [line.get_ydata() for line in ax.lines if line.get_gid() == "training"]
    np.testing.assert_allclose(dots, losses)
    assert "± 1 sd over 3 trainings" in [t.get_text() for t in ax.get_legend().get_texts()]


def test_bars_of_a_spread_stay_where_values_can_be():
    values = np.array([[0.01, -0.01, -1.0, 1.0], [0.02, -0.02, 2.0, 1.0], [9.0, -9.0, 3.0, 0.4]])
    low, high = spread_ends(values)
    mean, sd = values.mean(axis=0), values.std(axis=0, ddof=1)
    np.testing.assert_allclose(low, [0.01, (mean - sd)[1], (mean - sd)[2], (mean - sd)[3]])
    np.testing.assert_allclose(high, [(mean + sd)[0], -0.01, (mean + sd)[2], (mean + sd)[3]])
    ax = plot_class_values({"m": mean}, list("abcd"), trainings={"m": values}, bounds=(-5, 1))
    ends = np.array([path.vertices[:, 1] for path in spread_bars(ax)[0].get_paths()])
    assert ends.min() == -5 and ends.max() == 1
    assert np.isnan(spread_ends(values[:1])).all()


def test_a_line_is_the_mean_in_a_band_of_one_standard_deviation(models):
    lines = PROBES["line"](models)
    ax = lines.plot(of="few", quantity="rise")
    curves = {line.get_label(): line.get_ydata() for line in ax.lines if not line.get_label().startswith("_")}
    rises = lines["GCL"].over(lambda r: r.rises("few"))
    np.testing.assert_allclose(curves["GCL"], rises.mean(axis=0))
    np.testing.assert_allclose(curves["one"], lines["one"].rises("few"))
    assert len(spread_bars(ax)) == 2, "of the two models that were trained several times"


def test_a_plane_names_the_training_that_it_shows(models):
    planes = PROBES["plane"](models)
    titles = [ax.get_title() for ax in planes.plot()]
    assert titles == ["CE, run 1", "GCL, run 1", "one"]
    assert [ax.get_title() for ax in planes.plot(run="run 3")] == ["CE, run 3", "GCL, run 1", "one"]
    with pytest.raises(UserError, match="choose one of run 1, run 2, run 3"):
        planes.plot(run="seed 1")


def test_draws_of_several_trainings_stand_beside_each_other(models):
    found = PROBES["perturbation"]({"CE": models["CE"], "one": models["one"]})
    ax = found.plot(kind="draws")
    points = {round(float(line.get_xdata().mean()), 6) for line in ax.lines}
    assert len(points) == 4, "three trainings and the single one"
    rises = found.plot(kind="radii")
    means = found["CE"].over(lambda r: r.rise()[0])
    drawn = next(line for line in rises.lines if line.get_label() == "CE")
    np.testing.assert_allclose(drawn.get_ydata(), means.mean(axis=0))


def test_a_single_training_is_what_it_was(models):
    table = PROBES["measure"](models["one"])
    assert list(Comparison({"one": table}).to_table()) == ["model", *table.to_table().columns]
    few = Comparison({"CE": Runs([table])})
    assert few.to_table()["loss"].str.contains(r"\[").any() and not few.to_table()["loss"].str.contains(r"\(|±").any()


def test_numbers_that_a_training_has_not_are_left_out():
    tables = [pd.DataFrame({"class": ["a", "b"], "v": v}) for v in ([1.0, np.nan], [3.0, 5.0])]
    found = sharpness.results.tables.over_trainings(tables)
    assert found.v.tolist() == [2.0, 5.0]
    np.testing.assert_allclose(found.v_sd, [2**0.5, np.nan])


def test_what_cannot_be_trainings_of_one_model_is_refused(models):
    line, plane = PROBES["line"](models["one"]), PROBES["plane"](models["one"])
    with pytest.raises(UserError, match="LineResult and PlaneResult cannot be trainings"):
        Runs([line, plane])
    with pytest.raises(UserError, match="no result"):
        Runs([])
    with pytest.raises(UserError, match="no training 'seed 9': choose one of a, b"):
        Runs([line, line], ["a", "b"])["seed 9"]
    with pytest.raises(UserError, match="one of its own"):
        Runs([line, line], ["a", "a"])


def test_a_list_is_a_sequence(models):
    found = PROBES["perturbation"]({"CE": models["CE"]})["CE"]
    assert isinstance(found[0], PerturbationResult) and found["run 2"] is found[1]
    assert found[1:].names == ("run 2", "run 3") and list(found)[2] is found[-1]


def test_columns_of_some_trainings_and_texts_that_differ_are_kept():
    tables = [
        pd.DataFrame({"class": ["a", "b"], "v": [1.0, 2.0], "with": ["b", ""]}),
        pd.DataFrame({"class": ["a", "b"], "v": [3.0, 2.0], "with": ["c", "a"], "w": [5.0, 6.0]}),
    ]
    for order in (tables, tables[::-1]):
        found = sharpness.results.tables.over_trainings(order)
        assert found["class"].tolist() == ["a", "b"] and found.v.tolist() == [2.0, 2.0] and found.w.tolist() == [5, 6]
        assert [set(text.split(" / ")) for text in found["with"]] == [{"b", "c"}, {"a"}]


def test_a_measure_of_one_training_alone_keeps_its_rows(models):
    both, one = (sharpness.measure(o, m) for o, m in zip(models["CE"], ("loss,accuracy", "loss"), strict=False))
    for members in ([both, one], [one, both]):
        found = Comparison({"CE": Runs(members)})
        assert found.pivot("accuracy")["CE"].tolist() == both.to_frame()["accuracy"].tolist()
        losses = np.mean([r.to_frame()["loss"] for r in members], axis=0)
        np.testing.assert_allclose(found.pivot("loss")["CE"], losses)
        np.testing.assert_allclose(found.summary()["accuracy"], both.to_frame()["accuracy"])


def test_notes_are_of_all_trainings_and_name_those_of_only_some(models):
    one = sharpness.measure(models["one"], "loss")
    flat = replace(one, provenance={**one.provenance, "saturated": {"1": 0.9}, "half_precision": "float16"})
    notes = Runs([one, flat, flat], ["seed 0", "seed 1", "seed 2"]).notes
    assert notes[: len(one.notes)] == Runs([one, one]).notes
    assert "seed 1, seed 2: flat by saturation, more than half of the images with a loss below 1e-4: 1" in notes
    assert "seed 1, seed 2: reduced precision: the model computes in float16" in notes
    assert len(notes) == len(set(notes)) == len(one.notes) + 2
