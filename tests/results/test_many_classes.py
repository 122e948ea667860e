"""Tables of a thousand classes as they are printed."""

import numpy as np
import pandas as pd
import pytest

from sharpness.errors import UserError, choose
from sharpness.results import Comparison, MeasureResult, Runs
from sharpness.results.estimates import Estimate, mean_of
from sharpness.results.many_classes import abridged
from sharpness.statistics.estimate import interval, wilson


def table(classes):
    names = [f"U+{i:04X}" for i in range(classes)]
    values = np.random.default_rng(0).permutation(classes).astype(float)
    rows = {"class": ["all", "many", *names], "lambda_max": [0.0, 1.0, *values], "lambda_max_se": 0.1}
    return pd.DataFrame(rows), names


def test_groups_come_first_and_the_ten_sharpest_are_named():
    frame, names = table(1000)
    shown, notes = abridged(frame, frame, names)
    assert shown["class"].tolist()[:2] == ["all", "many"]
    assert shown.lambda_max.tolist()[2:] == list(range(999, 989, -1))
    assert notes[0] == "10 of 1,000 classes, those of the largest lambda_max; a .csv file has all"
    assert notes[1] == "lambda_max of 1,000 classes: 5 % 50, 50 % 500, 95 % 949"


def test_latex_has_groups_and_the_ten_sharpest_unless_all_are_asked_for():
    values = np.random.default_rng(0).permutation(1000).astype(float)[None]
    table = MeasureResult(
        class_names=tuple(f"c{i}" for i in range(1000)), class_samples=np.ones(1000, int), provenance={},
        groups={"few": tuple(range(1000))}, names=("lambda_max",), overall=np.array([5.0]), values=values,
        standard_errors=0 * values + 1, overall_standard_errors=np.array([1.0]), train_counts=np.full(1000, -1),
    )  # fmt: skip
    sharpest = [f"c{c}" for c in np.argsort(-values[0])[:10]]
    for shown in (table, Runs([table, table], ["seed 0", "seed 1"]), Comparison({"CE": table})):
        rows = [line.split(" & ") for line in shown.to_latex().splitlines() if " & " in line]
        assert [row[-4] for row in rows[1:]] == ["all", "few", *sharpest]
        assert len(shown.to_latex(rows="all").splitlines()) > 1000


def test_smaller_tables_stay_whole():
    frame, names = table(100)
    shown, notes = abridged(frame, frame, names)
    assert shown is frame
    assert notes == []


def test_every_model_has_the_same_classes():
    first, names = table(200)
    second = first.assign(lambda_max=-first.lambda_max)
    both = pd.concat([first.assign(model="a"), second.assign(model="b")], ignore_index=True)
    shown, _ = abridged(both, both, names)
    assert shown.groupby("class").model.nunique().eq(2).all()


def test_a_mistyped_class_of_a_thousand_is_told_with_those_that_are_close():
    with pytest.raises(UserError) as told:
        choose("class", "U+03E", [f"U+{i:04X}" for i in range(1000)])
    assert "U+03E" in str(told.value) and "U+03E7" in str(told.value)
    assert str(told.value).endswith(" or 990 others") and len(str(told.value)) < 160


def test_intervals_of_groups_of_many_tiny_classes_cover_their_mean_and_are_no_wider_than_they_must_be():
    random, covered, widths = np.random.default_rng(0), np.zeros(2), np.zeros(2)
    truth = random.uniform(0.8, 1, 300)
    spread = np.sqrt([(truth * (1 - truth)).sum() / 3, 300 * (np.exp(1) - 1) * np.exp(1) / 3]) / 300
    for _ in range(400):
        shares = random.binomial(3, truth) / 3
        errors = np.sqrt(3 * shares * (1 - shares) + 0.25) / 4
        losses = random.lognormal(size=(300, 3))
        values, se = losses.mean(1), losses.std(1, ddof=1) / 3**0.5
        told = (
            mean_of([*map(Estimate, shares, errors, *wilson(shares, 3))]),
            mean_of([*map(Estimate, values, se, *interval(values, se, 2, keeps_sign=True))]),
        )
        covered += [e.lower <= t <= e.upper for e, t in zip(told, (truth.mean(), np.exp(0.5)), strict=True)]
        widths += [(e.upper - e.lower) / 3.92 for e in told]
    # A share of each class is drawn to one half, which makes the interval of all too wide, not too narrow.
    assert (covered / 400 >= 0.92).all() and (widths / 400 < [2 * spread[0], 1.1 * spread[1]]).all()
