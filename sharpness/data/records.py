"""Inputs and targets of a row or a batch: by position, by the names of keys, or as the caller names them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sharpness.data.pictures import to_tensor
from sharpness.errors import UserError, shown
from sharpness.extensions import in_one_line

#: What a column of numbers may be.
ARRAYS = (Tensor, np.ndarray)
#: Keys of targets, and of inputs that a network takes alone, as data sets name them.
TARGETS = ("labels", "label", "targets", "target", "y", "class", "class_id", "fine_label", "fine_labels")
ALONE = ("pixel_values", "images", "image", "img", "inputs", "input", "x", "data", "features", "input_values")

Batch = Callable[[Any], Any]


class Record(NamedTuple):
    """One sample, or one batch of samples.

    Attributes:
        inputs: a tensor, or several by place or by name.
        target: whatever stood there.
        more: how many entries were left out.
    """

    inputs: Any
    target: Any
    more: int = 0


def is_record(value: Any) -> bool:
    """True for a dict with a target among its keys.

    >>> is_record({"pixel_values": 1, "labels": 2}), is_record({"weight": 1})
    (True, False)
    """
    return isinstance(value, Mapping) and any(isinstance(k, str) and k in TARGETS for k in value)


def split(given: Any, what: str, batch: Batch | None = None, takes: Collection[str] = ()) -> Record:
    """Input and target of a row or a batch.

    Args:
        given: ``(input, target, ...)`` or a dict.
        what: it is called in messages, such as ``"sample 3"``.
        batch: makes ``(inputs, target)`` of it.
        takes: names of the arguments of the network, which distinguish inputs from other entries of a dict.

    Raises:
        UserError: they cannot be distinguished, or an input is of a kind that no network takes.

    >>> split({"image": torch.zeros(2), "label": 1, "path": "a.png"}, "sample 0").target
    1
    """
    if batch is not None:
        try:
            given = batch(given)
        except Exception as error:
            told = in_one_line(error)
            raise UserError(f"batch= raised {told} of {what}: let it return (inputs, targets)") from error
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise UserError(f"batch= returned a {type(given).__name__} of {what}: let it return (inputs, targets)")
    if isinstance(given, Mapping):
        return _of_mapping(given, what, takes)
    if not isinstance(given, tuple | list) or len(given) < 2:
        raise UserError(
            f"{what} is a {type(given).__name__}: a dataset must return (input, target), or batch= a function that does"
        )
    return Record(_inputs(given[0], what), given[1], len(given) - 2)


def _of_mapping(given: Mapping[str, Any], what: str, takes: Collection[str]) -> Record:
    named = ", ".join(shown(str(k), 40) for k in given)
    how = "say which are which, such as batch=lambda b: (b['image'], b['label'])"
    targets = [k for k in TARGETS if k in given]
    if len(targets) != 1:
        found = f"{' and '.join(targets)} could both be the target" if targets else "no key says what the target is"
        raise UserError(f"{what} is a dict of {named}: {found}; {how}")
    target = targets[0]
    values = {k: v for k, v in given.items() if k != target and _is_numbers(v)}
    chosen = [k for k in values if k in takes]
    if len(chosen) < 2:
        alone = [k for k in values if k in ALONE]
        chosen = list(values) if len(values) == 1 else alone if len(alone) == 1 else chosen
    if not chosen:
        raise UserError(f"{what} is a dict of {named}: which of them are inputs? {how}")
    inputs = _inputs(values[chosen[0]] if len(chosen) == 1 else {k: values[k] for k in chosen}, what)
    return Record(inputs, given[target], len(given) - 1 - len(chosen))


def _is_numbers(value: Any) -> bool:
    """True for a possible input: an array, an image, numbers, or lists of them."""
    while isinstance(value, list | tuple) and len(value):
        value = value[0]
    return isinstance(value, ARRAYS) or is_image(value) or type(value) in (int, float, bool)


def is_image(value: Any) -> bool:
    """True for an image of Pillow, which is not imported for this test."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def _inputs(given: Any, what: str) -> Any:
    """A tensor, or a dict or a tuple of them."""
    if isinstance(given, Mapping):
        return {str(name): _tensor(value, what) for name, value in given.items()}
    if isinstance(given, tuple | list) and len(given) > 1 and all(isinstance(v, ARRAYS) for v in given):
        return tuple(_tensor(v, what) for v in given)
    return _tensor(given, what)


def _tensor(given: Any, what: str) -> Tensor:
    if isinstance(given, Tensor):
        return given
    if isinstance(given, list | tuple) and given and is_image(given[0]):
        try:
            return torch.stack([pixels(image) for image in given])
        except RuntimeError:
            sizes = sorted({image.size for image in given})[:2]
            raise UserError(f"the images of {what} have sizes {sizes}: make them alike") from None
    if is_image(given):
        return pixels(given)
    try:
        return torch.as_tensor(np.asarray(given) if isinstance(given, tuple | list) else given)
    except (RuntimeError, TypeError, ValueError):
        raise UserError(
            f"the input of {what} is a {type(given).__name__}: let the dataset return a tensor for each sample, or "
            "several in a tuple or a dict (images as they are, or through ToTensor)"
        ) from None


def pixels(image: Any) -> Tensor:
    """An image of Pillow as a tensor (channels, h, w) of numbers in [0, 1], as ToTensor makes it.

    Raises:
        UserError: it is neither grey nor RGB.
    """
    if image.mode not in ("L", "RGB"):
        raise UserError(f"an image has mode {image.mode!r}: convert all to RGB or L (grey), image.convert('RGB')")
    return to_tensor(image).to(torch.float32) / 255
