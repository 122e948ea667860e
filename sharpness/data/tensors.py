"""Inputs and targets of anything that holds samples, as two tensors."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence, Set
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from sharpness.data.batches import are_batches, joined, one_of, read_loader, require_repeatable, stacked
from sharpness.data.endless import all_of
from sharpness.data.inputs import Inputs
from sharpness.data.records import ARRAYS, Batch, Record, is_image, is_record, pixels, split
from sharpness.data.rows import Rows
from sharpness.errors import UserError, shown

logger = logging.getLogger("sharpness")


def as_tensors(data: Any) -> tuple[Tensor, Tensor]:
    """Inputs and targets (n, ...), dtypes as given, of anything that :func:`read_samples` takes, one input for each.

    Raises:
        UserError: what that refuses, or several inputs for each sample.

    >>> as_tensors(([[1.0], [2.0]], [0, 1]))[1]
    tensor([0, 1])
    >>> as_tensors([(torch.zeros(3), 0.25), (torch.ones(3), 0.5)])[1]
    tensor([0.2500, 0.5000], dtype=torch.float64)
    """
    x, y = read_samples(data)
    if not isinstance(x, Tensor):
        raise UserError(f"inputs are a {type(x).__name__} of several tensors: give one for each sample")
    return x, y


def read_samples(
    data: Any, batch: Batch | None = None, takes: Collection[str] = (), class_names: Sequence[str] | None = None
) -> tuple[Inputs, Tensor]:
    """Inputs and targets of all samples, in the order in which they are read, once.

    Python numbers become int64 or float64. What comes after the target, such as an index or a path, is left out, with
    a warning, where the target is one number per sample.

    Args:
        data: ``(x, y)``, where x may be a tuple or a dict of several inputs; a dict of columns; an object with
            ``.tensors``; a map-style dataset or a list of samples; a ``DataLoader``, or a list or another iterable of
            batches. Samples and batches are ``(input, target, ...)`` or dicts.
        batch: makes ``(inputs, targets)`` of a sample, or of a batch.
        takes: names of the network's arguments, which distinguish inputs from other entries of a dict.
        class_names: in the order of the outputs, where targets are such names.

    Raises:
        UserError: something else, targets that are no numbers, samples that do not stack, or a dataset whose samples
            change when they are read twice.

    >>> batches = [{"x": torch.zeros(2, 3), "y": torch.tensor([0, 1])}, {"x": torch.ones(1, 3), "y": torch.tensor([1])}]
    >>> read_samples(batches)[1]
    tensor([0, 1, 1])
    """
    data = getattr(data, "tensors", data)
    # Rows stand in for a tensor, and are read later, batch by batch.
    if isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], Rows):
        return cast("Tensor", data[0]), data[1]
    if isinstance(data, tuple) and len(data) == 1 and isinstance(data[0], ARRAYS):
        raise UserError("data are one tensor without targets: give (x, y)")
    x: Inputs
    if batch is None and is_record(data):
        record = split(data, "data", takes=takes)
        _leave_out(record.more, "data", True)
        x, y = record.inputs, column(record.target, "targets", class_names)
    elif batch is None and not _is_list_of_batches(data) and _are_columns(data):
        y = column(data[1], "targets", class_names)
        x = _inputs(data[0], len(y) if y.ndim else 0)
        _leave_out(len(data) - 2, "each sample", y.ndim == 1)
    else:
        x, y = _read(data, batch, takes, class_names)
    parts = [x] if isinstance(x, Tensor) else list(x.values()) if isinstance(x, dict) else list(x)
    for part in (*parts, y):
        _require_plain(part)
    for part in parts:
        if part.ndim == 0 or y.ndim == 0 or len(part) != len(y) or not len(y):
            raise UserError(
                f"inputs of shape {tuple(part.shape)} and targets of shape {tuple(y.shape)}: give one label per input "
                "(or one target of any shape), with the samples along the first axis of both"
            )
    return x, y.detach()


def _require_plain(values: Tensor) -> None:
    """Refuse tensors whose samples cannot be taken by their number: sparse, nested, quantised, without values."""
    kinds = {
        "nested": (values.is_nested, "torch.nested.to_padded_tensor(x, 0.0)"),
        "quantised": (values.is_quantized, "x.dequantize()"),
        "on the device meta, without values": (values.is_meta and type(values) is Tensor, "those that the model takes"),
        "sparse": (not values.is_nested and values.layout is not torch.strided, "x.to_dense()"),
    }
    for kind, (found, remedy) in kinds.items():
        if found:
            raise UserError(f"data hold a tensor that is {kind}: give {remedy}")


def is_data(value: Any) -> bool:
    """True if a positional argument can only be data: ``(x, y)`` of equal length, samples, or a data set.

    >>> is_data((torch.zeros(4, 2), [0, 1, 0, 1])), is_data((-1, 1, 51)), is_data([0.1, 0.2])
    (True, False, False)
    """
    if isinstance(value, Dataset | DataLoader) or isinstance(getattr(value, "tensors", None), tuple):
        return True
    if is_record(value):
        return True
    if not isinstance(value, tuple | list) or not len(value):
        return False
    first = value[0]
    if is_record(first) or _is_list_of_batches(value):
        return True
    if isinstance(first, Mapping) and len(value) == 2:
        return bool(first) and all(isinstance(v, ARRAYS) for v in first.values()) and not isinstance(value[1], Mapping)
    if _is_sample(first):
        return isinstance(first[0], ARRAYS) or is_image(first[0])
    sized = all(hasattr(column, "__len__") and not isinstance(column, str | Mapping) for column in value)
    return len(value) == 2 and sized and len(value[0]) == len(value[1])


def read_once(data: Any) -> Any:
    """Data that can be read again: an iterator, which several models would use up, as a list."""
    return all_of(data) if hasattr(data, "__next__") else data


def column(values: Any, what: str, class_names: Sequence[str] | None = None) -> Tensor:
    """One tensor of numbers, the samples along its first axis, from a tensor, an array, or a list of either or of
    numbers; of names of classes, where these are known, their positions.

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
    # Stacked by torch: NumPy takes a list of tensors apart, number by number.
    if isinstance(values, tuple | list) and any(isinstance(v, Tensor) for v in values):
        return _stack(values, what)
    # NumPy would make one object of any of these.
    if isinstance(values, str | Set) or hasattr(values, "__next__"):
        raise UserError(f"{what} are a {type(values).__name__}: give a tensor, an array or a list, one entry a sample")
    # np.asarray drops a mask without a word.
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise UserError(f"{what} have masked entries: fill them, .filled(0), or leave these samples out")
    try:
        array = np.asarray(values)
    except ValueError:  # arrays of several shapes, which the stack names
        return _stack(values, what)
    if (
        array.dtype == object
    ):  # as pandas keeps text and numbers of several kinds: asked again, NumPy finds a common one
        plain = array.size and not any(hasattr(v, "__len__") for v in array.flat)
        array = np.array(array.tolist()) if plain else array
    if array.dtype.kind in "US" or (array.dtype == object and array.size and isinstance(array.flat[0], str)):
        return _positions(array, what, class_names)
    return _of_numbers(array, what)


