"""Events of a training: new stages, deferred settings that take effect, and drops of the learning rate."""

from __future__ import annotations

from collections.abc import Sequence

from sharpness.methods.recipe import Recipe, Stage

#: A learning rate below DROP times the previous one is a drop, if the previous one was at least PLATEAU times the one
#: before it.
DROP, PLATEAU = 0.5, 0.9


def changes(stages: Sequence[str], rates: Sequence[float]) -> list[str]:
    """Return new stages and drops of the learning rate at every epoch, as text; "" for epochs without an event.

    A gradual decrease, such as that of a cosine, is not a drop.

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
    """Return the events of every row of a training's history, as text; "" for rows without an event.

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
    """Return the deferred settings that take effect in this epoch of a stage, as text."""
    told = []
    # RSG's deterministic loss is its base loss, which is the part that is re-weighted.
    share = getattr(stage.loss.deterministic(), "reweight_from", 0.0)
    if epoch > 1 and epoch - 1 <= share * stage.epochs < epoch:
        told.append("re-weighted")
    if epoch > 1 and (late := stage.late(epoch)) and not stage.late(epoch - 1):
        told.append(f"{late.sampler} sampling")
    return "; ".join(told)
