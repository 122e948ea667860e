"""Flattening operations: gradient rules such as SAM, and changes of recipes such as SWA."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

from sharpness import steps
from sharpness.errors import UserError
from sharpness.flattening.class_conditional import ClassConditionalStep
from sharpness.flattening.class_radius import optimal_radius
from sharpness.flattening.focal_sam import FocalSAM
from sharpness.flattening.fs_dgpm import FSDGPM
from sharpness.flattening.gradient_norm import GradientNormPenalty
from sharpness.flattening.imbsam import ImbSAM
from sharpness.flattening.model_perturbation import ModelPerturbation
from sharpness.flattening.passes import Gradient, Passes, ascent, reweighted, sharpen_part
from sharpness.flattening.pof import PoF
from sharpness.flattening.rwsam import ReweightedSAM
from sharpness.flattening.sam import ASAM, SAM
from sharpness.flattening.spectral_normalization import SpectralNormalization
from sharpness.flattening.swa import SWA
from sharpness.registries import OPERATIONS
from sharpness.renamed import renamed_names


def build_operation(name: str) -> Any:
    """Build a flattening operation from its name and, after colons, its parameters.

    The name of the first parameter may be omitted.

    Raises:
        UserError: unknown operation or parameter (the message lists the valid ones), or a value that is not a number.

    >>> build_operation("sam:0.1")
    SAM(rho=0.1)
    >>> build_operation("focal-sam:0.3:gamma=3.2:lam=0.8")
    FocalSAM(rho=0.3, gamma=3.2, lam=0.8)
    """
    kind, *arguments = name.split(":")
    operation = OPERATIONS.choose(kind)
    known = inspect.signature(operation, eval_str=True).parameters
    given: dict[str, Any] = {}
    for position, argument in enumerate(arguments):
        key, equals, text = argument.partition("=")
        if not equals and position == 0 and known:
            key, text = next(iter(known)), argument
        if key not in known or key in given:
            has = f"it has {', '.join(f'{p.name}={p.default}' for p in known.values())}" if known else "it has none"
            wrong = f"{key!r} is given twice" if key in given else f"{key!r} is no parameter of {kind}"
            raise UserError(f"flattening operation {name!r}: {wrong}, {has}")
        given[key] = _value(name, text, known[key].annotation)
    made = operation(**given)
    if lacking := [attribute for attribute in ("paper", "deviations") if not hasattr(made, attribute)]:
        raise UserError(f"flattening operation {kind} has no {lacking[0]}: give its class paper and deviations")
    return made


def operation_label(name: str) -> str:
    """The label of an operation in figures and tables.

    Raises:
        UserError: unknown operation.

    >>> operation_label("focal-sam:0.3:gamma=3.2")
    'Focal-SAM:0.3:gamma=3.2'
    """
    kind, colon, arguments = name.partition(":")
    OPERATIONS.choose(kind)
    return OPERATIONS.label(kind) + colon + arguments


def _value(name: str, text: str, annotation: Any) -> Any:
    """Convert the text of a parameter to its annotated type: ``str``, ``int``, else ``float``."""
    if annotation is str:
        return text
    try:
        return int(text) if annotation is int else float(text)
    except ValueError:
        kind = "an integer" if annotation is int else "a number"
        raise UserError(f"flattening operation {name!r}: {text!r} is not {kind}") from None


if not TYPE_CHECKING:  # a type checker would accept any name of a module with __getattr__
    __getattr__ = renamed_names(
        __name__,
        LABELS=("OPERATIONS.label(name)", lambda: {known: OPERATIONS.label(known) for known in OPERATIONS}),
        **{name: (f"sharpness.steps.{name}", partial(getattr, steps, name)) for name in steps.__all__},
    )


__all__ = [
    "ASAM",
    "FSDGPM",
    "OPERATIONS",
    "SAM",
    "SWA",
    "ClassConditionalStep",
    "FocalSAM",
    "Gradient",
    "GradientNormPenalty",
    "ImbSAM",
    "ModelPerturbation",
    "Passes",
    "PoF",
    "ReweightedSAM",
    "SpectralNormalization",
    "ascent",
    "build_operation",
    "operation_label",
    "optimal_radius",
    "reweighted",
    "sharpen_part",
]
