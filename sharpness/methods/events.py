"""Events of a training: new stages, deferred settings that take effect, and drops of the learning rate."""

from __future__ import annotations

from collections.abc import Sequence

from sharpness.methods.recipe import Recipe, Stage

#: A learning rate that falls below this part of the one before is a drop, if that was above PLATEAU of its own.
DROP, PLATEAU = 0.5, 0.9


def changes(stages: Sequence[str], rates: Sequence[float]) -> list[str]:
    """New stages and drops of the learning rate at every epoch, as text; "" where there is none.

    A rate that falls gradually, as a cosine does, does not drop.

    >>> changes(["one"] * 4 + ["two"], [0.1, 0.1, 0.001, 0.001, 0.1])
    ['', '', 'lr 0.001', '', 'two']
    >>> changes(["one"] * 3, [0.1, 0.04, 0.01])
    ['', 'lr 0.04', '']
    """
    told = []
    for i, (stage, rate) in enumerate(zip(stages, rates, strict=True)):
        if i and stage != stages[i - 1]:
            told.append(stage)
            continue
        steady = i < 2 or stages[i - 2] != stage or rates[i - 1] >= PLATEAU * rates[i - 2]
        told.append(f"lr {rate:g}" if i and rate < DROP * rates[i - 1] and steady else "")
    return told


def events(recipe: Recipe) -> list[str]:
    """Events of every row of a training's history, as text; "" where there is none.

    >>> from sharpness.data import LongTail
    >>> from sharpness.methods import build_recipe
    >>> longtail = LongTail("toy", ("a", "b", "c"), "exp", 100, "first_n", (200, 20, 2), "oltr")
    >>> [(i + 1, told) for i, told in enumerate(events(build_recipe("ldam-drw", longtail))) if told]
    [(161, 'lr 0.001; re-weighted'), (181, 'lr 1e-05')]
    """
    rows = [(stage, epoch) for stage in recipe.stages for epoch in range(min(1, stage.epochs), stage.epochs + 1)]
    rates = [stage.lr * stage.schedule.factor(epoch, stage.epochs) if epoch else 0.0 for stage, epoch in rows]
    told = changes([stage.name for stage, _ in rows], rates)
    return ["; ".join(filter(None, [what, deferred(*row)])) for what, row in zip(told, rows, strict=True)]


def deferred(stage: Stage, epoch: int) -> str:
    """Deferred settings that take effect in this epoch of a stage, as text."""
    told = []
    # The deterministic loss, because that of RSG is the loss that it adds its own terms to.
    share = getattr(stage.loss.deterministic(), "reweight_from", 0.0)
    if epoch > 1 and epoch - 1 <= share * stage.epochs < epoch:
        told.append("re-weighted")
    if epoch > 1 and (late := stage.late(epoch)) and not stage.late(epoch - 1):
        told.append(f"{late.sampler} sampling")
    return "; ".join(told)
