"""Correlate every measure of a table with accuracy and generalization gap."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sharpness.errors import UserError, choose, require_whole
from sharpness.probes.measures.registry import COLUMNS, ENDS, MEASURES
from sharpness.results.correlations import OUTCOMES, Correlations, of_all_samples, stratified_tau
from sharpness.results.record import read_table

KEYS = ("model", "run", "class", "group")
#: Names of columns in the table of a study, by their names in earlier versions.
BEFORE = {
    "acc": "accuracy", "λmax": "lambda_max", "λmin": "lambda_min", "rise": "random_rise", "worst rise": "worst_rise",
}  # fmt: skip


def correlate(
    table: Any,
    test: Any = None,
    *,
    measures: str | Sequence[str] | None = None,
    given: str | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Correlations:
    r"""Compute rank correlations of every measure with accuracy and with the generalization gap.

    Kendall's :math:`\tau_b` (after Jiang et al., "Fantastic generalization measures and where to find them", ICLR 2020)

    - over checkpoints: for all samples and for every group; and again using only pairs of the same model,
      ``given="model"``, which controls for the method;
    - over classes: pairs of classes of the same checkpoint, pooled over checkpoints; and again given their training
      images, ``given="train"`` (Kendall's partial coefficient), which controls for class size.

    The 95 % intervals are from a bootstrap over checkpoints, or over classes if there is only one checkpoint.

    Args:
        table: results of :func:`sharpness.measure` for several checkpoints, usually on training images: a comparison,
            its ``to_frame()``, or the ``.csv`` or ``.json`` file of ``sharpness measure -o``. Or the table of a study's
            trainings, ``runs.csv`` or ``STUDY_cells.csv``, whose accuracies are on test images.
        test: table of the same checkpoints on test images, from which ``accuracy`` is taken. Without it, accuracy is
            taken from ``table`` and there is no gap. There is no gap either if ``table`` has no accuracy.
        measures: names of columns, as comma-separated text or a sequence; by default all but accuracy.
        given: a numeric column to control for everywhere, instead of ``"train"``.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Returns:
        :class:`~sharpness.results.Correlations`, with ``.to_frame()`` and ``.plot()``. ``outcome="gap"`` is the
        accuracy in ``table`` minus the accuracy in ``test``: a positive :math:`\tau` means that larger values go with
        larger gaps.

    Raises:
        UserError: no accuracy, no other measure, fewer than three checkpoints and classes, or tables of different
            models.

    >>> rows = [("a", i, c, 0.1 * i + 0.01 * c, 5.0 - i + c) for i in range(4) for c in ("all", 0, 1) if c != "all"]
    >>> frame = pd.DataFrame(rows, columns=["model", "run", "class", "accuracy", "loss"])
    >>> found = correlate(frame)
    >>> float(found.of("loss", over="classes").tau)
    1.0
    """
    require_whole("resamples", resamples)
    require_whole("seed", seed)
    if isinstance(measures, str):
        measures = [name.strip() for name in measures.split(",") if name.strip()] or None
    frame = _frame(table, "table", (*MEASURES, *(measures or ()), *([given] if given else ())))
    if "accuracy" not in frame and test is None:
        raise UserError("the table has no accuracy: measure it with the others, --measures accuracy,lambda_max,...")
    others = (*COLUMNS, "accuracy", "seed")
    known = [
        name
        for name in frame.select_dtypes("number")
        if name not in others and not name.endswith(ENDS) and not name.startswith("Unnamed: ")  # an index in a file
    ]
    for name in measures or ():
        choose("measure", name, known)
    if given is not None:
        choose("column to be given", given, list(frame.select_dtypes("number")))
    chosen = [name for name in known if name != given and (measures is None or name in measures)]
    if not chosen:
        raise UserError("the table has no measure besides accuracy: add one, such as lambda_max")
    outcomes = list(OUTCOMES)
    if test is None:
        outcomes.remove("gap")
    else:
        # Joined by model, run and class, because the tables may list other files or another order.
        told = _frame(test, "test", ("accuracy",))
        if "accuracy" not in told:
            raise UserError("test has no accuracy: measure it there, --measures accuracy")
        tested = told.set_index(list(KEYS))["accuracy"]
        frame = frame.join(tested.rename("accuracy of test"), on=list(KEYS))
        if frame["accuracy of test"].isna().all():
            raise UserError("no row of the test table has model, run and class of the other: measure the same files")
        if "accuracy" in frame:
            one, other = frame["accuracy"].max(), frame["accuracy of test"].max()
            if max(one, other) > 1 >= min(one, other):
                raise UserError(
                    f"accuracies go up to {one:g} in the table and {other:g} in test: give shares or per cent in both"
                )
            frame["gap"] = frame["accuracy"] - frame["accuracy of test"]
        else:
            outcomes.remove("gap")
        frame["accuracy"] = frame.pop("accuracy of test")
    checkpoints = frame.groupby(["model", "run"], sort=False, dropna=False).ngroup().to_numpy()
    models = frame["model"].to_numpy(str)
    is_group = frame["class"].eq(frame["group"])
    of_all = of_all_samples(frame)
    is_class = ~is_group & ~of_all
    if checkpoints.max() < 2 and is_class.sum() < 3:
        raise UserError(f"{checkpoints.max() + 1} checkpoints: give three or more, or a table of three or more classes")
    # Classes of a checkpoint depend on each other: the bootstrap draws checkpoints, or classes if there is only one.
    one = checkpoints.max() == 0
    rows: list[dict[str, Any]] = []

    def add(chosen_rows: pd.Series, over: str, subset: str, strata: np.ndarray, units: np.ndarray, z: str = "") -> None:
        partial = z not in ("", "model")
        for name in chosen:
            for outcome in outcomes:
                x, y = frame[name].to_numpy(float), frame[outcome].to_numpy(float)
                at = chosen_rows.to_numpy() & np.isfinite(x) & np.isfinite(y)
                values = frame[z].to_numpy(float) if partial else None
                at &= True if values is None else np.isfinite(values)
                if at.sum() < 3:  # the rank correlation of two points is always 1 or -1
                    continue
                found = stratified_tau(
                    x[at], y[at], strata[at], units[at], resamples, seed, None if values is None else values[at]
                )
                told = dict(zip(("tau", "tau_lower", "tau_upper"), found, strict=True))
                key = {"measure": name, "outcome": outcome, "over": over, "subset": subset, "given": z}
                rows.append({**key, **told, "rows": int(at.sum())})

    together, apart = np.zeros(len(frame)), np.arange(len(frame))
    subsets = {"all": of_all}
    subsets |= {str(g): is_group & frame["class"].eq(g) for g in dict.fromkeys(frame.loc[is_group, "class"])}
    for subset, where in subsets.items():
        add(where, "checkpoints", subset, together, checkpoints)
        if len(set(models)) > 1 and len(set(checkpoints)) > len(set(models)):
            add(where, "checkpoints", subset, models, checkpoints, "model")
        if given is not None:
            add(where, "checkpoints", subset, together, checkpoints, given)
    units = apart if one else checkpoints
    add(is_class, "classes", "every class", checkpoints, units)
    if (size := given or "train") in frame and is_class.any():
        add(is_class, "classes", "every class", checkpoints, units, size)
    if not rows:
        raise UserError("nowhere are a measure and accuracy known of three rows: fill the columns, or name others")
    titles = {name: MEASURES[name].label for name in chosen if name in MEASURES}
    return Correlations(pd.DataFrame(rows), frame[~is_group].reset_index(drop=True), titles)


def _of_study(frame: pd.DataFrame) -> pd.DataFrame:
    """Convert the trainings of a study to a table of measures: rows "all" and "few", with accuracies as shares."""
    frame = frame[frame["status"].eq("done")].rename(columns=_renamed)
    columns = [c for c in frame.columns if c in MEASURES or c.removesuffix(" tail") in MEASURES]
    key = pd.DataFrame(
        {
            "model": frame["row"].astype(str),
            "run": frame["column"].astype(object).fillna("").astype(str) + " seed " + frame["seed"].astype(str),
        }
    )
    parts = []
    for name, end in (("all", ""), ("few", " tail")):
        part = key.assign(**{"class": name, "group": "" if name == "all" else name})
        for column in columns:
            if column.endswith(" tail") == bool(end):
                part[column.removesuffix(" tail")] = frame[column]
        part["accuracy"] = frame.get("accuracy few" if end else "accuracy", np.nan) / 100
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _renamed(column: str) -> str:
    """The present name of a column in the table of a study, which may have had another name in earlier versions."""
    name, tail, more = column.partition(" tail")
    return BEFORE.get(name, name.replace("acc ", "accuracy ") if name.startswith("acc ") else name) + tail + more


def _read(table: Any, what: str) -> pd.DataFrame:
    """Convert a DataFrame, a result, a comparison or a file to a new frame."""
    if isinstance(table, pd.DataFrame):
        return table.copy()
    if hasattr(table, "to_frame"):
        return table.to_frame()
    if not isinstance(table, str | PathLike):
        raise UserError(f"{what} is a {type(table).__name__}: give a DataFrame, a file, or sharpness.compare(results)")
    try:
        frame = read_table(Path(table))
    except UserError as error:
        raise UserError(f"{what} {error}") from None
    return _of_study(frame) if {"row", "column", "status"} <= set(frame) else frame


def _frame(table: Any, what: str, numbers: Sequence[str]) -> pd.DataFrame:
    """Read a table of ``sharpness measure`` in any of its forms, and add missing :data:`KEYS`.

    Missing columns mean a single model, a single training and no groups.

    Args:
        numbers: columns that must be numbers, if they are present.

    Raises:
        UserError: a file that is not a table, a table of something else, or rows that cannot be told apart.
    """
    frame = _read(table, what)
    frame.columns = frame.columns.map(str)
    if "class" not in frame:
        one = next(iter(frame), "")
        how = "commas between the columns" if ";" in one or "\t" in one else "a table of sharpness measure"
        raise UserError(f"{what} has no column 'class': give {how}")
    if not len(frame):
        raise UserError(f"{what} has no rows: give a table of sharpness measure")
    if {"measure", "value"} <= set(frame):
        raise UserError(f"{what} has one row a measure: give to_frame() without long=True")
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise UserError(f"{what} has two columns {twice!r}: leave one out")
    for name in frame.columns.intersection(["accuracy", *numbers]):
        if (text := next((v for v in frame[name] if isinstance(v, str)), None)) is not None:
            raise UserError(f"{what} has {text!r} in column {name!r}: give numbers, and leave empty what is missing")
        frame[name] = pd.to_numeric(frame[name])  # pandas does not treat a column of None as numbers
    # Seeds of a model tell its checkpoints apart, if there is no column "run".
    if "run" not in frame and "seed" in frame:
        frame["run"] = frame["seed"]
    for name in KEYS:
        frame[name] = frame[name].astype(object).fillna("").astype(str) if name in frame else ""
    if (again := frame.duplicated(list(KEYS))).any():
        row = frame[again].iloc[0]
        raise UserError(
            f"{what} has several rows of class {row['class']!r} of model {row['model']!r}, run {row['run']!r}: tell "
            "the checkpoints of a model apart in a column 'run', or rename a class that is called as its group"
        )
    return frame
