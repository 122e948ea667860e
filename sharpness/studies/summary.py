"""Summary rows of trainings with accuracy and sharpness, notes on them, and Markdown tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sharpness.checkpoints import Checkpoint
from sharpness.data import augmentation_label
from sharpness.results import MeasureResult
from sharpness.results.rounding import described
from sharpness.studies.settings import ACCURACY, GROUPS, Settings, measure_of

NOTE = (
    "accuracy: in % on the test set. Sharpness of {loss} on {split} images{limit}: {measures}; tail: mean of the "
    "few-shot classes, or the rarest class where there are none. Trained with {augmentation}."
)


def accuracies(checkpoint: Checkpoint) -> dict[str, float]:
    """Return the recorded test accuracies of all images and of the groups, in per cent."""
    known = checkpoint.manifest.accuracy
    names = {ACCURACY: ACCURACY} | {f"{ACCURACY} {group}": f"{ACCURACY}_{group}" for group in GROUPS}
    return {name: 100 * known.get(recorded, float("nan")) for name, recorded in names.items()}


def summary_row(table: MeasureResult, tail_class: int) -> dict[str, float]:
    """Return the measures of one training, for all images and for the tail, with their standard errors.

    The tail is the mean over few-shot classes, or the rarest class if there are none.
    """
    tail = "few" if table.groups.get("few") else tail_class
    row: dict[str, float] = {}
    for name in table.names:
        for column, subset in ((name, None), (f"{name} tail", tail)):
            row[column] = table[name].of(subset)
            row[f"{column} se"] = table[name].standard_error(subset)
    return row


def part_text(cells: pd.DataFrame, part: tuple[int, int]) -> str:
    """Return the status of the cells of a part of a study, one line each, and how to collect all cells."""
    lines = [f"part {part[0]} of {part[1]}: {len(cells)} cells"]
    for c in cells.to_dict("records"):
        named = [str(c["row"]), str(c["column"]), f"seed {c['seed']}"]
        lines.append(f"- {', '.join(filter(None, named))}: {c['status']}")
    return "\n".join([*lines, "", "The same call without a part collects the cells of all.", ""])


def note_on(settings: Settings, augmentation: str) -> str:
    """Return the note on the numbers in the table of a study."""
    given = settings.measuring
    explained = [f"{name}, {measure_of(name).in_words(given)}" for name in settings.measures]
    return NOTE.format(
        loss="cross-entropy" if settings.loss == "ce" else "the loss of training",
        split="training" if settings.split == "train" else "test",
        limit="" if settings.limit_per_class is None else f", {settings.limit_per_class} of every class at most",
        measures="; ".join(explained),
        augmentation=augmentation_label(augmentation),
    )


def to_markdown(table: pd.DataFrame, spread: str = "se", error: str | None = None) -> str:
    """Format a table as Markdown, with as many digits as the errors allow, and a dash for missing values.

    Args:
        table: the table.
        spread: the column ``<name> <spread>`` is appended to ``<name>`` after a ±.
        error: the column ``<name> <error>`` is appended in brackets.
    """
    ends = tuple(f" {end}" for end in (spread, error) if end)
    columns = [c for c in table.columns if not c.endswith(ends)]
    words = [c for c in columns if not pd.api.types.is_numeric_dtype(table[c])]
    lines = [columns, ["---" if c in words else "---:" for c in columns]]
    for _, row in table.iterrows():
        cells = []
        for c in columns:
            se, sd = (float(row.get(f"{c} {end}", np.nan)) for end in (error, spread))
            number = c not in words and np.isfinite(row[c])
            text = described(row[c], se, sd, np.nan, np.nan, in_spreads=True) if number else "–"
            if number and c.split()[0] == ACCURACY and not np.isfinite([se, sd]).any():
                text = f"{row[c]:.1f}"  # per cent: ten thousand test images do not justify more digits
            cells.append(str(row[c]) if c in words else text)
        lines.append(cells)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"
