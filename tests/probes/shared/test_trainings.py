"""Which checkpoints are trainings of one model: told by what they record, wherever they lie."""

import shutil

import pandas as pd
import pytest
import torch
from torch import nn

import sharpness
from sharpness import UserError, load_checkpoint, load_data, train
from sharpness.cli import main
from sharpness.probes import labelled_checkpoints
from sharpness.results import Runs

#: Nothing here hangs on the width of a network.
pytestmark = pytest.mark.usefixtures("shallow_resnet8")

QUICK = ("--measures", "loss,random_rise", "--limit-per-class", "3")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of two methods, and cross-entropy with other settings, in folders whose names say nothing."""
    folder = tmp_path_factory.mktemp("runs")
    data = load_data("digits-lt")
    for name, method, seed, epochs in (
        ("x/b", "ce", 0, 1), ("a", "ce", 7, 1), ("c", "ldam-drw", 3, 1), ("d", "ldam-drw", 1, 1), ("e", "ce", 1, 2),
    ):  # fmt: skip
        train(method, data, folder / name, seed=seed, epochs=epochs)
    return folder


def paths(labelled):
    return {
        label: [c.path for c in entry] if isinstance(entry, list) else entry.path for label, entry in labelled.items()
    }


def test_runs_that_differ_in_the_seed_alone_are_one_label_in_the_order_of_their_seeds(runs):
    found = paths(labelled_checkpoints([runs]))
    last = {name: str(runs / name / "last.pt") for name in ("a", "x/b", "c", "d", "e")}
    assert found == {
        str(runs): [last["x/b"], last["a"]],
        last["e"]: last["e"],
        "LDAM-DRW": [last["d"], last["c"]],
    }, "two models call themselves CE"
    assert paths(labelled_checkpoints([runs / "a", runs / "x" / "b"])) == {"CE": [str(runs / "x/b/last.pt"), last["a"]]}


def test_each_keeps_them_apart(runs):
    found = labelled_checkpoints([runs], each=True)
    assert len(found) == 5 and not any(isinstance(entry, list) for entry in found.values())
    with pytest.raises(UserError, match="no paths"):
        labelled_checkpoints([])


def test_a_copy_is_no_other_training(runs, tmp_path):
    shutil.copytree(runs / "a", tmp_path / "copy")
    found = labelled_checkpoints([runs / "a", tmp_path / "copy"])
    assert len(found) == 2 and not any(isinstance(entry, list) for entry in found.values())


def test_snapshots_of_one_run_are_no_trainings(tmp_path):
    train("ce", load_data("digits-lt"), tmp_path / "run", epochs=2, snapshots=1)
    found = labelled_checkpoints([*sorted((tmp_path / "run" / "snapshots").iterdir())])
    assert len(found) > 1 and not any(isinstance(entry, list) for entry in found.values())


def test_a_folder_is_measured_by_labels(runs):
    table = sharpness.measure({"CE": [runs / "a", runs / "x" / "b"], "LDAM": load_checkpoint(runs / "c")}, "loss")
    assert table["CE"].names == ("seed 7", "seed 0") and not isinstance(table["LDAM"], Runs)
    whole = sharpness.measure(runs, "loss", limit_per_class=2)
    assert isinstance(whole["LDAM-DRW"], Runs) and whole["LDAM-DRW"].names == ("seed 1", "seed 3")
    alone = sharpness.measure(runs / "a", "loss")
    assert table["CE"]["seed 7"].overall == alone.overall


def test_a_label_may_stand_for_a_folder_or_for_named_trainings(runs):
    for given in (runs / "x", [runs / "x" / "b"]):
        assert sharpness.line({"CE": given}, (-1, 1, 3), options={"limit_per_class": 1}) is not None
    found = sharpness.line({"CE": {"first": runs / "a", "second": runs / "x/b"}}, (-1, 1, 3))
    assert found["CE"].names == ("first", "second")


def test_different_methods_under_one_label_are_refused(runs, caplog):
    with pytest.raises(UserError, match="'x' holds trainings of method ce and ldam-drw: give each a label"):
        sharpness.eigenvalues({"x": [runs / "a", runs / "c"]})
    sharpness.measure({"CE": [runs / "a", runs / "e"]}, "loss")
    assert "its trainings differ in epoch, epochs, not in their seeds alone" in caplog.text
    sharpness.measure({"CE": [runs / "a", runs / "a"]}, "loss")
    assert "are the same file" in caplog.text


def test_mistakes_in_a_mapping_are_told():
    with pytest.raises(UserError, match="'CE' has no model"):
        sharpness.measure({"CE": []}, "loss")
    with pytest.raises(UserError, match="nothing to compare"):
        sharpness.measure({}, "loss")
    with pytest.raises(UserError, match="labels 1, 1"):
        sharpness.line({1: nn.Linear(2, 2), "1": nn.Linear(2, 2)}, (-1, 1, 3), data=(torch.eye(2), [0, 1]))


def test_the_commands_show_spread_and_each_keeps_runs_apart(runs, tmp_path, capsys):
    two = [str(runs / "x"), str(runs / "a"), str(runs / "c")]
    assert main(["measure", *two, *QUICK, "-o", str(tmp_path / "t.csv"), "--plot", str(tmp_path / "t")]) == 0
    text = capsys.readouterr().out
    assert "± " in text and "[" in text and "±: one standard deviation over trainings" in text
    table = pd.read_csv(tmp_path / "t.csv", keep_default_na=False)
    assert {(m, r) for m, r in zip(table.model, table.run, strict=True)} == {
        ("CE", "seed 0"), ("CE", "seed 7"), ("LDAM-DRW", ""),
    }  # fmt: skip
    assert main(["measure", *two, *QUICK, "--each", "-o", str(tmp_path / "e.csv")]) == 0
    each = pd.read_csv(tmp_path / "e.csv")
    assert "run" not in each and each.model.nunique() == 3
    assert sorted(each.loss) == sorted(table.loss.astype(float))
    capsys.readouterr()
    assert main(["spectrum", *two, "--limit-per-class", "3", "--plot", str(tmp_path / "s")]) == 0
    assert "±" in capsys.readouterr().out
    small = [
        "--plane",
        "3",
        "--line",
        "3",
        "--of",
        "few",
        "--limit-per-class",
        "2",
        "--adaptive",
        "0",
        "--out",
        str(tmp_path / "l"),
    ]
    assert main(["landscape", *two, *small]) == 0
    assert {p.name for p in (tmp_path / "l").glob("*.nc")} == {
        "line-CE-seed-0.nc", "line-CE-seed-7.nc", "line-LDAM-DRW.nc", "plane-CE-seed-0.nc", "plane-LDAM-DRW.nc",
    }  # fmt: skip


def test_trainings_whose_names_are_the_same_text_are_refused():
    objective = sharpness.Objective(nn.Linear(2, 2), (torch.eye(2), torch.tensor([0, 1])))
    with pytest.raises(UserError, match="'a' holds trainings 1, 1: give each a name of its own"):
        sharpness.measure({"a": {1: objective, "1": objective}}, "loss")