def _of_numbers(array: np.ndarray, what: str) -> Tensor:
    if array.dtype.kind not in "biufc":
        kinds = " and ".join(sorted({type(value).__name__ for value in array.ravel()[:1000].tolist()})[:3])
        remedy = "give numbers, and leave samples without one out"
        if what != "targets":
            remedy = "give numbers, of a table its columns of numbers, such as frame.select_dtypes('number')"
        raise UserError(f"{what} hold {kinds or 'nothing'} as objects: {remedy}")
    if array.dtype == np.longdouble:
        array = array.astype(np.float64)
    try:  # of foreign byte order, read-only or with negative strides torch takes none: a copy has its own
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        return torch.as_tensor(
            array.copy() if not array.flags.writeable or min(array.strides, default=0) < 0 else array
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"{what} of dtype {array.dtype} are no tensor ({shown(str(error))}): convert them") from None


def _are_columns(data: Any) -> bool:
    """True for inputs of all samples, targets of all samples and maybe more, false for samples in a list."""
    if not isinstance(data, tuple | list) or len(data) < 2 or any(map(is_record, data)):
        return False
    if len(data) == 2:
        return not (_is_sample(data[0]) and _is_sample(data[1]))
    return isinstance(data, tuple) and all(isinstance(values, ARRAYS) for values in data)


def _is_sample(value: Any) -> bool:
    """True for one (input, target, ...), false for a column of numbers or of inputs, which are of one kind."""
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


def _is_list_of_batches(data: Any) -> bool:
    """True for ``(inputs, targets)`` of several samples each."""
    if not isinstance(data, tuple | list) or not len(data):
        return False
    if not all(isinstance(b, tuple | list) and len(b) > 1 and _are_inputs(b[0]) for b in data):
        return False
    return are_batches([Record(b[0], b[1]) for b in data])


