"""A small residual network over three unequal classes, on the CPU and on the device that is tried."""

from __future__ import annotations

import copy
import functools
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from elsewhere import pretence

from sharpness import Objective, load_data
from sharpness.models import BACKBONES, CifarResNet, build_model

ABSENT = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


#: What pretending tensors run in every test run; the rest takes them minutes.
QUICK = ("-random]", "-worst case]", "-plane, adaptive]", "-density]", "-ends of Gauss-Newton]", "-gradient+gaussian]",
         "data_may_lie", "are_sent", "between_models", "images_are_those",
         "method[elsewhere-ce]", "method[elsewhere-cc-sam]")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "[elsewhere" in item.name and not any(part in item.nodeid for part in QUICK):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=["elsewhere", pytest.param("cuda", marks=[pytest.mark.cuda, ABSENT])])
def device(request):
    """Where to compute what the CPU is compared with: tensors that pretend, or a GPU."""
    if request.param == "cuda":
        yield torch.device("cuda")
    else:
        with pretence() as device:
            yield device


@pytest.fixture(scope="session")
def problem():
    """ResNet-8 with running statistics of its own, 12, 7 and 4 random images of 16 x 16.

    Tensors that pretend take their time for every number: without a GPU it has a quarter of the planes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with pytest.MonkeyPatch.context() as patch:
            if not torch.cuda.is_available():
                patch.setitem(BACKBONES, "resnet8", functools.partial(CifarResNet, 8, width=4))
            model = build_model("resnet8", num_classes=3, in_channels=1).double()
        with torch.no_grad():
            model(torch.randn(32, 1, 16, 16, dtype=torch.float64) + 0.3)
        y = torch.tensor([0] * 12 + [1] * 7 + [2] * 4)
        x = torch.randn(len(y), 1, 16, 16, dtype=torch.float64) + 0.5 * y[:, None, None, None]
    return model.eval(), x, y


@pytest.fixture
def objectives(problem, device):
    """A factory: the objective on the CPU, and its twin on the device."""

    def build(dtype=torch.float64, **options):
        model, x, y = problem
        twins = (copy.deepcopy(model).to(dtype=dtype, device=where) for where in ("cpu", device))
        return [Objective(twin, (x.to(dtype), y), **options) for twin in twins]

    return build


@pytest.fixture(scope="session")
def few_digits():
    """The long tail of digits, as little of it as training runs on."""
    return load_data("digits-lt")


def numbers(result) -> dict[str, np.ndarray]:
    """All arrays and numbers of a result by name; not the eigenvectors, which have no sign, their
    residuals, which are rounding, nor how long it took."""
    assert is_dataclass(result)
    found = {f.name: getattr(result, f.name) for f in fields(result) if f.name not in ("vectors", "residuals")}
    return {n: np.asarray(v) for n, v in found.items() if isinstance(v, np.ndarray | float | int)}


@pytest.fixture
def agree():
    """Compare two results, or arrays, number by number: relative to the largest of an array."""

    def check(ours, theirs, tolerance=1e-7):
        if is_dataclass(ours):
            ours, theirs = numbers(ours), numbers(theirs)
        else:
            ours, theirs = {"array": np.asarray(ours)}, {"array": np.asarray(theirs)}
        assert ours.keys() == theirs.keys()
        for name, expected in theirs.items():
            if expected.dtype.kind not in "fiu":
                assert np.array_equal(ours[name], expected), name
                continue
            size = np.nanmax(np.abs(expected), initial=0.0, where=np.isfinite(expected))
            np.testing.assert_allclose(ours[name], expected, rtol=0, atol=tolerance * size, err_msg=name)

    return check
