"""How the largest eigenvalues of all classes grow with images, classes and parameters; ours alone, random images."""

from __future__ import annotations

import time

import torch
from table import note, table
from workloads import WARMED, warmed

import sharpness

#: Title of the section, and what it is of.
GROWTH = ("largest eigenvalue of all classes, as it grows", f"sharpness alone, {WARMED}")
#: Of the table: model, classes, images a class. Mostly one of the three differs from the first row.
USUAL = (
    ("resnet20", 10, 4),
    ("resnet20", 10, 16),
    ("resnet20", 100, 4),
    ("resnet32", 10, 4),
    ("resnet56", 10, 4),
)
FULL = (
    ("resnet20", 10, 20),
    ("resnet20", 10, 100),
    ("resnet20", 10, 500),
    ("resnet20", 100, 20),
    ("resnet20", 1000, 2),
    ("resnet32", 10, 20),
    ("resnet56", 10, 20),
    ("resnet110", 10, 20),
    ("resnet18-cifar", 10, 20),
)


def growth(full: bool) -> list[str]:
    """The table, a section of the benchmark of answers."""
    rows = [row(*case) for case in (FULL if full else USUAL)]
    header = ["model", "parameters", "classes", "images a class", "seconds", "products a class", "ms an image-product"]
    return table(header, rows)


def row(name: str, classes: int, images: int) -> list[str]:
    """One call, with tracing and examination."""
    note(f"{name}, {classes} classes, {images} images a class")
    model = warmed(name, classes)
    y = torch.arange(classes).repeat_interleave(images)
    objective = sharpness.Objective(model, (torch.randn(len(y), 3, 32, 32), y), num_classes=classes)
    start = time.perf_counter()
    found = sharpness.eigenvalues(objective, per_class=True, keep_vectors=False)
    seconds = time.perf_counter() - start
    return [
        name,
        f"{objective.num_parameters:,}",
        str(classes),
        str(images),
        f"{seconds:.1f}",
        f"{found.products.mean():.1f}",
        f"{1e3 * seconds / found.sample_products:.2f}",
    ]
