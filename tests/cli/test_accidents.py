"""What the system refuses ends in one line; nothing of the user's is removed; commands do not race."""

import errno
import functools
import json
import os
import subprocess
import sys

import pytest

import sharpness
from sharpness.cli import main
from sharpness.data import load_data
from sharpness.locks import only_process
from sharpness.models import BACKBONES, CifarResNet


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    sharpness.train("ce", load_data("digits-lt"), out, epochs=1)
    return out


QUICK = ("--limit-per-class", "2")
COMMANDS = {
    "measure": lambda run, out: ["measure", str(run), *QUICK, "--measures", "loss", "-o", f"{out}/mine.csv"],
    "spectrum": lambda run, out: ["spectrum", str(run), *QUICK, "-o", f"{out}/mine.csv"],
    "landscape": lambda run, out: ["landscape", str(run), *QUICK, "--plane", "0", "--line", "3", "--out", str(out)],
    "train": lambda run, out: [
        "train",
        "--method",
        "ce",
        "--data",
        "digits-lt",
        "--epochs",
        "1",
        "--out",
        f"{out}/run",
    ],
}


def one_line(capsys, code, *parts):
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sharpness:")]
    assert code == 2
    assert all(part in told[-1] for part in parts), told
    assert not any("Traceback" in line for line in told)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_disk_that_takes_nothing_more(command, number, run, tmp_path, capsys, monkeypatch):
    def full(*of):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        one_line(capsys, main(COMMANDS[command](run, tmp_path)), os.strerror(number))
    assert not list(tmp_path.rglob("*.part"))
    assert main(COMMANDS[command](run, tmp_path)) == 0


@pytest.mark.parametrize("command", ["measure", "spectrum"])
def test_a_folder_that_the_user_made_stays(command, run, tmp_path):
    mine = tmp_path / "mine.csv.partial"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    assert main(COMMANDS[command](run, tmp_path)) == 0
    assert os.listdir(mine) == ["notes.txt"]
    (mine / "notes.txt").unlink()
    assert main(COMMANDS[command](run, tmp_path)) == 0
    assert mine.is_dir()


def test_unfinished_work_of_other_settings_stays(run, tmp_path, monkeypatch):
    command = COMMANDS["spectrum"](run, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(
            sys.modules["sharpness.cli.output"], "write_results", lambda *of: (_ for _ in ()).throw(RuntimeError)
        )
        main([*command, "--seed", "1"])
    (other,) = (tmp_path / "mine.csv.partial").glob("[!.]*")
    assert main(command) == 0
    assert list((tmp_path / "mine.csv.partial").glob("[!.]*")) == [other]
    assert main([*command, "--seed", "1"]) == 0
    assert sorted(os.listdir(tmp_path)) == ["mine.csv", "mine.csv.json"]


@pytest.mark.parametrize("command", ["measure", "spectrum", "landscape"])
def test_two_commands_with_one_output_do_not_race(command, run, tmp_path, capsys):
    name = ".partial" if command == "landscape" else "mine.csv.partial"
    with only_process(tmp_path / f".{name}.lock", "works on the same output", made=True):
        one_line(capsys, main(COMMANDS[command](run, tmp_path)), "another process works on the same output here")
    assert main(COMMANDS[command](run, tmp_path)) == 0


@pytest.mark.parametrize("length", [200, 250, 255])
def test_long_names_work_as_far_as_the_system_takes_them(length, run, tmp_path, capsys):
    name = "n" * (length - 4) + ".csv"
    assert main(["measure", str(run), *QUICK, "--measures", "loss", "-o", str(tmp_path / name)]) == 0
    (sidecar,) = set(os.listdir(tmp_path)) - {name}
    assert json.loads((tmp_path / sidecar).read_text())["table"] == name


@pytest.mark.parametrize("option", ["-o", "--plot"])
def test_a_name_too_long_is_told_before_anything_is_measured(option, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sharpness, "measure", None)
    name = "n" * 300 + ("" if option == "--plot" else ".csv")
    one_line(capsys, main(["measure", str(run), option, str(tmp_path / name)]), "File name too long")


@pytest.mark.parametrize("command", ["landscape", "train", "figures"])
def test_a_folder_with_a_name_too_long(command, run, tmp_path, capsys):
    out = str(tmp_path / ("n" * 300))
    arguments = {"landscape": [str(run)], "train": ["--method", "ce", "--data", "digits-lt"], "figures": []}[command]
    one_line(capsys, main([command, *arguments, "--out", out]), "File name too long")


def test_a_run_that_diverges_is_told_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sharpness.training.loop.run_epoch", lambda *of: float("nan"))
    one_line(capsys, main(COMMANDS["train"](None, tmp_path)), "training diverged", "smaller learning rate")


@pytest.fixture(scope="module")
def published_run(tmp_path_factory):
    """Of the network that other processes have under this name."""
    out = tmp_path_factory.mktemp("published") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "resnet8", functools.partial(CifarResNet, 8))
        assert main(["train", "--method", "ce", "--epochs", "1", "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("stdout", ["full", "closed", "nobody reads"])
def test_an_output_that_takes_nothing_ends_in_one_line_after_the_file_is_written(stdout, published_run, tmp_path):
    command = [sys.executable, "-m", "sharpness", *COMMANDS["measure"](published_run, tmp_path)]
    if stdout == "full" and not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    if stdout == "full":
        with open("/dev/full", "w") as full:
            ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    elif stdout == "closed":
        script = 'exec "$@" >&-'
        ended = subprocess.run(["sh", "-c", script, "sh", *command], stderr=subprocess.PIPE, text=True, check=False)
    else:
        read, write = os.pipe()
        os.close(read)
        ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
        os.close(write)
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 2 and last.startswith("sharpness: stdout"), ended.stderr
    assert "Traceback" not in ended.stderr and "Exception ignored" not in ended.stderr
    assert (tmp_path / "mine.csv").is_file() == (stdout != "closed")


def test_a_command_that_is_refused_before_it_works_leaves_no_folder(run, tmp_path, capsys):
    output = tmp_path / "mine.csv"
    assert main(["measure", str(run), "--limit-per-class", "1", "--parameters", "nothing", "-o", str(output)]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not [entry for entry in tmp_path.iterdir() if not entry.name.startswith(".")]
