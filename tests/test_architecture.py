"""The house has floors: a room imports only from floors below it, or from its own folder."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "sharpness"
FLOORS = {
    "errors": -1,
    **dict.fromkeys(["files", "progress", "transfer", "untrusted", "version"], 0),
    **dict.fromkeys(["flattening", "data", "models", "engine", "curvature", "plots"], 1),
    **dict.fromkeys(["methods", "checkpoints", "objective", "results"], 2),
    **dict.fromkeys(["training", "probes"], 3),
    "studies": 4,
    "cli": 5,
    **dict.fromkeys(["__init__", "__main__"], 6),
}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
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
