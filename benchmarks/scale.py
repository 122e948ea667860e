"""Cost of probes at scale: measured unit costs, plans for 1, 8 and 64 GPUs, and a simulation of task lists.

python benchmarks/scale.py measure      # cost of passes in forward passes, and of a Lanczos step per parameter
python benchmarks/scale.py plan         # ImageNet-LT and iNaturalist 2018 with ResNet-50
python benchmarks/scale.py simulate     # makespan of 8 and 64 workers relative to perfect balance

A pass over n images takes ``latency + n * units * FLOP / throughput``; a Lanczos step of k parameters takes another
``4 k * VECTOR_PASSES / bandwidth``. Measured times are CPU times of one thread; plans are computed.
"""

from __future__ import annotations

import argparse
import heapq
import time
from dataclasses import dataclass

import numpy as np
import torch

from sharpness import Objective, eigenvalues
from sharpness.curvature.recurrence import extremes
from sharpness.models import build_model

#: Costs in forward passes, counted as in docs/curvature.md for a product without cached activations.
UNITS = {"forward": 1.0, "gradient": 3.0, "product": 8.0}
#: Number of times that a Lanczos step reads or writes a vector of all parameters.
VECTOR_PASSES = 14
#: GPUs per node; the memory of a node keeps the prepared images after the first read.
NODE = 8
#: Bytes of a prepared image of 224 x 224 pixels.
IMAGE = 3 * 224 * 224


@dataclass(frozen=True)
class Machine:
    """Assumed performance of a worker.

    Args:
        throughput: FLOP/s of passes in float32.
        bandwidth: bytes/s of its memory.
        latency: seconds that every pass takes in addition.
        start: seconds until a started or restarted worker computes.
        disk: bytes/s of the shared disk for all workers together.
    """

    throughput: float = 20e12
    bandwidth: float = 2e12
    latency: float = 0.03
    start: float = 60.0
    disk: float = 5e9


@dataclass(frozen=True)
class Data:
    """Totals of a long-tailed data set, and a network: FLOP of a forward pass per image, and parameters."""

    name: str
    images: int
    classes: int
    largest: int
    smallest: int
    flop: float
    parameters: float

    def counts(self) -> np.ndarray:
        """Return the images of every class: an exponential tail in a power of the rank, with the right sum."""
        rank = np.linspace(0, 1, self.classes)
        low, high = 0.05, 20.0
        for _ in range(60):
            power = (low + high) / 2
            counts = self.largest * (self.smallest / self.largest) ** (rank**power)
            low, high = (low, power) if counts.sum() > self.images else (power, high)
        return np.maximum(self.smallest, counts.round()).astype(int)


DATA = (
    Data("ImageNet-LT, ResNet-50", 115_846, 1000, 1280, 5, 8.2e9, 25.6e6),
    Data("iNaturalist 2018, ResNet-50", 437_513, 8142, 1000, 2, 8.2e9, 40.2e6),
)


def products_of(counts: np.ndarray, most: int = 40, least: int = 10) -> np.ndarray:
    """Return the assumed products of every class: from 10 for a few images to 40 for the head."""
    return least + (most - least) * np.clip(np.log(counts / 5) / np.log(1280 / 5), 0, 1)


def row_seconds(data: Data, machine: Machine, counts: np.ndarray) -> np.ndarray:
    """Return the seconds for the largest eigenvalue of every class on one worker."""
    step = machine.latency + 4 * data.parameters * VECTOR_PASSES / machine.bandwidth
    return products_of(counts) * (step + counts * UNITS["product"] * data.flop / machine.throughput)


