"""Long-tail methods, one file per paper, and the definition of a recipe."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sharpness.data import LongTail
from sharpness.errors import UserError
from sharpness.methods.flattened import flattened
from sharpness.methods.large_scale import at_large_scale
from sharpness.methods.recipe import Recipe, Stage
from sharpness.registries import METHODS
from sharpness.renamed import renamed_names


def build_recipe(method: str, longtail: LongTail, **options: Any) -> Recipe:
    """Build the recipe of a method for a data set; ``options`` are passed to the method's ``recipe`` function.

    Raises:
        UserError: unknown method or option (the message lists the valid ones), or a number that is not finite.
    """
    return recipe_of(METHODS.choose(method), method, longtail, **options)


def recipe_of(function: Callable[..., Recipe], method: str, longtail: LongTail, **options: Any) -> Recipe:
    """Call the ``recipe`` function of a method.

    Raises:
        UserError: an unknown option, a number that is not finite, or a function that does not return a recipe.
    """
    known = [name for name in inspect.signature(function).parameters if name != "longtail"]
    for name in options:
        if name not in known:
            has = f"has {', '.join(known)}" if known else "has none"
            raise UserError(f"unknown option {name!r} of {method}: it {has}")
        # Here, once for all methods: comparisons with a limit let NaN pass.
        if isinstance(options[name], float) and not math.isfinite(options[name]):
            raise UserError(f"{name}={options[name]}: {method} needs a finite number")
    recipe = function(longtail, **options)
    if not isinstance(recipe, Recipe):
        raise UserError(f"method {method} returned a {type(recipe).__name__}: return a sharpness.methods.Recipe")
    return at_large_scale(recipe, longtail, options)


if not TYPE_CHECKING:  # a type checker would accept any name of a module with __getattr__
    __getattr__ = renamed_names(
        __name__, LABELS=("METHODS.label(name)", lambda: {known: METHODS.label(known) for known in METHODS})
    )


__all__ = ["METHODS", "Recipe", "Stage", "build_recipe", "flattened", "recipe_of"]
