"""Data setups of repositories by number of classes: data set, normalisation, class order, images of the long tail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sharpness.data.cifar import MEAN, STD
from sharpness.data.published_lists import IMAGENET, INATURALIST
from sharpness.data.standardization import Standardization

CIFAR = Standardization(MEAN, STD)
M2M_CIFAR100 = Standardization((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))

_INTROSORT = (
    "classes are numbered as NumPy before 1.25 sorted their counts, which released weights were trained with; later "
    "ones sort ties otherwise: class_order= (--class-order) takes a .json list"
)


@dataclass(frozen=True)
class Setup:
    """A repository's setup of one data set; None is unknown."""

    dataset: str | None = None
    normalization: Standardization | None = None
    subset: Mapping[str, Any] | None = None
    class_order: str | None = None  # a name of sharpness.data.CLASS_ORDERS
    notes: tuple[str, ...] = ()


def setups(profile: str = "exp", subset: str | None = "ldam_seed0", large_order: str = "label") -> dict[int, Setup]:
    """Setups by number of classes, with one rule for the images of CIFAR's long tails, and one order of the classes of
    the large sets.

    >>> setups(subset="first_n")[100].subset
    {'profile': 'exp', 'subset': 'first_n'}
    """
    rule = {"profile": profile, "subset": subset} if subset else None
    lists = {"list": "the published split list"}
    notes = (_INTROSORT,) if large_order == "introsort" else ()
    return {
        10: Setup("cifar10-lt", CIFAR, rule, "label"),
        100: Setup("cifar100-lt", CIFAR, rule, "label"),
        1000: Setup("imagenet-lt", IMAGENET, lists, large_order, notes),
        365: Setup("places-lt", IMAGENET, lists, large_order, notes),
        8142: Setup("inat18", INATURALIST, lists, large_order, notes),
    }


def with_notes(found: Mapping[int, Setup], *notes: str) -> dict[int, Setup]:
    """The same setups with remarks for the two CIFAR sets."""
    return {c: replace(r, notes=(*r.notes, *notes)) if c in (10, 100) else r for c, r in found.items()}


USUAL = setups()
