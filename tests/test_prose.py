"""Docstrings name an object or an action, and long functions say why at the steps that look too complicated."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from sharpness.cli import cli

PACKAGE = Path(__file__).parent.parent / "sharpness"
#: Rooms, and files beside them.
EVERYWHERE = sorted(p.name for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file())
RIDDLES = {"What", "Whether", "How", "Where", "Which", "Who", "When"}
LONG = 25
#: The begin of a phrase: no choice, default or preposition that refers to the line above.
PHRASE = re.compile(r"(?!(Of|By|For|Also|Such|Likewise|Them|Those|Which) )[A-Z]")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(room: str) -> Iterator[tuple[str, str]]:
    """The files of a room: their paths inside the package, and their text."""
    path = PACKAGE / room
    for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
        yield str(file.relative_to(PACKAGE)), file.read_text()


def riddles(text: str) -> Iterator[str]:
    """Docstrings of a module that open with a question word, as ``line: first line``."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | Function):
            words = (ast.get_docstring(node) or "").split()
            if words and words[0] in RIDDLES:
                yield f"{getattr(node, 'lineno', 1)}: {' '.join(words[:12])}"


def bare(text: str) -> Iterator[str]:
    """Functions of at least ``LONG`` lines of code without a comment, as ``line: name (lines of code)``.

    Docstrings, blank lines and directives to tools (``# type: ignore``) are neither code nor comments.
    """
    tree, code, comments = ast.parse(text), set[int](), set[int]()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            if not token.string.startswith(("# type:", "# noqa", "# fmt:")):
                comments.add(token.start[0])
        elif token.string.strip():
            code.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node) is not None:
            code.difference_update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    for node in ast.walk(tree):
        if isinstance(node, Function):
            span = set(range(node.lineno, (node.end_lineno or 0) + 1))
            if len(code & span) >= LONG and not comments & span:
                yield f"{node.lineno}: {node.name} ({len(code & span)} lines)"


@pytest.mark.parametrize("room", EVERYWHERE)
def test_docstrings_name_an_object_or_say_what_is_done(room):
    found = [f"{name}:{riddle}" for name, text in sources(room) for riddle in riddles(text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("room", EVERYWHERE)
def test_long_functions_say_why(room):
    found = [f"{name}:{function}" for name, text in sources(room) for function in bare(text)]
    assert not found, "\n".join(found)


def test_a_riddle_and_a_bare_function_are_found():
    body = "\n".join(f"    x = {i}" for i in range(LONG - 1))
    text = f'"""Whether it works."""\n\n\ndef long():\n    """A long one."""\n{body}  # type: ignore\n'
    assert list(riddles(text)) == ["1: Whether it works."]
    assert list(bare(text)) == [f"4: long ({LONG} lines)"]
    assert not list(bare(text.replace("x = 1\n", "x = 1  # because of rounding\n")))


@pytest.mark.parametrize("command", cli.commands.values(), ids=list(cli.commands))
def test_help_texts_can_be_read_alone(command):
    texts = {p.name: getattr(p, "help", "") or "" for p in command.params if isinstance(p, click.Option)}
    bare = {name: text for name, text in texts.items() if not PHRASE.match(text) or len(text.split()) < 3}
    assert not bare
