"""Two models on the same small data of three classes."""

import pytest
import torch
from torch import nn

from sharpness import Objective


@pytest.fixture(scope="module")
def pair():
    """``{"a": objective, "b": objective}``; class "owl" is rarer than "cat", and stands before it."""
    torch.manual_seed(1)
    x, y = torch.randn(14, 4), torch.tensor([0] * 2 + [1] * 8 + [2] * 4)
    options = {"groups": {"many": (1,), "few": (0, 2)}, "class_names": ("owl", "cat", "dog")}

    def build():
        return Objective(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double(), (x, y), **options)

    return {"a": build(), "b": build()}
