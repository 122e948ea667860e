"""Compare adaptive planes with the full planes of the same models: evaluated points and errors.

python benchmarks/adaptive.py runs/demo/*/seed-0 [--points 51] [--range 0.5] [--tol 0.01] [--output FILE]

evaluated   fraction of the points that were evaluated
error       the largest |interpolated - evaluated| of the overall loss, divided by max(relief, height above the
            minimum), where relief is the 0.9 quantile of the height
class       the same for the worst class
covered     fraction of the interpolated cells whose estimated error is at least the true one, for the overall loss
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from table import note, report, table
from workloads import describe

import sharpness


def main() -> None:
    args = arguments()
    span = (-args.range, args.range, args.points)
    rows = []
    for path in args.checkpoints:
        note(path)
        objective = sharpness.checkpoint_objective(path, limit_per_class=args.limit_per_class)
        full = sharpness.plane(objective, span, span, precision=objective.precision)
        part = sharpness.plane(objective, span, span, precision=objective.precision, adaptive=args.tol)
        classes = [relative(a, b) for a, b in zip(part.class_losses, full.class_losses, strict=True)]
        left = ~part.evaluated
        covered = (part.interpolation_errors >= np.abs(part.losses - full.losses))[left].mean() if left.any() else 1.0
        numbers = relative(part.losses, full.losses), max(classes)
        rows.append([path, f"{part.evaluated.mean():.3f}", *(f"{v:.4f}" for v in numbers), f"{covered:.3f}"])
    lines = [
        f"{args.points} x {args.points} points, range {args.range:g}, tol {args.tol:g}",
        *describe(["sharpness"]),
        "",
        *table(["", "evaluated", "error", "class", "covered"], rows),
    ]
    report(lines, args.output)


def relative(found: np.ndarray, exact: np.ndarray) -> float:
    """Return the largest error, divided by the larger of relief and height."""
    height = exact - exact.min()
    relief = np.quantile(height, 0.9)
    return float((np.abs(found - exact) / np.maximum(relief, height)).max())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--points", type=int, default=51)
    parser.add_argument("--range", type=float, default=0.5)
    parser.add_argument("--tol", type=float, default=0.01)
    parser.add_argument("--limit-per-class", type=int)
    parser.add_argument("--output", type=Path, help="keep the table in this file, too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
