"""Read samples or batches from iterables that may be infinite or too large for memory."""

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
"""Largest number of samples or batches that are read from an iterable without a length."""

BYTES = 4 * 2**30
"""Largest number of bytes that are read from an iterable without a length."""

#: Seconds after which a warning about an iterable without a length is logged, and bytes of a sample beyond its arrays.
PATIENCE, BESIDE = 10.0, 500
_ISLICE = "give as many as you mean, such as list(itertools.islice(data, 1000))"


def all_of(data: Iterable[Any], length: int | None = None) -> list[Any]:
    """Read all samples or batches of an iterable.

    Args:
        data: samples or batches.
        length: the stated number of samples or batches; None if it is not known.

    Raises:
        UserError: reading raises; there are more than ``length``; they do not fit into memory; or, without a length,
            there are more than :data:`SAMPLES` or :data:`BYTES`.

    >>> all_of(iter("abc"))
    ['a', 'b', 'c']
    """
    found: list[Any] = []
    taken, begun = 0, time.monotonic()
    try:
        for one in data:
            found.append(one)
            # Without a length, only a bound distinguishes an infinite iterable from a long one.
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
    """Upper limit of a loader's batches, from its length or that of its data set; None if neither is known."""
    try:
        said = len(loader)
    except Exception:  # a sampler without a length, or any error in the user's code
        if isinstance(loader.dataset, IterableDataset) or not hasattr(loader.dataset, "__len__"):
            return None
        # Without a length of the sampler: a measurement uses every sample at most once.
        return -(-len(loader.dataset) // (loader.batch_size or 1))
    # Each worker may read the whole iterable dataset and end with a smaller batch.
    copies = max(1, loader.num_workers) if isinstance(loader.dataset, IterableDataset) else 1
    return said * copies + copies - 1


def require_room(length: int, one: Any) -> None:
    """Refuse ``length`` samples or batches of the size of ``one`` if they exceed the machine's memory."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return
    if (needed := length * bytes_of(one)) > memory:
        told = f"{length:,} samples or batches, of {needed / 2**30:,.0f} GiB, and there are {memory / 2**30:,.0f}"
        raise UserError(f"data are {told}: give fewer, such as Subset(data, range(1000))")


def bytes_of(value: Any) -> int:
    """Approximate bytes of a sample or batch: its arrays and images, and Python's overhead."""
    if isinstance(value, ARRAYS):
        return BESIDE + int(value.nbytes)
    if is_image(value):
        return BESIDE + value.width * value.height * 4 * len(value.getbands())
    if isinstance(value, dict):
        return BESIDE + sum(map(bytes_of, value.values()))
    if isinstance(value, tuple | list):
        return BESIDE + (sum(map(bytes_of, value)) if len(value) < 1000 else 32 * len(value))
    return BESIDE if not isinstance(value, str | bytes) else BESIDE + len(value)
