"""Labelled arrays from files: ``.npz``, class counts in JSON, channels first or last."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.data.by_class import labelled
from sharpness.data.labels import check_labels
from sharpness.errors import UserError, shown
from sharpness.untrusted.npz import read_arrays
from sharpness.untrusted.plain_json import read_json
from sharpness.untrusted.refused import Refused

NPZ_KEYS = (("x", "y"), ("images", "labels"), ("data", "labels"), ("x_test", "y_test"))
#: Upper limit of labels: a larger one is a mistake, and every class costs memory.
MOST_CLASSES = 10**6
LAYOUTS = ("auto", "channels first", "channels last")


def read_npz(path: Path) -> tuple[Tensor, Tensor]:
    """Read inputs ``(n, ...)`` and labels ``(n,)`` from an ``.npz``, by the first pair of :data:`NPZ_KEYS` in it.

    Raises:
        UserError: the file is damaged, holds objects, or has none of these pairs of names.
    """

    def pair(names: Sequence[str]) -> tuple[str, str]:
        found = next((keys for keys in NPZ_KEYS if all(key in names for key in keys)), None)
        if found is None:
            known = shown(", ".join(names), 120)
            raise UserError(f"{path} holds {known or 'nothing'}: name the arrays x and y, or images and labels")
        return found

    try:
        x, y = read_arrays(path, pair)
        return torch.from_numpy(x), torch.from_numpy(y.reshape(-1))
    except UserError:
        raise
    except Refused as error:
        remedy = "" if ": " in str(error) else ": save it again with numpy.savez"
        raise UserError(f"{path} {error}{remedy}") from None
    except MemoryError:
        raise UserError(f"{path} needs more memory than there is: make it smaller") from None
    except Exception:
        # A damaged archive can raise nearly any exception.
        raise UserError(f"{path} is damaged, or holds other things than arrays of numbers: save it again") from None


def _is_count(n: object) -> bool:
    number = isinstance(n, int | float | np.integer) and not isinstance(n, bool)
    return number and 0 <= n < 2**53 and float(n).is_integer()  # type: ignore[operator, arg-type]


def opened_counts(given: Any) -> Any:
    """Return class counts unchanged, or read them if they are a path to a JSON file.

    Raises:
        UserError: the file cannot be read.
    """
    if not isinstance(given, str | Path):
        return given
    try:
        return read_json(given)
    except Refused as error:
        raise UserError(f"cannot read class counts from {given}: it {error}") from None


def read_train_counts(given: Any) -> tuple[tuple[int, ...], tuple[str, ...] | None]:
    """Read class counts ``(C,)`` and, if they are given by name, the sorted names.

    Args:
        given: a list, a mapping or Series from label or name to count, or a JSON file of either.

    Raises:
        UserError: ``given`` is none of these.

    >>> read_train_counts({"1": 3, "0": 5}), read_train_counts({"dog": 2, "cat": 4})
    (((5, 3), None), ((4, 2), ('cat', 'dog')))
    """
    names: tuple[str, ...] | None = None
    values = opened_counts(given)
    if (entries := labelled(values)) is not None:
        by_name = {str(key): n for key, n in entries.items()}
        keys = [str(c) for c in range(len(by_name))]
        if set(keys) != set(by_name):
            keys = sorted(by_name)
            if all(isinstance(key, Integral) for key in entries):
                lacking = next(c for c in range(len(keys)) if str(c) not in by_name)
                raise UserError(f"class counts have no label {lacking}: give 0 for a class without training images")
            names = tuple(keys)
        values = [by_name[key] for key in keys]
    if isinstance(values, Tensor | np.ndarray):
        values = values.tolist()
    if not isinstance(values, list | tuple) or not values or not all(map(_is_count, values)):
        raise UserError("class counts must be a list of integers from 0 on, one for each class")
    return tuple(int(n) for n in values), names


def name_classes(
    labels: Tensor, names: Sequence[str] | None, counts: tuple[int, ...] | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and counts ``(C,)`` of the classes. Names default to the label numbers, counts to those of ``labels``.

    Raises:
        UserError: labels that are not integers ``(n,)`` or are out of range, or names and counts of different lengths.
    """
    if labels.ndim != 1 or labels.is_floating_point() or not len(labels):
        raise UserError(f"labels are {labels.dtype} {tuple(labels.shape)}: give one class number for each sample")
    given = names if names is not None else counts
    if given is None and int(labels.max()) >= MOST_CLASSES:
        worst = int(labels.argmax())
        raise UserError(
            f"label {int(labels[worst])} at index {worst} is not below {MOST_CLASSES:,}: number the classes from 0"
        )
    known = len(given) if given is not None else int(labels.max()) + 1
    if counts is not None and len(counts) != known:
        raise UserError(f"{len(counts)} class counts for {known} class names")
    check_labels(labels, known)
    here = torch.bincount(labels, minlength=known).tolist()
    return tuple(map(str, names if names is not None else range(known))), counts or tuple(here)


def eight_bit(images: Tensor) -> Tensor:
    """Round 16-bit pixels, 0 to 65535, to 8 bits.

    >>> eight_bit(torch.tensor([0, 128, 129, 257, 65535]))
    tensor([  0,   0,   1,   1, 255], dtype=torch.uint8)
    """
    return ((images.int() + 128) // 257).to(torch.uint8)


def channels_first(images: Tensor, layout: str) -> Tensor:
    """Convert images ``(n, ch, h, w)``, ``(n, h, w, ch)`` or ``(n, h, w)`` to ``(n, ch, h, w)``.

    Raises:
        UserError: another number of axes, or layout ``auto`` and a shape that fits both layouts.

    >>> channels_first(torch.zeros(5, 8, 9, 3), "auto").shape
    torch.Size([5, 3, 8, 9])
    """
    if images.ndim == 3:
        return images[:, None]
    if images.ndim != 4:
        raise UserError(
            f"8-bit images have shape {tuple(images.shape)}: give (n, ch, h, w), (n, h, w, ch) or (n, h, w)"
        )
    first, last = (images.shape[axis] in (1, 3) for axis in (1, 3))
    if layout == "auto" and first and last:
        raise UserError(f"images of shape {tuple(images.shape)}: say layout='channels first' or 'channels last'")
    if layout == "channels last" or (layout == "auto" and last):
        return images.permute(0, 3, 1, 2)
    return images


def pixel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of 8-bit images ``(n, ch, h, w)``, for pixels scaled to [0, 1].

    >>> pixel_statistics(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2))
    ((0.5,), (0.5,))
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    histograms = [torch.bincount(channel.flatten(), minlength=256).double() for channel in images.unbind(1)]
    means = [float(h @ levels / h.sum()) for h in histograms]
    deviations = [float((h @ (levels - m) ** 2 / h.sum()).sqrt()) for h, m in zip(histograms, means, strict=True)]
    if min(deviations) <= 0:
        raise UserError("a channel of these images is constant, so its std is 0: give mean and std")
    return tuple(means), tuple(deviations)
