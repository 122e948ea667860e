"""Registries answer for what is built in, what is registered and what installed packages offer."""

import sys

import pytest

from sharpness import UserError
from sharpness.registry import Registry


@pytest.fixture
def shapes():
    return Registry("shape", "sharpness.shapes", {"fraction": ("A fraction", "fractions:Fraction")})


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Make a folder that Python takes for an installed package with entry points."""

    def make(name, code, **offered):
        (tmp_path / f"{name}.py").write_text(code)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        rows = "\n".join(f"{key} = {value}" for key, value in offered.items())
        (info / "entry_points.txt").write_text(f"[sharpness.shapes]\n{rows}\n")
        for key in [key for key in sys.modules if key == name]:
            monkeypatch.delitem(sys.modules, key)
        monkeypatch.syspath_prepend(str(tmp_path))
        return tmp_path / name

    yield make
    for key in [key for key in sys.modules if key.startswith("shapes_of_")]:
        del sys.modules[key]


def square():
    return 4


def test_what_is_built_in_is_imported_when_it_is_asked_for(shapes):
    assert list(shapes) == ["fraction"] and shapes.label("fraction") == "A fraction"
    assert shapes["fraction"].__name__ == "Fraction"
    with pytest.raises(KeyError):
        shapes["cube"]


def test_a_function_is_registered_beside_it_and_again_when_a_cell_is_run_again(shapes):
    assert shapes.register("square", square, label="Square") is square
    assert shapes.register("square")(square) is square
    assert shapes.choose("square")() == 4 and shapes.label("square") == "square"
    assert list(shapes) == ["fraction", "square"] and shapes.added() == ["square"] and len(shapes) == 2


def test_it_remains_a_dictionary(shapes, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setitem(shapes, "fraction", square)
        patched.setitem(shapes, "square", square)
        assert shapes["fraction"] is square is shapes["square"]
    assert shapes["fraction"].__name__ == "Fraction" and "square" not in shapes


@pytest.mark.parametrize(
    ("name", "thing", "told"),
    [
        ("fraction", square, "comes with sharpness"),
        ("a,b", square, "without spaces, commas"),
        ("", square, "give a name"),
        ("square", 3, "a int is not something to call"),
    ],
)
def test_what_cannot_be_registered_is_refused(shapes, name, thing, told):
    with pytest.raises(UserError, match=told):
        shapes.register(name, thing)


def test_an_unknown_name_lists_all(shapes, package):
    shapes.register("square", square)
    package("shapes_of_a", "", cube="shapes_of_a:cube")
    with pytest.raises(UserError, match="unknown shape 'ball': choose one of fraction, square, cube$"):
        shapes.choose("ball")


def test_a_package_is_imported_for_its_name_alone(shapes, package):
    package("shapes_of_b", "def cube(): return 6\ncube.label = 'Cube'", cube="shapes_of_b:cube")
    shapes.choose("fraction")
    assert "cube" in shapes and list(shapes) == ["fraction", "cube"] and "shapes_of_b" not in sys.modules
    assert shapes.label("cube") == "Cube" and shapes.choose("cube")() == 6


def test_a_package_may_register_its_name_itself(shapes, package, monkeypatch):
    monkeypatch.setattr("fractions.SHAPES", shapes, raising=False)
    code = "from fractions import SHAPES\nSHAPES.register('cube', lambda: 6, label='The cube')"
    package("shapes_of_c", code, cube="shapes_of_c")
    assert shapes["cube"]() == 6 and shapes.label("cube") == "The cube"


def test_built_in_names_are_not_taken_over(shapes, package):
    package("shapes_of_d", "fraction = print", fraction="shapes_of_d:fraction")
    assert shapes["fraction"].__name__ == "Fraction" and list(shapes) == ["fraction"]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import no_such_module", "raised ModuleNotFoundError: No module named 'no_such_module'; mend or uninstall"),
        ("", "raised AttributeError"),
        ("raise SystemExit(3)", "raised SystemExit 3"),
        ("cube = 6", "a int is not something to call"),
    ],
)
def test_a_broken_package_is_one_line_for_who_asks_for_it_and_nothing_for_others(shapes, package, code, told):
    package("shapes_of_e", code, cube="shapes_of_e:cube")
    assert list(shapes) == ["fraction", "cube"] and shapes.choose("fraction")
    with pytest.raises(UserError, match=f"^shape 'cube' of shapes_of_e: .*{told}") as refused:
        shapes.choose("cube")
    assert "\n" not in str(refused.value)


def test_two_packages_of_one_name_are_told(shapes, package):
    package("shapes_of_f", "cube = print", cube="shapes_of_f:cube")
    package("shapes_of_g", "cube = print", cube="shapes_of_g:cube")
    with pytest.raises(UserError, match="'cube' is offered by shapes_of_[fg] and by shapes_of_[fg]: uninstall one"):
        shapes.choose("cube")
