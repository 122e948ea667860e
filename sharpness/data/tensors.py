"""Inputs and targets of anything that holds samples, as two tensors."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sharpness.errors import UserError, shown

#: What a column of numbers may be.
ARRAYS = (Tensor, np.ndarray)
logger = logging.getLogger("sharpness")


def as_tensors(data: Any) -> tuple[Tensor, Tensor]:
    """Inputs and targets (n, ...), dtypes as given, of ``(x, y)``, an object with ``.tensors`` or a map-style dataset.

    Python numbers become int64 or float64. What comes after the target, such as an index or a path, is left out, with
    a warning, where the target is one number per sample.

    Raises:
        UserError: something else, targets that are no numbers, samples that do not stack, or a dataset whose samples
            change when they are read twice.

    >>> as_tensors(([[1.0], [2.0]], [0, 1]))[1]
    tensor([0, 1])
    >>> as_tensors([(torch.zeros(3), 0.25), (torch.ones(3), 0.5)])[1]
    tensor([0.2500, 0.5000], dtype=torch.float64)
    """
    data = getattr(data, "tensors", data)
    if isinstance(data, tuple) and len(data) == 1 and isinstance(data[0], ARRAYS):
        raise UserError("data are one tensor without targets: give (x, y)")
    if _are_columns(data):
        x, y = (column(values, what) for values, what in zip(data, ("inputs", "targets"), strict=False))
        if len(data) > 2:
            _leave_out(len(data) - 2, y.ndim == 1)
    else:
        x, y = _read(data)
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y) or not len(y):
        raise UserError(
            f"inputs of shape {tuple(x.shape)} and targets of shape {tuple(y.shape)}: give one label per input "
            "(or one target of any shape), with the samples along the first axis of both"
        )
    return x, y.detach()


def is_data(value: Any) -> bool:
    """Whether a positional argument can only be meant as data: ``(x, y)`` of equal length, samples, or a data set.

    >>> is_data((torch.zeros(4, 2), [0, 1, 0, 1])), is_data((-1, 1, 51)), is_data([0.1, 0.2])
    (True, False, False)
    """
    if isinstance(value, Dataset | DataLoader) or isinstance(getattr(value, "tensors", None), tuple):
        return True
    if not isinstance(value, tuple | list) or not len(value):
        return False
    first = value[0]
    if _is_sample(first):
        return isinstance(first[0], ARRAYS)
    sized = all(hasattr(column, "__len__") and not isinstance(column, str | Mapping) for column in value)
    return len(value) == 2 and sized and len(value[0]) == len(value[1])


def column(values: Any, what: str) -> Tensor:
    """One tensor of numbers, the samples along its first axis, from a tensor, an array, or a list of either or of
    numbers.

    Raises:
        UserError: text, several inputs for each sample, or things that do not stack.
    """
    if isinstance(values, Tensor):
        return values
    several = isinstance(values, tuple) and all(isinstance(v, ARRAYS) for v in values)
    if what == "targets" and (isinstance(values, Mapping) or several):
        raise UserError(
            f"targets are a {type(values).__name__} of several tensors: put what the loss needs into one tensor, the "
            "samples along its first axis, and take it apart in the loss"
        )
    if isinstance(values, Mapping) or several:
        raise UserError(
            f"{what} are a {type(values).__name__} of several tensors: stack them into one, torch.stack([a, b], 1), "
            "and probe a small module whose forward(x) calls your model with x[:, 0], x[:, 1]"
        )
    if isinstance(values, tuple | list) and any(isinstance(v, Tensor) for v in values):
        return _stack(values, what)
    try:
        array = np.asarray(values)
    except ValueError:
        return _stack(values, what)
    if array.dtype == object:  # as pandas keeps text, and torch's tensors in lists of lists
        array = np.array(array.tolist()) if array.ndim == 1 and not hasattr(array[0], "__len__") else array
    if array.dtype.kind in "US" or (array.dtype == object and isinstance(array.flat[0], str)):
        names = ", ".join(sorted(set(map(str, array.ravel()[:50].tolist())))[:3])
        raise UserError(
            f"{what} are text ({names}, ...): give numbers; "
            "of class names the position in the order of the model's outputs, which alphabetical order gives as "
            "numpy.unique(labels, return_inverse=True)[1]"
        )
    if array.dtype.kind not in "biufc":
        raise UserError(f"{what} hold {type(array.flat[0]).__name__ if array.size else 'nothing'}: give numbers")
    try:
        return torch.as_tensor(array if array.flags.writeable else array.copy())
    except (TypeError, ValueError) as error:
        raise UserError(f"{what} of dtype {array.dtype} are no tensor ({shown(str(error))}): convert them") from None


def _are_columns(data: Any) -> bool:
    """Whether these are inputs of all samples, targets of all samples and maybe more, and not samples in a list."""
    if not isinstance(data, tuple | list) or len(data) < 2:
        return False
    if len(data) == 2:
        return not (_is_sample(data[0]) and _is_sample(data[1]))
    return isinstance(data, tuple) and all(isinstance(values, ARRAYS) for values in data)


def _is_sample(value: Any) -> bool:
    """Whether this is one (input, target, ...), and not a column of numbers or of inputs, which are of one kind."""
    if isinstance(value, list):
        return len(value) > 1 and isinstance(value[0], ARRAYS) and not isinstance(value[1], ARRAYS)
    return isinstance(value, tuple) and len(value) > 1


def _stack(values: Any, what: str) -> Tensor:
    try:
        return torch.stack([torch.as_tensor(v) for v in values])
    except (RuntimeError, TypeError, ValueError) as error:
        shapes = {tuple(np.shape(v)) for v in values if isinstance(v, ARRAYS)}
        told = " and ".join(map(str, sorted(shapes)[:2])) if len(shapes) > 1 else shown(str(error))
        raise UserError(f"the samples do not stack ({what}: {told}): make them alike") from None


def _read(data: Any) -> tuple[Tensor, Tensor]:
    """A map-style dataset, read once."""
    if isinstance(data, DataLoader):
        raise UserError("data is a DataLoader: give the dataset behind it, loader.dataset")
    if isinstance(data, ARRAYS):
        raise UserError(f"data is a {type(data).__name__} of shape {tuple(data.shape)} without targets: give (x, y)")
    if hasattr(data, "train") and hasattr(data, "test"):
        raise UserError(f"data is a {type(data).__name__} of two parts: give data.train or data.test")
    if isinstance(data, str | Mapping) or not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise UserError(f"data is a {type(data).__name__}: give (x, y), a TensorDataset or a map-style dataset, such "
                        "as load_data('digits-lt').train")  # fmt: skip
    if not len(data):
        raise UserError(f"data is a {type(data).__name__} without samples: give at least one")
    samples = [_sample(data[i], i) for i in range(len(data))]
    first, again = samples[0][0], _sample(data[0], 0)[0]
    if first.is_floating_point():
        first, again = first.nan_to_num(), again.nan_to_num()
    if not torch.equal(first, again):
        raise UserError("the first sample differs when read twice: the dataset augments at random, switch that off")
    x = _stack([s[0] for s in samples], "inputs")
    y = column([s[1] for s in samples], "targets")
    if (more := max(len(s) for s in samples) - 2) > 0:
        _leave_out(more, y.numel() == len(y))
    return x, y


def _sample(sample: Any, index: int) -> tuple[Any, ...]:
    """One sample with its input as a tensor.

    Raises:
        UserError: it is no (input, target), or its input is no tensor.
    """
    if not isinstance(sample, tuple | list) or len(sample) < 2:
        raise UserError(f"sample {index} is a {type(sample).__name__}: a dataset must return (input, target)")
    given = sample[0]
    if isinstance(given, Tensor):
        return tuple(sample)
    try:
        return (torch.as_tensor(np.asarray(given) if isinstance(given, tuple | list) else given), *sample[1:])
    except (RuntimeError, TypeError, ValueError):
        raise UserError(
            f"the input of sample {index} is a {type(given).__name__}: let the dataset return one tensor for each "
            "sample (images through ToTensor; several inputs stacked, and taken apart in a small module)"
        ) from None


def _leave_out(more: int, plain: bool) -> None:
    """Say that entries behind the target are not used.

    Raises:
        UserError: the second entry may be another input.
    """
    if not plain:
        raise UserError(
            f"{more + 2} entries for each sample, and the second is not one number: which is the target? give (x, y)"
        )
    logger.warning("data: the first two of %d entries of each sample are its input and target, the others are left out",
                   more + 2)  # fmt: skip
