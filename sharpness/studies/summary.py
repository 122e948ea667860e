"""The summary of a training, accuracy and sharpness, and tables of summaries."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sharpness.checkpoints import Checkpoint
from sharpness.results import EigenvalueResult, MeasureResult, PerturbationResult
from sharpness.studies.motivation import tail_of


def accuracies(checkpoint: Checkpoint) -> dict[str, float]:
    """On the test set, in per cent: of all images and of the groups, as the run recorded them."""
    known = checkpoint.manifest.accuracy
    names = {f"acc {g}".strip(): f"accuracy_{g}".strip("_") for g in ("", "many", "medium", "few")}
    return {name: 100 * known.get(recorded, float("nan")) for name, recorded in names.items()}


def summary_row(
    checkpoint: Checkpoint,
    perturbation: PerturbationResult,
    spectrum: EigenvalueResult,
    classes: EigenvalueResult,
    worst: MeasureResult,
    tail_class: int,
) -> dict[str, float]:
    """The measures of one training.

    Accuracies are of the test set, in per cent. Sharpness is of the training loss: eigenvalues, the mean rise at the
    largest radius with its standard error over draws, and the rise after one ascent step; of all images and of the
    tail (the mean over few-shot classes, or the rarest class where there are none).
    """
    tail, _ = tail_of(perturbation, tail_class)
    rise, error = (a[-1] for a in perturbation.rise())
    tail_rise, tail_error = (a[-1] for a in perturbation.rise(tail))
    return {
        **accuracies(checkpoint),
        "λmax": float(spectrum.largest),
        "λmin": float(spectrum.smallest),
        "λmax tail": _tail_mean(classes, classes.largest, tail),
        "λmin tail": _tail_mean(classes, classes.smallest, tail),
        "rise": rise,
        "rise se": error,
        "rise tail": tail_rise,
        "rise tail se": tail_error,
        "worst rise": worst.of("worst_rise"),
        "worst rise tail": worst.of("worst_rise", tail),
    }


def _tail_mean(result: EigenvalueResult, values: np.ndarray, tail: str | int) -> float:
    return float(result.select(values, tail, values.mean()))


def to_markdown(table: pd.DataFrame, spread: str = "se", error: str | None = None) -> str:
    """The table as Markdown: per cent with one decimal, the rest with three significant digits, a dash for no number.

    A column ``<name> <spread>``, of standard errors unless said otherwise, stands behind a ± in the column ``<name>``,
    with one digit, and a column ``<name> <error>`` in brackets behind that.
    """
    ends = tuple(f" {end}" for end in (spread, error) if end)
    columns = [c for c in table.columns if not c.endswith(ends)]
    words = [c for c in columns if not pd.api.types.is_numeric_dtype(table[c])]
    lines = [columns, ["---" if c in words else "---:" for c in columns]]
    for _, row in table.iterrows():
        cells = []
        for c in columns:
            if c in words:
                cells.append(str(row[c]))
                continue
            per_cent = c.startswith("acc")
            beside, behind = (row.get(f"{c} {end}", np.nan) for end in (spread, error))
            text = _rounded(row[c], 3, per_cent) if np.isfinite(row[c]) else "–"
            if np.isfinite(row[c]):
                text += f" ± {_rounded(beside, 1, per_cent)}" if np.isfinite(beside) else ""
                text += f" ({_rounded(behind, 1, per_cent)})" if np.isfinite(behind) else ""
            cells.append(text)
        lines.append(cells)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def _rounded(value: float, digits: int, per_cent: bool) -> str:
    """Per cent with one decimal, others with so many significant digits, without an exponent below a million."""
    return f"{value:.1f}" if per_cent else f"{float(f'{value:.{digits}g}'):g}"