def _are_inputs(value: Any) -> bool:
    """True for tensors: one, or several by position or by name."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else [value]
    return all(isinstance(v, Tensor) for v in parts) and len(parts) > 0


def _inputs(values: Any, samples: int) -> Inputs:
    """Inputs of all samples, several where they are in a tuple or a dict."""
    if isinstance(values, tuple) and len(values) == 1 and isinstance(values[0], ARRAYS) and samples > 1:
        return _inputs_of_one(values[0], "inputs")  # a tuple of inputs that has one alone, not one of samples
    if isinstance(values, Mapping):
        return {str(name): _inputs_of_one(v, f"input {name}") for name, v in values.items()}
    if isinstance(values, tuple) and len(values) > 1 and all(isinstance(v, ARRAYS) for v in values):
        return tuple(_inputs_of_one(v, f"input {i}") for i, v in enumerate(values))
    return _inputs_of_one(values, "inputs")


def _inputs_of_one(values: Any, what: str) -> Tensor:
    if isinstance(values, tuple | list) and len(values) and is_image(values[0]):
        return _stack([pixels(image) for image in values], what)
    return column(values, what)


def _positions(array: np.ndarray, what: str, class_names: Sequence[str] | None) -> Tensor:
    """Positions (n,) of names of classes among those in the order of the outputs."""
    if class_names is None or array.ndim != 1:
        names = ", ".join(sorted(set(map(str, array.ravel()[:50].tolist())))[:3])
        remedy = "give numbers"
        if what == "targets":
            remedy += (
                ", or class_names= in the order of the model's outputs; of class names the position in the order of "
                "the model's outputs, which alphabetical order gives as numpy.unique(labels, return_inverse=True)[1]"
            )
        raise UserError(f"{what} are text ({names}, ...): {remedy}")
    position = {str(name): i for i, name in enumerate(class_names)}
    unknown = next((n for n in array.tolist() if str(n) not in position), None)
    if unknown is not None:
        raise UserError(
            f"target {shown(str(unknown), 60)!r} is none of the class_names: give all, in the order of the outputs"
        )
    return torch.tensor([position[str(n)] for n in array.tolist()])


def _read(
    data: Any, batch: Batch | None, takes: Collection[str], class_names: Sequence[str] | None
) -> tuple[Inputs, Tensor]:
    """A loader, a map-style dataset, or anything that hands out samples or batches, read once."""
    if isinstance(data, ARRAYS):
        raise UserError(f"data is a {type(data).__name__} of shape {tuple(data.shape)} without targets: give (x, y)")
    if hasattr(data, "train") and hasattr(data, "test"):
        raise UserError(f"data is a {type(data).__name__} of two parts: give data.train or data.test")
    if hasattr(data, "iloc") and hasattr(data, "columns"):
        raise UserError(f"data is a {type(data).__name__}: give (frame.drop(columns='label'), frame['label'])")
    # Chained iterable datasets have a length that raises.
    rows = hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, IterableDataset)
    if isinstance(data, Mapping) and len(data) and all(is_data(part) for part in data.values()):
        raise UserError(f"data is a {type(data).__name__} of {', '.join(map(str, data))}: give one of them")
    if isinstance(data, str | Mapping | nn.Module) or not (rows or hasattr(data, "__iter__")):
        raise UserError(f"data is a {type(data).__name__}: give (x, y), a TensorDataset, a DataLoader or a map-style "
                        "dataset, such as load_data('digits-lt').train")  # fmt: skip
    if rows and not len(data):
        raise UserError(f"data is a {type(data).__name__} without samples: give at least one")
    loaded = isinstance(data, DataLoader)
    if isinstance(data, DataLoader):
        records = read_loader(data, batch, takes)
    else:
        found = all_of((one_of(data, i) for i in range(len(data))), len(data)) if rows else all_of(data)
        records = [split(one, f"sample {i}", batch, takes) for i, one in enumerate(found)]
        if not records:
            raise UserError(f"data is a {type(data).__name__} without samples: give at least one")
        if rows:  # an iterator cannot be read twice
            require_repeatable(data, found)
    # A loader without batch_sampler hands out single samples, as a data set does.
    if (loaded and data.batch_sampler is not None) or are_batches(records):
        x, targets = joined(records)
        if not loaded:
            logger.info("data: %d batches, of %d samples in all", len(records), len(targets))
    else:
        x, targets = stacked(records)
    y = column(targets, "targets", class_names)
    _leave_out(max(r.more for r in records), "each sample", y.numel() == len(y))
    return x, y


def _leave_out(more: int, whose: str, plain: bool) -> None:
    """Warn that entries beside input and target are not used.

    Raises:
        UserError: the second entry may be another input.
    """
    if more > 0 and not plain:
        raise UserError(
            f"{more + 2} entries for {whose}, and the second is not one number: which is the target? give (x, y), or "
            "batch=lambda b: (inputs, targets) for what a dataset returns"
        )
    if more > 0:
        logger.warning("data: of %s input and target are taken, its other %d entries are left out", whose, more)
