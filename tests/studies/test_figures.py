"""The main job at its smallest: everything is drawn, tabulated, and reused the second time."""

import numpy as np
import pandas as pd
import pytest

import sharpness.studies.runs
from sharpness import UserError, load_data, load_result
from sharpness.studies import make_figures, to_markdown

SMALL = {"epochs": 1, "grid": 3, "radii": (0.05, 0.1), "draws": 2, "limit_per_class": 3}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    data = load_data("digits-lt")
    return data, folder, make_figures(data, ("ce", "gcl"), folder / "out", folder / "runs", **SMALL)


def test_every_picture_has_a_pdf_a_png_and_its_numbers(drawn):
    _, folder, figures = drawn
    names = {p.name for p in figures.files}
    for picture in ("motivation", "eigenvalues", "visualization_lines", "visualization_contours"):
        assert {f"{picture}.pdf", f"{picture}.png", f"{picture}.csv"} <= names
    assert {"visualization_surfaces.pdf", "visualization_surfaces.png", "summary.csv", "summary.md"} <= names
    assert all(p.stat().st_size > 100 for p in figures.files)


def test_the_numbers_beside_a_picture_are_those_of_the_results(drawn):
    _, folder, _ = drawn
    table = pd.read_csv(folder / "out" / "visualization_contours.csv")
    plane = load_result(folder / "out" / "results" / "plane-gcl.nc")
    np.testing.assert_allclose(table[table.model == "GCL"].loss, plane.losses.ravel(), rtol=1e-5)
    tail = plane.class_losses[9] - plane.base_class_losses[9]
    np.testing.assert_allclose(table[table.model == "GCL"].rise_tail, tail.ravel(), rtol=1e-5, atol=1e-6)


def test_models_share_directions_ranges_and_samples(drawn):
    _, folder, _ = drawn
    a, b = (load_result(folder / "out" / "results" / f"plane-{m}.nc") for m in ("ce", "gcl"))
    np.testing.assert_array_equal(a.x, b.x)
    assert a.provenance["data_sha256"] == b.provenance["data_sha256"]
    assert a.seed == b.seed


def test_the_summary_has_accuracy_by_group_and_sharpness_of_all_and_of_the_tail(drawn):
    table = drawn[2].summary
    assert list(table.method) == ["CE", "GCL"]
    assert {"acc", "acc many", "acc medium", "acc few", "λmax", "λmin tail", "rise tail", "worst rise"} <= set(table)
    text = to_markdown(table)
    assert text.count("\n") == 4
    assert "±" in text


def test_what_was_trained_and_measured_is_reused(drawn, monkeypatch):
    data, folder, first = drawn

    def fail(*args, **options):
        raise AssertionError("measured again")

    for probe in ("line", "plane", "eigenvalues", "random_perturbation", "worst_case"):
        monkeypatch.setattr(f"sharpness.studies.figures.{probe}", fail)
    again = make_figures(data, ("ce", "gcl"), folder / "out", folder / "runs", **SMALL)
    pd.testing.assert_frame_equal(again.summary, first.summary)


def test_another_setting_is_measured_again(drawn, monkeypatch):
    data, folder, _ = drawn
    with monkeypatch.context() as m:
        m.setattr("sharpness.studies.figures.plane", lambda *a, **o: (_ for _ in ()).throw(RuntimeError("anew")))
        with pytest.raises(RuntimeError, match="anew"):
            make_figures(data, ("ce", "gcl"), folder / "out", folder / "runs", **{**SMALL, "grid": 5})


def test_methods_must_be_named_once(drawn):
    data, folder, _ = drawn
    with pytest.raises(UserError, match="only once"):
        sharpness.studies.runs.trained(("ce", "ce"), data, folder / "runs")
    with pytest.raises(UserError, match="unknown method"):
        sharpness.studies.runs.trained(("sgd",), data, folder / "runs")
