"""The notebooks run from a clean kernel, and were committed with their outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))

#: The same calls with fewer epochs, images, draws and points: what breaks a cell does so at every size. The network
#: has a quarter of its planes.
NARROW = """from functools import partial
from sharpness.models import BACKBONES, CifarResNet
BACKBONES["resnet8"] = partial(CifarResNet, 8, width=4)
"""
SMALLER = {
    "epochs=30": "epochs=2",
    "limit_per_class=20": "limit_per_class=4",
    'measure(runs / "cc-sam")': 'measure(runs / "cc-sam", limit_per_class=4)',
    "draws=5": "draws=2",
    "draws=3, steps=25": "draws=2, steps=6",
    "x=(-0.5, 0.5, 51), y=(-0.5, 0.5, 51)": "x=(-0.5, 0.5, 9), y=(-0.5, 0.5, 9)",
    "x=(-2, 2, 41)": "x=(-2, 2, 7)",
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
@pytest.mark.parametrize("size", ["smaller", pytest.param("as committed", marks=pytest.mark.slow)])
def test_a_notebook_runs_from_a_clean_kernel(path, size, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    if size == "smaller":
        notebook.cells.insert(0, nbformat.v4.new_code_cell(NARROW))
        for whole, less in SMALLER.items():
            assert any(whole in c.source for c in code), f"no cell has {whole} to make smaller"
            for c in code:
                c.source = c.source.replace(whole, less)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_a_notebook_is_committed_with_its_outputs(path):
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert all(c.execution_count for c in cells)
    images = [o for c in cells for o in c.outputs if "image/png" in o.get("data", {})]
    assert len(images) >= 3
    assert not [o for c in cells for o in c.outputs if o.output_type == "error"]
