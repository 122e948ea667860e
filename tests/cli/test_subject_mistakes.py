"""Every mistake about files, networks and images of one's own ends in one line that says what to do."""

import json

import pytest
import torch

MODEL = ("--model", "their_networks:TheirResNet")
GIVEN = (*MODEL, "--images", "pictures")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bare.pt",), "--model package.module:factory"),
        (("bare.pt", *MODEL), "does not record the images it was trained on"),
        (
            ("bare.pt", *MODEL, "--mean", "0.5"),
            "own or named data: give --images or --data",
        ),
        (("bare.pt", *MODEL, "--train-counts", "counts.json"), "--train-counts is for images of your own"),
        (("bare.pt", *GIVEN, "--data", "cifar10-lt"), "--images pictures and --data cifar10-lt: give one of them"),
        (("bare.pt", "--images", "pictures", "--model-args", "width=2"), "--model-args are for a network of your own"),
        (("bare.pt", *GIVEN, "--model-args", "width"), "write them as name=value"),
        (("bare.pt", *GIVEN, "--model-args", "width=print('x')"), "TheirResNet(width=\"print('x')\") raised TypeError"),
        (("bare.pt", *GIVEN, "--model-args", "depth=2"), "depth"),
        (("bare.pt", *GIVEN, "--mean", "0.5,half,0.5", "--std", "1,1,1"), "--mean '0.5,half,0.5'"),
        (("bare.pt", *GIVEN, "--mean", "0.5,0.5,0.5"), "give mean and std together"),
        (("bare.pt", *GIVEN, "--mean", "0.5", "--std", "1"), "give 3 values each"),
        (("bare.pt", *GIVEN, "--split", "test"), "only for recorded or named data"),
        (("bare.pt", *GIVEN, "--imbalance", "10"), "only for recorded or named data"),
        (("bare.pt", *GIVEN, "--limit-per-class", "0"), "at least 1, not 0"),
        (("bare.pt", *GIVEN, "--logits", "0"), "returns a single tensor"),
        (("bare.pt", *GIVEN, "--model-args", "returns=dict"), "--logits"),
        (("bare.pt", *GIVEN, "--model-args", "returns=dict", "--logits", "logit"), "features, logits"),
        (("bare.pt", *GIVEN, "--model-args", "returns=tuple", "--logits", "2"), "a tuple of 2"),
        (("bare.pt", *GIVEN, "--model-args", "returns=tuple", "--logits", "logits"), "a tuple of 2"),
        (("bare.pt", *MODEL, "--images", "nowhere"), "there is no nowhere"),
        (("bare.pt", *MODEL, "--images", "counts.json"), "line 1"),
        (("bare.pt", *GIVEN, "--train-counts", "four.json"), "takes one logit for each class"),
        (("bare.pt", *GIVEN, "--train-counts", "two.json"), "2"),
        (("bare.pt", "--model", "their_networks", "--images", "pictures"), "write it as package.module:factory"),
        (("bare.pt", "--model", "their_networks:fails", "--images", "pictures"), "OSError: no such disk"),
        (("bare.pt", *GIVEN, "--weights", "ema"), "weights='ema'"),
        (("bare.pt", *GIVEN, "--weights", "best"), "best"),
        (("bare.pt", *GIVEN, "--family", "resnet"), "unknown family 'resnet'"),
        (("bare.pt", *GIVEN, "--loss", "training"), "loss='training'"),
        (("bare.pt", *GIVEN, "-o", "table.txt"), ".csv or .json"),
        (("bare.pt", *GIVEN, "--measures", "loss,flatness"), "unknown measure 'flatness'"),
        (("nowhere.pt", *GIVEN), "no checkpoint at nowhere.pt"),
    ],
)
def test_one_line_and_exit_code_2(stranger, mistake, arguments, message):
    (stranger.folder / "four.json").write_text(json.dumps({"ant": 9, "bee": 4, "cat": 2, "dog": 1}))
    (stranger.folder / "two.json").write_text("[9, 4]")
    assert message in mistake("measure", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("measure", "-o", "pictures.csv"), "-o pictures.csv: that is a folder, give the name of a file"),
        (("measure", "-o", "list.txt/table.csv"), "list.txt is a file, give a folder"),
        (("measure", "--plot", "pictures"), "--plot pictures.png: that is a folder"),
        (
            ("measure", "--plot", "y.bmp"),
            "--plot y.bmp: pictures are written as PDF and as PNG, give a name that ends in",
        ),
        (("measure", "--plot", "list.txt/all"), "list.txt is a file, give a folder"),
        (("spectrum", "-o", "pictures.csv"), "-o pictures.csv: that is a folder"),
        (("spectrum", "--plot", "pictures"), "--plot pictures.png: that is a folder"),
        (("landscape", "--out", "list.txt"), "list.txt is a file, give a folder"),
        (("landscape", "--out", "list.txt/below"), "list.txt is a file, give a folder"),
        (("landscape", "--out", "plane.nc"), "--out plane.nc: a folder is written, give a name without .nc"),
    ],
)
def test_where_nothing_can_be_written_is_told_before_anything_is_measured(
    stranger, mistake, monkeypatch, arguments, message
):
    for name in ("pictures.csv", "pictures.png"):
        (stranger.folder / name).mkdir(exist_ok=True)
    monkeypatch.setattr("sharpness.checkpoint_objective", None)
    monkeypatch.setattr("sharpness.measure", None)
    command, *options = arguments
    assert message in mistake(command, "bare.pt", *GIVEN, *options)


def test_a_folder_for_figures_can_be_made(stranger, mistake):
    for command in ("figures", "demo"):
        for option in ("--out", "--runs"):
            assert "list.txt is a file, give a folder" in mistake(command, option, "list.txt/figures")
    assert "list.txt is a file, give a folder" in mistake("train", "--method", "ce", "--out", "list.txt")


@pytest.mark.parametrize("command", ["measure", "inspect"])
def test_a_network_that_cannot_take_the_images_is_told_with_their_shape(stranger, mistake, tmp_path, command):
    torch.save(stranger.networks["Viewed"]().state_dict(), tmp_path / "viewed.pt")
    words = ("--model", "their_networks:Viewed", "--images", "pictures", "--size", "6")
    told = mistake(command, tmp_path / "viewed.pt", *words)
    assert "Viewed raised RuntimeError" in told
    assert told.endswith("on inputs of shape (1, 3, 6, 6): check size, channels and layout")


def test_our_own_files_are_complete(run, stranger, mistake):
    assert "is our own and complete: leave out model" in mistake("measure", run, *GIVEN)
    assert "is our own and complete: leave out scale" in mistake("inspect", run, "--logit-scale", "3")
