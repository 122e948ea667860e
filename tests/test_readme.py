"""What the README and the pages of `docs/` tell a newcomer to type works as it stands."""

import inspect
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import sharpness
from sharpness import load_data
from sharpness.cli import cli
from sharpness.flattening import OPERATIONS, build_operation
from sharpness.methods import METHODS
from sharpness.probes.curvature import resampling

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
METHODS_PAGE = (ROOT / "docs/methods.md").read_text()
PAGES = [
    ROOT / "README.md",
    *(
        page
        for folder in (".", "howto", "explain", "reference")
        for page in sorted((ROOT / "docs" / folder).glob("*.md"))
    ),
]
#: Pages, and the files of which they show the first table.
TABLES = [
    ("README.md", "figures/demo/summary.md"),
    ("docs/studies.md", "figures/cifar10-lt/summary.md"),
    ("docs/python.md", "benchmarks/landscape.txt"),
    ("docs/landscapes.md", "benchmarks/landscape.txt"),
    ("docs/landscapes.md", "benchmarks/adaptive.txt"),
    ("docs/theory.md", "benchmarks/theory.txt"),
]


def blocks(language: str, page: Path) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def test_the_python_examples_run_in_order(shallow_resnet8, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resampling, "DIMENSIONS", 20)  # of a basis that takes half of the time and leaves all else
    names: dict = {}
    for page in (ROOT / "README.md", ROOT / "docs/python.md"):
        for block in blocks("python", page):
            exec(compile(block, page.name, "exec"), names)
    assert len(names["table"].to_frame()) == 14
    assert names["plane"].class_losses.shape == (10, 11, 11)
    assert names["surface"].class_losses.shape == (10, 51, 51)


def test_the_python_of_measuring_ones_own_network_runs():
    torch.manual_seed(0)
    names = {
        "model": torch.nn.Linear(3, 10).eval(),
        "x": torch.randn(40, 3),
        "y": torch.arange(40) % 10,
        "counts": [1000, 500, 200, 100, 90, 80, 50, 20, 10, 5],
        "my_loss": torch.nn.functional.cross_entropy,
    }
    for block in blocks("python", ROOT / "docs/howto/own-network.md"):
        exec(compile(block, "own-network.md", "exec"), names)
    assert {"all", "0", "9"} < set(names["table"].to_frame()["class"]) and names["ends"].largest.shape == (10,)
    assert names["objective"].class_losses().shape == (10,) and names["plane"].losses.shape == (51, 51)


@pytest.mark.parametrize("script", sorted((ROOT / "docs/examples").glob("plot_*.py")), ids=lambda script: script.stem)
def test_scripts_of_the_gallery_draw(script, monkeypatch):
    monkeypatch.chdir(script.parent)
    names: dict = {}
    exec(compile(script.read_text(), script.name, "exec"), names)
    assert any(ax.has_data() for ax in np.ravel(names["picture"])[0].figure.axes)


@pytest.mark.parametrize(
    "row",
    [
        row
        for page in PAGES
        for block in blocks("sh", page)
        for row in block.replace("\\\n", " ").splitlines()
        if row.startswith("sharpness ")
    ],
)
def test_every_command_line_parses(row):
    words = shlex.split(row, comments=True)[1:]
    command = cli.commands[words[0]]
    command.make_context(words[0], words[1:])


def test_every_public_name_is_in_the_reference():
    page = (ROOT / "docs/reference/python.md").read_text()
    listed = {name.rpartition(".")[2] for name in re.findall(r"^   ([\w.]+)$", page, re.MULTILINE)}
    assert {*sharpness.__all__, *sharpness.results.__all__} - listed == {"__version__", "with_errors"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_picture_and_page_exists(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize(("page", "source"), TABLES)
def test_tables_are_those_that_commands_have_written(page, source):
    shown = set((ROOT / page).read_text().splitlines())
    rows = re.search(r"(^\|.*\n)+", (ROOT / source).read_text(), re.MULTILINE)[0].splitlines()[2:]
    assert rows and not [row for row in rows if row not in shown]


def test_the_first_table_is_the_whole_summary_of_the_gallery():
    name = "figures/demo/summary.md"
    (block,) = re.findall(f"<!-- {name} -->\n(.*?)<!-- end of {name} -->\n", README, re.DOTALL)
    assert block == (ROOT / name).read_text()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no clone")
@pytest.mark.parametrize("command", ["demo", "figures"])
def test_what_a_users_command_writes_is_ignored_by_git(command):
    context = cli.commands[command].make_context(command, [])
    folders = [context.params[name] for name in ("out", "runs")]
    if command == "figures":
        assert folders == [None, None]
        folders = ["out/digits-lt", "runs/digits-lt", "runs/flattening"]
    for folder in folders:
        subprocess.run(["git", "check-ignore", "-q", f"{folder}/summary.md"], cwd=ROOT, check=True)


def test_the_costs_of_steps_are_those_of_the_benchmark():
    tables = [
        dict(re.findall(r"^\| (.*? \| .*?) \| (.*?) \|$", (ROOT / f"benchmarks/step_cost-{p}.txt").read_text(), re.M))
        for p in ("float32", "bfloat16")
    ]
    steps = [step for step in tables[0] if not step.startswith(("step", "---"))]
    assert len(steps) > 10 and all(f"| {s} | {tables[0][s]} | {tables[1][s]} |" in METHODS_PAGE for s in steps)


def table(first: str) -> list[list[str]]:
    """Cells of the rows of the table of methods or operations, whose first heading is ``first``."""
    rows = METHODS_PAGE[METHODS_PAGE.index(f"\n| {first} |") :].strip().split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


@pytest.mark.parametrize(("first", "known"), [("method", METHODS), ("operation", OPERATIONS)])
def test_the_tables_have_every_method_and_operation_with_file_and_command(first, known):
    rows = table(first)
    assert sorted(row[0].strip("`") for row in rows) == sorted(known)
    for name, _, file, _, _, command in rows:
        assert inspect.getsourcefile(known[name.strip("`")]).endswith(re.search(r"\(../(.*)\)", file)[1])
        _, *words = shlex.split(command.strip("`"))
        context = cli.commands[words[0]].make_context(words[0], words[1:])
        asked = [context.params["method"], *(build_operation(o).__class__ for o in [context.params["flatten"]] if o)]
        assert asked[-1] == (name.strip("`") if first == "method" else known[name.strip("`")])


def test_the_tables_name_the_papers_of_the_code_and_the_options_of_a_method():
    longtail = load_data("digits-lt").longtail
    for name, paper, _, _, options, _ in table("method"):
        method = METHODS[name.strip("`")]
        known = [p for p in inspect.signature(method).parameters if p != "longtail"]
        assert re.findall(r"`(\w+)`", options) == known
        assert all(part in method(longtail).paper for part in paper.split(" et al., ")), paper
    for name, paper, *_ in table("operation"):
        author, venue = paper.split(" et al., ")
        told = OPERATIONS[name.strip("`")].paper
        assert told.startswith(author) and told.endswith(venue), paper
