"""Every public function says in its docstring what it does, takes, returns and refuses, with an example."""

import inspect
import re

import pytest

import sharpness

FUNCTIONS = [name for name in sharpness.__all__ if name[0].islower() and callable(getattr(sharpness, name))]
#: First words of sentences that say what something is rather than what a call does.
NOUNS = {"A", "An", "The", "What", "How", "Whether", "One", "Every"}


def sections(name):
    """The docstring's summary, and its parts by their headings."""
    text = inspect.getdoc(getattr(sharpness, name))
    found = re.split(r"(?m)^(Args|Returns|Raises):\n", text)
    return text, dict(zip(found[1::2], found[2::2], strict=True))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_is_documented_in_full(name):
    text, parts = sections(name)
    summary = text.partition("\n\n")[0]
    assert "\n" not in summary and summary.endswith(".") and summary.split()[0] not in NOUNS
    assert parts.keys() >= {"Args", "Returns", "Raises"}
    documented = re.findall(r"(?m)^    (\w+): \S", parts["Args"])
    assert sorted(documented) == sorted(inspect.signature(getattr(sharpness, name)).parameters)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_has_an_example(name):
    assert ">>> " in sections(name)[0]


def test_the_class_that_everything_starts_from_is_documented_in_full():
    text, parts = sections("Objective")
    documented = re.findall(r"(?m)^    (\w+): \S", parts["Args"])
    assert sorted(documented) == sorted(inspect.signature(sharpness.Objective).parameters)
    assert ">>> " in text
