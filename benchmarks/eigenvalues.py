"""What the largest eigenvalues of the Hessians of ten classes cost, by every library's own routine.

    python benchmarks/eigenvalues.py [--samples-per-class 32] [--output FILE]

ResNet-32 is trained briefly on the embedded long tail of digits and probed on some test images of every class, to a
relative residual of 1e-3: see contenders.py for how each library gets there.

    lambda_max, s    seconds of all ten classes, and the products they took
    residual         the relative residuals reached, median and largest of the classes, from products in float64
    error of value   the largest of |value - exact| / exact, exact being the largest Rayleigh quotient in float64 of the
                     vectors that the contenders found for the class
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from contenders import Contender, Eigenpair, Ours, Plain, available, exact_quotient
from table import note, report, table
from workloads import Problem, describe, digits, exact_product, in_layout

TOL = 1e-3
COLUMNS = ("lambda_max, s", "products", "residual: median", "largest", "error of value")


def main() -> None:
    args = arguments()
    contenders, missing = available()
    contenders.remove(Plain)
    note("training")
    problem = digits(args.model, args.samples_per_class, args.image_size, args.epochs)
    pairs = {}
    for c in contenders:
        note(f"largest eigenvalues, {c.name}")
        pairs[c] = c.largest_eigenvalues(*in_layout(problem, "channels-last"), TOL)
    note("residuals")
    lines = [
        f"{args.model}, float32: {args.samples_per_class} digits of each class, 1x{args.image_size}x{args.image_size}",
        *describe([c.distribution for c in contenders]),
        *missing,
        "",
        *table(["", *COLUMNS], eigenvalue_cells(pairs, problem)),
        "",
        *(f"{c.name}: {settings(pairs[c])}" for c in contenders),
        "lambda_max by class: " + ", ".join(f"{pair.value:.4g}" for pair in pairs[Ours]),
    ]
    report(lines, args.output)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet32")
    parser.add_argument("--samples-per-class", type=int, default=32, help="digits of each class, at most 50")
    parser.add_argument("--image-size", type=int, default=16, help="digits are upsampled to this")
    parser.add_argument("--epochs", type=int, default=20, help="of training on the digits")
    parser.add_argument("--output", type=Path, help="keep the table in this file, too")
    return parser.parse_args()


def eigenvalue_cells(pairs: dict[type[Contender], list[Eigenpair]], problem: Problem) -> list[list[str]]:
    """The rows of the table."""
    model, x, y = problem
    contenders = list(pairs)
    oracles = [exact_product((model, x[y == c], y[y == c])) for c in range(10)]
    checks = np.array([[exact_quotient(o, p) for o, p in zip(oracles, pairs[c], strict=True)] for c in contenders])
    best = checks[:, :, 0].max(axis=0)
    rows = []
    for c, residuals in zip(contenders, checks[:, :, 1], strict=True):
        errors = abs(np.array([pair.value for pair in pairs[c]]) - best) / abs(best)
        counts = f"{sum(p.seconds for p in pairs[c]):.1f}", f"{sum(p.products for p in pairs[c]):.0f}"
        reached = (f"{value:.1e}" for value in (np.median(residuals), residuals.max(), errors.max()))
        rows.append([c.name, *counts, *reached])
    return rows


def settings(pairs: list[Eigenpair]) -> str:
    """With which settings the residual was met, and in how many classes."""
    counts = Counter(pair.setting for pair in pairs)
    return "; ".join(f"{setting}: {count} classes" for setting, count in counts.items())


if __name__ == "__main__":
    main()
