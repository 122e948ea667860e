"""Saved results of several runs, seeds or parts of the classes in one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from sharpness.errors import UserError
from sharpness.results.base import Result
from sharpness.results.characteristic_radius import CharacteristicRadiusResult
from sharpness.results.collected import Collection, Saved, gather, is_copy, named, saved_in
from sharpness.results.comparison import Comparison
from sharpness.results.estimates import Estimate, mean_of
from sharpness.results.landscape import Landscape
from sharpness.results.layers import LayerResult
from sharpness.results.measures import MeasureResult
from sharpness.results.owners import OwnersResult
from sharpness.results.perturbation import PerturbationResult
from sharpness.results.same import SHARED, noise_fields, require_equal
from sharpness.statistics.estimate import interval, wilson

#: Measures that are means over samples: the value for all samples is the weighted mean over the classes.
MEANS = ("loss", "accuracy")
#: Entries of a provenance that depend on the probed samples, and so differ between parts.
OF_SAMPLES = (
    "data_sha256",
    "images_sha256",
    "samples",
    "class_samples",
    "saturated",
    "settings",
    "evaluations",
    "checks",
)
#: Fields of results that must agree for their parts to be joined, besides those that must agree to be compared.
JOINED = ("names", "layers", "k")


def merge(sources: Sequence[Any]) -> Comparison[Any]:
    """Read results of one kind from several files and combine them.

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
    """Join results for different classes of one training into one result.

    Losses and accuracies of all samples are recomputed from those of the classes. Other values for all samples, such as
    eigenvalues, are unknown and become NaN.

    Raises:
        UserError: a class with samples in two parts, arrays of different shapes, or results of all samples together.
    """
    first = parts[0]
    overlap = np.sum([part.class_samples > 0 for part in parts], axis=0)
    if (overlap > 1).any():
        twice = ", ".join(first.class_names[c] for c in np.flatnonzero(overlap > 1)[:4])
        raise UserError(f"class {twice} has samples in two parts: give each class in one")
    # Eigenvalues of the whole loss, and the classes' shares in them.
    if isinstance(first, OwnersResult) or not getattr(first, "per_class", True):
        raise UserError(f"a {type(first).__name__} is of all samples together: parts of the classes cannot be joined")
    owner = np.argmax(np.stack([part.class_samples > 0 for part in parts]), axis=0)
    changes: dict[str, Any] = {}
    for f in fields(first):
        values = [getattr(part, f.name) for part in parts]
        names = type(first).DIMENSIONS.get(f.name)
        if f.name == "class_weights" and not all(value is None for value in values):
            values = [_class_weights(part) for part in parts]
        given = next((value for value in values if value is not None), None)
        if names is None or given is None:
            continue
        names = names[len(names) - given.ndim :]
        # The columns of a result per layer are its classes.
        dimension = next((name for name in ("class", "column") if name in names), None)
        if dimension is None:
            continue
        # What a part does not have is unknown of its classes. Whole numbers, such as counts, have no NaN.
        if given.dtype.kind != "f" and any(value is None for value in values):
            changes[f.name] = None
            continue
        values = [np.full_like(given, np.nan) if value is None else value for value in values]
        if len(shapes := dict.fromkeys(value.shape for value in values)) > 1:
            told = " and ".join(map(str, shapes))
            raise UserError(f"{f.name} of shapes {told} cannot be joined: probe all classes with the same settings")
        axis = names.index(dimension)
        stacked = np.stack([np.moveaxis(value, axis, 0) for value in values])
        changes[f.name] = np.moveaxis(stacked[owner, np.arange(len(owner))], 0, axis)
    # Digests of one part's samples do not describe the whole.
    known = {k: v for k, v in first.provenance.items() if k not in OF_SAMPLES}
    samples = changes["class_samples"]
    changes |= _samples(parts)
    if isinstance(first, MeasureResult):
        changes["over"] = next((part.over for part in parts if part.over), ())  # type: ignore[attr-defined]
    changes["provenance"] = {
        **known,
        **_told_of_classes(parts),
        "samples": int(samples.sum()),
        "class_samples": samples.tolist(),
        "parts": len(parts),
    }
    for name in ("hvp_count", "sample_products"):
        if hasattr(first, name):
            changes[name] = sum(getattr(part, name) for part in parts)
    return _overall(replace(first, **changes), parts)


def _samples(parts: Sequence[Result]) -> dict[str, Any]:
    """The identities and weights of the samples of all parts; None if a part does not record its samples."""
    ids = [part.sample_ids for part in parts if part.sample_ids is not None]
    if len(ids) < len(parts):
        return {"sample_ids": None, "sample_weights": None}
    weights = np.concatenate([_weights(part) for part in parts])
    equal = np.allclose(weights, weights[0], rtol=1e-9, atol=0)
    return {"sample_ids": np.concatenate(ids), "sample_weights": None if equal else weights}


def _class_weights(part: Result) -> np.ndarray:
    """The sum of the weights of every class, (C,); files from before it was kept had equal weights."""
    return part.class_samples.astype(float) if part.class_weights is None else part.class_weights


def _weights(part: Result) -> np.ndarray:
    """The weights of a part's samples, (n,). A part does not record equal ones, which may differ between parts."""
    if part.sample_weights is not None:
        return part.sample_weights
    return np.full(int(part.class_samples.sum()), _class_weights(part).sum() / part.class_samples.sum())


