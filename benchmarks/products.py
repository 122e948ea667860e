"""Times of products and of gradients, every contender in a process of its own."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack

import numpy as np
from contenders import Contender
from turns import process, timed
from workloads import LAYOUTS, Problem, gradient, in_layout, random_images, unit_vector

FURTHER = 3  # products of a run that are timed, after its first
WARM_UP = 1

_problem: Problem  # the two of a contender's process, set by _prepare
_contender: Contender


def product_seconds(
    layouts: dict[type[Contender], str], model: str, images: int, repeats: int
) -> dict[type[Contender], np.ndarray]:
    """``(repeats, 4)`` seconds for every contender: a gradient and a product alone, a gradient and one of a run."""
    with ExitStack() as stack:
        processes: list[ProcessPoolExecutor] = [
            stack.enter_context(process(_prepare, c, layout, model, images)) for c, layout in layouts.items()
        ]
        turns = [[p.submit(_turn).result() for p in processes] for _ in range(WARM_UP + repeats)]
    return dict(zip(layouts, np.array(turns[WARM_UP:]).swapaxes(0, 1), strict=True))


def faster_layout(contender: type[Contender], model: str, images: int) -> str:
    """The memory layout with the fastest of two products alone, after one to warm up."""
    seconds = {}
    for layout in LAYOUTS:
        with process(_prepare, contender, layout, model, images) as alone:
            seconds[layout] = min([alone.submit(_alone).result() for _ in range(3)][1:])
    return min(LAYOUTS, key=seconds.__getitem__)


def _prepare(contender: type[Contender], layout: str, model: str, images: int) -> None:
    """The gradient's problem stays in channels-last; the contender gets its layout."""
    global _problem, _contender
    _problem = random_images(model, images)
    _contender = contender(*in_layout(_problem, layout))


def _alone() -> float:
    return timed(_contender.product, unit_vector(_contender.size))


def _turn() -> tuple[float, float, float, float]:
    v = unit_vector(_contender.size)
    before_alone, alone = timed(gradient, _problem), _alone()
    before_run = timed(gradient, _problem)
    with _contender.run() as product:
        product(v)
        further = float(np.mean([timed(product, v) for _ in range(FURTHER)]))
    return before_alone, alone, before_run, further
