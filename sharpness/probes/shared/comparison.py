"""Comparison of several objectives: check that their results can be compared."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sharpness.errors import UserError
from sharpness.objective import Objective
from sharpness.probes.directions.gaussian import noise_keys
from sharpness.probes.shared.trainings import Training, named, trainings
from sharpness.results.same import SHARED, SPLIT, Probed, require_equal, require_same_samples

#: Attributes of an objective by their names in its provenance, if these differ.
ATTRIBUTES = {"loss": "loss_name", "loss_function": "loss_identity", "dtype": "precision"}
logger = logging.getLogger("sharpness")


def side_by_side(
    subjects: Mapping[Any, Any], build: Callable[[Any], Objective], own_losses: bool = False
) -> list[Training]:
    """Build comparable objectives for the models of a mapping, with samples in the order of the first objective.

    The order only decides which samples a bootstrap draws and which samples share a batch. With a common order, these
    are the same for all models.

    Args:
        subjects: see :func:`~sharpness.probes.shared.trainings.trainings`.
        build: function that makes the objective of a model; the first one that cannot be compared raises an error.
        own_losses: see :func:`require_comparable`.

    Raises:
        UserError: see :func:`require_comparable`.
    """
    found: list[Training] = []
    for model in trainings(subjects):
        model = model._replace(subject=build(model.subject))
        if found:
            found = [_in_groups_of(model, earlier) for earlier in found]
            model, first = _in_groups_of(found[0], model), found[0]
            require_comparable({named(first): first.subject, named(model): model.subject}, own_losses)
            model = model._replace(subject=model.subject.in_order_of(first.subject))
        found.append(model)
    return found


def _in_groups_of(other: Training, model: Training) -> Training:
    """Give a model the groups of another one, if it was trained on balanced classes and the other was not.

    Balanced classes form a single group, but a comparison with models of a long tail is about rare classes. A warning
    names the model whose groups are used.
    """
    theirs = other.subject.groups
    if not model.subject.groups or _splits(model.subject.groups) or not _splits(theirs):
        return model
    logger.warning("%s was trained on balanced classes: groups are those of %s", named(model), named(other))
    return model._replace(subject=model.subject._over(replace(model.subject.samples, groups=dict(theirs))))


def _splits(groups: Mapping[str, Sequence[int]]) -> bool:
    """True if the classes are in several groups."""
    return sum(len(classes) > 0 for classes in groups.values()) > 1


def require_comparable(objectives: Mapping[str, Objective], own_losses: bool = False) -> None:
    """Refuse objectives that differ in samples, scope, BatchNorm policy, loss, precision, classes or groups.

    Samples are compared by the identity that ``Objective`` gives them: their order and normalisation may differ.

    Args:
        own_losses: every model is probed on its own training loss, so losses and class weights may differ.

    Raises:
        UserError: samples differ (the message says how many and which), or a field does (with both values).
    """
    if not objectives:
        raise UserError("an empty mapping of objectives: there is nothing to compare")
    probed = {label: Probed(o.identity, o.data_sha256, o.class_names) for label, o in objectives.items()}
    require_same_samples(probed, weights=not own_losses)
    fields = [name for name in (*SHARED, *SPLIT) if not (own_losses and name in ("loss", "loss_function"))]
    require_equal({
        label: {name: getattr(one, ATTRIBUTES.get(name, name)) for name in fields} for label, one in objectives.items()
    })  # fmt: skip


def is_random(result: Any) -> bool:
    """True if the result was computed at weights moved by Gaussian noise."""
    names = getattr(result, "directions", "gaussian" if hasattr(result, "distribution") else "")
    return "gaussian" in names.split("+")


def warn_of_shapes(objectives: Mapping[str, Objective]) -> None:
    """Warn if models of different architectures are compared, as in Li et al., because their noise differs.

    Vectors are ignored: filter normalisation does not move them, and some heads have a bias while others have none.
    """
    (first_label, first), *rest = objectives.items()
    known = set(noise_keys(first).values())
    for label, one in rest:
        sizes = {key: math.prod(key[0]) for key in noise_keys(one).values() if len(key[0]) > 1}
        own = sum(size for key, size in sizes.items() if key not in known)
        if own:
            logger.warning(
                "the noise is not the same: %.0f %% of the weights of %r have shapes that %r has not, and noise of "
                "their own", max(1.0, 100 * own / sum(sizes.values())), label, first_label,
            )  # fmt: skip


def common_fields(objective: Objective, **settings: Any) -> dict[str, Any]:
    """The fields that every result has, with the probe's settings in the provenance."""
    identity = objective.identity
    images = {"images": identity.by, "images_sha256": identity.sha256, "image_constants": objective.image_constants}
    return {
        "class_names": objective.class_names,
        "class_samples": objective.class_samples,
        "class_weights": objective.class_weights,
        "groups": objective.groups,
        "sample_ids": identity.words,
        "sample_weights": identity.weights,
        "provenance": {**objective.provenance(), **images, **settings},
    }


def class_fields(objective: Objective) -> dict[str, Any]:
    """Entries for keys of saved work: what a user's function may read of the classes, beside the provenance."""
    counts = objective.train_counts
    return {
        "groups": objective.groups,
        "names": objective.class_names,
        "train": None if counts is None else counts.tolist(),
    }
