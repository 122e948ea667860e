"""Saved results of several runs, seeds or parts of the classes in one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from sharpness.errors import UserError
from sharpness.results.base import Result
from sharpness.results.collected import Collection, Saved, gather, named, saved_in
from sharpness.results.comparison import Comparison
from sharpness.results.estimates import Estimate, mean_of
from sharpness.results.landscape import Landscape
from sharpness.results.measures import MeasureResult
from sharpness.results.perturbation import PerturbationResult
from sharpness.results.same import SHARED, noise_fields, require_equal
from sharpness.statistics.estimate import interval

#: Measures that are means over samples: those of all samples are the means of the classes', by their weights.
MEANS = ("loss", "accuracy")
#: Entries of a provenance that say which samples were probed, of which parts have their own.
OF_SAMPLES = (
    "data_sha256",
    "images_sha256",
    "samples",
    "class_samples",
    "saturated",
    "settings",
    "evaluations",
    "label",
)


def merge(sources: Sequence[Any]) -> Comparison[Any]:
    """Read results of one kind from several files, and put them together.

    Trainings of one model become :class:`Runs`, results for different classes of one training become one result, and
    duplicates count once.

    Args:
        sources: files, or folders of them.

    Returns:
        The comparison of all models; save it with ``.save(path)``.

    Raises:
        UserError: no results, results of several kinds, or results that cannot be compared; the message names the field
            that differs.
    """
    found = gather(_joined(saved_in(list(sources))), ", ".join(map(str, sources)))
    kinds = {c.kind.__name__: c for c in found}
    if len(kinds) > 1:
        told = " and ".join(f"{name} ({_files(c)})" for name, c in kinds.items())
        raise UserError(f"{told} cannot be merged into one file: merge results of one kind")
    if len(found) > 1:
        raise UserError(found[0].refused or f"{_files(found[0])} and {_files(found[1])} cannot be merged")
    return found[0].results


def join_classes(parts: Sequence[Result]) -> Any:
    """One result of parts that probed other classes of one training each.

    Losses and accuracies of all samples are recomputed from the classes'. No part has an eigenvalue or a rise of all
    samples: these become NaN.

    Raises:
        UserError: a class with samples in two parts, or parts of other settings.
    """
    first = parts[0]
    overlap = np.sum([part.class_samples > 0 for part in parts], axis=0)
    if (overlap > 1).any():
        twice = ", ".join(first.class_names[c] for c in np.flatnonzero(overlap > 1)[:4])
        raise UserError(f"class {twice} has samples in two parts: give each class in one")
    if not getattr(first, "per_class", True):  # such as eigenvalues of the whole loss
        raise UserError(f"a {type(first).__name__} is of all samples together: parts of the classes cannot be joined")
    owner = np.argmax(np.stack([part.class_samples > 0 for part in parts]), axis=0)
    changes: dict[str, Any] = {}
    for f in fields(first):
        values = [getattr(part, f.name) for part in parts]
        names = type(first).DIMENSIONS.get(f.name)
        if names is None or any(value is None for value in values):
            continue
        names = names[len(names) - values[0].ndim :]
        if "class" in names:
            axis = names.index("class")
            stacked = np.stack([np.moveaxis(value, axis, 0) for value in values])
            changes[f.name] = np.moveaxis(stacked[owner, np.arange(len(owner))], 0, axis)
        elif f.name in ("sample_ids", "sample_weights"):
            changes[f.name] = np.concatenate(values)
    # Digests of one part's samples would say that the whole is of these alone.
    known = {k: v for k, v in first.provenance.items() if k not in OF_SAMPLES or k == "label"}
    samples = changes["class_samples"]
    changes["provenance"] = {
        **known,
        "samples": int(samples.sum()),
        "class_samples": samples.tolist(),
        "parts": len(parts),
    }
    for name in ("hvp_count", "sample_products"):
        if hasattr(first, name):
            changes[name] = sum(getattr(part, name) for part in parts)
    return _overall(replace(first, **changes), parts)


def _overall(joined: Any, parts: Sequence[Any]) -> Any:
    """The joined result with its numbers of all samples, as far as the classes' tell them."""
    if isinstance(joined, Landscape):
        evaluated = np.logical_and.reduce([part.evaluated for part in parts])
        return replace(
            joined, losses=joined.pooled(joined.class_losses), evaluated=evaluated,
            base_loss=float(joined.pooled(joined.base_class_losses)),
            precision_error=float(joined.pooled(joined.class_precision_errors)),
            interpolation_errors=joined.pooled(joined.class_interpolation_errors),
        )  # fmt: skip
    if isinstance(joined, PerturbationResult):
        classes = np.moveaxis(joined.class_losses, -1, 0)
        return replace(joined, losses=joined.pooled(classes), base_loss=float(joined.pooled(joined.base_class_losses)))
    if not isinstance(joined, MeasureResult):
        return joined
    rows = [_mean(joined, m) if name in MEANS else Estimate(np.nan) for m, name in enumerate(joined.names)]
    values, errors, lower, upper = np.array(rows, dtype=float).T
    bounded: Any = {} if joined.lower is None else {"overall_lower": lower, "overall_upper": upper}
    # Classes have images of their own, of which NaN says that they are independent, but share draws and vectors.
    names = ("group_standard_errors", "group_lower", "group_upper")
    groups: Any = {name: np.full((len(joined.names), len(joined.groups)), np.nan) for name in names}
    arrays = (joined.values, joined.standard_errors, joined.lower, joined.upper)
    for m, over in enumerate(joined.over):
        for g, group in enumerate(joined.groups):
            members = [c for c in joined.groups[group] if joined.class_samples[c]]
            if over != "images" and members:
                each = [Estimate(*(np.nan if a is None else float(a[m, c]) for a in arrays)) for c in members]
                shared = mean_of(each, independent=False)
                for name, value in zip(names, shared[1:], strict=True):
                    groups[name][m, g] = value
    return replace(joined, overall=values, overall_standard_errors=errors, **bounded, **groups)


