"""Calls with a mistake, which mypy --strict must find: the comment says what it reports."""

from torch import nn

import sharpness
from sharpness import Objective
from sharpness.results import PlaneResult


def misspelt(objective: Objective, other: nn.Module) -> None:
    sharpness.eigenvalues(objective, per_clas=True)  # mypy: did you mean "per_class"
    sharpness.eigenvalues({"a": objective}, toll=1e-3)  # mypy: did you mean "tol"
    sharpness.eigenvalues(objective, per_layer=True, k=3)  # mypy: No overload variant
    sharpness.trace(objective, drawz=3)  # mypy: did you mean "draws"
    sharpness.spectral_density(objective, stps=3)  # mypy: did you mean "steps"
    sharpness.random_perturbation(objective, radiii=[0.1])  # mypy: did you mean "radii"
    sharpness.worst_case(objective, step=3)  # mypy: did you mean "steps"
    sharpness.characteristic_radius(objective, factor=[1.0])  # mypy: did you mean "factors"
    sharpness.line(objective, direction="hessian")  # mypy: did you mean "directions"
    sharpness.plane(objective, adaptiv=0.1)  # mypy: did you mean "adaptive"
    sharpness.interpolate(objective, other, precison="float32")  # mypy: did you mean "precision"
    sharpness.plane_through(objective, other, other, margins=0.1)  # mypy: did you mean "margin"
    sharpness.trajectory_plane(objective, "runs/ce", point=9)  # mypy: did you mean "points"
    sharpness.trace(objective, option={"parameters": "all"})  # mypy: did you mean "options"
    sharpness.eigenvalues(objective, k=1.5)  # mypy: No overload variant
    sharpness.trace(objective, options={"parameter": "all"})  # mypy: No overload variant
    sharpness.trace(objective, options={"batch_size": None})  # mypy: No overload variant
    sharpness.measure(objective, parameter="all")  # mypy: did you mean "parameters"
    sharpness.checkpoint_objective("a.pt", batchsize=3)  # mypy: did you mean "batch_size"
    print(sharpness.load_result("plane.nc", PlaneResult).losess)  # mypy: maybe "losses"
    print(sharpness.eigenvalues(objective).valuess)  # mypy: has no attribute "valuess"; maybe "values"


def untyped(objective: Objective) -> int:
    return sharpness.eigenvalues(objective)  # mypy: Incompatible return value type
