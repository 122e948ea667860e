"""The summary table: accuracy and sharpness of every method."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from sharpness.checkpoints import Checkpoint
from sharpness.results import EigenvalueResult, MeasureResult, PerturbationResult
from sharpness.studies.motivation import tail_of


def summary_table(
    checkpoints: Mapping[str, Checkpoint],
    perturbations: Mapping[str, PerturbationResult],
    overall_spectra: Mapping[str, EigenvalueResult],
    class_spectra: Mapping[str, EigenvalueResult],
    worst: Mapping[str, MeasureResult],
    tail_class: int,
) -> pd.DataFrame:
    """One row per method.

    Accuracies are of the test set, in per cent. Sharpness is of the training loss: eigenvalues, the mean rise at the
    largest radius with its standard error over draws, and the rise after one ascent step; of all images and of the
    tail (the mean over few-shot classes, or the rarest class where there are none).
    """
    rows = []
    for label, checkpoint in checkpoints.items():
        accuracy = checkpoint.manifest["accuracy"]
        spectrum, classes, perturbation = overall_spectra[label], class_spectra[label], perturbations[label]
        tail, _ = tail_of(perturbation, tail_class)
        rise, error = (a[-1] for a in perturbation.rise())
        tail_rise, tail_error = (a[-1] for a in perturbation.rise(tail))
        rows.append(
            {
                "method": label,
                "acc": 100 * accuracy["accuracy"],
                **{f"acc {g}": 100 * accuracy[f"accuracy_{g}"] for g in ("many", "medium", "few")},
                "λmax": float(spectrum.largest),
                "λmin": float(spectrum.smallest),
                "λmax tail": _tail_mean(classes, classes.largest, tail),
                "λmin tail": _tail_mean(classes, classes.smallest, tail),
                "rise": rise,
                "rise se": error,
                "rise tail": tail_rise,
                "rise tail se": tail_error,
                "worst rise": worst[label].overall[2],
                "worst rise tail": worst[label].select(worst[label].values[2], tail, worst[label].overall[2]),
            }
        )
    return pd.DataFrame(rows)


def _tail_mean(result: EigenvalueResult, values: np.ndarray, tail: str | int) -> float:
    return float(result.select(values, tail, values.mean()))


def to_markdown(table: pd.DataFrame, spread: str = "se") -> str:
    """The table as Markdown: per cent with one decimal, the rest with three significant digits, a dash for no number.

    A column ``<name> <spread>``, of standard errors unless said otherwise, stands behind a ± in the column ``<name>``,
    with one digit.
    """
    columns = [c for c in table.columns if not c.endswith(f" {spread}")]
    words = [c for c in columns if not pd.api.types.is_numeric_dtype(table[c])]
    lines = [columns, ["---" if c in words else "---:" for c in columns]]
    for _, row in table.iterrows():
        cells = []
        for c in columns:
            if c in words:
                cells.append(str(row[c]))
                continue
            error = row.get(f"{c} {spread}", np.nan)
            text = _rounded(row[c], 3, per_cent=c.startswith("acc")) if np.isfinite(row[c]) else "–"
            known = np.isfinite(error) and np.isfinite(row[c])
            cells.append(f"{text} ± {_rounded(error, 1, per_cent=c.startswith('acc'))}" if known else text)
        lines.append(cells)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def _rounded(value: float, digits: int, per_cent: bool) -> str:
    """Per cent with one decimal, others with so many significant digits, without an exponent below a million."""
    return f"{value:.1f}" if per_cent else f"{float(f'{value:.{digits}g}'):g}"
