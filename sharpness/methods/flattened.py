"""Recipes with flattening operations: the part of a recipe that each operation changes, and valid combinations.

===================  =====================================================  ===========================================
operation            changes                                                can be combined with
===================  =====================================================  ===========================================
a gradient rule      the rule of every stage with plain steps               everything except another rule
SWA                  the last stage that trains all parameters: its         everything
                     schedule and its final weights
spectral norm        the parametrisation of the weights in all stages       everything
PoF                  adds a last stage, which trains the backbone           everything
===================  =====================================================  ===========================================

The operations change different parts of a recipe, so their order does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import singledispatch
from typing import Any

from sharpness.errors import UserError
from sharpness.flattening import SWA, PoF, SpectralNormalization, build_operation
from sharpness.methods.recipe import Recipe
from sharpness.methods.schedules import Averaged, Constant
from sharpness.steps import Loss, PlainStep


def flattened(recipe: Recipe, names: Sequence[str]) -> Recipe:
    """Add flattening operations, such as ``("sam:0.1", "swa")``, to a recipe.

    Raises:
        UserError: an unknown or repeated operation, two gradient rules, or an operation for which the method has no
            stage.
    """
    operations = {name: build_operation(name) for name in names}
    asked = ",".join(names)
    kinds = [name.partition(":")[0] for name in names]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise UserError(f"flatten={asked}: {kind} is given twice, give it once")
    rules = [
        name for name, operation in operations.items() if applied.dispatch(type(operation)) is applied.dispatch(object)
    ]
    if len(rules) > 1:
        raise UserError(f"flatten={asked}: {' and '.join(rules)} would each decide the gradient of a step, give one")
    for name, operation in operations.items():
        recipe = applied(operation, recipe, name)
        recipe = recipe.noted(*operation.deviations)
    return recipe


@singledispatch
def applied(operation: Any, recipe: Recipe, name: str) -> Recipe:
    """Add one operation to a recipe: a gradient rule, unless its class is registered below."""
    plain = [isinstance(s.rule, PlainStep) for s in recipe.stages]
    if not plain[0]:
        raise UserError(f"{recipe.method} perturbs its weights itself: {name!r} cannot be added to it")
    stages = tuple(replace(s, rule=operation) if p else s for s, p in zip(recipe.stages, plain, strict=True))
    return replace(recipe, stages=stages)


def _last_of_all(recipe: Recipe, name: str, why: str) -> int:
    """Return the index of the last stage that trains all parameters."""
    wholes = [i for i, s in enumerate(recipe.stages) if s.trainable == "all" and s.epochs]
    if not wholes:
        raise UserError(f"no stage of {recipe.method} trains its backbone: {name!r} {why}")
    return wholes[-1]


@applied.register
def averaged(operation: SWA, recipe: Recipe, name: str) -> Recipe:
    """Average the weights over the last epochs of the last stage that trains all parameters."""
    index = _last_of_all(recipe, name, "would average the weights of one that does")
    stage = recipe.stages[index]
    schedule = Averaged(stage.schedule, operation.start, operation.lr / stage.lr)
    stages = (
        *recipe.stages[:index],
        replace(stage, averaging=operation, schedule=schedule),
        *recipe.stages[index + 1 :],
    )
    note = f"{operation!r} of stage {stage.name!r}: the test columns of its last epoch are those of the average"
    return replace(recipe, stages=stages).noted(note)


@applied.register
def normalized(operation: SpectralNormalization, recipe: Recipe, name: str) -> Recipe:
    """Divide weights by their largest singular value in every stage."""
    where = "the backbone's convolutions" + (" and the head" if recipe.head.startswith("linear") else "")
    note = f"spectral normalisation of {where}, one power iteration a step; the checkpoint holds the divided weights"
    return replace(recipe, normalization=operation).noted(note)


@applied.register
def post_trained(operation: PoF, recipe: Recipe, name: str) -> Recipe:
    """Add a stage that continues to train the backbone with the loss of the last stage."""
    _last_of_all(recipe, name, "would train one on")
    last = recipe.stages[-1]
    stage = replace(
        last,
        name="post-training of the backbone",
        epochs=max(1, round(operation.share * recipe.stages[0].epochs)),
        rule=operation,
        lr=operation.lr,
        schedule=Constant(),
        trainable="backbone",
        lr_factors=(),
        enter=(),
        averaging=None,
        loss=last.loss if type(last.loss).of is Loss.of else last.loss.deterministic(),
        sampler=last.deferred.sampler if last.deferred else last.sampler,
        helper=None,
        deferred=None,
    )
    note = f"{operation!r}: data and loss are those of stage {last.name!r}"
    return replace(recipe, stages=(*recipe.stages, stage)).noted(note)
