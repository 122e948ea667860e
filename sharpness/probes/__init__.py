"""Probes: objective in, result out."""

from sharpness.probes.answers import Answers, answers
from sharpness.probes.characteristic_radius import characteristic_radius
from sharpness.probes.columns import MEASURES
from sharpness.probes.comparison import require_comparable, side_by_side
from sharpness.probes.direction_set import Directions, load_directions
from sharpness.probes.directions import gaussian, gaussian_pair, normalize
from sharpness.probes.eigenvalues import eigenvalues
from sharpness.probes.landscape import line, plane
from sharpness.probes.measure import measure
from sharpness.probes.named import named_directions
from sharpness.probes.paths import barrier, interpolate, plane_through
from sharpness.probes.perturbation import random_perturbation
from sharpness.probes.points import WorkFolder
from sharpness.probes.spectral_density import spectral_density
from sharpness.probes.subjects import as_objective, checkpoint_objective, labelled_checkpoints, labelled_objectives
from sharpness.probes.towards import toward
from sharpness.probes.trace import trace
from sharpness.probes.trajectory import trajectory, trajectory_plane
from sharpness.probes.worst_case import worst_case

__all__ = [
    "MEASURES",
    "Answers",
    "Directions",
    "WorkFolder",
    "answers",
    "as_objective",
    "barrier",
    "characteristic_radius",
    "checkpoint_objective",
    "eigenvalues",
    "gaussian",
    "gaussian_pair",
    "interpolate",
    "labelled_checkpoints",
    "labelled_objectives",
    "line",
    "load_directions",
    "measure",
    "named_directions",
    "normalize",
    "plane",
    "plane_through",
    "random_perturbation",
    "require_comparable",
    "side_by_side",
    "spectral_density",
    "toward",
    "trace",
    "trajectory",
    "trajectory_plane",
    "worst_case",
]
