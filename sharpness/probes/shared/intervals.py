"""Intervals of classes, of everything and of groups, where images are what could have been others."""

from __future__ import annotations

import numpy as np

from sharpness.curvature import mean_interval_of
from sharpness.objective import Objective


def sample_freedom(objective: Objective) -> np.ndarray:
    """Degrees of freedom of means over the images of every class and, last, over all of them: (C + 1,)."""
    return np.append(objective.class_samples, objective.num_samples) - 1


def group_ends(objective: Objective, values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Of the mean of every group's classes that have images: lower and upper ends (2, G), classes being independent.

    Args:
        values: of the classes, (C,) or more: what follows them is not looked at.
        ends: of their intervals, lower and upper, (2, C) or more.
    """
    found = np.full((2, len(objective.groups)), np.nan)
    for g, members in enumerate(objective.groups.values()):
        classes = [c for c in members if objective.class_samples[c]]
        if classes:
            found[:, g] = mean_interval_of(values[classes], ends[:, classes])
    return found
