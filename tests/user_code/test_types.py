"""mypy --strict on code of users: it finds the types of results, and misspelt keywords."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytest.importorskip("mypy")


@pytest.fixture(scope="module")
def errors():
    """What mypy reports, by file and line: one run, with a cache of its own because its settings are others."""
    root = HERE.parents[1]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--config-file", HERE / "strict.ini"),
            *("--cache-dir", root / ".mypy_cache" / "user_code"),
            *(HERE / "typed.py", HERE / "mistakes.py"),
        ],
        capture_output=True,
        text=True,
        cwd=root,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = {}
    for name, line, text in re.findall(r"(?m)^.*?(\w+\.py):(\d+): error: (.*)$", done.stdout):
        found.setdefault(name, {}).setdefault(int(line), []).append(text)
    return found


def test_every_public_function_has_the_type_of_its_result(errors):
    assert errors.get("typed.py", {}) == {}


def test_a_misspelt_keyword_is_an_error_that_names_the_right_one(errors):
    lines = (HERE / "mistakes.py").read_text().splitlines()
    expected = {n: line.partition("# mypy: ")[2] for n, line in enumerate(lines, start=1) if "# mypy: " in line}
    found = errors["mistakes.py"]
    assert found.keys() == expected.keys()
    for line, message in expected.items():
        assert any(message in text for text in found[line]), (line, found[line])


def test_every_public_function_is_called():
    import sharpness

    functions = [n for n in sharpness.__all__ if callable(getattr(sharpness, n)) and n[0].islower()]
    assert [n for n in functions if f"sharpness.{n}(" not in (HERE / "typed.py").read_text()] == []
