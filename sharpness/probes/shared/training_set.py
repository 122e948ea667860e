"""Training sets of checkpoints, from their files and families, independent of the probed data."""

from __future__ import annotations

from sharpness.checkpoints import Checkpoint
from sharpness.data import LongTail, profile_counts
from sharpness.data.cifar import LAYOUTS
from sharpness.errors import UserError


def training_set(checkpoint: Checkpoint, probed: LongTail | None = None) -> LongTail | None:
    """The training set of a checkpoint; None if it is unknown.

    Our own files record it. A family that trains on balanced data, such as akamaster's, saw the official set; one that
    trains on a long tail saw that, if the file records its imbalance.

    Args:
        probed: the probed data set, which the user named: the training set of a file of that family, and of a file that
            records nothing.
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
        # The name of a folder may say anything.
        return None
    subset = manifest.cut.get("subset", "ldam_seed0")
    return LongTail(known, names, profile, imbalance, subset, counts, layout.groups)
