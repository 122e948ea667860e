"""The house has floors: a room imports only from floors below it, or from its own folder."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "sharpness"
FLOORS = {
    "errors": -2,
    "extensions": -1,
    **dict.fromkeys(["registry", "locks", "generators"], -0.5),
    **dict.fromkeys(["files", "identity", "keywords", "progress", "registries", "renamed", "statistics"], 0),
    **dict.fromkeys(["transfer", "untrusted", "version"], 0),
    **dict.fromkeys(["steps", "data", "models", "engine", "curvature", "plots"], 1),
    **dict.fromkeys(["flattening", "clusters"], 2),
    **dict.fromkeys(["methods", "checkpoints", "objective", "results"], 3),
    **dict.fromkeys(["training", "probes", "explorer", "reporting"], 4),
    **dict.fromkeys(["studies", "optimizers", "lightning"], 5),
    "cli": 6,
    **dict.fromkeys(["__init__", "__main__"], 7),
}
#: The rooms inside ``probes/``, from the ground up.
PROBES = {
    "directions": 0,
    "shared": 1,
    "curvature": 2,
    "open_set": 2,
    **dict.fromkeys(["perturbations", "landscapes"], 3),
    "measures": 4,
    "__init__": 5,
}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """The first parts of all names that a file imports from the package, such as ``probes``."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "sharpness":
            parts = node.module.split(".")
            rooms |= {parts[1]} if len(parts) > 1 else {a.name for a in node.names}
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("sharpness.")}
    return rooms


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_from_floors_below(path):
    own = room(path)
    for other in imported_rooms(path) - {own}:
        assert FLOORS[other] < FLOORS[own], f"{own} (floor {FLOORS[own]}) imports {other} (floor {FLOORS[other]})"


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "probes").rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE / "probes"))
)
def test_a_room_of_the_probes_imports_only_from_floors_below(path):
    own = path.relative_to(PACKAGE / "probes").parts[0].removesuffix(".py")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sharpness.probes"):
            parts = node.module.split(".")
            assert len(parts) > 2, f"{path.name} imports from sharpness.probes: name the room"
            assert parts[2] == own or PROBES[parts[2]] < PROBES[own], f"{own} imports {parts[2]}"


def test_rooms_name_what_they_offer_in_one_way():
    """By ``__all__``, whose order the linter holds, not by ``import x as x``."""
    for path in PACKAGE.rglob("__init__.py"):
        names = [a for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) for a in n.names]
        assert not [a.name for a in names if a.asname == a.name], path


def test_nothing_needs_torchvision():
    for path in PACKAGE.rglob("*.py"):
        assert "torchvision" not in {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            for name in (
                [a.name for a in node.names] if isinstance(node, ast.Import)
                else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            )
        }  # fmt: skip


@pytest.mark.parametrize("used", [("data.read_images", "Objective"), ("probes.line", "eigenvalues")])
def test_the_package_is_empty_until_something_of_it_is_used(used):
    """In a process of its own: neither importing it, asking what it has nor saved results load torch, and every room is
    found. Only a picture loads matplotlib.
    """
    code = (
        "import sys, sharpness; dir(sharpness); assert 'xarray' not in sys.modules; from sharpness.cli import main; "
        "assert main(['merge', sys.argv[1]]) == 0; assert 'torch' not in sys.modules; "
        f"sharpness.{used[0]}; assert 'torch' in sys.modules; sharpness.{used[1]}; import torch; "
        "objective = sharpness.Objective(torch.nn.Linear(2, 2), (torch.eye(2), torch.tensor([0, 1]))); "
        "result = sharpness.measure(objective, 'loss,lambda_max'); result._repr_html_(); result.to_latex(); "
        "assert not {'matplotlib', 'seaborn'} & set(sys.modules); result.plot; assert 'matplotlib' in sys.modules"
    )
    saved = Path(__file__).parent / "results" / "fixtures" / "measure.nc"
    subprocess.run([sys.executable, "-c", code, str(saved)], check=True)


def test_threads_of_the_command_line_sleep_while_they_wait():
    """In a process of its own: OpenMP reads the policy when torch is loaded, so it is set before; the user's stays."""
    code = (
        "import os, sys; from sharpness.cli import main; assert main(['--help']) == 0; "
        "assert 'torch' not in sys.modules; print(os.environ['OMP_WAIT_POLICY'])"
    )
    for given, expected in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        environment |= {"OMP_WAIT_POLICY": given} if given else {}
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
        assert done.stdout.splitlines()[-1] == expected
