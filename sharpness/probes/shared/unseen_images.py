"""Detection of training images that a network did not see, by its accuracy on the rare ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sharpness.checkpoints import Checkpoint
from sharpness.probes.shared.as_objective import checkpoint_objective
from sharpness.probes.shared.sanity_check import answers

#: Largest number of images of each class.
LIMIT = 200
#: Accuracy on many-shot training images of a network that was trained to the end.
FITTED = 0.97


def unseen_remark(right: np.ndarray, samples: np.ndarray) -> str:
    """A remark on training images of few-shot classes that look unseen, in one line, or an empty string.

    A network that has memorised its frequent training images has memorised the rare ones even more: its accuracy on
    them is far above that on test images of their classes. Where it is not, the network saw others. No remark is made
    on a network that does not classify 97 % of the frequent ones correctly, and these better than test images by three
    standard errors; nor where the accuracy on the rare ones is above that on test images by two, or may be, within
    three, more than halfway from that to the accuracy on the frequent ones.

    Args:
        right: (2, 2) correct predictions, on training and on test images (rows), of many- and of few-shot classes.
        samples: (2, 2) images.

    >>> unseen_remark(np.array([[990, 40], [930, 380]]), np.array([[1000, 100], [1000, 1000]]))[:54]
    'of few-shot classes 40.0 % of the training images are '
    >>> unseen_remark(np.array([[990, 97], [930, 380]]), np.array([[1000, 100], [1000, 1000]]))
    ''
    """
    if samples.min() < 1:
        return ""
    shares = right / samples
    # With two more answers of each kind, which keeps the error of a share of 0 or 1 above 0.
    centre = (right + 2) / (samples + 4)
    variances = centre * (1 - centre) / (samples + 4)
    errors = np.sqrt(variances.sum(axis=0))
    many, few = shares[0] - shares[1]
    fitted = shares[0, 0] >= FITTED and many > 3 * errors[0]
    halfway = (shares[1, 1] + shares[0, 0]) / 2
    if not fitted or few > 2 * errors[1] or shares[0, 1] + 3 * math.sqrt(variances[0, 1]) >= halfway:
        return ""
    return (
        f"of few-shot classes {100 * shares[0, 1]:.1f} % of the training images are right, as of test images "
        f"({100 * shares[1, 1]:.1f} %), of many-shot ones {100 * shares[0, 0]:.1f} % ({100 * shares[1, 0]:.1f} %): the "
        "network saw other images of them; check the files, their order, and --subset"
    )


def unseen(checkpoint: Checkpoint, **options: Any) -> str:
    """That remark on a foreign checkpoint, on the training images that are rebuilt for it; nothing of other data.

    Args:
        options: of :func:`~sharpness.checkpoint_objective`.
    """
    named = isinstance(options.get("data"), str) and options.get("split", "train") == "train"
    if not checkpoint.is_foreign or not named:
        return ""
    limit = min(options.get("limit_per_class") or LIMIT, LIMIT)
    found = []
    for split in ("train", "test"):
        objective = checkpoint_objective(
            checkpoint, **{**options, "split": split, "loss": "ce", "limit_per_class": limit}
        )
        groups = [list(objective.groups.get(name, ())) for name in ("many", "few")]
        if not all(groups):
            return ""
        confusion = answers(objective).confusion
        found.append([(np.diag(confusion)[g].sum(), confusion[g].sum()) for g in groups])
    right, samples = np.moveaxis(np.array(found), 2, 0)
    return unseen_remark(right, samples)
