"""Directions in parameter space: random, saved in files, or from one model to another."""

from sharpness.probes.directions.between_models import toward
from sharpness.probes.directions.direction_set import Directions, load_directions
from sharpness.probes.directions.gaussian import gaussian, gaussian_pair, normalize

__all__ = ["Directions", "gaussian", "gaussian_pair", "load_directions", "normalize", "toward"]
