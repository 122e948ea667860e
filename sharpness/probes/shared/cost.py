"""Cost estimates of probes: a few passes are timed on a few samples before a probe starts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from sharpness.clusters import width
from sharpness.curvature.lanczos import lanczos_memory
from sharpness.engine import distributed
from sharpness.engine.threads import Workers, side_by_side
from sharpness.objective import Objective

#: Numbers of samples that are timed: a small one, which shows the fixed cost of a pass, and a larger one.
SAMPLES = (4, 32)
logger = logging.getLogger("sharpness")


class Linear(NamedTuple):
    """Seconds of a pass as a linear function of the number of samples: a fixed part, and a part per sample.

    >>> round(Linear.through([2, 10], [0.4, 1.2])(20), 6)
    2.2
    """

    fixed: float
    each: float

    @classmethod
    def through(cls, samples: Sequence[int], seconds: Sequence[float]) -> Linear:
        """Fit the measured times of a small and a larger number of samples, or of a single number."""
        few, many = samples[0], samples[-1]
        each = max((seconds[-1] - seconds[0]) / (many - few) if many > few else 0.0, 0.0)
        # Noise may hide the part per sample: assume that it makes up at least half of the longer time.
        each = max(each, 0.5 * seconds[-1] / many)
        return cls(max(0.0, seconds[-1] - each * many), each)

    def __call__(self, samples: float) -> float:
        return self.fixed + self.each * samples


@dataclass(frozen=True)
class Cost:
    """Seconds of a forward pass, of a gradient, and of one of many curvature products, by the number of samples.

    Attributes:
        workers: number of products computed at the same time; ``product`` is the duration of each of them.
    """

    forward: Linear
    gradient: Linear
    product: Linear
    workers: int = 1

    @classmethod
    def of(cls, objective: Objective, rows: int = 0, gradients: bool = True) -> Cost:
        """Time passes on samples spread over the data.

        Args:
            rows: number of rows that need products; 0 if none do. Products are timed on as many workers at the same
                time as :meth:`Rows.map` would use.
            gradients: whether gradients are needed; their time is 0 otherwise.
        """
        sizes = sorted({min(number, objective.num_samples) for number in SAMPLES})
        times: list[list[float]] = [[], [], []]
        with row_workers(objective, rows) as pool:
            workers = pool.number if isinstance(pool, Workers) else 1
            for number in sizes:
                part = _spread(objective, number)
                times[0].append(_seconds(part.evaluate))
                times[1].append(_seconds(part.gradient) if gradients else 0.0)
                made = [pool.submit(_product_seconds, part) for _ in range(workers if rows else 0)]
                times[2].append(sum(one.result() for one in made) / workers)
        forward, gradient, product = (Linear.through(sizes, seconds) for seconds in times)
        return cls(forward, gradient, product, workers)

    def side_by_side(self, rows: Sequence[float]) -> float:
        """Seconds for rows of the given durations on the workers; the longest row occupies a single worker.

        >>> Cost(Linear(0, 0), Linear(0, 0), Linear(0, 0.5), workers=2).side_by_side([20.0, 5.0, 5.0])
        20.0
        """
        return max(*rows, sum(rows) / self.workers)


def announce_rows(
    objective: Objective,
    what: str,
    run: Callable[[Objective], object],
    share: float,
    sizes: Sequence[int],
    executor: Executor,
) -> None:
    """Announce the expected duration of rows on an executor, assuming that workers are as fast as this process.

    Args:
        run: a short run on given samples, which is timed as a whole: for rows of few images, a large part of the time
            is not spent on products.
        share: duration of a row, in units of the short run.
        sizes: number of samples of every row.
    """
    workers = min(width(executor), len(sizes))

    def expected() -> float:
        timed = sorted({min(number, objective.num_samples) for number in SAMPLES})
        cost = Linear.through(timed, [_once(partial(run, _spread(objective, number))) for number in timed])
        rows = [share * cost(size) for size in sizes]
        return max(*rows, sum(rows) / workers)

    announce(f"{what} of {len(sizes)} rows on {workers} workers", expected)


def _spread(objective: Objective, number: int) -> Objective:
    """A subset of ``number`` samples, evenly spread over the data."""
    return objective.restrict(torch.linspace(0, objective.num_samples - 1, number).round().long())


def row_workers(objective: Objective, rows: int, vectors: int = 0) -> AbstractContextManager[Executor]:
    """Workers for the rows of an objective: threads, if there are several rows and its trace leaves the model alone.

    Args:
        vectors: number of vectors of the size of the model that a row keeps.
    """
    possible = rows > 1 and distributed.world_size() == 1 and objective.is_traced
    memory = lanczos_memory(objective.num_parameters, vectors, objective.dtype)
    return side_by_side(rows, memory, possible, objective.device)


def announce(what: str, expected: Callable[[], float] | None = None) -> None:
    """Log in one line what is computed and how long it should take.

    ``expected`` is called only if the line is shown: for small networks, timing a few passes takes a tenth of the whole
    time.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    if expected is None:
        logger.info("%s", what)
        return
    seconds = expected()
    span = f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.0f} seconds" if seconds >= 2 else "a second"
    logger.info("%s, about %s", what, span)


def _product_seconds(part: Objective) -> float:
    vector = torch.ones(part.num_parameters, dtype=part.dtype, device=part.device)
    with part.operator() as operator:
        operator(vector)  # caches what later products reuse
        return _seconds(lambda: operator(vector))


def _seconds(work: Callable[[], object]) -> float:
    """Seconds of a call; of a second call if that is cheap, because the first one may trace and allocate."""
    first = _once(work)
    return first if first > 1 else min(first, _once(work))


def _once(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    result = work()
    if isinstance(result, torch.Tensor) and result.is_cuda:
        torch.cuda.synchronize(result.device)
    return time.perf_counter() - start
