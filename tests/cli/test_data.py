"""``sharpness data``: check and prepare; training and measuring from prepared images."""

import pandas as pd
import pytest

from sharpness.cli import main
from sharpness.data import load_data


def test_from_lists_to_a_table_in_commands(pictures, tmp_path, capsys):
    prepared, run = tmp_path / "prepared", tmp_path / "run"
    assert main(["data", "check", "--data-root", str(pictures), "--size", "8"]) == 0
    told = capsys.readouterr().out
    assert "train: 22 images, 4 classes of 9 to 2, list:" in told
    assert "oltr: many 0, medium 0, few 4" in told
    assert "every image can be read" in told
    assert main(["data", "prepare", "--data-root", str(pictures), "--size", "8", "-o", str(prepared)]) == 0
    assert "train: 22 images of 3 x 8 x 8" in capsys.readouterr().out
    settings = ["--data", "list", "--data-root", str(prepared), "--model", "resnet8", "--epochs", "1"]
    assert main(["train", "--method", "ce", *settings, "--out", str(run)]) == 0
    table = tmp_path / "table.csv"
    file = str(run / "last.pt")
    assert main(["measure", file, "--data-root", str(prepared), "--measures", "accuracy,loss", "-o", str(table)]) == 0
    read = pd.read_csv(table)
    assert read["class"].tolist()[2:] == ["c0", "c1", "c2", "c3"]
    assert read.samples.tolist()[2:] == [9, 7, 4, 2]


def test_missing_files_are_named_with_their_lines(pictures, tmp_path, capsys):
    (tmp_path / "train.txt").write_text((pictures / "train.txt").read_text() + "train/c3/9.png 3\n")
    (tmp_path / "test.txt").write_text((pictures / "test.txt").read_text())
    command = ["data", "check", "--data-root", str(pictures), "--lists", str(tmp_path), "--size", "8", "--no-decode"]
    assert main(command) == 2
    told = capsys.readouterr()
    assert f"{tmp_path}/train.txt line 23: there is no {pictures}/train/c3/9.png" in told.out
    assert "train: 1 images cannot be read: c3 1" in told.out
    assert told.err.strip() == (
        "sharpness: 1 images cannot be read: restore them, or leave them out with --policy skip"
    )
    assert main([*command, "--policy", "skip"]) == 0


@pytest.mark.parametrize("first", ["train/c3/9.png 3", "train/c0/99.png 0"])
def test_the_first_file_may_be_the_one_that_is_missing(pictures, tmp_path, capsys, first):
    (tmp_path / "train.txt").write_text(f"{first}\n" + (pictures / "train.txt").read_text())
    (tmp_path / "test.txt").write_text((pictures / "test.txt").read_text())
    where = ["--data-root", str(pictures), "--lists", str(tmp_path), "--size", "8"]
    assert main(["data", "check", *where, "--no-decode"]) == 2
    told, name = capsys.readouterr().out, first.split()[0]
    assert f"{tmp_path}/train.txt line 1: there is no {pictures}/{name}" in told
    assert main(["data", "prepare", *where, "--policy", "skip", "-o", str(tmp_path / "p")]) == 0
    assert load_data("list", root=tmp_path / "p").train_counts == (9, 7, 4, 2)


def test_a_crop_needs_its_side(pictures, capsys):
    assert main(["data", "check", "--data-root", str(pictures), "--resize", "8"]) == 2
    assert "give --size, the side after the crop, too" in capsys.readouterr().err
