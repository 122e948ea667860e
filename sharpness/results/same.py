"""Checks that results are comparable, before they share a picture or a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sharpness.errors import UserError, shown
from sharpness.identity import NAMES, VALUES, SampleIdentity

if TYPE_CHECKING:
    from sharpness.results.base import Result

#: Settings that determine the numbers, by their names in a provenance.
SHARED = ("dtype", "scope", "coordinates", "batchnorm", "loss", "loss_function", "logits")
#: Values of settings that a provenance of an earlier version lacks.
BEFORE = {"logits": "calibrated", "coordinates": "plain"}
#: What tables and pictures are split by.
SPLIT = ("class_names", "groups")
#: Maximum number of classes that an error names.
NAMED = 4
TENSORS = (
    "; tensors are compared as they stand: if these are the same images, say how they were normalised, "
    "Objective(..., mean=, std=), or which they are, names= with one for each sample"
)
REMEDIES = {VALUES: TENSORS, NAMES: "; give both the same samples"}
SAME = "; give both the same data, split and limit"


class Probed(NamedTuple):
    """The probed samples: their identity if known; the digest of inputs, labels and weights; class names."""

    identity: SampleIdentity | None
    data_sha256: str | None
    class_names: Sequence[str]


def require_same(results: Mapping[str, Result], fields: Sequence[str] = (), shared: Sequence[str] = SHARED) -> None:
    """Refuse results with different samples, scope, BatchNorm policy, loss, precision, classes, groups, or ``fields``.

    Fields that a provenance lacks are not compared.

    Args:
        fields: attributes of the results.
        shared: entries of the provenances that must agree.

    Raises:
        UserError: tells how many samples differ and which, or names the field that differs, and both values; or
            results of several kinds, or none.
    """
    if not results:
        raise UserError("an empty comparison has no numbers: give it a result")
    kinds = {type(r).__name__ for r in results.values()}
    if len(kinds) > 1:
        raise UserError(f"{' and '.join(sorted(kinds))} cannot be compared: give results of one kind")
    losses = {r.provenance.get("loss") for r in results.values()}
    weights = len(losses) == 1 or "loss" in shared  # weights may depend on the loss
    require_same_samples({label: r.probed for label, r in results.items()}, weights)
    if len({str(r.provenance.get("python")).rpartition(".")[0] for r in results.values()}) > 1:
        shared = [name for name in shared if name != "loss_function"]  # a digest of bytecode, which versions change
    require_equal({
        label: {name: value for name in shared if (value := r.provenance.get(name, BEFORE.get(name))) is not None}
        | {name: getattr(r, name) for name in (*SPLIT, *fields)}
        for label, r in results.items()
    })  # fmt: skip


def require_same_samples(probed: Mapping[str, Probed], weights: bool = True) -> None:
    """Refuse results whose samples differ from those of the first. Order and normalisation may differ.

    Args:
        weights: whether the samples' weights must agree, too, up to a common factor.

    Raises:
        UserError: tells how many differ, of which classes, and the first of them.
    """
    (first_label, first), *rest = probed.items()
    for label, other in rest:
        told = _difference(first, other, repr(first_label), repr(label), weights)
        if told:
            raise UserError(f"{first_label!r} and {label!r} cannot be compared: {told}")


def require_equal(described: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse descriptions by label that differ from the first one in a field that both have.

    Raises:
        UserError: names the field, and both values.
    """
    (first_label, first), *rest = described.items()
    for label, other in rest:
        for name in first:
            if name in other and not _equal(first[name], other[name]):
                pair, values = (
                    f"{first_label!r} and {label!r}",
                    f"{_in_few_words(first[name])} and {_in_few_words(other[name])}",
                )
                raise UserError(f"{pair} cannot be compared: {name} is {values}, and must be the same")


def noise_fields(result: Any, fields: Sequence[str]) -> tuple[str, ...]:
    """``fields``, plus normalisation and seed for a landscape along Gaussian directions."""
    gaussian = "gaussian" in getattr(result, "directions", "").split("+")
    return (*fields, "normalization", "seed") if gaussian else tuple(fields)