def _mean(joined: MeasureResult, m: int) -> Estimate:
    """The mean over classes by their weights, with the error of independent classes."""
    present = joined.class_samples > 0
    weights = (joined.class_samples if joined.class_weights is None else joined.class_weights)[present]
    shares = weights / weights.sum()
    value = float(shares @ joined.values[m, present])
    error = float(np.sqrt((shares**2) @ joined.standard_errors[m, present] ** 2))
    keeps = joined.names[m] == "loss"
    return Estimate(value, error, *interval(value, error, joined.class_samples.sum() - 1, keeps_sign=keeps).tolist())


def _joined(found: Sequence[Saved]) -> list[Saved]:
    """The same with parts of the classes of one training as one result."""
    parts: dict[tuple[Any, ...], list[Saved]] = {}
    for one in found:
        model = one.result.provenance.get("model_sha256", one.label)
        parts.setdefault((type(one.result), model, one.run), []).append(one)
    return [joined for of_training in parts.values() for joined in _of_training(of_training)]


def _of_training(found: list[Saved]) -> list[Saved]:
    """Results of one training: one of its parts where these have no class in common, else those that there are."""
    samples = [one.result.class_samples for one in found]
    same = len({len(n) for n in samples}) == 1
    if len(found) == 1 or not same or (np.sum([n > 0 for n in samples], axis=0) > 1).any():
        return found
    first = found[0].result
    compared = noise_fields(first, type(first).COMPARED)
    settings = (*SHARED, *type(first).SETTINGS)
    require_equal({
        named(one): {name: getattr(one.result, name) for name in ("class_names", "groups", *compared)}
        | {name: value for name in settings if (value := one.result.provenance.get(name)) is not None}
        for one in found
    })  # fmt: skip
    return [found[0]._replace(result=join_classes([one.result for one in found]), path=None)]


def _files(c: Collection) -> str:
    return ", ".join(map(str, c.paths[:2])) or c.name
