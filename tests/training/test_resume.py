"""A run that dies and goes on ends as if it had not died; a folder belongs to one run."""

import errno
import json
import os
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

from sharpness import load_data, train
from sharpness.errors import UserError
from sharpness.models import BACKBONES
from sharpness.training.state import RunFolder

#: Method, epochs of its stages, options.
RUNS = {
    "ldam-drw": ((2,), {}),
    "sam": ((2,), {"flatten": ("sam:0.1",)}),
    "mislas": ((2, 2), {"shift_batchnorm": True}),
    "gcl": ((2, 2), {}),
    "cc-sam": ((2, 2), {}),
    "magnitude": ((1, 1), {"mode": "magnitude"}),
    "swa": ((3,), {"flatten": ("swa:0.3",)}),
    "averaged": ((2, 1), {"flatten": ("swa:0", "sn"), "shift_batchnorm": True}),
    "sn": ((2,), {"flatten": ("sam", "sn")}),
    "pof": ((1, 1), {"flatten": ("pof", "swa", "sn")}),
    "fs-dgpm": ((1, 1), {"flatten": ("fs-dgpm", "pof")}),
    "shortest": ((1, 1), {}),
    "crops": ((2, 1), {"augmentation": "resized-crop-jitter"}),
    "m2m": ((1, 2), {"beta": 0.9, "gamma": 0.2, "steps": 2}),
    "rsg": ((2,), {}),
    "crt, sn": ((1, 1), {"flatten": ("sn",)}),
    "tau-norm, sn": ((1, 0), {"flatten": ("sn",)}),
    "m2m, sn": ((1, 1), {"beta": 0.9, "gamma": 0.2, "steps": 1, "flatten": ("sn",)}),
    "rsg, swa": ((2,), {"flatten": ("swa:0",)}),
    "rsg, pof": ((1,), {"flatten": ("pof",)}),
}
METHOD = {
    "swa": "ce",
    "averaged": "mislas",
    "sn": "ce",
    "pof": "cc-sam",
    "fs-dgpm": "mislas",
    "sam": "ce",
    "magnitude": "cc-sam",
    "shortest": "mislas",
    "crops": "mislas",
}
#: Saves: PoF adds a stage, here of one epoch, and a stage without epochs is saved as well.
TOTAL = {
    run: sum(max(1, e) for e in epochs) + ("pof" in options.get("flatten", ()))
    for run, (epochs, options) in RUNS.items()
}
DEATHS = [(run, n) for run, total in TOTAL.items() for n in range(1, total + 1)]


class Dropping(nn.Sequential):
    """A backbone that draws from torch's global generator in training."""

    num_features = 16

    def __init__(self, in_channels):
        super().__init__(nn.Flatten(), nn.Linear(64 * in_channels, 16), nn.ReLU(), nn.Dropout(0.5))


