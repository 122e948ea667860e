"""Inputs and targets of all samples of a loader or an iterable of batches, read once and in order."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler

from sharpness.data.endless import all_of, length_of
from sharpness.data.inputs import Inputs
from sharpness.data.records import ARRAYS, Batch, Record, is_image, is_record, split
from sharpness.errors import UserError
from sharpness.extensions import in_one_line
from sharpness.generators import generators_kept

#: Samples of a data set that are read twice to detect augmentation; a single one may happen not to be augmented.
REREAD = 8
logger = logging.getLogger("sharpness")


def read_loader(loader: DataLoader[Any], batch: Batch | None, takes: Collection[str]) -> list[Record]:
    """Read the batches of a loader, or its samples if it does not batch, and restore the random generators it uses.

    Raises:
        UserError: the loader is empty, or its data set returns something else when it is read again.
    """
    samplers = (loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None))
    own = [loader.generator, *(getattr(s, "generator", None) for s in samplers)]
    with generators_kept(*(g for g in own if isinstance(g, torch.Generator))):
        found = all_of(loader, length_of(loader))
        if not found:
            raise UserError("data is a DataLoader without samples: give at least one")
        data = loader.dataset
        if isinstance(data, IterableDataset):
            if loader.num_workers > 1:
                logger.warning(
                    "data: each of %d workers reads the whole dataset, unless it divides itself by "
                    "torch.utils.data.get_worker_info(): give num_workers=0 or 1 if not",
                    loader.num_workers,
                )
        elif hasattr(data, "__getitem__") and hasattr(data, "__len__") and len(data):
            require_repeatable(data)
    # With batch_sampler=, the loader's own sampler is not used, and neither is that of an iterable data set.
    batches = loader.batch_sampler
    chooser = batches.sampler if type(batches) is BatchSampler else batches
    usual = type(chooser) in (SequentialSampler, RandomSampler) and not getattr(chooser, "replacement", False)
    usual = usual or isinstance(data, IterableDataset)
    if batches is not None and not usual:
        logger.warning("data: the loader's %s decides which samples are probed", type(chooser).__name__)
    elif loader.drop_last or getattr(batches, "drop_last", False):
        logger.warning("data: the loader leaves its last, smaller batch out (drop_last)")
    if batch is None and loader.batch_sampler is not None and all(map(_is_list_of_samples, found)):
        return [_collated(one, f"a sample of batch {i}", takes) for i, one in enumerate(found)]
    what = "sample" if loader.batch_sampler is None else "batch"
    return [split(one, f"{what} {i}", batch, takes) for i, one in enumerate(found)]


def _collated(samples: list[Any], what: str, takes: Collection[str]) -> Record:
    few = [split(one, what, takes=takes) for one in samples]
    return Record(*stacked(few), few[0].more)


def _is_list_of_samples(value: Any) -> bool:
    """True for a batch that was not collated, such as one from ``collate_fn=lambda samples: samples``."""

    def is_sample(one: Any) -> bool:
        plain = isinstance(one, tuple) and len(one) > 1 and (isinstance(one[0], ARRAYS) or is_image(one[0]))
        return plain or is_record(one)

    return isinstance(value, list) and len(value) > 0 and all(map(is_sample, value))


def one_of(data: Any, i: int) -> Any:
    """Read sample i of the user's map-style data set.

    Raises:
        UserError: reading it raises.
    """
    try:
        return data[i]
    except UserError:
        raise
    except Exception as error:
        told = in_one_line(error)
        raise UserError(f"reading sample {i} of {len(data)} raised {told}: correct the dataset") from error


def require_repeatable(data: Any, read: Sequence[Any] | None = None) -> None:
    """Read a few evenly spaced samples of a map-style data set again, and refuse it if one of them has changed.

    Args:
        read: all samples, if they have been read before.

    Raises:
        UserError: a sample differs.
    """
    for i in torch.linspace(0, len(data) - 1, min(len(data), REREAD)).long().tolist():
        if not _same(one_of(data, i) if read is None else read[i], one_of(data, i)):
            raise UserError(f"sample {i} differs when read twice: the dataset augments at random, switch that off")


def are_batches(records: Sequence[Record]) -> bool:
    """True if all records are batches, that is, each has as many targets as inputs.

    Targets of two or more dimensions could also belong to single samples; they are taken for batches if the last one
    is shorter.

    Raises:
        UserError: inputs of one or three channels with as many targets, which could be either.
    """
    lengths, channels = [], set()
    for record in records:
        inputs, target = list(_several(record.inputs)), record.target
        length = len(target) if hasattr(target, "__len__") and not isinstance(target, str) and np.ndim(target) else -1
        if any(not t.ndim or len(t) != length for t in inputs) or all(t.ndim < 2 for t in inputs):
            return False
        lengths.append(length if isinstance(target, ARRAYS) and target.ndim > 1 else 0)
        channels.add(length if np.ndim(target) == 1 and all(t.ndim == 3 for t in inputs) else 0)
    if channels in ({1}, {3}):
        shape, (n,) = tuple(inputs[0].shape), channels
        raise UserError(
            f"all inputs have shape {shape}, each with {n} target{'s' * (n > 1)}: they could be images, or batches of "
            f"{n}; give (x, y) of all samples, or a DataLoader with a batch_size"
        )
    return not any(lengths) or len(set(lengths)) > 1


def joined(records: Sequence[Record]) -> tuple[Inputs, Any]:
    """Join the inputs and targets of batches.

    Raises:
        UserError: batches that differ in more than their length.
    """
    for i, record in enumerate(records):
        lengths = {len(t) if t.ndim else 0 for t in _several(record.inputs)}
        n = len(record.target) if isinstance(record.target, list | tuple) or np.ndim(record.target) else 1
        if lengths != {n}:
            raise UserError(f"batch {i} has {n} targets for {max(lengths)} inputs: give one target for each input")
    inputs = _together([r.inputs for r in records], lambda parts: torch.cat(parts))
    targets = [r.target for r in records]
    if all(isinstance(t, ARRAYS) for t in targets):
        try:
            return inputs, torch.cat([torch.as_tensor(t) for t in targets])
        except (RuntimeError, TypeError):
            if all(isinstance(t, Tensor) for t in targets):
                shapes = {tuple(t.shape[1:]) for t in targets}
                raise UserError(
                    f"targets of the batches do not go together (shapes {shapes}): make them alike"
                ) from None
    return inputs, [value for target in targets for value in target]


def stacked(records: Sequence[Record]) -> tuple[Inputs, list[Any]]:
    """Stack the inputs of samples, and collect their targets in a list.

    Raises:
        UserError: samples that do not stack.
    """
    return _together([r.inputs for r in records], lambda parts: torch.stack(parts)), [r.target for r in records]


def _several(inputs: Inputs) -> Iterable[Tensor]:
    if isinstance(inputs, Tensor):
        return [inputs]
    return inputs.values() if isinstance(inputs, dict) else inputs


def _together(parts: list[Any], join: Any) -> Inputs:
    first = parts[0]
    if isinstance(first, Tensor) and all(isinstance(p, Tensor) for p in parts):
        try:
            joined_parts: Tensor = join(parts)
        except RuntimeError as error:
            shapes = sorted({tuple(p.shape) for p in parts})[:2]
            told = " and ".join(map(str, shapes)) if len(shapes) > 1 else str(error).splitlines()[0]
            raise UserError(f"the samples do not stack (inputs: {told}): make them alike") from None
        return joined_parts
    if isinstance(first, dict) and all(isinstance(p, dict) and p.keys() == first.keys() for p in parts):
        return {name: _together([p[name] for p in parts], join) for name in first}  # type: ignore[misc]
    if isinstance(first, tuple) and all(isinstance(p, tuple) and len(p) == len(first) for p in parts):
        return tuple(_together([p[i] for p in parts], join) for i in range(len(first)))  # type: ignore[misc]
    raise UserError("some samples have other inputs than the first one: give the same inputs for all")


def _same(a: Any, b: Any) -> bool:
    """True if two readings of a sample agree in their arrays and images; other values are not compared."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(*(t.nan_to_num() if t.is_floating_point() else t for t in (a, b)))
    if isinstance(a, np.ndarray) or is_image(a):
        a, b = np.asarray(a), np.asarray(b)
        return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, tuple | list):
        return isinstance(b, tuple | list) and len(a) == len(b) and all(map(_same, a, b))
    return True
