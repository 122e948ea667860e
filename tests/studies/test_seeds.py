"""Means, spreads and changes over seeds, against numbers worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sharpness.studies.figures import summary_text
from sharpness.studies.seeds import changes, failures, over_seeds, table_of
from sharpness.studies.settings import Settings
from sharpness.studies.summary import to_markdown


def cell(row, column, seed, status="done", reason="", **numbers):
    return {"row": row, "column": column, "seed": seed, "status": status, "reason": reason, **numbers}


@pytest.fixture
def cells():
    """One method, three seeds; SAM of seed 2 diverged, and seed 1 of the reference rises by less than nothing."""
    return pd.DataFrame(
        [
            cell("CE", "none", 0, accuracy=90.0, lambda_max=4.0, random_rise=0.2),
            cell("CE", "none", 1, accuracy=92.0, lambda_max=8.0, random_rise=-0.1),
            cell("CE", "none", 2, accuracy=94.0, lambda_max=6.0, random_rise=0.3),
            cell("CE", "SAM", 0, accuracy=91.0, lambda_max=2.0, random_rise=0.1),
            cell("CE", "SAM", 1, accuracy=95.0, lambda_max=1.0, random_rise=0.1),
            cell("CE", "SAM", 2, "diverged", "training diverged in epoch 3"),
        ]
    )


def entry(table, measure, column="SAM"):
    found = table[(table.measure == measure) & (table.column == column)]
    assert len(found) == 1
    return found.iloc[0]


def test_means_and_standard_deviations_over_the_seeds_that_are_there(cells):
    none, sam = (over_seeds(cells).iloc[i] for i in (0, 1))
    assert (none.seeds, none.asked, none.accuracy, none["accuracy sd"]) == (3, 3, 92.0, 2.0)
    assert (none["lambda_max"], none["lambda_max sd"]) == (6.0, 2.0)
    assert (sam.seeds, sam.asked, sam.accuracy) == (2, 3, 93.0)
    assert sam["accuracy sd"] == pytest.approx(math.sqrt(8))


def test_accuracies_change_by_the_difference_of_runs_of_one_seed(cells):
    acc = entry(changes(cells, "none"), "accuracy")
    assert (acc.seeds, acc.value) == (2, 2.0)  # (91 - 90, 95 - 92)
    assert [acc.low, acc.high] == pytest.approx([2 - math.sqrt(2), 2 + math.sqrt(2)])


def test_sharpness_changes_by_the_geometric_mean_of_ratios(cells):
    top = entry(changes(cells, "none"), "lambda_max")
    logs = [math.log(2 / 4), math.log(1 / 8)]
    assert top.value == pytest.approx(1 / 4)  # sqrt(1/2 * 1/8)
    assert top.high / top.value == pytest.approx(math.exp(abs(logs[0] - logs[1]) / math.sqrt(2)))
    assert top.value / top.low == pytest.approx(top.high / top.value)


def test_a_ratio_to_a_negative_number_does_not_count(cells):
    rise = entry(changes(cells, "none"), "random_rise")
    assert (rise.seeds, rise.value) == (1, pytest.approx(0.5))
    assert math.isnan(rise.low) and math.isnan(rise.high), "one seed has no spread"


def test_every_measure_of_every_column_but_the_reference_is_compared(cells):
    table = changes(cells, "none")
    assert list(table.measure) == ["accuracy", "lambda_max", "random_rise"]
    assert set(table.column) == {"SAM"}


def test_the_order_of_the_cells_does_not_matter(cells):
    shuffled = pd.concat([cells[cells.column == "none"].iloc[::-1], cells[cells.column == "SAM"]])
    pd.testing.assert_frame_equal(changes(shuffled, "none"), changes(cells, "none"))


def test_one_reference_for_all_rows_is_listed_with_no_change():
    cells = pd.DataFrame(
        [
            cell("plain", "alone", 0, accuracy=80.0, lambda_max=4.0),
            cell("plain", "both", 0, accuracy=83.0, lambda_max=4.0),
            cell("full", "alone", 0, accuracy=85.0, lambda_max=1.0),
        ]
    )
    table = changes(cells, "alone", "plain").set_index(["row", "column", "measure"])
    assert table.value["plain", "alone", "accuracy"] == 0
    assert table.value["plain", "both", "accuracy"] == 3
    assert table.value["full", "alone", "accuracy"] == 5
    assert table.value["full", "alone", "lambda_max"] == 0.25


def test_a_study_of_which_every_cell_diverged_is_a_table_of_dashes():
    columns = Settings(Path()).columns
    nothing = dict.fromkeys(columns, math.nan)
    cells = pd.DataFrame([cell("CE", c, 0, "diverged", "at once", **nothing) for c in ("none", "SAM")])
    measures = [c for c in columns if not c.endswith(" se")]
    summary = over_seeds(cells)
    assert summary[measures].isna().all(axis=None)
    text = to_markdown(table_of(summary, ("method", "operation")), "sd")
    assert text.splitlines()[2] == "| CE | none | 0 of 1 | " + " | ".join(["–"] * len(measures)) + " |"
    assert np.isnan(changes(cells, "none").value).all()


def test_the_table_shows_means_spreads_and_of_how_many_seeds(cells):
    columns = ["row", "column", "seed", "status", "reason", "accuracy", "lambda_max"]
    text = to_markdown(table_of(over_seeds(cells[columns]), ("method", "operation")), "sd")
    assert text.splitlines() == [
        "| method | operation | seeds | accuracy | lambda_max |",
        "| --- | --- | --- | ---: | ---: |",
        "| CE | none | 3 | 92 ± 2 | 6 ± 2 |",
        "| CE | SAM | 2 of 3 | 93 ± 3 | 1.5 ± 0.7 |",
    ]


def test_single_trainings_of_different_seeds_have_no_spread():
    cells = pd.DataFrame([cell("CE", "", 0, lambda_max=4.0), cell("GCL", "", 1, lambda_max=8.0)])
    cells["lambda_max se"] = 0.5
    text = summary_text(cells, over_seeds(cells), "A note.").replace("\n", " ")
    assert "One training each, with seeds 0, 1;" in text and "| CE | 4.0 ± 0.5 |" in text
    assert "standard deviations" not in text and "Welch" not in text


def test_the_numbers_of_trainings_may_differ_by_method():
    cells = pd.DataFrame([
        *(cell("CE", "", seed, lambda_max=4.0 + seed) for seed in (0, 1, 2)), cell("GCL", "", 3, lambda_max=8.0),
    ])  # fmt: skip
    text = summary_text(cells, over_seeds(cells), "A note.").replace("\n", " ")
    assert "over 1 to 3 trainings (seeds 0, 1, 2, 3)" in text and "| CE | 5.0 ± 1.0 |" in text


def test_what_failed_is_told_with_its_reason(cells):
    assert failures(cells) == ["CE, SAM, seed 2: diverged: training diverged in epoch 3"]


def test_large_numbers_have_no_exponent():
    table = pd.DataFrame([{"a": 1234.5, "a sd": 160.0, "b": 2.57e-7, "b sd": 4.4e-7}])
    assert to_markdown(table, "sd").splitlines()[2] == "| 1230 ± 160 | 0.0000003 ± 0.0000004 |"
