"""Subsets of the samples of a landscape: their values, and their names in pictures."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from sharpness.errors import UserError, choose
from sharpness.results.estimates import Subset

QUANTITIES = ("loss", "rise", "accuracy")
logger = logging.getLogger("sharpness")


def values_of(result: Any, subset: Subset, quantity: str) -> np.ndarray:
    """Losses, their rises or accuracies, in the shape of ``result.losses``.

    Raises:
        UserError: an unknown quantity or subset, a group without classes, or accuracy of targets that are not labels.
    """
    choose("quantity", quantity, QUANTITIES)
    if quantity == "accuracy" and not np.isfinite(result.class_accuracies).any():
        raise UserError("no accuracy here, because targets are no labels or outputs no logits: draw loss or rise")
    subset = plain_subset(result, subset)
    if isinstance(subset, str) and result.groups.get(subset) == ():
        raise UserError(f"group {subset!r} has no classes here: nothing to draw")
    return {"loss": result.values, "rise": result.rises, "accuracy": result.accuracies}[quantity](subset)


def plain_subset(result: Any, subset: Subset) -> Subset:
    """None for ``"all"``, unless a group or a class has that name."""
    taken = "all" in result.groups or (result.has_classes and "all" in result.class_names)
    return None if subset == "all" and not taken else subset


def subset_title(result: Any, subset: Subset) -> str:
    """The title of a subset in pictures."""
    subset = plain_subset(result, subset)
    if subset is None:
        return "All classes" if result.has_classes else "All samples"
    if isinstance(subset, str) and subset in result.groups:
        return f"{subset.capitalize()}-shot" if subset in ("many", "medium", "few") else subset
    known = isinstance(subset, Integral) and 0 <= subset < len(result.class_names)
    name = str(result.class_names[subset] if known else subset)
    return f"Class {name}" if name.isdigit() else name


def several(subset: Any) -> list[Subset] | None:
    """The subsets in a list, or None for a single subset.

    Raises:
        UserError: an empty list.
    """
    if isinstance(subset, (list, tuple)) and not subset:
        raise UserError("of=[] names nothing to draw: None is all samples, 'few' a group, an integer a class")
    return list(subset) if isinstance(subset, (list, tuple)) else None


def drawable(results: Mapping[str, Any], subsets: Sequence[Subset], quantity: str) -> list[Subset]:
    """The subsets with a finite value, with a warning about the others; all subsets if none has any."""
    kept = [s for s in subsets if any(np.isfinite(values_of(r, s, quantity)).any() for r in results.values())]
    if not kept or len(kept) == len(subsets):
        return list(subsets)
    first = next(iter(results.values()))
    names = ", ".join(subset_title(first, s) for s in subsets if s not in kept)
    logger.warning("not drawn, because no %s is finite or a class has no samples: %s", quantity, names)
    return kept
