"""Files of a run are believed only whole: damage ends in one line, or in the weights of an unbroken run."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from sharpness import load_checkpoint, train
from sharpness.errors import SystemRefusal, UserError
from sharpness.locks import only_process
from sharpness.training.state import RunFolder

#: Weights fill most of the files: what is changed in the middle of one is a weight.
pytestmark = pytest.mark.usefixtures("narrow_resnet8")
SETTINGS = {"epochs": 3, "seed": 2, "batch_size": 95, "precision": "float32"}


@pytest.fixture(scope="module")
def begun(tmp_path_factory, digits):
    """Folders of a run that died after its second epoch, and of the same one from beginning to end."""
    broken, whole = tmp_path_factory.mktemp("broken"), tmp_path_factory.mktemp("whole")
    save, saves = RunFolder.save, []

    def dying(folder, state):
        save(folder, state)
        saves.append(1)
        if len(saves) == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunFolder, "save", dying)
        train("ldam-drw", digits, broken, flatten=("swa:0.3",), **SETTINGS)
    train("ldam-drw", digits, whole, flatten=("swa:0.3",), **SETTINGS)
    return broken, whole


@pytest.fixture
def go_on(digits):
    return lambda out, **more: train("ldam-drw", digits, out, flatten=("swa:0.3",), resume=True, **SETTINGS, **more)


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def rewritten(path, change):
    state = torch.load(path, weights_only=True)
    torch.save(change(state), path)


def without(name):
    return lambda state: {k: v for k, v in state.items() if k != name}


def replaced(**parts):
    return lambda state: state | parts


def first(tensors, change):
    name = next(n for n, t in tensors.items() if t.is_floating_point())
    return {**tensors, name: change(tensors[name])}


def momentum(change):
    def changed(state):
        buffers = state["optimizer"]["state"]
        return state | {"optimizer": {**state["optimizer"], "state": change(buffers)}}

    return changed


def groups(**changed):
    def change(state):
        settings = [{**group, **changed} for group in state["optimizer"]["param_groups"]]
        return state | {"optimizer": {**state["optimizer"], "param_groups": settings}}

    return change


STATES = {
    "a list": lambda state: [1, 2],
    "a tensor": lambda state: torch.zeros(2),
    "nothing": lambda state: {},
    **{f"without {part}": without(part) for part in ("stage", "epoch", "model", "optimizer", "average", "history")},
    **{
        f"{part} is {odd!r}": replaced(**{part: odd})
        for part in ("stage", "epoch", "model", "optimizer", "average", "history")
        for odd in (None, "x", -1, 7, 2**70, float("nan"), [], {}, True)
    },
    "an earlier epoch": replaced(epoch=1),
    "a later epoch": replaced(epoch=3),
    "a later epoch with its history": lambda s: s | {"epoch": 3, "history": [*s["history"], s["history"][-1]]},
    "half a history": lambda s: s | {"history": s["history"][:1]},
    "a history of another stage": lambda s: s | {"history": [{**row, "stage": "other"} for row in s["history"]]},
    "rows of other columns": lambda s: s | {"history": [s["history"][0], {"stage": "LDAM-DRW", "epoch": 2}]},
    "weights of another shape": lambda s: s | {"model": first(s["model"], lambda t: t[:1])},
    "weights of another type": lambda s: s | {"model": first(s["model"], torch.Tensor.double)},
    "a number for a weight": lambda s: s | {"model": first(s["model"], lambda t: 1.0)},
    "a weight too few": lambda s: s | {"model": dict(list(s["model"].items())[1:])},
    "a weight too many": lambda s: s | {"model": {**s["model"], "more": torch.zeros(2)}},
    "an average of another shape": lambda s: s | {"average": first(s["average"], lambda t: t[:1])},
    "no momentum": momentum(lambda buffers: {}),
    "momentum of another shape": momentum(lambda b: {**b, 0: {"momentum_buffer": torch.zeros(1)}}),
    "momentum of nothing": momentum(lambda b: {**b, 999: {"momentum_buffer": torch.zeros(1)}}),
    "momentum by name": momentum(lambda b: {"x": b[0]}),
    "other decay": groups(weight_decay=0.1),
    "other momentum": groups(momentum=0.5),
    "no parameters": groups(params=[]),
    "another factor": groups(factor=2.0),
    "the factor a text": groups(factor="1"),
}


def as_before(state):
    """As an earlier version wrote it."""
    return {k: v for k, v in state.items() if k not in ("run", "checksum")}


@pytest.mark.every(5)
@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("name", STATES)
def test_a_state_that_does_not_fit_is_refused_in_one_line(begun, go_on, tmp_path, name, sealed):
    out = shutil.copytree(begun[0], tmp_path / "run")
    change = STATES[name]
    rewritten(out / "state.pt", change if sealed else lambda state: change(as_before(state)))
    before = contents(out)
    with pytest.raises(UserError, match="state.pt") as caught:
        go_on(out)
    assert "\n" not in str(caught.value)
    assert contents(out) == before


def test_an_altered_number_is_seen(begun, go_on, tmp_path):
    out = shutil.copytree(begun[0], tmp_path / "run")
    rewritten(out / "state.pt", lambda s: s | {"model": first(s["model"], lambda t: t + 1e-7)})
    with pytest.raises(UserError, match="state.pt is damaged: it was altered"):
        go_on(out)
    (out / "state.pt").unlink()
    go_on(out)
    assert contents(out) == contents(begun[1])


def test_a_state_of_an_earlier_version_goes_on(begun, go_on, tmp_path):
    out = shutil.copytree(begun[0], tmp_path / "run")
    rewritten(out / "state.pt", as_before)
    go_on(out)
    assert contents(out) == contents(begun[1])


def test_the_state_of_another_run_is_refused(begun, digits, go_on, tmp_path):
    out = shutil.copytree(begun[0], tmp_path / "run")
    plan = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(plan | {"seed": 3}))
    with pytest.raises(UserError, match="it is of another run"):
        train("ldam-drw", digits, out, flatten=("swa:0.3",), resume=True, **SETTINGS | {"seed": 3})


def test_equal_runs_give_equal_files(begun, go_on, tmp_path):
    go_on(tmp_path / "other name")
    assert contents(tmp_path / "other name") == contents(begun[1])
    out = shutil.copytree(begun[0], tmp_path / "run")
    go_on(out)
    assert contents(out) == contents(begun[1])


@pytest.mark.parametrize("name", ["run.json", "history.csv", "last.pt"])
@pytest.mark.parametrize("how", ["empty", "half", "zeros", "text", "other bytes"])
def test_damaged_files_of_a_finished_run_are_told_in_one_line(begun, go_on, tmp_path, name, how):
    out = shutil.copytree(begun[1], tmp_path / "run")
    whole = (out / name).read_bytes()
    middle = len(whole) // 2
    (out / name).write_bytes(
        {
            "empty": b"", "half": whole[:middle], "zeros": bytes(len(whole)), "text": b"[1, 2]",
            "other bytes": whole[:middle] + bytes(b ^ 1 for b in whole[middle : middle + 8]) + whole[middle + 8 :],
        }[how]
    )  # fmt: skip
    with pytest.raises(UserError, match=name) as caught:
        go_on(out)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("odd", [None, "x", 0, -3, 1.5, [], {}, True])
def test_odd_snapshots_in_the_description(begun, go_on, tmp_path, odd):
    out = shutil.copytree(begun[0], tmp_path / "run")
    plan = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(plan | {"snapshots": odd}))
    with pytest.raises(UserError, match="run.json is not a run's description"):
        go_on(out)


def test_a_history_that_was_changed_is_not_reported(begun, go_on, tmp_path):
    out = shutil.copytree(begun[1], tmp_path / "run")
    table = pd.read_csv(out / "history.csv")
    table.loc[0, "accuracy"] = 1.0
    table.to_csv(out / "history.csv", index=False)
    with pytest.raises(UserError, match="history.csv is damaged"):
        go_on(out)


def test_a_parser_that_changes_the_last_digit_damages_nothing(begun, go_on, monkeypatch, tmp_path):
    """As that of pandas before 3.1 does with half of the accuracies above 0.9."""
    out = shutil.copytree(begun[1], tmp_path / "run")
    read = pd.read_csv

    def off_by_one(*given, **options):
        table = read(*given, **options)
        return table.assign(accuracy=np.nextafter(table.accuracy, 2))

    monkeypatch.setattr(pd, "read_csv", off_by_one)
    history = go_on(out)
    monkeypatch.undo()
    written = pd.read_csv(out / "history.csv")
    assert (history.accuracy != written.accuracy).all() and len(history) == 3


def test_the_weights_of_another_run_are_not_reported(begun, digits, go_on, tmp_path):
    other = train("ce", digits, tmp_path / "other", **SETTINGS)
    out = shutil.copytree(begun[1], tmp_path / "run")
    shutil.copy(tmp_path / "other" / "last.pt", out / "last.pt")
    with pytest.raises(UserError, match="last.pt is damaged: it is of another run"):
        go_on(out)
    assert len(other) == 3


def test_a_checkpoint_that_was_altered_is_refused(begun, tmp_path):
    content = torch.load(begun[1] / "last.pt", weights_only=True)
    content["state_dict"] = first(content["state_dict"], lambda t: t * 1.001)
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(UserError, match="altered afterwards: take 'checksum' out"):
        load_checkpoint(tmp_path / "last.pt")
    del content["checksum"]
    torch.save(content, tmp_path / "last.pt")
    load_checkpoint(tmp_path / "last.pt")


def test_a_run_killed_before_its_description_was_in_place_can_begin_again(begun, go_on, forked, tmp_path):
    """By a real signal: nothing is tidied up."""
    script = (
        "import os, signal, sys; from sharpness import load_data, train\n"
        "os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "train('ldam-drw', load_data('digits-lt'), sys.argv[1], epochs=1)"
    )
    out = tmp_path / "run"
    forked(script, out).killed()
    (left,) = os.listdir(out)
    assert left.startswith(".run.json.") and left.endswith(".part")
    go_on(out)
    assert contents(out) == contents(begun[1])


def test_files_that_killed_processes_left_are_removed_and_others_are_not(begun, go_on, tmp_path):
    out = shutil.copytree(begun[0], tmp_path / "run")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (f".state.pt.{dead.pid}.part", f".last.pt.{dead.pid}-3.part", ".mine.part", "notes.1.part"):
        (out / name).write_text("x")
    go_on(out)
    assert contents(out) == contents(begun[1]) | {".mine.part": b"x", "notes.1.part": b"x"}


def test_two_processes_do_not_train_in_one_folder(begun, go_on, tmp_path):
    out = shutil.copytree(begun[0], tmp_path / "run")
    with only_process(out, "trains"), pytest.raises(SystemRefusal, match="another process trains here"):
        go_on(out)
    go_on(out)
    assert contents(out) == contents(begun[1])
