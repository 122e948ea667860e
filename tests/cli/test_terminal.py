"""No character of a foreign file or name acts on the terminal."""

import logging

import pytest

from sharpness.cli import main
from sharpness.cli.output import say
from sharpness.errors import UserError, printable

ACTING = "\x1b[2J\x07\u202e\x9b31m\r\u2066"


def test_messages_tables_notices_and_bars_are_printable(capsys, caplog):
    assert str(UserError(f"a{ACTING}\nb")).isprintable()
    say(f"a{ACTING}\nb")
    assert printable(out := capsys.readouterr().out, kept="\n") == out and out.count("\n") == 2
    with caplog.at_level(logging.INFO, "sharpness"):
        logging.getLogger("sharpness").info("%s is %d", ACTING, 3)
    assert caplog.records[-1].getMessage().isprintable()


@pytest.mark.parametrize("command", [["inspect"], ["measure"], ["train", "--data"], ["figures", "--study"]])
def test_names_given_to_the_command_line_do_not_act(command, capsys):
    assert main([*command, f"no{ACTING}thing"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and told.err.rstrip("\n").isprintable()
