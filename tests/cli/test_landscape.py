"""``sharpness landscape``: mistakes come before the work, files do not overwrite each other, other work stays."""

import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest

import sharpness
from sharpness import Objective, load_result
from sharpness.cli import main

SMALL = ("--plane", "3", "--limit-per-class", "1", "--adaptive", "0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--quantity", "error"], "unknown --quantity 'error': choose one of loss, rise, accuracy"),
        (["--scale", "foo"], "unknown --scale 'foo': choose one of clipped, linear, log"),
        (["--of", "nope"], "unknown --of 'nope': choose one of many, medium, few, 0, 1"),
        (["--plane", "1"], "--plane 1: give two points or more, or 0 for no plane"),
        (["--plane", "-3"], "--plane -3: give two points"),
        (["--line", "1"], "--line 1: give two points or more, or 0 for no line"),
        (["--range", "0"], "--range 0: give a number above 0"),
        (["--range", "nan"], "--range nan: give a number above 0"),
        (["--adaptive", "1"], "--adaptive 1: give a part of the relief below 1"),
        (["--plane", "0"], "there is nothing to draw"),
        (["--plane", "0", "--line", "5", "--interactive"], "--interactive draws a plane"),
        (["--plane", "0", "--line", "5", "--scale", "log"], "--scale log is of the colours of a plane"),
        (["--interactive"], "plotly is not installed"),
        (["--basins", "--quantity", "accuracy"], "--basins are of the loss over a plane"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_evaluated(options, message, run, mistake, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    for evaluates in ("evaluation", "check"):
        monkeypatch.setattr(Objective, evaluates, lambda *_: pytest.fail("evaluated"))
    assert message in mistake("landscape", run, *options)


def test_other_unfinished_work_in_the_folder_stays(run, undrawn, tmp_path, monkeypatch):
    with monkeypatch.context() as killed:
        module = sys.modules["sharpness.cli.landscape"]
        killed.setattr(module, "_draw", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        for seed in ("1", "2"):
            assert main(["landscape", str(run), *SMALL, "--seed", seed, "--out", str(tmp_path)]) == 130
    kept = tmp_path / ".partial"
    before = {p.name for p in kept.glob("[!.]*")}
    assert len(before) == 2
    assert main(["landscape", str(run), *SMALL, "--seed", "1", "--out", str(tmp_path)]) == 0
    (left,) = (p.name for p in kept.glob("[!.]*"))
    assert left in before
    assert main(["landscape", str(run), *SMALL, "--seed", "3", "--no-resume", "--out", str(tmp_path)]) == 0
    assert [p.name for p in kept.glob("[!.]*")] == [left]
    assert main(["landscape", str(run), *SMALL, "--seed", "2", "--out", str(tmp_path)]) == 0
    assert not kept.exists()


def test_basins_are_a_table_and_outlined_on_contours(run, tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        sys.modules["sharpness.cli.landscape"], "save_drawn", lambda picture, path, *_: drawn.append((picture, path))
    )
    command = ["landscape", str(run), *SMALL, "--of", "many", "--basins", "--out", str(tmp_path)]
    assert main(command) == 0
    written = pd.read_csv(tmp_path / "basins.csv")
    plane = load_result(next(tmp_path.glob("plane-*.nc")))
    pd.testing.assert_frame_equal(
        written.drop(columns=["model", "of"]), plane.basins("many").to_frame(), check_exact=False
    )
    assert "holds_model" in capsys.readouterr().out
    gids = {path.name: [line.get_gid() for ax in np.ravel(picture) for line in ax.lines] for picture, path in drawn}
    assert "bottom" in gids["contour"] and "bottom" not in gids["surface"]


def test_basins_are_those_of_groups_with_images(stranger, undrawn, tmp_path):
    """Of three classes one has no images here, and it is all of the few-shot ones."""
    for name in ("ant", "bee"):
        shutil.copytree(stranger.folder / "pictures" / name, tmp_path / "two" / name)
    (tmp_path / "counts.json").write_text(json.dumps({"ant": 160, "bee": 80, "cat": 4}))
    given = ["--model", "their_networks:TheirResNet", "--images", str(tmp_path / "two")]
    given += ["--train-counts", str(tmp_path / "counts.json"), "--basins", "--out", str(tmp_path / "out")]
    assert main(["landscape", "bare.pt", *given, *SMALL]) == 0
    assert set(pd.read_csv(tmp_path / "out" / "basins.csv")["of"]) == {"all", "many", "medium"}


def test_labels_that_look_alike_have_files_of_their_own(run, undrawn, tmp_path, monkeypatch):
    read = sharpness.load_checkpoint(run)
    labels = ["x y/a", "x-y/a", "X-Y-A"]
    monkeypatch.setattr("sharpness.cli.subjects.labelled_checkpoints", lambda *_, **__: dict.fromkeys(labels, read))
    assert main(["landscape", str(run), *SMALL, "--out", str(tmp_path)]) == 0
    files = sorted(tmp_path.glob("plane-*.nc"))
    assert sorted(load_result(f).label for f in files) == sorted(labels)
    assert len({f.name.casefold() for f in files}) == len(labels)


@pytest.mark.parametrize("quantity", ["rise", "accuracy"])
def test_pictures_of_another_quantity_have_names_of_their_own(quantity, run, tmp_path):
    assert main(["landscape", str(run), *SMALL, "--line", "3", "--quantity", quantity, "--out", str(tmp_path)]) == 0
    drawn = {p.stem for p in tmp_path.iterdir() if p.suffix == ".png"}
    assert drawn == {f"{kind}-{quantity}" for kind in ("line", "contour", "surface")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--width", "triple"], "width='triple': give 'single', 'double' or inches"),
        (["--width", "0.1"], "inches from 1 to 40"),
        (["--order", "nobody"], "unknown label in --order 'nobody'"),
        (["--label", "nobody"], "--label 'nobody': write it as NAME=FILE"),
        (["--scale", "linear", "--log"], "--scale linear and --log: give one of them"),
    ],
)
def test_looks_that_no_picture_can_have_are_refused_before_anything_is_evaluated(
    options, message, run, mistake, monkeypatch
):
    for evaluates in ("evaluation", "check"):
        monkeypatch.setattr(Objective, evaluates, lambda *_: pytest.fail("evaluated"))
    assert message in mistake("landscape", run, *options)


def test_models_are_named_and_a_caption_stands_beside_every_picture(run, tmp_path):
    named = ["--label", f"Mine={run}", "--width", "single", "--order", "Mine", "--of", "all"]
    assert main(["landscape", *named, *SMALL, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "plane-Mine.nc").exists()
    for picture in ("contour", "surface"):
        assert "Models: Mine\n" in (tmp_path / f"{picture}.txt").read_text()