def passes_seconds(data: Data, machine: Machine, units: float, workers: int) -> float:
    """Return the seconds of passes over all images, shared by workers; every node reads the images once."""
    computed = data.images * units * data.flop / machine.throughput / workers
    return max(computed, -(-workers // NODE) * data.images * IMAGE / machine.disk)


def simulate(
    tasks: np.ndarray, workers: int, machine: Machine, rng: np.random.Generator, *, failures: float = 0.0,
    stragglers: float = 0.0, slow: float = 2.0, longest_first: bool = True,
) -> tuple[float, int]:  # fmt: skip
    """Simulate workers that take the next task when they are free; return the total seconds and the lost tasks.

    Args:
        tasks: seconds of each task.
        workers: number of workers.
        machine: performance of a worker.
        rng: generator of failures and of the order of tasks.
        failures: failures per worker and hour; the worker restarts, and its task is run again.
        stragglers: fraction of workers that take ``slow`` times as long.
        slow: factor on the time of stragglers.
        longest_first: run the longest tasks first, else in random order.

    >>> simulate(np.array([3.0, 2.0, 1.0]), 2, Machine(start=0), np.random.default_rng(0))
    (3.0, 0)
    """
    speed = np.where(np.arange(workers) < round(stragglers * workers), slow, 1.0)
    queue = list(np.sort(tasks)[::-1] if longest_first else rng.permutation(tasks))
    queue.reverse()  # tasks are taken from the end
    free = [(machine.start, w) for w in range(workers)]
    heapq.heapify(free)
    end, lost = 0.0, 0
    while queue:
        now, w = heapq.heappop(free)
        task = queue.pop()
        takes = task * speed[w]
        death = rng.exponential(3600 / failures) if failures else np.inf
        if death < takes:
            lost += 1
            queue.append(task)
            heapq.heappush(free, (now + death + machine.start, w))
            continue
        end = max(end, now + takes)
        heapq.heappush(free, (now + takes, w))
    return end, lost


def hours(seconds: float) -> str:
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 3600
        else f"{seconds / 60:.0f} min"
        if seconds >= 120
        else f"{seconds:.0f} s"
    )


def plan() -> None:
    """Print the costs of probes."""
    machine = Machine()
    for data in DATA:
        counts, weights = data.counts(), 4 * data.parameters
        rows = row_seconds(data, machine, counts)
        idle = products_of(counts) * (machine.latency + weights * VECTOR_PASSES / machine.bandwidth)
        print(f"\n{data.name}: {counts.sum():,} images (the list has {data.images:,})")
        print("| probe | 1 GPU | 8 GPUs | 64 GPUs |\n| --- | ---: | ---: | ---: |")
        for name, units in (("losses and accuracies", 1), ("random rise, 5 draws", 5), ("plane 51 x 51, a third", 867)):
            times = [hours(passes_seconds(data, machine, units, w)) for w in (1, 8, 64)]
            print(f"| {name} | {' | '.join(times)} |")
        times = [hours(passes_seconds(data, machine, 30 * UNITS["product"], w)) for w in (1, 8, 30)]
        print(f"| trace of all classes, 30 vectors, which are 30 tasks | {' | '.join(times)} |")
        times = [hours(simulate(rows, w, machine, np.random.default_rng(0))[0]) for w in (1, 8, 64)]
        print(f"| largest eigenvalue of every class | {' | '.join(times)} |")
        print(
            f"memory of a worker: weights {weights / 1e6:.0f} MB, three vectors {3 * weights / 1e6:.0f} MB (a basis of "
            f"100: {106 * weights / 1e9:.1f} GB)\ndisk: {data.images * IMAGE / 1e9:.0f} GB prepared, read once in "
            f"{hours(data.images * IMAGE / machine.disk)}; 64 parcels "
            f"{hours(64 * weights / machine.disk)}; answers {data.classes * 1e-3:.1f} MB\nlongest class "
            f"{hours(rows.max())}, median {hours(float(np.median(rows)))}; latency and vectors are "
            f"{100 * idle.sum() / rows.sum():.0f} % of all rows"
        )


def told() -> None:
    """Print the makespan relative to perfect balance."""
    machine = Machine()
    print("| data | workers | longest first | any order | each fails in 4 h | a tenth at half the speed | both |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for data in DATA:
        tasks = row_seconds(data, machine, data.counts())
        for workers in (8, 64):
            perfect = tasks.sum() / workers
            cells = []
            for options in (
                {}, {"longest_first": False}, {"failures": 0.25}, {"stragglers": 0.1},
                {"failures": 0.25, "stragglers": 0.1},
            ):  # fmt: skip
                ends = [simulate(tasks, workers, machine, np.random.default_rng(s), **options)[0] for s in range(20)]
                cells.append(f"{np.mean(ends) / perfect:.2f}")
            print(f"| {data.name} (perfect {hours(perfect)}) | {workers} | " + " | ".join(cells) + " |")


def cpu(call, least: float = 0.5) -> float:
    """Return the smallest CPU time of several calls."""
    call()
    found, spent = [], 0.0
    while spent < least:
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
        spent += found[-1]
    return min(found)


def measured(model: str, classes: int, images: int, side: int) -> dict[str, float]:
    """Return the costs of gradient and product in forward passes, and the FLOP/s of a forward pass, on one thread."""
    torch.manual_seed(0)
    network = build_model(model, classes).eval()
    objective = Objective(network, (torch.randn(images, 3, side, side), torch.arange(images) % classes))
    vector = torch.randn(objective.num_parameters)
    with objective.operator() as operator:
        operator(vector)
        times = {"forward": cpu(objective.evaluate), "gradient": cpu(objective.gradient)}
        times["product"] = cpu(lambda: operator(vector))
    units = {name: seconds / times["forward"] for name, seconds in times.items()}
    return units | {
        "GFLOP/s": objective.flops_per_sample * images / times["forward"] / 1e9,
        "seconds": times["product"],
    }


def measure() -> None:
    """Print unit costs on this machine, and how well they predict another call."""
    torch.set_num_threads(1)
    print("| network | images | gradient | product | GFLOP/s of a forward pass |\n| --- | ---: | ---: | ---: | ---: |")
    found = {}
    for model, side in (("resnet8", 32), ("resnet20", 32)):
        for images in (8, 64):
            units = found[model, images] = measured(model, 10, images, side)
            print(f"| {model} | {images} | {units['gradient']:.1f} | {units['product']:.1f} | {units['GFLOP/s']:.0f} |")
    steps = {}
    for size in (2**20, 2**22):
        nothing = torch.zeros(size)
        nothing[0], nothing[1] = 2.0, 1.0
        run = lambda: extremes(lambda v: nothing * v, size, max_iterations=12, tol=1e-12, dtype=torch.float32)  # noqa: E731, B023
        steps[size] = cpu(run) / 12
        print(f"Lanczos step of {size:,} parameters: {1e9 * steps[size] / size:.1f} ns a parameter")
    objective = Objective(build_model("resnet8", 10).eval(), (torch.randn(80, 3, 32, 32), torch.arange(80) % 10))
    eigenvalues(objective, per_class=True, keep_vectors=False)
    start = time.process_time()
    result = eigenvalues(objective, per_class=True, keep_vectors=False)
    real = time.process_time() - start
    expected = result.hvp_count * found["resnet8", 8]["seconds"]
    print(f"eigenvalues of 10 classes x 8: {result.hvp_count} products, {real:.1f} s, the model says {expected:.1f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "plan", "simulate"))
    {"measure": measure, "plan": plan, "simulate": told}[parser.parse_args().what]()
