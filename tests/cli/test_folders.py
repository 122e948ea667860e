"""Several checkpoints, and folders of them."""

import pandas as pd
import pytest
import torch

from sharpness import load_data, train
from sharpness.cli import main
from sharpness.engine.operator import CurvatureOperator
from sharpness.probes.shared.as_objective import labelled_checkpoints

OPTIONS = ("--model", "their_networks:TheirResNet", "--images", "images.npz")
QUICK = ("--measures", "loss")


@pytest.fixture
def folder(stranger, tmp_path):
    """Two files that call themselves the same, one of another name, a broken one, and what is no checkpoint."""
    state = torch.load("bare.pt", weights_only=True)
    for scale, name in enumerate(("a/last_epoch.pt", "b/last_epoch.pt", "best.pth"), 1):
        (tmp_path / "all" / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save({**state, "fc.weight": scale * state["fc.weight"]}, tmp_path / "all" / name)
    (tmp_path / "all" / "broken.pth").write_bytes(b"no checkpoint")
    (tmp_path / "all" / "notes.txt").write_text("nothing")
    return tmp_path / "all"


def test_a_folder_is_measured_without_its_broken_file(folder, rows):
    found, said = rows("measure", folder, *OPTIONS, *QUICK)
    same = [str(folder / name / "last_epoch.pt") for name in "ab"]
    assert {model for model, _ in found} == {"all", *same}
    assert said.count("passed over") == 1 and "broken.pth" in said


def test_a_broken_file_that_is_named_is_a_mistake(folder, mistake):
    assert "broken.pth" in mistake("measure", folder / "a", folder / "broken.pth", *OPTIONS)


def test_a_folder_without_a_readable_file_is_one_mistake(folder, mistake, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no checkpoint in" in mistake("measure", tmp_path / "empty", *OPTIONS)
    for name in "xy":
        (tmp_path / "empty" / f"{name}.pt").write_bytes(b"nothing")
    line = mistake("measure", tmp_path / "empty", *OPTIONS)
    assert "none of 2 files can be read; the first:" in line and "x.pt" in line
    assert "has no 'Nothing'" in mistake("measure", folder, "--model", "their_networks:Nothing")


def test_an_interrupted_table_goes_on_with_the_same_command(folder, tmp_path, monkeypatch):
    (folder / "broken.pth").unlink()
    arguments = ["measure", str(folder), *OPTIONS, "--measures", "loss,lambda_max", "--limit-per-class", "2"]
    products, whole = [], CurvatureOperator.__call__

    def counted(self, vector):
        products.append(1)
        if len(products) == stop:
            raise KeyboardInterrupt
        return whole(self, vector)

    monkeypatch.setattr(CurvatureOperator, "__call__", counted)
    stop = 0
    assert main([*arguments, "-o", str(tmp_path / "whole.csv")]) == 0
    needed = len(products)
    products.clear()
    stop = needed // 2
    assert main([*arguments, "-o", str(tmp_path / "t.csv")]) == 130
    assert not (tmp_path / "t.csv").exists()
    assert len(list((tmp_path / "t.csv.partial").glob("*/*.nc"))) == 1
    products.clear()
    stop = 0
    assert main([*arguments, "-o", str(tmp_path / "t.csv")]) == 0
    assert len(products) < 0.75 * needed
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "t.csv"), pd.read_csv(tmp_path / "whole.csv"))
    assert not list(tmp_path.glob("*.partial"))


def test_a_folder_comes_in_the_order_of_the_methods_so_that_colours_stay(tmp_path):
    data = load_data("digits-lt")
    for name, method in (("a", "gcl"), ("b", "ce"), ("c", "ldam-drw")):
        train(method, data, tmp_path / "runs" / name, epochs=1)
    assert list(labelled_checkpoints([tmp_path / "runs"])) == ["CE", "LDAM-DRW", "GCL"]
    assert list(labelled_checkpoints([tmp_path / "runs" / name for name in "abc"])) == ["GCL", "CE", "LDAM-DRW"]
