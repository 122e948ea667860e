"""Data of a checkpoint: the images on which it is probed, and its training set."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from sharpness.checkpoints import Checkpoint
from sharpness.data import DATASETS, ForeignData, LongTail, LongTailData, load_data, profile_counts
from sharpness.data.cifar import LAYOUTS
from sharpness.data.named_data import NamedData
from sharpness.data.profiles import LISTED
from sharpness.data.published_lists import PUBLISHED
from sharpness.errors import UserError, choose

logger = logging.getLogger("sharpness")


def checkpoint_data(checkpoint: Checkpoint, wanted: NamedData, given: LongTailData | None = None) -> LongTailData:
    """Load the long-tailed data of a checkpoint, standardised as in its family.

    Args:
        wanted: a named data set, or settings for the recorded one.
        given: data in memory, which replace both.

    Raises:
        UserError: no data are known, settings do not apply to them, or their classes or channels differ from those of
            the checkpoint.
    """
    manifest = checkpoint.manifest
    if given is not None:
        if idle := [name for name in wanted.given() if name not in ("split", "mean", "std")]:
            raise UserError(f"{', '.join(idle)}: only for recorded or named data, the given data are taken as they are")
        data = given
    elif wanted.name is None:
        return _recorded(checkpoint, wanted)
    else:
        data = _as_recorded(checkpoint, wanted) or _named(checkpoint, wanted, wanted.name)
    if manifest.class_order not in (None, "label") and data.longtail.profile == LISTED:
        data = data.in_class_order(manifest.class_order)
    elif manifest.class_order not in (None, "label"):
        raise UserError(
            f"{checkpoint.path} numbers its classes otherwise than {data.longtail.dataset}: class_order "
            "(--class-order) is for images of your own (--images), leave it out"
        )
    classes, channels = manifest.model.num_classes, manifest.model.in_channels
    if classes not in (None, data.num_classes):
        raise UserError(
            f"{checkpoint.path} tells {classes} classes apart and {data.longtail.dataset} has {data.num_classes}"
        )
    here = data.part(wanted.split).images.shape[1]
    if channels not in (None, here):
        raise UserError(
            f"{checkpoint.path} takes images of {channels} channels, those of {data.longtail.dataset} have {here}"
        )
    # Our own checkpoints use the standardisation of the data set; those of a family may use another one.
    usual = manifest.normalization if checkpoint.is_foreign else None
    return wanted.standardized(data, usual if usual is not None and usual.channels == here else None)


def _recorded(checkpoint: Checkpoint, wanted: NamedData) -> LongTailData:
    """Load the recorded data."""
    manifest = checkpoint.manifest
    if manifest.longtail is None:
        known = manifest.dataset in DATASETS
        remedy = f"data={manifest.dataset!r}" if known else "data='cifar10-lt', or images of your own"
        raise UserError(
            f"{checkpoint.path} does not record the images it was trained on: pass {remedy} (--data or --images)"
        )
    if idle := [name for name in wanted.given() if name in ("imbalance", "subset", "mean", "std")]:
        raise UserError(f"{checkpoint.path} records its data: leave out {', '.join(idle)}")
    return checkpoint.load_data(wanted.data_root, wanted.download, wanted.split)


def _as_recorded(checkpoint: Checkpoint, wanted: NamedData) -> LongTailData | None:
    """The recorded images of a checkpoint; None if another data set is named, or if they cannot be loaded."""
    recorded = checkpoint.manifest.longtail
    if recorded is None or recorded.dataset != wanted.name or (wanted.imbalance, wanted.subset) != (None, None):
        return None
    try:
        return checkpoint.load_data(wanted.data_root, wanted.download, wanted.split)
    except UserError as error:
        logger.debug("named data: %s", error)
        return None


def _named(checkpoint: Checkpoint, wanted: NamedData, name: str) -> LongTailData:
    """Load a named data set, selected like the checkpoint's as far as that is known; log what is assumed."""
    manifest, path = checkpoint.manifest, checkpoint.path
    # The long tail of another data set says nothing about this one.
    recipe = manifest.cut if name == manifest.dataset else {}
    is_cut = name not in LAYOUTS and name not in PUBLISHED
    unknown = checkpoint.is_foreign and name == manifest.dataset and not recipe and wanted.subset is None and is_cut
    if unknown and wanted.split == "train":
        raise UserError(
            f"which images of {name} {path} was trained on depends on a seed that is not recorded: pass "
            "subset='seed:<int>', or split='test'"
        )
    choose("data set", name, list(DATASETS))
    given = {k: v for k, v in {"imbalance": wanted.imbalance, "subset": wanted.subset}.items() if v is not None}
    data = load_data(name, data_root=wanted.data_root, download=wanted.download, **recipe | given)
    if not checkpoint.is_foreign:
        return data
    tail, saw = data.longtail, manifest.dataset or data.longtail.dataset
    # A family's rule for selecting images (subset) is its usual one and not recorded in the file: it is assumed.
    known = given.keys() | (recipe.keys() & {"imbalance"})
    assumed = [option for option in ("imbalance", "subset") if option not in known and is_cut]
    if saw != tail.dataset:
        logger.info("data: %s; %s was trained on %s, whose training counts are used", tail.dataset, path, saw)
    elif assumed:
        logger.info(
            "data: %s, imbalance %g, images of subset %s (the file does not record its %s, defaults are assumed: %s)",
            tail.dataset, tail.imbalance, tail.subset, " and ".join(assumed), ", ".join(f"--{o}" for o in assumed),
        )  # fmt: skip
    return data


