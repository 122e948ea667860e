"""The command line: tables on stdout, one line and exit code 2 for a user's mistake."""

import json
import subprocess
import sys

import pandas as pd
import pytest

from sharpness.cli import cli, main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "--method", "ldam-drw", "--epochs", "1", "--out", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_shows_an_example_to_copy(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"sharpness {command}" in capsys.readouterr().out.split("Example:")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--method", "sgd"], "unknown method 'sgd'"),
        (["train", "--method", "ce", "--data", "imagenet"], "unknown data set 'imagenet'"),
        (["train", "--method", "ce", "--data", "digits-lt", "--imbalance", "1000"], "1000"),
        (["train", "--method", "ce", "--groups", "half"], "half"),
        (["train", "--method", "ce", "--data", "cifar10-lt", "--data-root", "/nowhere"], "/nowhere"),
        (["train", "--method", "ce", "-O", "scope=all"], "unknown option 'scope' of ce"),
        (["train", "--method", "cc-sam", "-O", "scope=half"], "unknown scope 'half'"),
        (["train", "--method", "ce", "-O", "scope"], "name=value"),
        (["train", "--method", "ce", "--flatten", "swa"], "unknown flattening operation 'swa'"),
        (["train", "--method", "ce", "--epochs", "0"], "epochs=0"),
        (["train", "--method", "ce", "--model", "vgg"], "unknown model 'vgg'"),
        (["train", "--method", "ce", "--epochs", "many"], "many"),
        (["train", "--method", "ce", "--device", "gpu"], "device 'gpu'"),
        (["train", "--method", "ce", "--device", "cuda:99"], "device 'cuda:99'"),
        (["train", "--method", "ce", "--precision", "half"], "unknown precision 'half'"),
        (["train"], "--method"),
        (["measure", "nowhere.pt"], "nowhere.pt"),
        (["measure"], "CHECKPOINTS"),
        (["figures", "--methods", "ce,ce"], "only once"),
        (["fly"], "fly"),
    ],
)
def test_a_mistake_ends_in_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SHARPNESS_DATA", raising=False)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not (tmp_path / "runs").exists()


def test_measure_prints_a_table_json_or_files(run, capsys, tmp_path):
    arguments = ["measure", str(run), "--measures", "accuracy,loss"]
    assert main([*arguments, "-o", str(tmp_path / "t.csv")]) == 0
    printed = capsys.readouterr().out
    assert printed.split("\n")[0].split() == ["class", "group", "samples", "train", "accuracy", "loss"]
    assert main([*arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    written = pd.read_csv(tmp_path / "t.csv")
    assert [r["class"] for r in rows] == list(written["class"])
    assert rows[0]["loss"] == pytest.approx(written.loss[0], rel=1e-6)


def test_a_wrong_output_name_or_class_is_a_mistake(run, capsys):
    assert main(["measure", str(run), "-o", "table.xlsx"]) == 2
    assert main(["measure", str(run), "--measures", "flatness"]) == 2
    assert main(["landscape", str(run), "--directions", "up"]) == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_spectrum_prints_values_with_residuals(run, capsys, tmp_path):
    assert main(["spectrum", str(run), "--limit-per-class", "2", "--per-class", "-o", str(tmp_path / "s.nc")]) == 0
    out = capsys.readouterr().out
    assert "residual" in out and "smallest" in out
    assert (tmp_path / "s.nc").exists()


def test_landscape_writes_planes_and_pictures(run, capsys, tmp_path):
    out = tmp_path / "out"
    arguments = ["--plane", "3", "--limit-per-class", "2", "--class", "few", "--out", str(out)]
    assert main(["landscape", str(run), *arguments]) == 0
    assert {p.name for p in out.iterdir()} == {
        "plane-0.nc", "planes.csv", "contour.pdf", "contour.png", "surface.pdf", "surface.png",
    }  # fmt: skip


def test_inspect_names_method_head_data_and_accuracy(run, capsys):
    assert main(["inspect", str(run)]) == 0
    out = capsys.readouterr().out
    for fact in ("ldam-drw", "cosine, scale 30", "resnet8", "ldam_seed0", "accuracy"):
        assert fact in out


def test_a_folder_with_another_run_is_refused_with_the_field_that_differs(run, capsys):
    assert main(["train", "--method", "ce", "--epochs", "1", "--out", str(run)]) == 2
    assert "method is 'ldam-drw', asked for 'ce'" in capsys.readouterr().err


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "sharpness", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("sharpness")
