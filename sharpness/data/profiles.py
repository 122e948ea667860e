"""Long-tail profiles: how many training images each class keeps.

The head is class 0 and classes keep the order of their labels. With ``mu = 1 / imbalance`` and
``c = 0 .. C - 1``:

* ``exp``      ``n_c = int(n_max * mu ** (c / (C - 1)))`` (Cao et al., LDAM-DRW, NeurIPS 2019),
* ``step``     ``n_max`` for the first ``C // 2`` classes, ``int(n_max * mu)`` for the rest,
* ``exp_m2m``  ``n_c = int(n_max * (mu ** (1 / (C - 1))) ** c)`` (Kim, Jeong and Shin, M2m, CVPR 2020): the
  same curve in real numbers, but rounding often leaves the last class one image smaller.

M2m takes the root with ``numpy.power``, whose last bit depends on the processor. For 10 classes at imbalance
50 and 100 classes at 100 that bit decides about an image: there the root is rounded down on every machine,
which gives the counts 99 and 4 of NumPy's vectorised power.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real

from sharpness.errors import UserError, choose

_M2M_ROOT_ROUNDED_DOWN = {(10, 50), (100, 100)}


def _exp(imbalance: float, num_classes: int, n_max: int) -> tuple[int, ...]:
    mu = 1 / imbalance
    return tuple(int(n_max * mu ** (c / (num_classes - 1.0))) for c in range(num_classes))


def _step(imbalance: float, num_classes: int, n_max: int) -> tuple[int, ...]:
    half = num_classes // 2
    return (n_max,) * half + (int(n_max * (1 / imbalance)),) * (num_classes - half)


def _exp_m2m(imbalance: float, num_classes: int, n_max: int) -> tuple[int, ...]:
    mu = (1 / imbalance) ** (1 / (num_classes - 1))
    if (num_classes, imbalance) in _M2M_ROOT_ROUNDED_DOWN:
        mu = math.nextafter(mu, 0)
    return tuple(int(n_max * mu**c) for c in range(num_classes))


PROFILES: dict[str, Callable[[float, int, int], tuple[int, ...]]] = {
    "exp": _exp,
    "step": _step,
    "exp_m2m": _exp_m2m,
}


#: The profile of training sets that are a list, whatever their counts.
LISTED = "listed"


def check_profile(profile: str, imbalance: float) -> None:
    """Raise a :class:`UserError` unless the profile is known and the imbalance finite and at least 1."""
    if profile != LISTED:
        choose("profile", profile, list(PROFILES))
    if isinstance(imbalance, bool) or not isinstance(imbalance, Real):
        raise UserError(f"imbalance {imbalance!r} is not a number: give n_max / n_min, for example 100")
    if not math.isfinite(imbalance) or imbalance < 1:
        raise UserError(f"imbalance {imbalance!r}: give a finite n_max / n_min of at least 1")


def profile_counts(
    profile: str,
    imbalance: float,
    num_classes: int,
    n_max: int,
    *,
    class_names: Sequence[str] | None = None,
) -> tuple[int, ...]:
    """Training images per class, ``(C,)``, of one of :data:`PROFILES`.

    Args:
        profile: ``exp``, ``step`` or ``exp_m2m``.
        imbalance: ``n_max / n_min``, the largest over the smallest class, at least 1.
        num_classes: ``C``, at least 2.
        n_max: images of the largest class.
        class_names: names for the error message.

    Raises:
        UserError: an unknown profile, an imbalance below 1 or not finite, fewer than two classes, or an
            imbalance that leaves a class without images.

    >>> profile_counts("exp", 100, 10, 5000)
    (5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50)
    >>> profile_counts("exp_m2m", 50, 10, 5000)[-1]
    99
    """
    choose("profile", profile, list(PROFILES))
    check_profile(profile, imbalance)
    if num_classes < 2:
        raise UserError(f"a long tail needs at least 2 classes, not {num_classes}")
    if n_max < 1:
        raise UserError(f"the largest class needs at least 1 image, not {n_max}")
    counts = PROFILES[profile](imbalance, num_classes, n_max)
    if min(counts) < 1:
        last = num_classes - 1
        name = class_names[last] if class_names else str(last)
        largest = largest_imbalance(profile, num_classes, n_max)
        raise UserError(
            f"class {name!r} keeps {counts[last]} images at imbalance {imbalance:g}: "
            f"the largest imbalance that leaves it one is {_plain(largest)}"
        )
    return counts


def largest_imbalance(profile: str, num_classes: int, n_max: int) -> float:
    """Largest imbalance, to two decimals, at which every class keeps an image.

    >>> largest_imbalance("exp", 10, 5000)
    5000.0
    """

    # At n_max the last class has n_max / n_max images, of which rounding may make less than one.
    one = min(PROFILES[profile](n_max, num_classes, n_max)) >= 1
    return float(n_max) if one else n_max - 0.01


def smallest_imbalance(profile: str, present: Sequence[int], n_max: int) -> float | None:
    """Smallest imbalance, to two decimals, at which no class asks for more than is ``present``, or None.

    >>> smallest_imbalance("step", (100, 20), 100)
    4.77
    """
    low, high = 1.0, largest_imbalance(profile, len(present), n_max)

    def fits(imbalance: float) -> bool:
        asked = PROFILES[profile](imbalance, len(present), n_max)
        return all(a <= p for a, p in zip(asked, present, strict=True))

    if not fits(high):
        return None
    if fits(low):
        return low
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return math.ceil(high * 100) / 100


def check_present(
    profile: str, counts: Sequence[int], present: Sequence[int], n_max: int, class_names: Sequence[str]
) -> None:
    """Raise a :class:`UserError` if a class has fewer images than its profile asks for.

    Raises:
        UserError: names the first such class, the images asked for and present, and the remedy.
    """
    for name, asked, there in zip(class_names, counts, present, strict=True):
        if asked > there:
            smallest = smallest_imbalance(profile, present, n_max)
            remedy = (
                f"the smallest imbalance these files allow is {_plain(smallest)}"
                if smallest is not None
                else "these files allow no imbalance with this profile"
            )
            raise UserError(f"class {name!r} is asked for {asked} images and has {there}: {remedy}")


def _plain(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")
