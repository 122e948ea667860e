"""What the page on extensions shows works as it stands, in order."""

import re
from pathlib import Path

import pytest

from sharpness import load_checkpoint
from sharpness.checkpoints import FAMILIES
from sharpness.data import DATASETS
from sharpness.flattening import OPERATIONS
from sharpness.methods import METHODS
from sharpness.models import BACKBONES
from sharpness.probes.measures.registry import MEASURES

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text()


@pytest.fixture
def registries():
    yield
    for registry in (METHODS, OPERATIONS, DATASETS, BACKBONES, FAMILIES):
        for name in registry.added():
            del registry[name]
    MEASURES.pop("weight_norm", None)


def test_the_code_of_the_page_runs_in_order(registries, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "extending"}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "extending.md", "exec"), names)
    model = load_checkpoint("runs/power").model
    norm = sum(p.square().sum() for p in model.parameters()).sqrt().item()
    assert names["table"].to_frame()["weight_norm"].iloc[0] == pytest.approx(norm, rel=1e-5)
    assert load_checkpoint("runs/random").label == "CE+Random SAM:0.1"
    assert load_checkpoint("runs/stripes").manifest.longtail.train_counts == (30, 17, 10)
    assert Path("accuracy.pdf").stat().st_size > 1000
