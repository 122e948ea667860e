"""What the README tells a newcomer to type works as it stands."""

import re
import shlex
from pathlib import Path

import pytest

from sharpness.cli import cli

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_examples_run_in_order(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert len(names["table"].to_frame()) == 14
    assert names["plane"].class_losses.shape == (10, 11, 11)
    assert names["surface"].class_losses.shape == (10, 51, 51)


@pytest.mark.parametrize("row", [r for b in blocks("sh") for r in b.splitlines() if r.startswith("sharpness ")])
def test_every_command_line_parses(row):
    words = shlex.split(row, comments=True)[1:]
    command = cli.commands[words[0]]
    command.make_context(words[0], words[1:])


def test_every_picture_and_page_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
