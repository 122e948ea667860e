"""Reading of samples or batches from what may have no end, or more than fits in memory."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from sharpness.data.records import ARRAYS, is_image
from sharpness.errors import UserError, shown

logger = logging.getLogger("sharpness")

SAMPLES = 2**18
"""Most samples or batches that are taken of an iterable without a length."""

BYTES = 4 * 2**30
"""Most bytes that are taken of an iterable without a length."""

#: Seconds after which an iterable without a length is told, and bytes that a sample takes beside its arrays.
PATIENCE, BESIDE = 10.0, 500
_ISLICE = "give as many as you mean, such as list(itertools.islice(data, 1000))"


def all_of(data: Iterable[Any], length: int | None = None) -> list[Any]:
    """Read all samples or batches of an iterable.

    Args:
        data: samples or batches.
        length: how many it says that there are; None where it does not say.

    Raises:
        UserError: reading it raises, it hands out more than it says, or more than there is memory for, or, where it
            does not say, more than :data:`SAMPLES` or :data:`BYTES`.

    >>> all_of(iter("abc"))
    ['a', 'b', 'c']
    """
    found: list[Any] = []
    taken, begun = 0, time.monotonic()
    try:
        for one in data:
            found.append(one)
            # Without a length nothing but a bound tells what has no end from what is long.
            if length is None:
                taken += bytes_of(one)
                if len(found) > SAMPLES or taken > BYTES:
                    told = f"{len(found):,} samples or batches of {taken / 2**30:.1f} GiB were read"
                    raise UserError(f"data have no length, and no end after {told}: {_ISLICE}")
                if time.monotonic() - begun > PATIENCE:
                    logger.warning("data: reading goes on after %d samples or batches, and no length is known: %s, if "
                                   "there is no end", len(found), _ISLICE)  # fmt: skip
                    begun = float("inf")
            elif len(found) > length:
                raise UserError(f"data hand out more samples or batches than their length, {length:,}: correct "
                                f"__len__, or {_ISLICE}")  # fmt: skip
            elif len(found) == 1:
                require_room(length, one)
    except UserError:
        raise
    except Exception as error:
        told = shown(f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error) else ''}", 120)
        raise UserError(f"reading data raised {told} after {len(found)} samples or batches: correct it") from error
    return found


def length_of(loader: DataLoader[Any]) -> int | None:
    """The most batches that a loader may hand out, by its length or its data set's; None if neither is known."""
    try:
        said = len(loader)
    except Exception:  # of a sampler that has none, or anybody's own
        if isinstance(loader.dataset, IterableDataset) or not hasattr(loader.dataset, "__len__"):
            return None
        # A sampler that says no length: every sample once is all that a measurement takes.
        return -(-len(loader.dataset) // (loader.batch_size or 1))
    # Each worker may read the whole of an iterable dataset, and cut a last batch short.
    copies = max(1, loader.num_workers) if isinstance(loader.dataset, IterableDataset) else 1
    return said * copies + copies - 1


def require_room(length: int, one: Any) -> None:
    """Refuse so many samples or batches like one if they are more than the machine has memory."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return
    if (needed := length * bytes_of(one)) > memory:
        told = f"{length:,} samples or batches, of {needed / 2**30:,.0f} GiB, and there are {memory / 2**30:,.0f}"
        raise UserError(f"data are {told}: give fewer, such as Subset(data, range(1000))")


def bytes_of(value: Any) -> int:
    """Bytes of the arrays and images in a sample or a batch, and of what Python needs to keep it."""
    if isinstance(value, ARRAYS):
        return BESIDE + int(value.nbytes)
    if is_image(value):
        return BESIDE + value.width * value.height * 4 * len(value.getbands())
    if isinstance(value, dict):
        return BESIDE + sum(map(bytes_of, value.values()))
    if isinstance(value, tuple | list):
        return BESIDE + (sum(map(bytes_of, value)) if len(value) < 1000 else 32 * len(value))
    return BESIDE if not isinstance(value, str | bytes) else BESIDE + len(value)
