"""The notebooks run, agree with the texts that they are made of, and were committed with their outputs."""

import ast
import runpy
from functools import partial
from pathlib import Path

import matplotlib
import nbformat
import pytest

from sharpness.models import BACKBONES, CifarResNet
from sharpness.probes import MEASURES as REGISTERED

ROOT = Path(__file__).parent.parent
MAKER = runpy.run_path(str(ROOT / "docs" / "make_notebooks.py"))
TEXTS = sorted((ROOT / "notebooks").glob("*.py"))

#: The same calls with fewer epochs, images, draws and points, and less exact, by notebook: what breaks a cell does so
#: at every size.
SMALLER = {
    "compare-for-a-paper": {
        "range(3)": "range(2)", "epochs=15": "epochs=1", "limit_per_class=20": "limit_per_class=2",
        "draws=5": "draws=2", "measures=measures": "measures=measures, tol=0.1",
    },
    "during-training": {"epochs=40": "epochs=4", "budget=0.5": "budget=1.0"},
    "explore": {
        "epochs=20": "epochs=1", "limit_per_class=20": "limit_per_class=2", "draws=5": "draws=2", "k=3": "k=1",
        'measure(runs / "cc-sam")': 'measure(runs / "cc-sam", limit_per_class=2, tol=0.1)',
        '"worst_rise"],': '"worst_rise"], tol=0.1,', "per_class=True,": "per_class=True, tol=0.1,",
        "per_layer=True": "per_layer=True, tol=0.1",
        '"accuracy,loss,lambda_max"': '"accuracy,loss,lambda_max", tol=0.1',
        "draws=3, steps=25": "draws=2, steps=4",
        "x=(-0.5, 0.5, 31), y=(-0.5, 0.5, 31)": "x=(-0.5, 0.5, 9), y=(-0.5, 0.5, 9)", "x=(-2, 2, 41)": "x=(-2, 2, 5)",
    },
    "own-checkpoint": {"range(15)": "range(2)", "measure(objective": "measure(objective, tol=0.1"},
    "own-measure": {"epochs=10": "epochs=1", "folder / label)": "folder / label, limit_per_class=3)"},
    "read-the-numbers": {"epochs=30": "epochs=3", "range(3)": "range(2)", "(1, 2, 3)": "(1, 2)",
        "measures=measures,": "measures=measures, tol=0.1,", "per_class=True,": "per_class=True, tol=0.1,",
        'measures="loss,lambda_max,random_rise"': 'measures="loss,lambda_max,random_rise", tol=0.1',
        "nn.Conv2d(1, 16,": "nn.Conv2d(1, 2,", "BatchNorm2d(16)": "BatchNorm2d(2)", "Linear(256,": "Linear(32,",
    },
}  # fmt: skip


def run(code, variables):
    """Run a cell, and show its last value as a notebook does."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), variables)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), variables)
        show = getattr(value, "_repr_html_", None) or partial(repr, value)
        show()


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: p.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    """In this process and smaller: a kernel for each takes longer than its cells."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(BACKBONES, "resnet8", partial(CifarResNet, 8, width=4, blocks=(1,)))
    known = set(REGISTERED)
    cells = [cell.source for cell in MAKER["cells"](path.read_text()) if cell.kind == "code"]
    for whole, less in SMALLER[path.stem].items():
        assert any(whole in cell for cell in cells), f"no cell has {whole} to make smaller"
        cells = [cell.replace(whole, less) for cell in cells]
    variables = {"__name__": "__main__"}
    try:
        with matplotlib.rc_context():
            for cell in cells:
                run(cell, variables)
    finally:
        for name in set(REGISTERED) - known:
            del REGISTERED[name]


@pytest.mark.slow
@pytest.mark.parametrize("path", TEXTS, ids=lambda p: p.stem)
def test_a_notebook_runs_from_a_clean_kernel_as_committed(path, tmp_path):
    MAKER["executed"](path, tmp_path)


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: p.stem)
def test_a_notebook_is_its_text_with_outputs(path):
    notebook = path.with_suffix(".ipynb")
    cells = nbformat.read(notebook, as_version=4).cells
    texts = MAKER["cells"](path.read_text())
    assert [(cell.cell_type, cell.source) for cell in cells] == texts, f"run python docs/make_notebooks.py {path.stem}"
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if "/home/" in str(output) or "/work/" in str(output)]
    assert notebook.stat().st_size < 1e6


def test_every_notebook_has_a_text():
    assert [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))] == [path.stem for path in TEXTS]
    assert SMALLER.keys() == {path.stem for path in TEXTS}
