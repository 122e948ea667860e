"""The grid of methods and operations at its smallest: told, drawn, resumed, and not stopped by a run that diverges."""

import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from sharpness import Objective, UserError, checkpoint_objective, load_data, register_measure
from sharpness.models import BACKBONES
from sharpness.probes import MEASURES
from sharpness.studies import (
    cells as cells_module,
    make_flattening_study,
    run as run_module,
    settings as settings_module,
)
from sharpness.studies.grid import draw_grid
from sharpness.training import loop

METHODS, OPERATIONS, SEEDS = ("ce", "ldam-drw"), ("none", "sam"), (0, 1)
SMALL = {"epochs": 1, "limit_per_class": 2, "draws": 2, "max_iterations": 3}


@pytest.fixture(scope="module")
def data():
    return load_data("digits-lt")


@pytest.fixture(scope="module")
def study(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    made = make_flattening_study(data, METHODS, OPERATIONS, SEEDS, folder / "out", folder / "runs", **SMALL)
    return folder, made


@pytest.fixture
def trainings(monkeypatch):
    """Methods and operations of the runs that are asked for, in the order of asking."""
    asked = []

    def counted(method, *arguments, **options):
        asked.append((method, *options["flatten"], options["seed"]))
        return train(method, *arguments, **options)

    train = cells_module.train
    monkeypatch.setattr(cells_module, "train", counted)
    return asked


def again(data, folder, **options):
    return make_flattening_study(
        data, METHODS, OPERATIONS, SEEDS, folder / "out", folder / "runs", **{**SMALL, **options}
    )


def test_every_cell_is_a_run_in_a_folder_that_tells_what_it_is(study):
    folder, made = study
    names = {f"digits-lt-{m}{o}-seed{s}" for m in METHODS for o in ("", "+sam") for s in SEEDS}
    assert {p.name for p in (folder / "runs").iterdir()} == names
    assert len(made.cells) == 8 and (made.cells.status == "done").all()


def test_accuracy_and_sharpness_stand_side_by_side(study):
    _, made = study
    assert list(zip(made.summary.row, made.summary.column, strict=True)) == [
        ("CE", "none"), ("CE", "SAM"), ("LDAM-DRW", "none"), ("LDAM-DRW", "SAM"),
    ]  # fmt: skip
    shown = made.text.splitlines()[0]
    named = (
        "accuracy",
        "accuracy few",
        "lambda_max",
        "lambda_max tail",
        "random_rise",
        "random_rise tail",
        "worst_rise",
    )
    assert all(f"| {c} |" in shown for c in named)
    assert "of cross-entropy on training images, 2 of every class at most" in " ".join(made.text.split())


def test_a_cell_has_the_accuracies_of_its_run(study):
    folder, made = study
    history = pd.read_csv(folder / "runs" / "digits-lt-ce+sam-seed1" / "history.csv")
    cell = made.cells[(made.cells.row == "CE") & (made.cells.column == "SAM") & (made.cells.seed == 1)].iloc[0]
    last = history.iloc[-1]
    assert [cell.accuracy, cell["accuracy few"]] == pytest.approx([100 * last.accuracy, 100 * last.accuracy_few])


def test_the_files_hold_the_cells_the_changes_the_summary_and_the_picture(study):
    folder, made = study
    names = {f"flattening{s}" for s in (".pdf", ".png", ".txt", ".csv", "_cells.csv", "_summary.csv", "_summary.md")}
    assert {p.name for p in made.files} == {p.name for p in (folder / "out").iterdir()} == names
    assert len(pd.read_csv(folder / "out" / "flattening_cells.csv")) == 8
    drawn = pd.read_csv(folder / "out" / "flattening.csv")
    acc = made.cells.pivot(index="seed", columns=["row", "column"], values="accuracy")
    change = (acc["CE", "SAM"] - acc["CE", "none"]).mean()
    assert drawn[(drawn.row == "CE") & (drawn.measure == "accuracy")].value.item() == pytest.approx(change, rel=1e-5)


def test_what_is_there_is_read_and_not_made_again(study, data, monkeypatch):
    folder, made = study
    before = {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*") if p.is_file()}
    monkeypatch.setattr(loop, "run_stage", lambda *a, **k: pytest.fail("trained again"))
    monkeypatch.setattr(settings_module, "measure", lambda *a, **k: pytest.fail("measured again"))
    pd.testing.assert_frame_equal(again(data, folder).cells, made.cells)
    assert {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*") if p.is_file()} == before


def test_an_interrupted_study_makes_only_what_is_missing(data, tmp_path, trainings, monkeypatch):
    arguments = (data, ("ce",), OPERATIONS, SEEDS, tmp_path / "out", tmp_path / "runs")
    measured, run_stage, trained = cells_module.measured, loop.run_stage, []

    def killed_in_the_third(probe, objective, label, path, **options):
        if path.parent.parent.name == "digits-lt-ce-seed1":
            raise KeyboardInterrupt
        return measured(probe, objective, label, path, **options)

    with monkeypatch.context() as m:
        m.setattr(cells_module, "measured", killed_in_the_third)
        with pytest.raises(KeyboardInterrupt):
            make_flattening_study(*arguments, **SMALL)
    assert trainings == [("ce", 0), ("ce", "sam", 0), ("ce", 1)]

    def counted(stage, run):
        trained.append(run.folder.path.name)
        return run_stage(stage, run)

    monkeypatch.setattr(loop, "run_stage", counted)
    made = make_flattening_study(*arguments, **SMALL)
    assert trained == ["digits-lt-ce+sam-seed1"]
    assert (made.cells.status == "done").all()


def test_the_plan_says_what_is_done_and_what_is_left(study, data, caplog):
    folder, _ = study
    with caplog.at_level("INFO", logger="sharpness"):
        again(data, folder)
    assert "flattening on digits-lt: 8 cells, 8 done, 0 to do" in caplog.messages
    assert not any("minutes" in m for m in caplog.messages)


def test_a_run_that_diverges_is_a_dash_with_its_reason_and_stops_nothing(study, data, monkeypatch):
    folder, made = study
    train = cells_module.train

    def diverging(method, *arguments, **options):
        if (method, options["flatten"]) == ("ldam-drw", ("sam",)):
            raise FloatingPointError("training diverged in epoch 1 (loss nan)")
        return train(method, *arguments, **options)

    monkeypatch.setattr(cells_module, "train", diverging)
    told = again(data, folder)
    assert list(told.cells.status) == ["done", "done", "done", "diverged"] * 2
    row = next(line for line in told.text.splitlines() if line.startswith("| LDAM-DRW | SAM |"))
    assert set(row.split(" | ")[2:]) == {"0 of 2", "–", "– |"}
    assert "- LDAM-DRW, SAM, seed 1: diverged: training diverged in epoch 1 (loss nan)" in told.text
    kept = told.summary[told.summary.row == "CE"].drop(columns=["seeds", "asked"])
    pd.testing.assert_frame_equal(kept, made.summary[made.summary.row == "CE"].drop(columns=["seeds", "asked"]))


def test_a_model_that_cannot_be_probed_keeps_its_accuracy(study, data, monkeypatch):
    folder, made = study

    def failing(*arguments, **options):
        raise FloatingPointError("product 3 with the operator is not finite")

    monkeypatch.setattr(cells_module, "measured", failing)
    told = again(data, folder)
    assert (told.cells.status == "not probed").all()
    np.testing.assert_array_equal(told.cells.accuracy, made.cells.accuracy)
    assert math.isnan(told.summary["lambda_max"].iloc[0]) and "product 3" in told.text


@pytest.fixture
def copies(monkeypatch, forked_pools):
    """Processes that have the network of these tests, too."""
    registered = run_module.registered
    resnet8 = {"sharpness.models": {"resnet8": (BACKBONES["resnet8"], "resnet8")}}
    monkeypatch.setattr(run_module, "registered", lambda needed: registered(needed) | resnet8)


@pytest.mark.usefixtures("copies")
def test_processes_give_the_same_numbers(study, data):
    folder, made = study
    pd.testing.assert_frame_equal(again(data, folder, jobs=2).cells, made.cells)


@pytest.fixture
def registered():
    """Measures of one's own: one that other processes can import, and one that they cannot."""
    register_measure("mean_loss", Objective.loss, lower_is_flatter=False)
    register_measure("norm", lambda o: sum((p**2).sum() for p in o.parameters) ** 0.5, usual=False)
    yield
    del MEASURES["mean_loss"], MEASURES["norm"]


def test_a_registered_measure_is_in_the_table_and_in_the_picture(data, tmp_path, registered):
    made = make_flattening_study(
        data, ("ce",), ("none", "sam"), (0,), tmp_path / "out", tmp_path, measures="mean_loss,norm", **SMALL
    )
    for column, name in (("none", "ce"), ("SAM", "ce+sam")):
        objective = checkpoint_objective(tmp_path / f"digits-lt-{name}-seed0", limit_per_class=2)
        row = made.cells[made.cells.column == column].iloc[0]
        assert row["mean_loss"] == pytest.approx(objective.loss())
        assert row["mean_loss tail"] == pytest.approx(objective.class_losses()[list(objective.groups["few"])].mean())
        weights = torch.cat([p.detach().flatten() for p in objective.parameters])
        assert row["norm"] == row["norm tail"] == pytest.approx(float(weights.norm()), rel=1e-5)
    assert "| mean_loss | mean_loss tail | norm | norm tail |" in made.text.splitlines()[0]
    drawn = draw_grid(pd.read_csv(tmp_path / "out" / "flattening.csv"))
    titles = [ax.get_title("left") for ax in drawn.axes]
    assert {"Mean loss, all", "Mean loss, tail", "Norm, all", "Norm, tail"} <= set(titles)


@pytest.mark.usefixtures("copies")
def test_processes_know_registered_measures_that_they_can_import(study, data, registered):
    folder, _ = study
    runs = folder / "of processes"
    shutil.copytree(folder / "runs", runs)
    given = (data, ("ce",), OPERATIONS, (0,), folder / "other", runs)
    made = make_flattening_study(*given, jobs=2, measures="mean_loss", **SMALL)
    assert made.cells.mean_loss.notna().all()
    with pytest.raises(UserError, match=r"measure 'norm' is defined where other .* module, or .* \(jobs=1\)"):
        make_flattening_study(*given, jobs=2, measures="norm", **SMALL)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"methods": ("ce", "ce")}, "only once"),
        ({"methods": ("sgd",)}, "unknown method 'sgd'"),
        ({"operations": ("sam",)}, "give 'none'"),
        ({"operations": ("none",)}, "at least one to compare"),
        ({"operations": ("none", "melt")}, "'melt'"),
        ({"methods": ("ce", "cc-sam")}, "perturbs its weights itself"),
        ({"seeds": ()}, "name at least one"),
        ({"jobs": 0}, "jobs=0"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(data, tmp_path, trainings, wrong, message):
    given = {"methods": METHODS, "operations": OPERATIONS, "seeds": SEEDS, **wrong}
    with pytest.raises(UserError, match=message):
        make_flattening_study(data, out=tmp_path / "out", runs=tmp_path / "runs", **SMALL, **given)
    assert not trainings and not list(tmp_path.iterdir())


def test_a_folder_with_another_run_stops_the_study(study, data):
    folder, _ = study
    with pytest.raises(UserError, match="holds a different run"):
        again(data, folder, epochs=2)


def test_the_picture_of_a_study_takes_the_options_of_every_picture(study):
    folder, made = study
    told = " ".join((folder / "out" / "flattening.txt").read_text().split())
    assert "bars are one standard deviation over seeds" in told and "Seeds: 0, 1" in told
    first, *_ = dict.fromkeys(made.numbers["row"])
    drawn = made.plot(order=[first], labels={first: "Mine"}, width="single", title="Again")
    assert (drawn.get_figwidth(), drawn.get_suptitle()) == (3.3, "Again")
    assert [tick.get_text() for tick in drawn.axes[0].get_yticklabels()] == ["Mine"]
    for options, message in [({"log": True}, "no option 'log'"), ({"order": ["SGD"]}, "'SGD'")]:
        with pytest.raises(UserError, match=message):
            made.plot(**options)
