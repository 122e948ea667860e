"""Compare the radius and bound of CC-SAM's theorem with the measured loss.

python benchmarks/theory.py runs/demo/*/seed-* [--classes CC-SAM] [--output FILE] [--figures DIR]

The table has one row per model: the median over its trainings, with their range in brackets; pictures show the first
training. For the most frequent and the rarest class: the radius rho*, the length of the theorem's perturbation relative
to the norm of the weights, and the bound. Then medians over classes:

g'Hg / lambda   curvature along the gradient, relative to the largest eigenvalue
at 0.01, at 1   measured rise divided by its first-order and its second-order prediction, with the radius multiplied by
                this factor; nan if the loss of any class is not finite
reach           the largest multiple of rho* up to which the first-order prediction is within a factor of two of the
                measured rise; 0 if there is none
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from table import note, report, table
from workloads import describe

import sharpness
from sharpness.files import write_csv
from sharpness.plots import save_figure
from sharpness.probes.shared.as_objective import labelled_checkpoints
from sharpness.results.caption import caption, write_caption

SCALES = (1.0, 0.01)
COLUMNS = (
    "n",
    "gradient_norm",
    "rho",
    "bound",
    "step",
    "first_order",
    "second_order",
    "measured",
    "worst",
    "lambda_max",
)


def main() -> None:
    args = arguments()
    found: dict[float, sharpness.Comparison] = {scale: sharpness.Comparison() for scale in SCALES}
    rows: dict[str, list[list[float]]] = {}
    for label, entry in labelled_checkpoints(args.checkpoints).items():
        for number, checkpoint in enumerate(entry if isinstance(entry, list) else [entry]):
            both = {}
            for scale in SCALES:
                note(f"{label}, training {number}, scale {scale:g}")
                both[scale] = sharpness.characteristic_radius(checkpoint, scale=scale, lambda_max=scale == 1)
                both[scale].provenance.update(label=label, run=f"seed {checkpoint.manifest.seed}")
                found[scale].setdefault(label, both[scale])
            rows.setdefault(label, []).append(summary(both))
    names = ["rho* head", "tail", "step / norm of w, head", "tail", "bound head", "tail", "g'Hg / lambda"]
    names += [f"{of} at {scale:g}" for scale in reversed(SCALES) for of in ("1st", "2nd")] + ["reach"]
    lines = [*describe(["sharpness"]), ""]
    lines += table(["", *names], [[label, *over(trainings)] for label, trainings in rows.items()])
    for label in args.classes or []:
        for scale in SCALES:
            frame = found[scale][label].to_frame()
            frame["lambda_max"] = found[1.0][label].to_frame()["lambda_max"]
            rows = [[r["class"], *(f"{r[c]:.3g}" for c in COLUMNS)] for r in frame.to_dict("records")]
            lines += ["", f"{label}, radius times {scale:g}", "", *table(["class", *COLUMNS], rows)]
    report(lines, args.output)
    if args.figures:
        draw(found, args.figures, args.classes or [])


def over(trainings: list[list[float]]) -> list[str]:
    """Format the medians over trainings, with their ranges if there are several."""
    cells = []
    for numbers in np.transpose(trainings):
        low, high = (f"{end(numbers):.2g}" for end in (np.min, np.max))
        cells.append(f"{np.median(numbers):.2g}" + (f" ({low} to {high})" if len(numbers) > 1 else ""))
    return cells


def summary(found: dict[float, sharpness.results.CharacteristicRadiusResult]) -> list[float]:
    one = found[1.0]
    head, tail = int(np.argmax(one.train_counts)), one.rarest_class
    numbers = [one.of(name, c) / unit for name, unit in (("rho", 1), ("step", one.weight_norm), ("bound", 1))
               for c in (head, tail)]  # fmt: skip
    numbers.append(np.median(column(one, "curvature") / column(one, "lambda_max")))
    for scale in reversed(SCALES):
        result = found[scale]
        numbers += [np.median(column(result, "measured") / column(result, p)) for p in ("first_order", "second_order")]
    numbers.append(np.median([reach(one, c) for c in range(len(one.class_names))]))
    return [float(v) for v in numbers]


def column(result: sharpness.results.CharacteristicRadiusResult, name: str) -> np.ndarray:
    return result[name].values


def reach(result: sharpness.results.CharacteristicRadiusResult, c: int) -> float:
    curve = result.curve(c)
    ratio = (curve.measured - curve.loss) / (curve.linear - curve.loss)
    bad = ~((ratio > 0.5) & (ratio < 2))
    first = int(np.argmax(bad)) if bad.any() else len(bad)
    return float(result.factors[first - 1]) if first else 0.0


def draw(found: dict[float, sharpness.Comparison], folder: Path, classes: list[str]) -> None:
    """Draw pictures, each with files for its caption and its numbers."""
    at = f"at {SCALES[1]:g} of the radius"
    pictures = [
        (
            "radius",
            found[1.0].plot(kind="radius"),
            "Radius of the theorem over the training images of classes",
            found[1.0],
        ),
        (
            "rise",
            found[0.01].plot(kind="rise"),
            f"Measured over predicted rise of every class's loss {at}",
            found[0.01],
        ),
    ]
    for label in classes:
        one = sharpness.Comparison({label: found[0.01][label]})
        pictures.append(
            (f"bound-{label.lower()}", one[label].plot()[0], f"Bound, its terms and the loss, {label}", one)
        )
    for name, ax, what, results in pictures:
        save_figure(ax.figure, folder / name)
        write_caption(folder / name, caption(what, results, "train"))
        one = next(iter(results.values()))
        write_csv(one.curves() if name.startswith("bound") else results.to_frame(), folder / f"{name}.csv")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--classes", nargs="*", help="labels of models whose classes have a table and a picture")
    parser.add_argument("--output", type=Path, help="keep the tables in this file, too")
    parser.add_argument("--figures", type=Path, help="draw into this folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
