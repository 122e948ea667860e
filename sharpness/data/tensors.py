"""Inputs and labels of anything that holds labelled samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.errors import UserError


def as_tensors(data: Any) -> tuple[Tensor, Tensor]:
    """Inputs (n, ...) and labels (n,) of ``(x, y)``, of an object with ``.tensors``, or of a map-style dataset.

    Raises:
        UserError: something else, or a dataset whose samples change when they are read twice.
    """
    if hasattr(data, "tensors"):
        data = data.tensors
    if isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(t, Tensor | np.ndarray) for t in data):
        return torch.as_tensor(data[0]), torch.as_tensor(data[1])
    if isinstance(data, str) or not (hasattr(data, "__getitem__") and hasattr(data, "__len__")) or not len(data):
        raise UserError(f"data is a {type(data).__name__}: give (x, y), a TensorDataset or a map-style dataset")
    pairs = [data[i] for i in range(len(data))]
    if not torch.equal(torch.as_tensor(pairs[0][0]), torch.as_tensor(data[0][0])):
        raise UserError("the first sample differs when read twice: the dataset augments at random, switch that off")
    return torch.stack([torch.as_tensor(x) for x, _ in pairs]), torch.tensor([int(y) for _, y in pairs])
