"""Tables of many classes: groups, the sharpest classes, and quantiles over all of them."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

#: Number of classes up to which a printed table has a row for each, and number of rows for more classes.
EVERY, SHARPEST = 100, 10
#: Columns that rank classes by sharpness, or by difficulty; the first one in a table is used.
SHARPNESS = ("lambda_max", "share", "eigenvalue", "worst_rise", "trace", "random_rise", "loss")
QUANTILES = (0.05, 0.5, 0.95)


def abridged(
    table: pd.DataFrame, numbers: pd.DataFrame, class_names: Collection[str]
) -> tuple[pd.DataFrame, list[str]]:
    """Reduce a table with more than 100 classes to the sharpest of them.

    Args:
        table: as it is printed, with a column ``class``.
        numbers: the numbers of the same rows.
        class_names: names of the classes; other rows are for all samples or groups.

    Returns:
        The rows of all samples and groups, then those of the ten sharpest classes; and a line for each measure with its
        quantiles over all classes. A smaller table is returned unchanged, without lines.

    >>> names = [f"c{i}" for i in range(201)]
    >>> whole = pd.DataFrame({"class": ["all", *names], "lambda_max": range(202)})
    >>> table, notes = abridged(whole, whole, names)
    >>> table["class"].tolist()[:3], len(table), notes[1]
    (['all', 'c200', 'c199'], 11, 'lambda_max of 201 classes: 5 % 11, 50 % 101, 95 % 191')
    """
    known = set(class_names)
    column = next((name for name in SHARPNESS if name in numbers), None)
    if len(known) <= EVERY or column is None or "class" not in table:
        return table, []
    classes = numbers["class"].isin(known)
    sharpest = numbers[classes].sort_values(column, ascending=False, kind="stable")["class"].drop_duplicates()
    kept = sharpest.head(SHARPEST).tolist()
    rows = [table[~table["class"].isin(known)], *(table[table["class"] == name] for name in kept)]
    measures = [str(name) for name in numbers.columns if f"{name}_se" in numbers or name in SHARPNESS]
    notes = [f"{len(kept)} of {len(known):,} classes, those of the largest {column}; a .csv file has all"]
    for name in measures:
        found = numbers.loc[classes, name].quantile(list(QUANTILES))
        told = ", ".join(f"{100 * q:.0f} % {value:.3g}" for q, value in found.items())
        notes.append(f"{name} of {len(known):,} classes: {told}")
    return pd.concat(rows, ignore_index=True), notes
