"""How much is said: ``-q``, ``-v`` and ``--json`` of every command, and what a shell completes."""

import json
import os
import subprocess
import sys

import click
import numpy as np
import pandas as pd
import pytest

from sharpness.cli import cli, main
from sharpness.cli.output import as_records


def commands(group=cli, above=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*above, name))
        else:
            yield (*above, name), command


ALL = dict(commands())
#: What writes pages, and prints the names of its files alone.
PAGES = {("explore",), ("report",), ("merge",)}


@pytest.mark.parametrize("name", ALL, ids=" ".join)
def test_every_command_has_the_same_levels_and_prints_json(name):
    options = {option for one in ALL[name].params for option in one.opts}
    assert {"-q", "-v"} <= options
    assert "--json" in options or name in PAGES or name == ("landscape",)


def test_levels_of_what_is_said(run, capsys):
    """Nothing but the table, the usual notices, and notices with times and modules."""
    command = ["measure", str(run), "--limit-per-class", "2", "--measures", "loss"]
    said = {}
    for flags in ((), ("-q",), ("-qq",), ("-v",)):
        assert main([*command, *flags]) == 0
        said[flags] = capsys.readouterr()
    assert len({one.out for one in said.values()}) == 1
    assert "measuring loss" in said[()].err and said["-qq",].err == "" and "measuring" not in said["-q",].err
    assert " s " in said["-v",].err and len(said["-v",].err) > len(said[()].err)
    assert main(["-q", *command]) == 0
    assert "measuring" not in capsys.readouterr().err


def test_json_has_all_digits_of_numbers():
    """Losses of saturated classes are below 1e-10, where pandas' own JSON ends."""
    frame = pd.DataFrame({"class": ["0", "τ"], "loss": [1.2345678901234e-11, np.nan], "samples": [3, 4]})
    assert json.loads(as_records(frame.assign(rise=[np.inf, -2e-17]))) == [
        {"class": "0", "loss": 1.2345678901234e-11, "samples": 3, "rise": None},
        {"class": "τ", "loss": None, "samples": 4, "rise": -2e-17},
    ]


def test_json_of_commands_that_print_a_table(run, capsys, tmp_path):
    def found(*arguments):
        assert main([*map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    (facts,) = found("inspect", run)
    assert facts["method"].startswith("ldam-drw") and facts["file"].endswith("last.pt")
    table = tmp_path / "table.csv"
    table.write_text(
        "model,class,group,samples,train,accuracy,loss\n"
        + "".join(
            f"{name},{c},few,4,10,{0.5 + 0.1 * i},{0.1 * i}\n"
            for name in "abc"
            for i, c in enumerate(["all", "0", "1"])
        )
    )
    assert {row["measure"] for row in found("correlate", table, "--resamples", 20)} == {"loss"}
    rows = found("train", "--method", "ce", "--epochs", 1, "--out", tmp_path / "again")
    assert rows[-1]["epoch"] == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "--method", "ld"], "ldam-drw"),
        (["measure", "--measures", "loss,lambda_m"], "loss,lambda_max"),
        (["measure", "zoo:c"], "zoo:ce"),
        (["measure", "--spl"], "--split"),
    ],
)
def test_a_shell_completes_names(words, expected, monkeypatch, capsys):
    monkeypatch.setenv("_SHARPNESS_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", " ".join(["sharpness", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    with pytest.raises(SystemExit):
        main([])
    assert f"plain,{expected}" in capsys.readouterr().out.splitlines()


def test_completion_does_not_load_torch():
    """In a process of its own."""
    code = "import sys\nfrom sharpness.cli import main\ntry:\n main([])\nfinally:\n assert 'torch' not in sys.modules"
    told = {"_SHARPNESS_COMPLETE": "bash_complete", "COMP_WORDS": "sharpness train --method m", "COMP_CWORD": "3"}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | told, capture_output=True, text=True)
    assert done.returncode == 0 and "plain,mislas" in done.stdout.splitlines(), done.stderr
