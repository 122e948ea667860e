"""A loss of a model over fixed samples, split by class: the samples, its values and derivatives, their provenance."""

from sharpness.objective.description import Description
from sharpness.objective.objective import Objective
from sharpness.objective.samples import Samples
from sharpness.objective.temperature import Temperature

__all__ = ["Description", "Objective", "Samples", "Temperature"]