def _difference(a: Probed, b: Probed, of_a: str, of_b: str, weights: bool) -> str | None:
    """Describe the difference between two sets of samples; None if there is none."""
    same_bits = a.data_sha256 == b.data_sha256
    if a.identity is None or b.identity is None:
        if same_bits or None in (a.data_sha256, b.data_sha256):
            return None
        # Files of earlier versions only have a digest, which does not show how the samples differ.
        old = " and ".join(name for name, one in ((of_a, a), (of_b, b)) if one.identity is None)
        return (
            f"data_sha256 is {str(a.data_sha256)[:12]}... and {str(b.data_sha256)[:12]}..., and {old} does not tell "
            "whether that is the images, their order or what normalises them, as results of today do: probe again"
        )
    if a.identity.by != b.identity.by:
        if same_bits:
            return None
        return f"{of_a} tells its samples apart by {a.identity.by} and {of_b} by {b.identity.by}" + (
            TENSORS if VALUES in (a.identity.by, b.identity.by) else ": give both names=, or neither"
        )
    mine, theirs = a.identity.missing_in(b.identity), b.identity.missing_in(a.identity)
    if len(mine) or len(theirs):
        return _of_samples(a, b, mine, theirs, of_a, of_b)
    if weights:
        pair = a.identity.relative_weights(), b.identity.relative_weights()
        off = ~np.isclose(*pair, rtol=1e-5, atol=0)
        if off.any():
            i = int(np.flatnonzero(off)[0])
            return (
                f"weights of {int(off.sum())} of {len(a.identity)} images differ (relative to their mean, for instance "
                f"{pair[0][i]:.4g} and {pair[1][i]:.4g}): give both the same weights and limit"
            )
    return None


def _of_samples(a: Probed, b: Probed, mine: np.ndarray, theirs: np.ndarray, of_a: str, of_b: str) -> str:
    """Describe the samples that differ, with a remedy: ``mine`` of a are not in b, ``theirs`` of b not in a."""
    assert a.identity is not None and b.identity is not None
    total, remedy = len(a.identity), REMEDIES.get(a.identity.by, SAME)
    if len(mine) != len(theirs):
        parts = [
            f"{len(lacking)} of the {len(one.identity)} images of {of_one} are not in {of_other} "
            f"({_classes(one, lacking)}; first: index {lacking[0]})"
            for one, lacking, of_one, of_other in ((a, mine, of_a, of_b), (b, theirs, of_b, of_a))
            if one.identity is not None and len(lacking)
        ]
        return ", and ".join(parts) + remedy
    i = int(mine[0])
    if len(a.identity.missing_in(b.identity, classes=False)):
        which = f"first: index {i} of {of_a} is not in {of_b}"
        return f"{len(mine)} of {total} images differ ({_classes(a, mine)}; {which}){remedy}"
    other = b.identity.classes[np.flatnonzero(b.identity.digests == a.identity.digests[i])[0]]
    which = f"first: index {i}, {_name(a, a.identity.classes[i])} in {of_a} and {_name(b, other)} in {of_b}"
    return f"labels of {len(mine)} of {total} images differ ({_classes(a, mine)}; {which}): give both the same labels"


def _classes(probed: Probed, indices: np.ndarray) -> str:
    """The classes of some samples with their counts, most frequent first.

    >>> from sharpness.identity import PIXELS
    >>> seen = SampleIdentity(PIXELS, np.array([0, 1, 1]), np.arange(3, dtype=np.uint64))
    >>> _classes(Probed(seen, None, ("cat", "dog")), np.arange(3))
    'classes dog 2, cat 1'
    """
    assert probed.identity is not None
    found = Counter(probed.identity.classes[indices].tolist()).most_common()
    named = [f"{_name(probed, c)} {count}" for c, count in found[:NAMED]]
    more = [f"{len(found) - NAMED} more"] if len(found) > NAMED else []
    return f"class{'es' if len(found) > 1 else ''} {', '.join([*named, *more])}"


def _name(probed: Probed, index: int) -> str:
    """The name of a class, or its number if it has none."""
    names = probed.class_names
    return shown(str(names[index])) if 0 <= index < len(names) else str(index)


def _equal(a: Any, b: Any) -> bool:
    return bool(np.array_equal(a, b) if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) else a == b)


def _in_few_words(value: Any) -> str:
    """A short text for a value; for a grid, its ends and number of points."""
    if isinstance(value, np.ndarray) and len(value) > 1 and np.allclose(np.diff(value, 2), 0):
        return f"{value[0]:g} to {value[-1]:g} in {len(value)} points"
    return shown(str(value.tolist() if isinstance(value, np.ndarray) else value))
