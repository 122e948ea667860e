"""Step rules: how a gradient to step with is made from a loss, and the operations that flatten minima."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from sharpness.errors import UserError, choose
from sharpness.flattening.class_conditional import ClassConditionalStep, optimal_radius
from sharpness.flattening.fs_dgpm import FSDGPM
from sharpness.flattening.pof import PoF
from sharpness.flattening.sam import SAM
from sharpness.flattening.spectral_normalization import SpectralNormalization
from sharpness.flattening.step import (
    Batch,
    Context,
    EpochRule,
    Loss,
    PlainStep,
    Rule,
    frozen_running_statistics,
    joint_norm,
    mixed_loss,
    perturbed,
)
from sharpness.flattening.swa import SWA

#: Operations that can be asked for with any method, by name; the argument is the first of the class.
OPERATIONS: dict[str, Callable[..., Any]] = {
    "sam": SAM,
    "fs-dgpm": FSDGPM,
    "swa": SWA,
    "sn": SpectralNormalization,
    "pof": PoF,
}


def build_operation(name: str) -> Any:
    """A flattening operation from ``"name"`` or ``"name:number"``: a gradient rule, or what changes a recipe otherwise.

    >>> build_operation("sam:0.1")
    SAM(rho=0.1)
    """
    kind, _, argument = name.partition(":")
    choose("flattening operation", kind, list(OPERATIONS))
    if argument and not fields(OPERATIONS[kind]):  # type: ignore[arg-type]
        raise UserError(f"flattening operation {name!r}: {kind} takes no number, give {kind!r}")
    try:
        return OPERATIONS[kind](*([float(argument)] if argument else []))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"flattening operation {name!r}: {argument!r} is not a number") from None


__all__ = [
    "FSDGPM",
    "OPERATIONS",
    "SAM",
    "SWA",
    "Batch",
    "ClassConditionalStep",
    "Context",
    "EpochRule",
    "Loss",
    "PlainStep",
    "PoF",
    "Rule",
    "SpectralNormalization",
    "build_operation",
    "frozen_running_statistics",
    "joint_norm",
    "mixed_loss",
    "optimal_radius",
    "perturbed",
]
