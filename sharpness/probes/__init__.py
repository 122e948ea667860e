"""Probes: objective in, result out."""

from sharpness.probes.curvature.eigenvalues import eigenvalues
from sharpness.probes.curvature.owners import owners
from sharpness.probes.curvature.spectral_density import spectral_density
from sharpness.probes.curvature.trace import trace
from sharpness.probes.directions.between_models import toward
from sharpness.probes.directions.direction_set import Directions, load_directions
from sharpness.probes.directions.gaussian import gaussian, gaussian_pair, normalize
from sharpness.probes.landscapes.interpolation import barrier, interpolate, plane_through
from sharpness.probes.landscapes.line_and_plane import line, plane
from sharpness.probes.landscapes.named_directions import named_directions
from sharpness.probes.landscapes.trajectory import trajectory, trajectory_plane
from sharpness.probes.measures.correlate import correlate
from sharpness.probes.measures.measure import Measure
from sharpness.probes.measures.monitor import Monitor
from sharpness.probes.measures.over_snapshots import history
from sharpness.probes.measures.registry import MEASURES, register_measure
from sharpness.probes.measures.table import measure
from sharpness.probes.perturbations.characteristic_radius import characteristic_radius
from sharpness.probes.perturbations.class_optima import class_optima
from sharpness.probes.perturbations.critical_radius import critical_radius
from sharpness.probes.perturbations.random import random_perturbation
from sharpness.probes.perturbations.worst_case import worst_case
from sharpness.probes.shared.as_objective import (
    as_objective,
    checkpoint_objective,
    labelled_checkpoints,
    labelled_objectives,
)
from sharpness.probes.shared.comparison import require_comparable, side_by_side
from sharpness.probes.shared.sanity_check import Answers, answers
from sharpness.probes.shared.work import WorkFolder, key_of

__all__ = [
    "MEASURES",
    "Answers",
    "Directions",
    "Measure",
    "Monitor",
    "WorkFolder",
    "answers",
    "as_objective",
    "barrier",
    "characteristic_radius",
    "checkpoint_objective",
    "class_optima",
    "correlate",
    "critical_radius",
    "eigenvalues",
    "gaussian",
    "gaussian_pair",
    "history",
    "interpolate",
    "key_of",
    "labelled_checkpoints",
    "labelled_objectives",
    "line",
    "load_directions",
    "measure",
    "named_directions",
    "normalize",
    "owners",
    "plane",
    "plane_through",
    "random_perturbation",
    "register_measure",
    "require_comparable",
    "side_by_side",
    "spectral_density",
    "toward",
    "trace",
    "trajectory",
    "trajectory_plane",
    "worst_case",
]
