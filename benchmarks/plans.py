"""Accuracy of announced times: ten probes of different size, timed from their announcement.

    python benchmarks/plans.py [--model zoo:ce] [--trials 10] [--output FILE]

Images are scikit-learn's digits, scaled up to 32x32, of up to ten classes. Times are wall-clock times, which are only
meaningful on an idle machine.

    announced   the first announced time, before the work begins or after its first point
    took        time from the announcement to the result
    ratio       took / announced; between 0.5 and 2 counts as right within a factor of two
"""

from __future__ import annotations

import argparse
import logging
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from table import note, report, table
from workloads import describe

import sharpness
from sharpness.probes.shared import point_table

#: Seconds per unit of an announced time.
UNITS = {"minutes": 60.0, "seconds": 1.0, "second": 1.0}
Work = Callable[[sharpness.Objective], Any]


def trials() -> list[tuple[str, int, int, Work]]:
    """Return name, number of classes, images per class and work of every trial, the shortest first."""

    def of(measures: str, **settings: Any) -> Work:
        return lambda objective: sharpness.measure(objective, measures, **settings)

    def grid(side: int) -> Work:
        span = (-0.5, 0.5, side)
        return lambda objective: sharpness.plane(objective, span, span, precision="float32")

    every = "accuracy, loss, lambda_max, lambda_min, random_rise, worst_rise"
    return [
        ("loss, random rise", 10, 20, of("loss, random_rise", draws=10)),
        ("worst rise", 10, 20, of("worst_rise")),
        ("largest eigenvalue", 3, 5, of("lambda_max")),
        ("trace", 3, 10, of("trace", trace_draws=20)),
        ("plane, 7 x 7", 10, 20, grid(7)),
        ("table", 3, 10, of(every)),
        ("largest eigenvalue", 10, 10, of("lambda_max")),
        ("plane, 11 x 11", 10, 40, grid(11)),
        ("both ends", 10, 5, of("lambda_max, lambda_min")),
        ("table", 10, 20, of(every)),
    ]


class Announced(logging.Handler):
    """Handler that records the time of the first announcement and the announced seconds."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.at, self.seconds = 0.0, 0.0

    def emit(self, record: logging.LogRecord) -> None:
        found = re.search(r"about (a|[\d.]+) (minutes|seconds|second)$", record.getMessage())
        if found and not self.at:
            self.at = time.perf_counter()
            self.seconds = UNITS[found[2]] * (1.0 if found[1] == "a" else float(found[1]))


def timed(work: Work, objective: sharpness.Objective) -> tuple[float, float]:
    """Return the announced seconds and the actual ones."""
    heard, logger = Announced(), logging.getLogger("sharpness")
    logger.addHandler(heard)
    try:
        work(objective)
    finally:
        logger.removeHandler(heard)
    return heard.seconds, time.perf_counter() - heard.at


def samples(classes: int, each: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first ``each`` digits of every class as colour images of 32x32, and their labels."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None].div(8).sub(1).expand(-1, 3, -1, -1)
    labels = torch.from_numpy(digits.target).long()
    chosen = torch.cat([(labels == c).nonzero()[:each, 0] for c in range(classes)])
    scaled = torch.nn.functional.interpolate(images[chosen], (32, 32), mode="bilinear", align_corners=False)
    return scaled.contiguous(), labels[chosen]


def main() -> None:
    args = arguments()
    logging.getLogger("sharpness").setLevel(logging.INFO)
    point_table.LONG = 0.0  # planes of a few seconds announce themselves as long ones do
    make = partial(sharpness.checkpoint_objective, args.model)
    rows, right = [], 0
    chosen = trials()[: args.trials]
    for name, classes, each, work in chosen:
        note(f"{name}, {classes} x {each}")
        announced, took = timed(work, make(data=samples(classes, each)))
        ratio = took / announced
        right += 0.5 <= ratio <= 2
        rows.append([name, f"{classes} x {each}", f"{announced:.1f} s", f"{took:.1f} s", f"{ratio:.2f}"])
    lines = [
        f"{args.model}, {right} of {len(chosen)} right within a factor of two",
        *describe(["sharpness"]),
        "",
        *table(["", "classes x images", "announced", "took", "ratio"], rows),
    ]
    report(lines, args.output)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="zoo:ce")
    parser.add_argument("--trials", type=int, default=10, help="the first ones, which take least")
    parser.add_argument("--output", type=Path, help="keep the table in this file, too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