def test_dropout_depends_on_the_seed_alone_and_resumes(
    few_digits, monkeypatch, tmp_path, killed_after, weights, identical
):
    monkeypatch.setitem(BACKBONES, "resnet8", Dropping)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    train("ce", few_digits, tmp_path / "whole", epochs=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    with killed_after(1), pytest.raises(KeyboardInterrupt):
        train("ce", few_digits, tmp_path / "broken", epochs=3)
    torch.manual_seed(3)
    train("ce", few_digits, tmp_path / "broken", epochs=3, resume=True)
    identical(weights(tmp_path / "broken"), weights(tmp_path / "whole"))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Results of runs that nobody interrupted, made once each."""
    return {}, tmp_path_factory


@pytest.fixture
def start(few_digits, shorten):
    def run(name, out, **more):
        epochs, options = RUNS[name]
        method = METHOD.get(name, name.partition(",")[0])
        shorten(method, *epochs)
        return train(method, few_digits, out, seed=2, batch_size=30, **options, **more)

    return run


@pytest.fixture
def reference(start, unbroken):
    """The folder of the unbroken run of a name."""
    folders, factory = unbroken

    def get(name):
        if name not in folders:
            folders[name] = factory.mktemp(name)
            start(name, folders[name])
        return folders[name]

    return get


@pytest.mark.every(3)
@pytest.mark.parametrize(("name", "n"), DEATHS)
def test_a_run_killed_after_any_epoch_ends_in_the_same_weights(
    start, reference, tmp_path, killed_after, weights, identical, name, n
):
    expected = reference(name)
    out = tmp_path / "run"
    with killed_after(n), pytest.raises(KeyboardInterrupt):
        start(name, out)
    assert not (out / "last.pt").exists()
    history = start(name, out, resume=True)
    identical(weights(out), weights(expected))
    pd.testing.assert_frame_equal(history, pd.read_csv(expected / "history.csv"), check_exact=True)
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in expected.iterdir())
    assert sorted(p.name for p in out.iterdir()) == ["history.csv", "last.pt", "run.json"]


def test_a_run_killed_again_and_again_ends_in_the_same_weights(
    start, reference, tmp_path, killed_after, weights, identical
):
    expected = reference("mislas")
    for resume in (False, True, True, True):
        with killed_after(1), pytest.raises(KeyboardInterrupt):
            start("mislas", tmp_path / "run", resume=resume)
    start("mislas", tmp_path / "run", resume=True)
    identical(weights(tmp_path / "run"), weights(expected))


def test_a_run_killed_between_any_two_files_ends_with_the_same_weights_and_history(
    start, reference, tmp_path, monkeypatch, weights, identical
):
    name, expected = "shortest", reference("shortest")
    written = []
    replace_file = os.replace
    monkeypatch.setattr(os, "replace", lambda part, path: (written.append(path), replace_file(part, path)))
    start(name, tmp_path / "counted")
    for n in range(1, len(written) + 1):
        out, calls = tmp_path / f"run{n}", []

        def dying(part, path, n=n, calls=calls):
            replace_file(part, path)
            calls.append(path)
            if len(calls) == n:
                raise KeyboardInterrupt

        monkeypatch.setattr(os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            start(name, out)
        monkeypatch.setattr(os, "replace", replace_file)
        history = start(name, out, resume=True)
        identical(weights(out), weights(expected))
        pd.testing.assert_frame_equal(history, pd.read_csv(expected / "history.csv"), check_exact=True)


def test_a_write_that_dies_leaves_the_state_before(start, tmp_path, monkeypatch, killed_after):
    out = tmp_path / "run"
    with killed_after(1), pytest.raises(KeyboardInterrupt):
        start("ldam-drw", out)
    before = (out / "state.pt").read_bytes()

    def half(content, file):
        file.write(b"half a file")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(UserError, match="cannot write .*state.pt: No space left on device: make room"):
        start("ldam-drw", out, resume=True)
    assert (out / "state.pt").read_bytes() == before
    assert not list(out.glob(".*"))


def test_a_finished_run_is_reused(start, tmp_path, monkeypatch):
    first = start("ldam-drw", tmp_path / "run")
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "run").iterdir()}

    def refuse(*args):
        raise AssertionError("trains again")

    monkeypatch.setattr("sharpness.training.loop.run_epoch", refuse)
    for resume in (False, True):
        pd.testing.assert_frame_equal(start("ldam-drw", tmp_path / "run", resume=resume), first)
    assert {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "run").iterdir()} == before


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("seed", {"seed": 1}),
        ("epochs", {"epochs": 2}),
        ("batch_size", {"batch_size": 50}),
        ("precision", {"precision": "bfloat16"}),
        ("model", {"model": "resnet14"}),
        ("flatten", {"flatten": ("sam",)}),
        ("method", {"method": "ldam-drw"}),
    ],
)
@pytest.mark.parametrize("resume", [False, True])
def test_another_run_in_the_folder_is_refused_by_the_name_of_the_difference(
    digits, tmp_path, killed_after, field, change, resume
):
    asked = {"method": "ce", "data": digits, "out": tmp_path / "run", "epochs": 3, "precision": "float32"}
    with killed_after(1), pytest.raises(KeyboardInterrupt):
        train(**asked)
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with pytest.raises(UserError, match=rf"holds a different run \({field} is") as caught:
        train(**{**asked, **change}, resume=resume)
    assert "\n" not in str(caught.value)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


def test_other_options_of_the_method_are_another_run(digits, tmp_path):
    train("gcl", digits, tmp_path / "run", epochs=1)
    with pytest.raises(UserError, match=r"options is \{\}, asked for \{'kappa': 1\.0\}"):
        train("gcl", digits, tmp_path / "run", epochs=1, kappa=1.0)


def test_other_data_are_another_run(digits, tmp_path):
    train("ce", digits, tmp_path / "run", epochs=1)
    with pytest.raises(UserError, match=r"different run \(data is"):
        train("ce", load_data("digits-lt", imbalance=20), tmp_path / "run", epochs=1)
    touched = replace(digits, train=replace(digits.train, images=255 - digits.train.images))
    with pytest.raises(UserError, match=r"different run \(data_sha256 is"):
        train("ce", touched, tmp_path / "run", epochs=1)


def test_an_unfinished_run_needs_resume(start, tmp_path, killed_after):
    with killed_after(1), pytest.raises(KeyboardInterrupt):
        start("ldam-drw", tmp_path / "run")
    with pytest.raises(UserError, match="unfinished, after epoch 1: pass --resume") as caught:
        start("ldam-drw", tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_a_run_killed_in_its_first_epoch_starts_again(start, reference, tmp_path, monkeypatch, weights, identical):
    def dying(*args):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("sharpness.training.loop.run_epoch", dying)
        start("ldam-drw", tmp_path / "run")
    assert os.listdir(tmp_path / "run") == ["run.json"]
    start("ldam-drw", tmp_path / "run")
    identical(weights(tmp_path / "run"), weights(reference("ldam-drw")))


def test_a_broken_state_is_told_in_one_line(start, tmp_path, killed_after):
    with killed_after(1), pytest.raises(KeyboardInterrupt):
        start("ldam-drw", tmp_path / "run")
    whole = (tmp_path / "run" / "state.pt").read_bytes()
    (tmp_path / "run" / "state.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot read .*state.pt") as caught:
        start("ldam-drw", tmp_path / "run", resume=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_something_else_is_refused_and_untouched(start, tmp_path, resume):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty and holds no run"):
        start("ldam-drw", tmp_path, resume=resume)
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_a_file_in_place_of_the_folder_is_refused(start, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty and holds no run"):
        start("ldam-drw", tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("exists", [False, True])
def test_an_empty_or_missing_folder_becomes_the_runs_own(tmp_path, exists):
    path = tmp_path / "deep" / "run"
    if exists:
        path.mkdir(parents=True)
    state = RunFolder(path).claim({"method": "ce", "seed": 1}, resume=False)
    assert (state.stage, state.epoch, state.history) == (0, 0, [])
    assert json.loads((path / "run.json").read_text()) == {"method": "ce", "seed": 1}


def test_without_a_folder_the_run_is_named_after_data_method_and_seed(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train("ce", digits, epochs=1, seed=3)
    assert (tmp_path / "runs" / "digits-lt-ce-seed3" / "last.pt").is_file()
