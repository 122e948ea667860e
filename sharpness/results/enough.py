"""Numbers of samples that would halve the errors of a table, or separate its models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any

from sharpness.results.comparison import each, first_of
from sharpness.results.runs import Entry, Runs

#: Maximum number of pairs of models that are named.
SHOWN = 4
#: Two models are distinguishable if they differ by this number of standard errors of the difference.
ERRORS = 2.0


def times_as_many(first: float, second: float, first_error: float, second_error: float) -> float:
    r"""Factor by which images or draws must increase to distinguish two values, if their difference stays the same.

    .. math:: (2 \sqrt{s_1^2 + s_2^2} / |v_1 - v_2|)^2

    because standard errors fall with the square root of the number of images or draws; below 1 if there are enough.

    >>> times_as_many(3.0, 1.0, 0.6, 0.8), times_as_many(1.5, 1.0, 0.3, 0.4)
    (1.0, 4.0)
    """
    difference = abs(first - second)
    return (ERRORS * math.hypot(first_error, second_error) / difference) ** 2 if difference else math.inf


def enough(results: Mapping[str, Entry]) -> list[str]:
    """Lines below a table of measures: the widest error and what would halve it; models that are not distinguishable.

    Values are those of all samples. Models that were trained several times are left to the comparison over seeds.
    """
    first = first_of(results)
    over = dict(zip(first.names, first.over, strict=False))
    counted = {name: of for name, of in over.items() if of == "images" or of.endswith("draws")}
    widest = [
        (error / abs(value), name, label)
        for label, one in each(results).items()
        for name in counted
        if math.isfinite(error := one[name].standard_error()) and (value := one[name].of()) and math.isfinite(value)
    ]
    lines = []
    if widest:
        share, name, label = max(widest)
        whose = f" of {label}" if len(each(results)) > 1 else ""
        # Twice as many do not halve it, as readers expect: errors fall with the square root.
        what = "draws" if counted[name].endswith("draws") else "images"
        now, then = (f"{part:.{1 if share < 0.1 else 0}%}" for part in (share, share / math.sqrt(2)))
        lines.append(
            f"widest error of all samples: {name}{whose}, {now} of the value; twice as many {what} would take it to "
            f"{then}, four times as many would halve it"
        )
    single = {label: entry for label, entry in results.items() if not isinstance(entry, Runs)}
    apart = [told for name in counted for pair in combinations(single.items(), 2) if (told := _not_apart(name, *pair))]
    if apart:
        more = f" and {len(apart) - SHOWN} more" if len(apart) > SHOWN else ""
        lines.append(f"not distinguishable at {ERRORS:g} standard errors: {'; '.join(apart[:SHOWN])}{more}")
    return lines


def _not_apart(name: str, first: tuple[str, Any], second: tuple[str, Any]) -> str:
    """Text on how many more images or draws would distinguish two models; empty if they are distinguishable."""
    values = [one[name].of() for _, one in (first, second)]
    errors = [one[name].standard_error() for _, one in (first, second)]
    if not all(map(math.isfinite, [*values, *errors])):
        return ""
    times = times_as_many(values[0], values[1], errors[0], errors[1])
    if times <= 1:
        return ""
    need = (
        "a few more would" if times < 1.5 else f"{times:.0f} times as many would" if times < 1000 else "they are equal"
    )
    return f"{name} of {first[0]} and {second[0]} ({need})"
