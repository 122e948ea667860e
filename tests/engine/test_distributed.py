"""Two processes on one machine against a single one."""

import os

import numpy as np
import pytest
import torch

from sharpness import Objective, eigenvalues
from sharpness.models import build_model

RANK = """
import sys
import torch
from sharpness.engine import distributed
sys.path.insert(0, sys.argv[1])
import test_distributed as test

distributed.start()
torch.save(test.answers(), f"{sys.argv[2]}/{distributed.rank()}.pt")
distributed.stop()
"""


def objective():
    torch.manual_seed(0)
    model = build_model("resnet8", 4, 1, head="cosine").double().eval()
    x = torch.randn(8, 1, 6, 6, dtype=torch.float64)
    weights = torch.linspace(1, 2, 8, dtype=torch.float64)
    return Objective(model, (x, torch.tensor([0, 0, 0, 0, 1, 1, 1, 2])), weights=weights, batch_size="auto")


def answers():
    """What probes ask for, of all samples, of a class of three and of a class of one."""
    probed = objective()
    v = torch.randn(probed.num_parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = {"class losses": probed.class_losses(), "loss": probed.loss(), "confusion": probed.confusion()}
    found["samples"] = probed.evaluate_samples().rows
    for c in (None, 1, 2):
        found[f"gradient {c}"] = probed.gradient(c)
        found[f"forms {c}"] = probed.quadratic_forms(v, c)
        for kind in ("hessian", "ggn"):
            found[f"{kind} {c}"] = probed.hvp(v, c, kind=kind)
        with probed.operator(c) as operator:
            operator(v)
            found[f"operator {c}"] = operator(v)
            found[f"samples {c}"] = operator.samples
    found["eigenvalues"] = eigenvalues(probed.restrict([0, 4, 7]), k=1, seed=0, tol=1e-8).values
    return {name: torch.as_tensor(np.asarray(value)) for name, value in found.items()}


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_two_processes_find_what_a_single_one_finds(in_two_processes, tmp_path):
    """The class of one sample leaves the second without work."""
    in_two_processes(RANK, os.path.dirname(__file__), tmp_path)
    expected = answers()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            difference = float((found[name] - value).double().nan_to_num().norm())
            tolerance = 1e-6 if name == "eigenvalues" else 1e-10
            assert difference <= tolerance * float(value.double().nan_to_num().norm()), name
    assert torch.equal(*(torch.load(tmp_path / f"{rank}.pt")["hessian None"] for rank in range(2)))
