"""Eigenvalues of all classes as tasks: CPU seconds, memory of a worker, size of the result, overhead, plan.

python benchmarks/classes.py [--classes 1000] [--images 8] [--workers 2] [--model resnet10] [--side 32]
python benchmarks/classes.py --classifier --classes 8142   # in closed form, of a last layer of 512 features

Every class has a prototype image with noise; the network is untrained, which does not affect the times. Times are CPU
times, because other processes may use the cores. ``overhead`` is the fraction of the time for a class of two images
that is not spent in products; the gradient of the starting vector counts as a product.
"""

from __future__ import annotations

import argparse
import logging
import resource
import tempfile
import time
from collections import OrderedDict
from pathlib import Path

import torch

import sharpness
from sharpness import Objective
from sharpness.engine.operator import CurvatureOperator
from sharpness.models import build_model
from sharpness.probes.curvature.row_eigenvalues import RowEigenvalues
from sharpness.probes.shared.work import Work


def stand_in(classes: int, images: int, model: str, side: int) -> Objective:
    """Return the objective of an untrained network on ``images`` images of every class."""
    torch.manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(images)
    prototypes = torch.randn(classes, 3, side // 4, side // 4)
    x = torch.nn.functional.interpolate(prototypes, size=side)[labels] + 0.5 * torch.randn(len(labels), 3, side, side)
    network = build_model(model, classes).eval()
    return Objective(network, (x, labels), num_classes=classes)


def last_layer(classes: int, features: int = 512) -> Objective:
    """Return the objective of a linear layer on features of 24 to 2 images per class, confident on most of them."""
    generator = torch.Generator().manual_seed(0)
    counts = [int(24 * (1 / 12) ** (c / (classes - 1))) for c in range(classes)]
    labels = torch.arange(classes).repeat_interleave(torch.tensor(counts))
    head = torch.nn.Linear(features, classes)
    with torch.no_grad():
        head.weight.copy_(torch.randn(classes, features, generator=generator) / 6)
        head.bias.zero_()
        seen = 1.5 * head.weight[labels] + torch.randn(len(labels), features, generator=generator)
    network = torch.nn.Sequential(OrderedDict(body=torch.nn.Identity(), head=head)).eval()
    return Objective(network, (seen.relu(), labels), num_classes=classes, parameters="classifier")


def closed_form(classes: int) -> None:
    """Print the cost of the largest eigenvalue of every class in closed form."""
    objective = last_layer(classes)
    few = objective.restrict(torch.arange(1000))
    sure = few.outputs().softmax(1).gather(1, few.y[:, None]).median()
    start, clock = time.process_time(), time.perf_counter()
    found = sharpness.eigenvalues(objective, per_class=True, keep_vectors=False)
    seconds, clock = time.process_time() - start, time.perf_counter() - clock
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(
        f"{classes} classes, {len(objective.y):,} images, median probability of the label {sure:.4f}: "
        f"{seconds:.0f} CPU s, {clock:.0f} s, memory {memory:.0f} MB, "
        f"converged {int(found.converged.sum())} of {found.converged.size}"
    )


def overhead(objective: Objective) -> tuple[float, float, int]:
    """Return the CPU seconds of three classes of two images, the part spent in products, and their number."""
    inside, original = [], {}

    def timed(name: str):
        original[name] = getattr(CurvatureOperator, name)

        def call(self, *arguments):
            start = time.process_time()
            found = original[name](self, *arguments)
            inside.append(time.process_time() - start)
            return found

        setattr(CurvatureOperator, name, call)

    task = RowEigenvalues(Work(None, {}), 1, "LA", 1e-3, 100, 0)
    task(0, objective.restrict(0))  # traces and verifies the network
    for name in ("__call__", "gradient"):
        timed(name)
    start = time.process_time()
    for c in (1, 2, 3):
        task(c, objective.restrict(torch.tensor([c * objective.class_samples[c], c * objective.class_samples[c] + 1])))
    whole = time.process_time() - start
    for name, function in original.items():
        setattr(CurvatureOperator, name, function)
    return whole, sum(inside), len(inside)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in (("classes", 1000), ("images", 8), ("workers", 2), ("side", 32)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--model", default="resnet10")
    parser.add_argument("--classifier", action="store_true")
    given = parser.parse_args()
    if given.classifier:
        closed_form(given.classes)
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    objective = stand_in(given.classes, given.images, given.model, given.side)
    print(f"{given.model}, {given.classes} classes x {given.images} images, {objective.num_parameters:,} parameters")
    whole, products, number = overhead(objective)
    print(f"class of two images: {number / 3:.1f} products, overhead outside them {100 * (1 - products / whole):.1f} %")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with sharpness.cluster(f"processes:{given.workers}") as executor:
            found = sharpness.eigenvalues(
                objective, per_class=True, keep_vectors=False, resume=Path(folder) / "work", executor=executor
            )
        seconds = time.perf_counter() - start
        found.save(Path(folder) / "result.nc")
        size = (Path(folder) / "result.nc").stat().st_size
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{found.hvp_count} products, {used.ru_utime + used.ru_stime:.0f} CPU s of {given.workers} workers in "
        f"{seconds:.0f} s, memory of the largest {used.ru_maxrss / 2**10:.0f} MB, result {size / 2**10:.0f} kB, "
        f"converged {int(found.converged.sum())} of {found.converged.size}"
    )


if __name__ == "__main__":
    main()
