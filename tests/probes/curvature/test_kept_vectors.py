"""Eigenvectors of many classes: not kept by default, and refused where they cannot fit."""

import pytest
import torch

from sharpness import Objective, eigenvalues
from sharpness.errors import UserError
from sharpness.probes.curvature import eigenvalues as module


@pytest.fixture(scope="module")
def objective():
    x = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return Objective(torch.nn.Linear(3, 2).double(), (x, torch.arange(8) % 2))


def test_small_vectors_are_kept_and_large_ones_are_not(objective, monkeypatch, caplog):
    assert eigenvalues(objective, per_class=True).vectors.shape == (2, 1, 8)
    monkeypatch.setattr(module, "USUAL", 127)
    caplog.set_level("INFO", "sharpness")
    found = eigenvalues(objective, per_class=True)
    assert found.vectors is None
    assert "2 x 1 eigenvectors of 8 parameters take 128 bytes: they are not kept" in caplog.text
    assert eigenvalues(objective, per_class=True, keep_vectors=True).vectors.shape == (2, 1, 8)
    monkeypatch.setattr(module, "memory_budget", lambda device: 50)
    with pytest.raises(UserError, match="take 128 bytes, and 100 are free: give keep_vectors=False"):
        eigenvalues(objective, per_class=True, keep_vectors=True)
