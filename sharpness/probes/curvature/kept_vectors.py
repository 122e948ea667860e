"""Memory of eigenvectors: kept where they are small, refused where they cannot fit."""

from __future__ import annotations

import logging

import torch

from sharpness.engine.memory import memory_budget
from sharpness.errors import UserError

logger = logging.getLogger("sharpness")

#: Bytes up to which eigenvectors are kept unless the caller says otherwise.
USUAL = 2**30


def vectors_are_kept(wanted: bool | None, rows: int, width: int, parameters: int, itemsize: int) -> bool:
    """Decide whether a result keeps its eigenvectors; None keeps them up to 1 GiB, and a notice says where it does not.

    Args:
        wanted: by the caller.
        rows: of the result, such as classes.
        width: eigenvalues of each.
        parameters: in scope.
        itemsize: bytes of a number.

    Returns:
        Whether they are kept.

    Raises:
        UserError: they are wanted, and take more than the memory that is free; the message has the number of bytes.

    >>> vectors_are_kept(None, 10, 2, 1000, 4), vectors_are_kept(None, 1000, 1, 25_557_032, 4)
    (True, False)
    """
    size = rows * width * parameters * itemsize
    told = f"{rows:,} x {width} eigenvectors of {parameters:,} parameters take {size:,} bytes"
    if wanted is None:
        if size > USUAL:
            logger.info("%s: they are not kept; keep_vectors=True keeps them where they fit", told)
        return size <= USUAL
    free = 2 * memory_budget(torch.device("cpu"))  # which is half of what is free
    if wanted and size > max(free, USUAL):
        raise UserError(f"{told}, and {free:,} are free: give keep_vectors=False, or fewer parameters")
    return wanted
