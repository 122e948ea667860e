"""Which files a folder stands for."""

import pytest

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
