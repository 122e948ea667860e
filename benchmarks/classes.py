"""All-class eigenvalues as tasks: CPU seconds, memory of a worker, size of the result, overhead outside products, plan.

python benchmarks/classes.py [--classes 1000] [--images 8] [--workers 2] [--model resnet10] [--side 32]

Images are of a prototype a class, with noise, and the network is trained on none: what is timed does not hang on it.
Times are of the processor, because others may use it. ``overhead`` is the part of a row of two images that is not spent
in products, the gradient that starts it counted as one.
"""

from __future__ import annotations

import argparse
import logging
import resource
import tempfile
import time
from pathlib import Path

import torch

import sharpness
from sharpness import Objective
from sharpness.engine import CurvatureOperator
from sharpness.models import build_model
from sharpness.probes.curvature.row_eigenvalues import RowEigenvalues
from sharpness.probes.shared.work import Work


def stand_in(classes: int, images: int, model: str, side: int) -> Objective:
    """A network and so many images of every class."""
    torch.manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(images)
    prototypes = torch.randn(classes, 3, side // 4, side // 4)
    x = torch.nn.functional.interpolate(prototypes, size=side)[labels] + 0.5 * torch.randn(len(labels), 3, side, side)
    network = build_model(model, classes).eval()
    return Objective(network, (x, labels), num_classes=classes)


def overhead(objective: Objective) -> tuple[float, float, int]:
    """CPU seconds of one class of two images, those of its products, and their number."""
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
    task(0, objective.restrict(0))  # traces, and examines the network
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
    given = parser.parse_args()
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
