"""Snapshots of a run: whole checkpoints, the same ones after a kill, and no change of what is trained."""

import json
from dataclasses import replace

import pandas as pd
import pytest
import torch

from sharpness import Objective, load_checkpoint, train
from sharpness.engine.devices import _formats
from sharpness.errors import UserError
from sharpness.probes.landscapes.trajectory import snapshots, trajectory
from sharpness.training import loop
from sharpness.training.epoch import evaluate
from sharpness.training.state import RunFolder


def state(path):
    return torch.load(path, weights_only=True)["state_dict"]


def names(out):
    return [p.name for p in snapshots(out)]


@pytest.fixture
def start(digits, shorten):
    """Two stages of two epochs, the second with another head."""

    def run(out, **more):
        shorten("mislas", 2, 2)
        return train("mislas", digits, out, seed=2, **more)

    return run


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return {}, tmp_path_factory


@pytest.fixture
def reference(start, kept):
    """The folder of a run that nobody interrupted, with a snapshot of every epoch."""
    folders, factory = kept
    if not folders:
        folders["run"] = factory.mktemp("kept") / "run"
        start(folders["run"], snapshots=1)
    return folders["run"]


def test_epochs_between_tests_have_empty_cells_and_the_weights_are_the_same(digits, shorten, tmp_path, monkeypatch):
    tests = []
    monkeypatch.setattr(loop, "evaluate", lambda *a, **o: tests.append(1) or evaluate(*a, **o))
    run = {"seed": 1, "epochs": 5, "model": "resnet8"}
    every = train("ce", digits, tmp_path / "every", **run)
    assert len(tests) == 5
    few = train("ce", digits, tmp_path / "few", test_every=3, snapshots=4, **run)
    assert len(tests) == 5 + 3, "the third, the fourth for its snapshot, and the last"
    pd.testing.assert_series_equal(few.loss, every.loss)
    assert few.accuracy.notna().tolist() == few.test_loss.notna().tolist() == [False, False, True, True, True]
    assert list(few) == list(every) and few.accuracy.iloc[-1] == every.accuracy.iloc[-1]
    assert (
        load_checkpoint(tmp_path / "few" / "snapshots" / "epoch-0004.pt").manifest.accuracy["accuracy"]
        == few.accuracy[3]
    )
    again = train("ce", digits, tmp_path / "few", test_every=3, **run)
    pd.testing.assert_frame_equal(again, few)
    with pytest.raises(UserError, match="test_every=0"):
        train("ce", digits, tmp_path / "none", test_every=0, **run)


def test_training_computes_float32_in_full(digits, tmp_path, monkeypatch):
    """On a GPU torch's default for convolutions is TF32, and a card says float32."""
    found, before = [], [(owner, name, getattr(owner, name)) for owner, name, _ in _formats()]
    monkeypatch.setattr(
        loop,
        "evaluate",
        lambda *a, **o: (
            found.append([getattr(owner, name) == exact for owner, name, exact in _formats()]) or evaluate(*a, **o)
        ),
    )
    train("ce", digits, tmp_path, epochs=1, model="resnet8")
    assert found and all(map(all, found))
    assert all(getattr(owner, name) == value for owner, name, value in before)


def test_weights_and_history_are_those_of_a_run_without_snapshots(start, reference, tmp_path, identical, weights):
    history = start(tmp_path / "plain")
    identical(weights(reference), weights(tmp_path / "plain"))
    assert (reference / "history.csv").read_bytes() == (tmp_path / "plain" / "history.csv").read_bytes()
    assert len(history) == 4
    assert sorted(p.name for p in (tmp_path / "plain").iterdir()) == ["history.csv", "last.pt", "run.json"]


