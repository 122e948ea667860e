"""Values per class, given by label or name in a mapping or a pandas Series, in the order of the classes."""

from __future__ import annotations

from collections.abc import KeysView, Mapping, Sequence, Set
from numbers import Integral
from typing import Any

from sharpness.errors import UserError, shown


def labelled(given: Any) -> dict[Any, Any] | None:
    """The entries of a mapping, or of a Series by its index; None for anything else, such as a list.

    >>> labelled({"cat": 3}), labelled([3, 4])
    ({'cat': 3}, None)
    """
    series = getattr(given, "ndim", 0) == 1 and hasattr(given, "index") and hasattr(given, "items")
    return dict(given.items()) if isinstance(given, Mapping) or series else None


def by_class(given: Any, names: Sequence[Any], what: str) -> Any:
    """Convert a mapping or Series, by name or label, to a list in class order; return anything else unchanged.

    The order of its entries does not matter: that of a ``Counter`` or of ``labels.value_counts()`` is arbitrary.

    Args:
        names: names of the classes, in their order.
        what: name of the argument, for the error.

    Raises:
        UserError: a class is missing, a key is not a class, or integer keys could be labels or names.

    >>> by_class({2: 3, 0: 100, 1: 50}, ("cat", "dog", "eel"), "train_counts")
    [100, 50, 3]
    >>> by_class({"eel": 3, "cat": 100, "dog": 50}, ("cat", "dog", "eel"), "train_counts")
    [100, 50, 3]
    """
    if (entries := labelled(given)) is None:
        return given
    known, labels = list(map(str, names)), [str(c) for c in range(len(names))]
    found = {str(key): value for key, value in entries.items()}
    # Integers may be labels, as of a Counter, or names of folders, whose order is another one: 0, 1, 10, 2.
    if found.keys() == set(known) == set(labels) and known != labels and all(isinstance(k, Integral) for k in entries):
        raise UserError(f"{what} has integers as keys, which are labels and names of other classes: give a list in the "
                        "order of the labels, or names as text")  # fmt: skip
    if not found.keys() <= set(known):
        known = labels
    odd, lacking = next((k for k in found if k not in known), None), next((k for k in known if k not in found), None)
    if odd is not None or lacking is not None:
        told = f"has no class {lacking!r}" if odd is None else f"has {shown(odd)!r}, which is no class"
        raise UserError(f"{what} {told}: give a value for each of the {len(known)} classes, by its label or name")
    return [found[key] for key in known]


def ordered_names(given: Any) -> Any:
    """Class names as text in label order, from a list, ``{label: name}``, or ``{name: label}`` as ``class_to_idx`` is.

    Files hold names as text, so numbers become text here, once; None stays None.

    Raises:
        UserError: a set, or labels that are not 0 .. C - 1.

    >>> ordered_names({1: "dog", 0: "cat"}), ordered_names({"dog": 1, "cat": 0}), ordered_names(["cat", "dog"])
    (['cat', 'dog'], ['cat', 'dog'], ['cat', 'dog'])
    >>> ordered_names(range(2)), ordered_names({0: 7})
    (['0', '1'], ['7'])
    """
    if given is None:
        return None
    if isinstance(given, Set) and not isinstance(given, KeysView):
        raise UserError(f"class_names is a {type(given).__name__}: give a list of names in the order of the outputs")
    if (entries := labelled(given)) is None:
        return [str(name) for name in (given.tolist() if hasattr(given, "tolist") else given)]
    for labels, names in ((list(entries), list(entries.values())), (list(entries.values()), list(entries))):
        if all(isinstance(c, Integral) for c in labels) and sorted(labels) == list(range(len(labels))):
            return [str(name) for _, name in sorted(zip(labels, names, strict=True), key=lambda pair: int(pair[0]))]
    raise UserError("class_names by label must have all labels from 0 on: give a list in the order of the outputs")
