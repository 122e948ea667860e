"""Calls of every public function as a user writes them: mypy --strict must find the types that stand here."""

from concurrent.futures import Executor
from pathlib import Path
from typing import Any, assert_type

import torch
from torch import nn

import sharpness
from sharpness import Comparison, Directions, Objective
from sharpness.checkpoints import Checkpoint
from sharpness.data import LongTailData
from sharpness.explorer import Explorer
from sharpness.probes.measures.measure import Measure
from sharpness.results import (
    CharacteristicRadiusResult,
    Correlations,
    EigenvalueResult,
    LayerResult,
    LineResult,
    MeasureResult,
    OptimaResult,
    OwnersResult,
    PerturbationResult,
    PlaneResult,
    Runs,
    SpectralDensityResult,
)
from sharpness.results.history import History


def data() -> LongTailData:
    return sharpness.load_data("cifar10-lt", imbalance=50, data_root="cifar")


def training(folder: Path) -> None:
    sharpness.train("ldam-drw", data(), folder, epochs=3, flatten=("sam:0.1",))
    assert_type(sharpness.load_checkpoint(folder / "last.pt"), Checkpoint)
    assert_type(sharpness.history(folder, "loss,lambda_max"), History)
    assert_type(sharpness.checkpoint_objective(folder / "last.pt", split="test", limit_per_class=20), Objective)


def curvature(objective: Objective, model: nn.Module, xy: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert_type(sharpness.eigenvalues(objective, per_class=True), EigenvalueResult)
    assert_type(sharpness.eigenvalues(model, xy, 2, "both", tol=1e-4), EigenvalueResult)
    assert_type(sharpness.eigenvalues(model, data=xy, options={"parameters": "classifier"}), EigenvalueResult)
    assert_type(sharpness.eigenvalues({"a": objective, "b": objective}, k=2), Comparison[EigenvalueResult])
    assert_type(sharpness.eigenvalues(objective, per_layer=True, which="SA"), LayerResult)
    assert_type(sharpness.eigenvalues({"a": objective}, per_layer=True), Comparison[LayerResult])
    assert_type(sharpness.trace(objective, draws=60, bootstrap=200), MeasureResult)
    assert_type(sharpness.trace({"a": model}, xy, draws=60), Comparison[MeasureResult])
    assert_type(sharpness.trace(objective, draws=60, per_layer=True), LayerResult)
    assert_type(sharpness.owners(objective, k=10), OwnersResult)
    assert_type(sharpness.owners({"a": objective}, k=10), Comparison[OwnersResult])
    assert_type(sharpness.spectral_density(Path("last.pt"), "cifar10-lt", draws=3), SpectralDensityResult)
    assert_type(sharpness.spectral_density({"a": objective}, per_class=True), Comparison[SpectralDensityResult])


def perturbations(objective: Objective, model: nn.Module, xy: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert_type(sharpness.random_perturbation(objective, [0.1, 0.2], draws=3), PerturbationResult)
    assert_type(sharpness.random_perturbation({"a": [model, model]}, data=xy), Comparison[PerturbationResult])
    assert_type(sharpness.worst_case(objective, rho=0.1, m=8), MeasureResult)
    assert_type(sharpness.worst_case({"a": objective}, steps=5), Comparison[MeasureResult])
    assert_type(sharpness.class_optima(objective, damping=0.1), OptimaResult)
    assert_type(sharpness.class_optima({"a": objective}), Comparison[OptimaResult])
    assert_type(sharpness.critical_radius(objective, "random", draws=3), MeasureResult)
    assert_type(sharpness.critical_radius({"a": objective}), Comparison[MeasureResult])
    assert_type(sharpness.characteristic_radius(objective, [500, 5]), CharacteristicRadiusResult)
    assert_type(sharpness.characteristic_radius({"a": objective}), Comparison[CharacteristicRadiusResult])


def landscapes(objective: Objective, other: nn.Module) -> None:
    ends = sharpness.interpolate(objective, other, (0, 1, 9), names=("a", "b"), precision="float32")
    assert_type(ends, LineResult)
    sharpness.barrier(ends, of="error").to_csv("barrier.csv")
    assert_type(sharpness.interpolate({"a": objective}, other), Comparison[LineResult])
    assert_type(sharpness.line(objective, (-1, 1, 9), directions="hessian"), LineResult)
    assert_type(sharpness.line({"a": objective}), Comparison[LineResult])
    assert_type(sharpness.plane(objective, adaptive=0.01, resume="points"), PlaneResult)
    assert_type(sharpness.plane({"a": objective}, (-1, 1, 5), (-1, 1, 5)), Comparison[PlaneResult])
    assert_type(sharpness.plane_through(objective, other, "third.pt", adaptive=0.02), PlaneResult)
    assert_type(sharpness.plane_through({"a": objective}, other, "third.pt"), Comparison[PlaneResult])
    path = sharpness.trajectory(objective, Path("runs/ce"))
    assert_type(path, Directions)
    assert_type(sharpness.load_directions(path.save("path.npz")), Directions)
    assert_type(sharpness.trajectory_plane(objective, path, points=9), PlaneResult)
    assert_type(sharpness.trajectory_plane({"a": objective}, path), Comparison[PlaneResult])


def tables(objective: Objective, model: nn.Module, xy: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert_type(sharpness.measure(objective, "accuracy,loss"), MeasureResult)
    assert_type(sharpness.measure(model, xy, measures=["loss"], batch_size=8), MeasureResult)
    found = sharpness.measure({"a": model, "b": [model, model]}, data=xy, radius=0.2)
    assert_type(found, Comparison[MeasureResult])
    assert_type(sharpness.measure("runs"), MeasureResult | Comparison[MeasureResult])
    assert_type(sharpness.compare({"a": sharpness.trace(model, xy)}), Comparison[MeasureResult | Runs[Any]])
    assert_type(sharpness.correlate(found), Correlations)
    assert_type(sharpness.register_measure("norm", lambda one: float(one.loss()), title="Norm"), Measure)
    plane = sharpness.load_result("plane.nc", PlaneResult)
    assert_type(plane, PlaneResult)
    assert_type(sharpness.load_result("all.nc", Comparison[MeasureResult]), Comparison[MeasureResult])
    sharpness.load_result("any.nc").to_frame().to_csv("any.csv")
    assert_type(sharpness.explore("results", title="Of our models"), Explorer)
    assert_type(plane.label, str)


def workers(objective: Objective) -> None:
    with sharpness.cluster("processes:2") as executor:
        assert_type(executor, Executor)
        assert_type(sharpness.eigenvalues(objective, per_class=True, executor=executor), EigenvalueResult)
        assert_type(sharpness.measure(objective, "loss,lambda_max", executor=executor), MeasureResult)
