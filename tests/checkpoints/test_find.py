"""Which files a folder stands for."""

import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sharpness import UserError
from sharpness.checkpoints import find_checkpoints


@pytest.fixture
def tree(tmp_path):
    """Runs with snapshots and a state, one under way, a family's folder, loose files, and what is none of these."""
    for name in (
        "runs/a/last.pt", "runs/a/state.pt", "runs/a/snapshots/epoch-1.pt", "runs/b/state.pt",
        "runs/c/ckps/ckpt.best.pth.tar", "runs/c/ckps/ckpt.pth.tar", "runs/.partial/kept.pt", "loose/two.pth",
        "loose/one.safetensors", "loose/log.txt", "loose/table.csv",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_all_runs_and_files_below_a_folder(tree):
    found = [str(path.relative_to(tree)) for path in find_checkpoints(tree)]
    assert found == ["loose/one.safetensors", "loose/two.pth", "runs/a/last.pt", "runs/c/ckps/ckpt.best.pth.tar"]


def test_a_run_and_its_snapshots(tree):
    assert find_checkpoints(tree / "runs" / "a") == [tree / "runs" / "a" / "last.pt"]
    assert find_checkpoints(tree / "runs" / "a" / "snapshots") == [tree / "runs" / "a" / "snapshots" / "epoch-1.pt"]
    assert find_checkpoints(str(tree / "runs" / "a" / "state.pt")) == [tree / "runs" / "a" / "state.pt"]


def test_what_a_run_of_ours_keeps_beside_its_result_is_no_news(tree, caplog):
    (tree / "runs" / "a" / "probes").mkdir()
    for name in ("run.json", "history.csv", "probes/plane.nc"):
        (tree / "runs" / "a" / name).write_text("{}")
    assert find_checkpoints(tree / "runs") == [tree / "runs/a/last.pt", tree / "runs/c/ckps/ckpt.best.pth.tar"]
    assert not [told for told in caplog.messages if "/runs/a" in told or "run.json" in told]


def test_folders_without_one(tree):
    for name in ("runs/b", "runs/.partial/none"):
        (tree / name).mkdir(exist_ok=True)
        with pytest.raises(UserError, match="no checkpoint in .* nor below it"):
            find_checkpoints(tree / name)
    with pytest.raises(UserError, match="no checkpoint at"):
        find_checkpoints(tree / "nowhere")


def test_links_lead_to_every_file_once(tree):
    """A cycle, a way out and up, the latest of some runs, and one file under two names."""
    plain = find_checkpoints(tree)
    (tree / "loose" / "again").symlink_to(tree / "loose")
    (tree / "runs" / "up").symlink_to(tree.parent)
    (tree / "runs" / "a0-latest").symlink_to("a")
    (tree / "loose" / "best.pth").symlink_to("two.pth")
    assert find_checkpoints(tree) == plain
    (tree.parent / "elsewhere").mkdir()
    (tree.parent / "elsewhere" / "far.pt").touch()
    (tree / "runs" / "disk").symlink_to(tree.parent / "elsewhere")
    assert find_checkpoints(tree) == [*plain, tree / "runs" / "disk" / "far.pt"]
    assert find_checkpoints(tree / "runs" / "a0-latest") == [tree / "runs" / "a0-latest" / "last.pt"]


@pytest.fixture
def stray(tmp_path):
    """Weights under any name, and what is none: with the content of real files."""
    folder = tmp_path / "stray"
    folder.mkdir()
    weights = {"w": torch.ones(3)}
    for name in ("ckpt_0.t7", "net.pkl", "weights", "model.bin", "run.log"):
        torch.save(weights, folder / name)
    torch.save(weights, folder / "old.model", _use_new_zipfile_serialization=False)
    torch.save(weights, folder / "newer.model", _use_new_zipfile_serialization=False, pickle_protocol=4)
    save_file(weights, folder / "tensors.st")
    (folder / "plain.pkl").write_bytes(pickle.dumps({"w": [1.0]}))
    (folder / "notes.txt").write_text("nothing")
    (folder / "curve.csv").write_text("epoch,loss\n")
    (folder / "empty.dat").touch()
    np.savez(folder / "images.npz", x=np.zeros(2))
    (folder / ".hidden.t7").write_bytes((folder / "ckpt_0.t7").read_bytes())
    return folder


FOUND = ["ckpt_0.t7", "model.bin", "net.pkl", "newer.model", "old.model", "run.log", "tensors.st", "weights"]


def test_files_count_by_their_content(stray, caplog):
    caplog.set_level("INFO", logger="sharpness")
    assert [path.name for path in find_checkpoints(stray)] == FOUND
    told = {record.levelname: record.getMessage() for record in caplog.records}
    assert len(caplog.records) == 2
    assert "1 (plain.pkl): save them again with torch.save" in told["WARNING"]
    assert "no checkpoints by their content: 4 (curve.csv, empty.dat, images.npz, notes.txt)" in told["INFO"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_pipes_and_links_to_nothing_are_told_and_not_waited_for(stray, caplog):
    os.mkfifo(stray / "pipe")
    (stray / "gone").symlink_to("nowhere")
    assert [path.name for path in find_checkpoints(stray)] == FOUND
    assert "unreadable: 2 (" in caplog.text
    assert "pipe (it is no regular file)" in caplog.text and "gone (No such file or directory)" in caplog.text


def test_a_folder_of_other_things_says_which(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UserError, match=r"nor below it \(passed over: 1 \(notes.txt\)\)"):
        find_checkpoints(tmp_path)


def test_a_usual_name_stands_for_its_run_and_for_nothing_else(tree, caplog):
    caplog.set_level("INFO", logger="sharpness")
    run = tree / "runs" / "c" / "ckps"
    for name in ("12_ckpt.pth.tar", "epoch_30.pth"):
        (run / name).touch()
    torch.save({}, run / "another.t7")
    assert [path.name for path in find_checkpoints(run)] == ["another.t7", "ckpt.best.pth.tar"]
    assert "of runs that another file stands for: 3 (12_ckpt.pth.tar, ckpt.pth.tar, epoch_30.pth)" in caplog.text
    caplog.clear()
    assert find_checkpoints(tree / "runs" / "a") and not caplog.text