def _told_of_classes(parts: Sequence[Result]) -> dict[str, Any]:
    """Checks and notes on saturation of single classes; those of all samples are of one part's."""
    names = parts[0].class_names
    found: dict[str, Any] = {}
    if checks := [one for part in parts for one in part.provenance.get("checks", []) if one.get("row") in names]:
        found["checks"] = checks
    told = [part.provenance.get("saturated") for part in parts]
    saturated = {k: v for one in told if isinstance(one, dict) for k, v in one.items() if k in names}
    return found | ({"saturated": saturated} if saturated else {})


def _overall(joined: Any, parts: Sequence[Any]) -> Any:
    """Set the numbers for all samples, as far as they follow from those of the classes."""
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
    # NaN means independent classes, which is right for errors over images. Draws and vectors are shared by classes.
    names = ("group_standard_errors", "group_lower", "group_upper")
    unknown = np.full((len(joined.names), len(joined.groups)), np.nan)
    groups: Any = {name: unknown.copy() for name in names} if joined.groups else {}
    arrays = (joined.values, joined.standard_errors, joined.lower, joined.upper)
    for m, over in enumerate(joined.over):
        for g, group in enumerate(joined.groups):
            members = [c for c in joined.groups[group] if joined.class_samples[c]]
            if over != "images" and members:
                each = [Estimate(*(np.nan if a is None else float(a[m, c]) for a in arrays)) for c in members]
                shared = mean_of(each, independent=False)
                for name, value in zip(names, shared[1:], strict=True):
                    groups[name][m, g] = value
    joined = replace(joined, overall=values, overall_standard_errors=errors, **bounded, **groups)
    if isinstance(joined, CharacteristicRadiusResult):  # no part has the loss of all samples at a common radius
        return replace(joined, losses=np.full_like(joined.losses, np.nan))
    return joined


def _mean(joined: MeasureResult, m: int) -> Estimate:
    """The mean over all samples, with the error and the interval that a table of all samples has.

    Samples deviate from the mean within their class, as the class's own numbers tell, and by the mean of their class.
    The sum of both is exact if the samples of a class have equal weights.
    """
    present = joined.class_samples > 0
    means, errors = joined.values[m, present], joined.standard_errors[m, present]
    parts = (joined.class_samples, _class_weights(joined), _squared_weights(joined))
    samples, weights, squares = (part[present] for part in parts)
    n, total = samples.sum(), weights.sum()
    value = float((weights * means).sum() / total)  # summed alike, so that shares of 1 give 1
    if joined.names[m] == "accuracy":
        # As in share_error, with one more sample of mean weight that is half correct.
        center, more = (n * value + 0.5) / (n + 1), total / n
        deviations = squares @ (means * (1 - means) + (means - center) ** 2) + (more * (0.5 - center)) ** 2
        error = np.sqrt((n + 1) / n * deviations) / (total + more)
        ends = wilson(value, total**2 / squares.sum())
    else:
        # A class of one image has no error, and its image is its mean.
        within = np.where(samples == 1, 0.0, (errors * weights) ** 2 * (samples - 1) / samples)
        error = np.sqrt(n / (n - 1) * (within.sum() + squares @ (means - value) ** 2)) / total
        ends = interval(value, error, n - 1, keeps_sign=bool((means >= 0).all()))
    return Estimate(value, float(error), *ends.tolist())


def _squared_weights(joined: Result) -> np.ndarray:
    """The sum of the squared weights of every class, (C,); samples of a class have equal ones if none are recorded."""
    if joined.sample_ids is None or joined.sample_weights is None:
        return _class_weights(joined) ** 2 / np.maximum(joined.class_samples, 1)
    return np.bincount(joined.sample_ids[:, 0], joined.sample_weights**2, minlength=len(joined.class_samples))


def _joined(found: Sequence[Saved]) -> list[Saved]:
    """Join results for different classes of one training; leave others unchanged."""
    parts: dict[tuple[Any, ...], list[Saved]] = {}
    for one in found:
        model = one.result.provenance.get("model_sha256", one.label)
        parts.setdefault((type(one.result), model, one.run), []).append(one)
    return [joined for of_training in parts.values() for joined in _of_training(of_training)]


def _of_training(found: list[Saved]) -> list[Saved]:
    """Join the results of one training if they have no class in common; otherwise return them unchanged."""
    parts = [one for i, one in enumerate(found) if not any(is_copy(one.result, other.result) for other in found[:i])]
    samples = [one.result.class_samples for one in parts]
    same = len({len(n) for n in samples}) == 1
    if len(parts) == 1 or not same or (np.sum([n > 0 for n in samples], axis=0) > 1).any():
        return found
    first = parts[0].result
    compared = noise_fields(first, type(first).COMPARED)
    own = [name for name in JOINED if hasattr(first, name)]
    settings = (*SHARED, *type(first).SETTINGS, "estimator")
    require_equal({
        named(one): {name: getattr(one.result, name) for name in ("class_names", "groups", *compared, *own)}
        | {name: value for name in settings if (value := one.result.provenance.get(name)) is not None}
        | _sources(one.result)
        for one in parts
    })  # fmt: skip
    return [parts[0]._replace(result=join_classes([one.result for one in parts]), path=None)]


def _sources(result: Result) -> dict[str, str]:
    """The sources of variation of errors, by what a refusal calls them; none in old files."""
    found: dict[str, str] = {}
    if isinstance(result, MeasureResult):
        found = dict(zip(result.names, result.over, strict=False))
    elif isinstance(result, LayerResult) and result.standard_errors is not None:
        found = {result.measure: result.over}
    return {f"the source of errors of {name}": over for name, over in found.items()}


def _files(c: Collection) -> str:
    return ", ".join(map(str, c.paths[:2])) or c.name
