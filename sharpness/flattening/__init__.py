"""Step rules: how a gradient to step with is made from a loss, and the operations that flatten minima."""

from collections.abc import Callable

from sharpness.errors import UserError, choose
from sharpness.flattening.class_conditional import ClassConditionalStep, optimal_radius
from sharpness.flattening.sam import SAM
from sharpness.flattening.step import (
    Batch,
    Context,
    Loss,
    PlainStep,
    Rule,
    frozen_running_statistics,
    joint_norm,
    mixed_loss,
    perturbed,
)

#: Operations that can be asked for with any method, by name; the argument is the radius.
OPERATIONS: dict[str, Callable[..., Rule]] = {"sam": SAM}


def build_operation(name: str) -> Rule:
    """A flattening operation from ``"name"`` or ``"name:radius"``.

    >>> build_operation("sam:0.1")
    SAM(rho=0.1)
    """
    kind, _, argument = name.partition(":")
    choose("flattening operation", kind, list(OPERATIONS))
    try:
        return OPERATIONS[kind](*([float(argument)] if argument else []))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"flattening operation {name!r}: {argument!r} is not a number") from None


__all__ = [
    "OPERATIONS",
    "SAM",
    "Batch",
    "ClassConditionalStep",
    "Context",
    "Loss",
    "PlainStep",
    "Rule",
    "build_operation",
    "frozen_running_statistics",
    "joint_norm",
    "mixed_loss",
    "optimal_radius",
    "perturbed",
]
