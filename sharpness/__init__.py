"""Loss-landscape sharpness of deep long-tailed recognition: how flat is this minimum, for every class?

>>> import sharpness
>>> data = sharpness.load_data("digits-lt")
>>> data.class_counts
(124, 84, 58, 39, 27, 18, 12, 8, 6, 4)
"""

from sharpness.checkpoints import load_checkpoint
from sharpness.data import load_data
from sharpness.errors import UserError
from sharpness.objective import Objective
from sharpness.probes import (
    Directions,
    barrier,
    characteristic_radius,
    checkpoint_objective,
    eigenvalues,
    interpolate,
    line,
    load_directions,
    measure,
    plane,
    plane_through,
    random_perturbation,
    spectral_density,
    trace,
    trajectory,
    trajectory_plane,
    worst_case,
)
from sharpness.results import Comparison, load_result
from sharpness.training import train
from sharpness.version import __version__

__all__ = [
    "Comparison",
    "Directions",
    "Objective",
    "UserError",
    "__version__",
    "barrier",
    "characteristic_radius",
    "checkpoint_objective",
    "eigenvalues",
    "interpolate",
    "line",
    "load_checkpoint",
    "load_data",
    "load_directions",
    "load_result",
    "measure",
    "plane",
    "plane_through",
    "random_perturbation",
    "spectral_density",
    "trace",
    "train",
    "trajectory",
    "trajectory_plane",
    "worst_case",
]