def own_images(checkpoint: Checkpoint, data: ForeignData) -> ForeignData:
    """Prepare the user's own images for a checkpoint.

    They are standardised by the checkpoint's constants, unless others were given, and their classes are brought into
    its order. The constants are logged.

    Raises:
        UserError: the images have other classes, or the order of the classes is not known.
    """
    manifest = checkpoint.manifest
    classes, usual = manifest.model.num_classes, manifest.normalization
    if classes not in (None, data.num_classes):
        raise UserError(
            f"{checkpoint.path} tells {classes} classes apart and the data have {data.num_classes}: name the others, "
            "too, in train_counts (--train-counts)"
        )
    if data.estimated:
        source = "computed from them; give those of the training, if you know them"
        if usual is not None and usual.channels == data.inputs.shape[1]:
            data = replace(data, mean=usual.mean, std=usual.std, estimated=False)
            source = f"as the code behind {checkpoint.path} does"
        mean, std = (", ".join(f"{v:.3f}" for v in values or ()) for values in (data.mean, data.std))
        logger.info("images are normalised by mean %s and std %s, %s", mean, std, source)
    if data.train_counts == data.class_totals:
        # No class counts were given: these are the counts of the samples, which may not be the training images.
        trained = training_set(checkpoint)
        if trained is not None and trained.num_classes == data.num_classes:
            data = replace(data, train_counts=trained.train_counts)
        else:
            logger.info(
                "training images of each class are taken to be the images given: train_counts (--train-counts) says "
                "otherwise"
            )
    return data.in_class_order(manifest.class_order or "label")


def open_part(checkpoint: Checkpoint, named: Any, data_root: str | None) -> LongTailData | None:
    """Load the data of a checkpoint with their open set; None for the user's own images."""
    if named is not None and not isinstance(named, str):
        return None
    return checkpoint_data(checkpoint, NamedData(named, data_root, split="test"))


def training_set(checkpoint: Checkpoint, probed: LongTail | None = None) -> LongTail | None:
    """The training set of a checkpoint; None if it is unknown.

    Our own files record it. A family that trains on balanced data, such as akamaster's, used the official training set.
    A family that trains on a long tail used that long tail, if the file records its imbalance.

    Args:
        probed: the probed data set, named by the user. It is taken as the training set if the checkpoint's family
            trains on it, or if the file records nothing.
    """
    manifest = checkpoint.manifest
    if not checkpoint.is_foreign:
        return manifest.longtail or probed
    known, classes = manifest.dataset, manifest.model.num_classes
    if probed is not None and known in (None, probed.dataset) and known not in LAYOUTS:
        return probed
    layout = LAYOUTS.get(str(known).removesuffix("-lt"))
    if known is None or layout is None or layout.num_classes != classes:
        return None
    names = probed.class_names if probed is not None else tuple(map(str, range(layout.num_classes)))
    if known in LAYOUTS:
        return LongTail(known, names, "exp", 1.0, "first_n", (layout.per_class,) * layout.num_classes, "oltr")
    if manifest.imbalance is None:
        return None
    profile, imbalance = manifest.profile or "exp", float(manifest.imbalance)
    try:
        counts = profile_counts(profile, imbalance, layout.num_classes, layout.per_class)
    except UserError:
        # The imbalance may come from the name of a folder, and be invalid.
        return None
    subset = manifest.cut.get("subset", "ldam_seed0")
    return LongTail(known, names, profile, imbalance, subset, counts, layout.groups)
