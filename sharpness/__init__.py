"""Loss-landscape sharpness of deep long-tailed recognition: how flat is this minimum, for every class?

>>> import sharpness
>>> data = sharpness.load_data("digits-lt")
>>> data.train_counts
(124, 84, 58, 39, 27, 18, 12, 8, 6, 4)

Names are imported on first use (PEP 562), so importing the package is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sharpness.errors import UserError
from sharpness.version import __version__

if TYPE_CHECKING:
    from sharpness.checkpoints import load_checkpoint
    from sharpness.clusters import cluster
    from sharpness.data import load_data
    from sharpness.explorer import explore
    from sharpness.objective import Objective
    from sharpness.probes import (
        Directions,
        Monitor,
        barrier,
        characteristic_radius,
        checkpoint_objective,
        class_optima,
        correlate,
        critical_radius,
        eigenvalues,
        history,
        interpolate,
        line,
        load_directions,
        measure,
        owners,
        plane,
        plane_through,
        random_perturbation,
        register_measure,
        spectral_density,
        trace,
        trajectory,
        trajectory_plane,
        worst_case,
    )
    from sharpness.results import Comparison, compare, load_result
    from sharpness.training import train

__all__ = [
    "Comparison",
    "Directions",
    "Monitor",
    "Objective",
    "UserError",
    "__version__",
    "barrier",
    "characteristic_radius",
    "checkpoint_objective",
    "class_optima",
    "cluster",
    "compare",
    "correlate",
    "critical_radius",
    "eigenvalues",
    "explore",
    "history",
    "interpolate",
    "line",
    "load_checkpoint",
    "load_data",
    "load_directions",
    "load_result",
    "measure",
    "owners",
    "plane",
    "plane_through",
    "random_perturbation",
    "register_measure",
    "spectral_density",
    "trace",
    "train",
    "trajectory",
    "trajectory_plane",
    "worst_case",
]

#: Subpackages of the public names that are not in ``probes``.
_ROOMS = {
    "Comparison": "results",
    "cluster": "clusters",
    "compare": "results",
    "Objective": "objective",
    "explore": "explorer",
    "load_checkpoint": "checkpoints",
    "load_data": "data",
    "load_result": "results",
    "train": "training",
}


#: Subpackages that are available as attributes, such as ``sharpness.data``, without an import of their own.
_OPEN = (
    "checkpoints", "cli", "curvature", "data", "engine", "explorer", "flattening", "methods", "models", "objective",
    "optimizers", "plots", "probes", "reporting", "results", "steps", "studies", "training",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _OPEN:
        return import_module(f"sharpness.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'sharpness' has no attribute {name!r}")
    value = getattr(import_module(f"sharpness.{_ROOMS.get(name, 'probes')}"), name)
    globals()[name] = value  # the next access does not call this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_OPEN})
