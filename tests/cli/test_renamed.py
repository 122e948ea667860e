"""Old names of options."""

import pytest

from sharpness.cli import cli, main
from sharpness.cli.renamed import RENAMED, by_new_names
from sharpness.errors import UserError

USED = [
    (name, old, new)
    for name, command in cli.commands.items()
    for old, new in RENAMED.items()
    if any(new in parameter.opts for parameter in command.params)
]


@pytest.mark.parametrize("name, old, new", USED, ids=["-".join(case[:2]) for case in USED])
def test_an_old_option_is_taken_by_its_new_name_with_one_line_on_stderr(name, old, new, capsys):
    command = cli.commands[name]
    for given, expected in ([old, "3"], [new, "3"]), ([f"{old}=3"], [f"{new}=3"]):
        assert by_new_names(command, ["a.pt", *given]) == ["a.pt", *expected]
        lines = capsys.readouterr().err.splitlines()
        assert lines == [f"sharpness: {old} is now {new}: the old name goes with the next version"]
    with pytest.raises(UserError, match=f"{new} and {old}: both name the same option"):
        by_new_names(command, [new, "3", old, "3"])
    assert by_new_names(command, [new, "3"]) == [new, "3"] and capsys.readouterr().err == ""


def test_every_old_option_is_one_of_some_command():
    assert {old for _, old, _ in USED} == set(RENAMED)


def test_an_old_option_does_what_the_new_one_does(capsys):
    assert main(["spectrum", "nowhere.pt", "--figure", "nowhere/or/here.txt/"]) == 2
    old = capsys.readouterr().err.splitlines()
    assert main(["spectrum", "nowhere.pt", "--plot", "nowhere/or/here.txt/"]) == 2
    assert old[1:] == capsys.readouterr().err.splitlines()
    assert main(["measure", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--parameters" in shown and "--scope" not in shown
