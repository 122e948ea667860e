"""The main job at its smallest: everything is drawn, tabulated with its spread over seeds, and reused afterwards."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ttest_ind

from sharpness import (
    Objective,
    UserError,
    checkpoint_objective,
    eigenvalues,
    load_data,
    load_result,
    random_perturbation,
)
from sharpness.models import build_model
from sharpness.probes import labelled_checkpoints
from sharpness.results import PlaneResult, Runs
from sharpness.studies import figures_of, make_figures
from sharpness.studies.cells import Cell
from sharpness.studies.curvature import draw_curvature
from sharpness.studies.figures import difference_text
from sharpness.studies.motivation import draw_motivation
from sharpness.studies.pictures import FigureSettings
from sharpness.studies.run import run_cells
from sharpness.studies.seeds import told_apart
from sharpness.studies.settings import probed_of
from sharpness.studies.spectra import head_and_tail

SMALL = {"epochs": 1, "grid": 3, "radii": (0.05, 0.1), "draws": 2, "limit_per_class": 3}
SEEDS = (1, 0)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    data = load_data("digits-lt")
    return data, folder, make_figures(data, ("ce", "gcl"), SEEDS, folder / "out", folder / "runs", **SMALL)


def result(folder, method, seed, name):
    return load_result(folder / "runs" / method / f"seed-{seed}" / "probes" / f"{name}-{method}-seed{seed}.nc")


def test_every_picture_has_a_pdf_a_png_and_its_numbers(drawn):
    _, folder, figures = drawn
    names = {p.name for p in figures.files}
    drawn = ("motivation", "measure", "eigenvalues", "correlation", "spectra", "visualization_lines")
    for picture in (*drawn, "visualization_contours"):
        assert {f"{picture}.pdf", f"{picture}.png", f"{picture}.csv"} <= names
    assert {
        "visualization_surfaces.pdf",
        "visualization_surfaces.png",
        "runs.csv",
        "summary.csv",
        "summary.md",
    } <= names
    assert all(p.stat().st_size > 100 for p in figures.files)
    assert {p.name for p in (folder / "out").iterdir()} == names, "and nothing else"


def test_the_motivation_has_a_column_for_each_group_on_one_scale(drawn):
    _, folder, _ = drawn
    axes = draw_motivation({"CE": result(folder, "ce", 1, "perturbation")}, 9).axes
    titles = [ax.get_title(loc="left") for ax in axes]
    assert titles[:4] == ["(a) All classes", "(b) Many (1 class)", "(c) Medium (4 classes)", "(d) Few (5 classes)"]
    assert len({ax.get_ylim() for ax in axes[:4]}) == len({ax.get_ylim() for ax in axes[4:]}) == 1
    few = result(folder, "ce", 1, "perturbation").class_losses[-1, :, 5:].mean(axis=1)
    np.testing.assert_allclose(np.sort(axes[3].lines[0].get_ydata()), np.sort(few), rtol=1e-6)


@pytest.mark.parametrize("single", [False, True], ids=["mixed", "of one training each"])
def test_the_legend_of_the_motivation_explains_single_trainings(drawn, single):
    _, folder, _ = drawn
    ce, gcl = ([result(folder, method, seed, "perturbation") for seed in SEEDS] for method in ("ce", "gcl"))
    results = {"CE": Runs(ce[:1] if single else ce), "GCL": Runs(gcl[:1])}
    (legend,) = draw_motivation(results, 9).legends
    told = [text.get_text() for text in legend.get_texts()]
    band, dots = "band: ± one deviation of draws", "dots: draws, bar: their mean, line: their range"
    expected = [band, dots] if single else [f"of one training, {band}", "± 1 sd over 2 trainings"]
    assert set(expected) < set(told)


def test_few_of_many_images_are_probed_and_the_plan_says_so(tmp_path, caplog, monkeypatch):
    data = load_data("digits-lt")
    assert probed_of(data, "train", None) is None, "380 images"
    whole = replace(data, train=data.test, longtail=data.longtail)
    assert probed_of(whole, "train", None) == 20 and probed_of(whole, "train", 7) == 7
    with caplog.at_level("INFO", "sharpness"):
        monkeypatch.setattr("sharpness.studies.run.run_cell", lambda *given: {})
        run_cells("figures", [Cell("ce")], data, FigureSettings(tmp_path, limit_per_class=3))
    assert "measures, perturbation, line, plane, spectrum on train images, 3 of every class at most" in caplog.text


def test_the_numbers_beside_a_picture_are_those_of_the_results(drawn):
    _, folder, _ = drawn
    table = pd.read_csv(folder / "out" / "visualization_contours.csv")
    assert list(dict.fromkeys(table.model)) == ["CE, seed 1", "GCL, seed 1"], "a plane names its seed, the first one"
    plane = result(folder, "gcl", 1, "plane")
    np.testing.assert_allclose(table[table.model == "GCL, seed 1"].loss, plane.losses.ravel(), rtol=1e-5)
    tail = plane.class_losses[9] - plane.base_class_losses[9]
    np.testing.assert_allclose(table[table.model == "GCL, seed 1"].rise_tail, tail.ravel(), rtol=1e-5, atol=1e-6)
    lines = pd.read_csv(folder / "out" / "visualization_lines.csv")
    assert set(zip(lines.model, lines.run, strict=True)) == {(m, f"seed {s}") for m in ("CE", "GCL") for s in SEEDS}


def test_models_share_directions_ranges_and_samples(drawn):
    _, folder, _ = drawn
    a, b = (result(folder, method, seed, "line") for method, seed in (("ce", 0), ("gcl", 1)))
    np.testing.assert_array_equal(a.x, b.x)
    assert a.provenance["data_sha256"] == b.provenance["data_sha256"]
    assert a.seed == b.seed
    assert isinstance(result(folder, "ce", 1, "plane"), PlaneResult)
    assert not list(folder.glob("runs/*/seed-0/probes/plane-*")), "planes of the seed that is drawn alone"


def test_the_summary_is_mean_and_spread_of_the_runs(drawn):
    _, folder, figures = drawn
    assert list(figures.summary.row) == ["CE", "GCL"]
    for method, row in zip(("ce", "gcl"), figures.summary.to_dict("records"), strict=True):
        objectives = [
            checkpoint_objective(folder / "runs" / method / f"seed-{seed}", limit_per_class=3) for seed in SEEDS
        ]
        largest = [float(eigenvalues(o, which="both", coordinates="filter").largest) for o in objectives]
        assert row["lambda_max"] == pytest.approx(np.mean(largest), rel=1e-5)
        assert row["lambda_max sd"] == pytest.approx(np.std(largest, ddof=1), rel=1e-4)
        found = [random_perturbation(o, [0.1], 2).rise("few") for o in objectives]
        rises, errors = np.array(found)[..., 0].T
        assert row["random_rise tail"] == pytest.approx(np.mean(rises), rel=1e-5)
        assert row["random_rise tail sd"] == pytest.approx(np.std(rises, ddof=1), rel=1e-4)
        assert row["random_rise tail se"] == pytest.approx(np.mean(errors), rel=1e-4)
    accuracies, measures = ("", " many", " medium", " few"), ("lambda_max", "lambda_min", "random_rise", "worst_rise")
    named = [*(f"accuracy{group}" for group in accuracies), *(f"{m}{part}" for m in measures for part in ("", " tail"))]
    assert figures.text.splitlines()[0] == f"| method | {' | '.join(named)} |"
    first = re.search(r"\| CE \| (.*) \|", figures.text)[1].split(" | ")
    assert all("±" in cell for cell in first) and ["(" in cell for cell in first] == 4 * [False] + 8 * [True]
    assert "over 2 trainings (seeds 0, 1)" in figures.text.replace("\n", " ")
    assert (folder / "out" / "summary.md").read_text() == figures.text


def test_the_folder_of_the_runs_is_read_as_trainings_of_each_method(drawn):
    found = labelled_checkpoints([drawn[1] / "runs"])
    assert {label: [c.manifest.training["seed"] for c in entry] for label, entry in found.items()} == {
        "CE": [0, 1], "GCL": [0, 1],
    }  # fmt: skip


def test_what_was_trained_and_measured_is_reused(drawn, monkeypatch):
    data, folder, first = drawn

    def fail(*args, **options):
        raise AssertionError("measured again")

    for place in (
        "pictures.line",
        "pictures.plane",
        "pictures.random_perturbation",
        "pictures.head_and_tail",
        "settings.measure",
    ):
        monkeypatch.setattr(f"sharpness.studies.{place}", fail)
    again = make_figures(data, ("ce", "gcl"), SEEDS, folder / "out", folder / "runs", **SMALL)
    pd.testing.assert_frame_equal(again.summary, first.summary)


def test_another_setting_is_measured_again_and_a_single_seed_says_so(drawn, monkeypatch):
    data, folder, _ = drawn
    with monkeypatch.context() as m:
        m.setattr("sharpness.studies.pictures.plane", lambda *a, **o: (_ for _ in ()).throw(RuntimeError("anew")))
        with pytest.raises(RuntimeError, match="anew"):
            make_figures(data, ("ce",), SEEDS, folder / "out2", folder / "runs", **{**SMALL, "grid": 5})
    one = make_figures(data, ("ce",), (1,), folder / "one", folder / "runs", **SMALL)
    text = one.text.replace("\n", " ")
    assert "One training each, with seed 1" in text and "is not known" in text
    assert one.text.splitlines()[2].count("±") == 8, "over images or draws"


@pytest.mark.parametrize(
    ("methods", "seeds", "message"),
    [(("ce", "ce"), (0,), "only once"), (("ce",), (0, 0), "only once"), (("ce",), (), "at least one"),
     (("sgd",), (0,), "unknown method")],
)  # fmt: skip
def test_methods_and_seeds_must_be_named_once(methods, seeds, message, tmp_path):
    with pytest.raises(UserError, match=message):
        make_figures(load_data("digits-lt"), methods, seeds, tmp_path / "out", tmp_path / "runs")
    assert not list(tmp_path.iterdir())


def test_methods_that_train_with_different_losses_do_not_share_a_picture_of_them(drawn, tmp_path):
    """Told before anything is trained; cRT trains with the loss of CE, by other sampling."""
    data, folder, _ = drawn
    with pytest.raises(UserError, match="CE and LDAM-DRW end with different training losses"):
        make_figures(data, ("ce", "crt", "ldam-drw"), (0,), tmp_path / "out", tmp_path / "runs", loss="training")
    with pytest.raises(UserError, match="different training losses"):
        figures_of([folder / "runs" / method for method in ("ce", "gcl")], tmp_path / "out", loss="training")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_models_that_are_trained_already_give_the_same_figures(drawn, tmp_path):
    data, folder, first = drawn
    paths = [folder / "runs" / method / f"seed-{seed}" for method in ("ce", "gcl") for seed in SEEDS]
    small = {name: value for name, value in SMALL.items() if name != "epochs"}
    given = figures_of(paths, tmp_path / "out", tmp_path / "probes", **small)
    numbers = [c for c in first.summary if c not in ("row", "column")]
    pd.testing.assert_frame_equal(given.summary[numbers], first.summary[numbers])
    assert {p.name for p in given.files} == {p.name for p in first.files}
    assert not list(tmp_path.rglob("*.pt")), "nothing was trained"


def test_models_of_different_images_are_not_drawn_together(drawn, tmp_path):
    _, folder, _ = drawn
    with pytest.raises(UserError, match="different images"):
        figures_of([folder / "runs" / "ce" / "seed-0", "zoo:ce"], tmp_path)
    with pytest.raises(UserError, match="does not record"):
        path = tmp_path / "bare.pth"
        torch.save(build_model("resnet32", 10, 3).state_dict(), path)
        figures_of([path], tmp_path)


def test_spectra_are_those_of_the_first_and_the_last_class_on_equally_many_images(drawn):
    _, folder, _ = drawn
    found = result(folder, "gcl", 1, "spectrum")
    assert found.class_samples.tolist() == [3, *[0] * 8, 3]
    objective = checkpoint_objective(folder / "runs" / "gcl" / "seed-1", limit_per_class=3)
    largest = eigenvalues(objective.restrict(9), tol=1e-4, coordinates="filter").values[0]
    assert np.nanmax(found.nodes[9]) == pytest.approx(largest, rel=1e-3)


def test_the_head_and_the_tail_of_equally_frequent_classes_are_two():
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    objective = Objective(torch.nn.Linear(4, 3).double(), (x, torch.arange(9) % 3))
    assert head_and_tail(objective, draws=2, steps=2).class_samples.tolist() == [3, 0, 3]
    known = Objective(objective.model, (x, torch.arange(9) % 2 + 1), num_classes=3, train_counts=[9, 5, 5])
    assert head_and_tail(known, draws=2, steps=2).class_samples.tolist() == [0, 4, 4]


def test_the_rarest_class_of_pictures_has_images(tmp_path):
    data = load_data("digits-lt")
    data = replace(data, test=data.test.subset((data.test.labels < 8).nonzero().flatten()))
    make_figures(data, ("ce",), (0,), tmp_path / "out", tmp_path / "runs", split="test", **SMALL)
    told = (tmp_path / "out" / "visualization_lines.txt").read_text()
    assert f"the rarest, {data.class_names[7]}" in " ".join(told.split())


def test_curvature_is_compared_in_filter_coordinates_and_plain_ones_have_their_name(drawn, tmp_path):
    data, folder, _ = drawn
    first = {name: result(folder, "ce", 1, name) for name in ("measures", "spectrum")}
    assert {one.provenance["coordinates"] for one in first.values()} == {"filter"}
    assert "in filter coordinates" in (folder / "out" / "eigenvalues.txt").read_text()
    plain = make_figures(data, ("ce",), (1,), tmp_path, folder / "runs", coordinates="plain", **SMALL)
    assert "in plain coordinates" in (tmp_path / "spectra.txt").read_text()
    objective = checkpoint_objective(folder / "runs" / "ce" / "seed-1", limit_per_class=3)
    assert plain.summary["lambda_max"].item() == pytest.approx(eigenvalues(objective).values[0], rel=1e-3)
    kept = {name: result(folder, "ce", 1, name).provenance for name in first}
    assert kept == {name: one.provenance for name, one in first.items()}, "those of filter coordinates stay"
    drawing = draw_curvature({"CE": first["measures"]}, data.train_counts)
    assert drawing.axes[0].get_ylabel().endswith("(filter coordinates)")


def test_differences_are_those_that_welch_s_test_finds():
    rng = np.random.default_rng(0)
    shared = {"column": "", "status": "done", "lambda_min": -1.0}
    cells = pd.DataFrame([
        {"row": row, "seed": seed, "accuracy": mean + rng.normal(), "lambda_max": 10.0**mean * scale, **shared}
        for row, mean in (("a", 1.0), ("b", 1.5), ("c", 9.0)) for seed, scale in enumerate((0.5, 1.0, 2.0))
    ])  # fmt: skip
    pairs = told_apart(cells).set_index(["measure", "higher", "lower"])
    values = dict(iter(cells.groupby("row")))
    for (measure, high, low), pair in pairs.iterrows():
        if measure not in ("accuracy", "lambda_max"):
            assert not pair.apart
            continue
        a, b = (values[row][measure] if measure == "accuracy" else np.log(values[row][measure]) for row in (high, low))
        assert pair.p == pytest.approx(ttest_ind(a, b, equal_var=False).pvalue) and a.mean() >= b.mean()
        assert pair.apart == (pair.p < 0.05)
    assert pairs.apart["lambda_max", "c", "a"] and not pairs.apart["lambda_max", "b", "a"]
    text = difference_text(told_apart(cells))
    assert "lambda_max (less is flatter): c > a, c > b" in text
    assert "within the spread, except 3 pairs that have none" in text.replace("\n", " "), "those of lambda_min"
    once = difference_text(told_apart(cells[(cells.row != "b") | (cells.seed == 0)])).replace("\n", " ")
    assert "of 2 pairs" in once and "except 7 pairs that have none" in once
    single = cells[(cells.row == "a") | (cells.seed == 0)]
    assert difference_text(told_apart(single)).startswith("No pair of methods has a spread on both sides")
