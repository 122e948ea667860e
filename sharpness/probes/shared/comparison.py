"""Objectives side by side: check that their results can be compared."""

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

#: Attributes of an objective that have another name in its provenance.
ATTRIBUTES = {"loss": "loss_name", "loss_function": "loss_identity", "dtype": "precision"}
logger = logging.getLogger("sharpness")


def side_by_side(
    subjects: Mapping[Any, Any], build: Callable[[Any], Objective], own_losses: bool = False
) -> list[Training]:
    """The models of a mapping, as objectives that can be compared, with samples in the order of the first one's.

    The order decides nothing but which samples a resampling draws and which ones share a batch; so these are the same
    for all models, too.

    Args:
        subjects: see :func:`~sharpness.probes.shared.trainings.trainings`.
        build: makes an objective of a model; the first that cannot be compared ends it.
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
    """A model in the groups of another, if it was trained on balanced classes, which are one group, and that was not.

    Rare classes are what a comparison with models of a long tail asks about; a warning names their model.
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

    Samples are compared by their identity in ``Objective``: their order and normalisation may differ.

    Args:
        own_losses: every model is probed on the loss that it was trained with, and weighs classes as that does.

    Raises:
        UserError: says how many samples differ and which, or names the field that differs, and both values.
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
    """True if Gaussian noise has moved the weights."""
    names = getattr(result, "directions", "gaussian" if hasattr(result, "distribution") else "")
    return "gaussian" in names.split("+")


def warn_of_shapes(objectives: Mapping[str, Objective]) -> None:
    """Models of different architectures may be compared, as by Li et al., yet not under the same noise.

    Vectors are left out: filter normalisation does not move them, and a linear head has a bias where others have none.
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