def test_the_start_and_every_epoch_of_all_stages_are_kept(start, reference, tmp_path, identical, weights):
    assert names(reference) == [f"epoch-{e:04d}.pt" for e in range(5)]
    identical(state(snapshots(reference)[-1]), weights(reference))
    start(tmp_path / "run", snapshots=3)
    assert names(tmp_path / "run") == ["epoch-0000.pt", "epoch-0003.pt"]
    for name in names(tmp_path / "run"):
        identical(state(tmp_path / "run" / "snapshots" / name), state(reference / "snapshots" / name))


def test_a_snapshot_is_a_checkpoint_of_its_epoch(reference, digits):
    manifests = [load_checkpoint(p).manifest for p in snapshots(reference)]
    assert [m.epoch for m in manifests] == [0, 1, 2, 3, 4]
    assert [m.model.head for m in manifests] == ["linear"] * 3 + ["linear+lws"] * 2
    final = load_checkpoint(reference).manifest
    assert manifests[-1] == replace(final, history_sha256=None)
    assert manifests[0].accuracy == {}
    assert manifests[1].accuracy["accuracy"] != final.accuracy["accuracy"]
    assert manifests[1].loss == manifests[2].loss != final.loss
    assert load_checkpoint(snapshots(reference)[1]).load_data().train_counts == digits.train_counts


@pytest.mark.every(3)
@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("again", [{"snapshots": 1}, {}])
def test_a_resumed_run_keeps_the_same_snapshots(start, reference, tmp_path, killed_after, identical, weights, n, again):
    out = tmp_path / "run"
    with killed_after(n), pytest.raises(KeyboardInterrupt):
        start(out, snapshots=1)
    start(out, resume=True, **again)
    assert names(out) == names(reference)
    for mine, expected in zip(snapshots(out), snapshots(reference), strict=True):
        identical(state(mine), state(expected))
    identical(weights(out), weights(reference))


def test_a_run_killed_between_a_snapshot_and_its_state_keeps_the_same_snapshots(
    start, reference, tmp_path, monkeypatch, identical
):
    out, save = tmp_path / "run", RunFolder.save

    def dying(folder, state):
        if len(state.history) == 3:
            raise KeyboardInterrupt
        save(folder, state)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunFolder, "save", dying)
        start(out, snapshots=1)
    assert len(names(out)) == 4
    start(out, resume=True)
    assert names(out) == names(reference)
    for mine, expected in zip(snapshots(out), snapshots(reference), strict=True):
        identical(state(mine), state(expected))


def test_a_run_without_snapshots_is_not_taken_for_one_with(start, digits, tmp_path, killed_after):
    train("ce", digits, tmp_path / "run", epochs=1)
    with pytest.raises(UserError, match=r"different run \(snapshots is None, asked for 1\)"):
        train("ce", digits, tmp_path / "run", epochs=1, snapshots=1)
    assert "snapshots" not in json.loads((tmp_path / "run" / "run.json").read_text())


def test_a_finished_run_with_snapshots_is_reused_by_who_needs_none(start, reference):
    before = {p: p.stat().st_mtime_ns for p in reference.rglob("*")}
    start(reference)
    start(reference, snapshots=1)
    assert {p: p.stat().st_mtime_ns for p in reference.rglob("*")} == before


@pytest.mark.parametrize("every", [0, -1, 1.5, "2"])
def test_a_distance_that_is_no_number_of_epochs_is_refused(digits, tmp_path, every):
    with pytest.raises(UserError, match="snapshots="):
        train("ce", digits, tmp_path / "run", epochs=1, snapshots=every)
    assert not (tmp_path / "run").exists()


def test_the_path_of_a_run_is_found_in_its_folder(digits, tmp_path):
    train("ce", digits, tmp_path / "run", epochs=3, snapshots=1)
    checkpoint = load_checkpoint(tmp_path / "run")
    data = checkpoint.load_data()
    found = trajectory(Objective(checkpoint.model, data.test, num_classes=10), tmp_path / "run")
    assert found.mark_names == ("epoch-0000", "epoch-0001", "epoch-0002", "epoch-0003")
    assert found.marks[-1].tolist() == [0, 0]
    assert 0 < found.explained[1] < found.explained[0] < 1
