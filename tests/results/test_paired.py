"""Paired comparisons over seeds: tests against scipy and enumeration, and the plain sentences."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from sharpness import UserError, compare
from sharpness.results import MeasureResult, Runs
from sharpness.results.paired import ORDER, Paired, holm, paired, sign_flip


def table(seed, loss, accuracy):
    """A table of two classes in one group each, with constant values."""
    values = np.array([[loss, 2 * loss], [accuracy, accuracy]])
    return MeasureResult(
        names=("loss", "accuracy"), overall=values.mean(axis=1), values=values,
        standard_errors=np.full((2, 2), 0.1), overall_standard_errors=np.full(2, 0.1), train_counts=np.array([5, 2]),
        class_names=("cat", "owl"), class_samples=np.array([5, 2]), groups={"many": (0,), "few": (1,)},
        provenance={"run": f"seed {seed}"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def models():
    """B has half of the loss of A in every seed, and no other accuracy on average."""
    random = np.random.default_rng(0)
    base = np.exp(random.normal(size=10))
    noise = random.permutation([-0.01, 0.01] * 5)
    a = [table(s, base[s], 0.5) for s in range(10)]
    b = [table(s, base[s] * np.exp(0.02 * random.normal()) / 2, 0.5 + noise[s]) for s in range(10)]
    return compare({"A": a, "B": b})


@pytest.mark.parametrize("n", [3, 7])
def test_sign_flips_are_those_of_scipy(n):
    d = np.random.default_rng(n).normal(size=n) + 0.5
    expected = scipy.stats.permutation_test(
        (d,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    ).pvalue
    assert sign_flip(d) == pytest.approx(expected)


def test_many_pairs_are_tested_by_random_flips():
    d = np.random.default_rng(0).normal(size=40) + 0.3
    assert sign_flip(d) == pytest.approx(scipy.stats.ttest_1samp(d, 0).pvalue, abs=0.02)


def test_a_mean_of_zero_is_never_distinguishable():
    """All signs of these give at least the sum of 0, which rounding leaves at some 1e-17."""
    assert sign_flip(np.array([0.1, 0.2, 0.3, -0.3, -0.2, -0.1])) == 1.0


def test_more_rows_than_random_flips_can_tell_apart_are_too_few():
    """The least p-value of 9999 random flips is 1e-4, which times 600 is more than 0.05."""
    for rows, told in ((600, "(20 pairs, too few)"), (400, "(20 pairs)")):
        row = dict.fromkeys(ORDER, 0.5) | {"measure": "loss", "of": "all", "first": "A", "second": "B", "pairs": 20}
        found = Paired(pd.DataFrame([row | {"scale": "difference"}] * rows), 0.05)
        assert found.sentences[0].endswith(told)


def test_holm_is_that_of_scipys_relatives():
    p = np.array([0.01, 0.02, 0.03, 0.5])
    np.testing.assert_allclose(holm(p), [0.04, 0.06, 0.06, 0.5])
    np.testing.assert_allclose(holm(p[[3, 0, 2, 1]]), [0.5, 0.04, 0.06, 0.06])


def test_differences_of_one_seed_are_seen_through_the_spread_over_seeds(models):
    found = models.paired()
    rows = found.to_frame().set_index(["measure", "of"])
    loss = rows.loc[("loss", "all")]
    assert (
        loss.scale == "ratio"
        and loss.lower < loss.difference < loss.upper
        and loss.difference == pytest.approx(2, rel=0.05)
    )
    assert loss.p == pytest.approx(2 / 2**10) and loss.p_holm < 0.05 and loss.effect > 3
    assert loss.verdict.startswith("A > B, ratio ")
    accuracy = rows.loc[("accuracy", "all")]
    assert accuracy.scale == "difference" and accuracy.verdict == "A and B not distinguishable (10 pairs)"
    assert set(rows.index) == {(m, of) for m in ("loss", "accuracy") for of in ("all", "many", "few")}
    # Nothing of this is seen where trainings are not paired.
    values = [np.log([r["loss"].of() for r in models[name]]) for name in "AB"]
    assert scipy.stats.ttest_ind(*values).pvalue > loss.p


def test_tables_say_what_differs_and_what_does_not(models):
    (note,) = [line for line in models.notes if line.startswith("paired over seeds")]
    assert "loss of all: A > B" in note and note.endswith("all else not distinguishable")
    few = compare({label: list(models[label][:3]) for label in models})
    (note,) = [line for line in few.notes if line.startswith("paired over seeds")]
    assert ": not distinguishable; 3 pairs cannot tell 6 comparisons apart" in note
    assert all("not distinguishable (3 pairs, too few)" in sentence for sentence in few.paired().sentences)


def test_differences_are_drawn_with_their_intervals(models):
    ratios, differences = models.paired().plot()
    assert ratios.get_xscale() == "log" and differences.get_xscale() == "linear"
    assert [t.get_text() for t in ratios.get_yticklabels()] == [f"loss of {of}" for of in ("all", "many", "few")]


def test_a_pair_without_a_ratio_has_no_dot_in_the_row_of_another(models):
    """Model C has a negative value of all samples alone, of which there is a difference and no ratio."""
    third = [
        replace(table(s, 1.0 + 0.1 * s, 0.5), overall=np.array([-1.0 - 0.1 * s, 0.5])) for s in range(len(models["A"]))
    ]
    found = compare({**models, "C": third}).paired(["loss"])
    ratios, differences = found.plot()
    rows = found.rows.set_index(["first", "second", "of"]).difference
    dots = {line.get_label(): line.get_xdata() for line in ratios.lines}
    names = [t.get_text() for t in ratios.get_yticklabels()]
    assert names == [f"loss of {of}" for of in ("all", "many", "few")]
    np.testing.assert_allclose(dots["A against B"], [rows["A", "B", of] for of in ("all", "many", "few")])
    np.testing.assert_allclose(dots["A against C"], [np.nan, rows["A", "C", "many"], rows["A", "C", "few"]])
    assert [t.get_text() for t in differences.get_yticklabels()] == ["loss of all"]


def test_measures_and_subsets_may_be_text_and_what_nobody_knows_is_refused_by_name(models):
    expected = models.paired(["loss"], ["few"]).rows
    for measures, subsets in (("loss", "few"), (" loss,", ["few"]), (iter(["loss"]), (s for s in ["few"]))):
        pd.testing.assert_frame_equal(models.paired(measures, subsets).rows, expected)
    both = models.paired("accuracy, loss").rows
    assert list(dict.fromkeys(both["measure"])) == ["accuracy", "loss"]
    assert list(models.paired("loss", 1).rows["of"]) == ["owl"]
    with pytest.raises(UserError, match="unknown measure 'lambda_mx': choose one of loss, accuracy"):
        models.paired(["loss", "lambda_mx"])
    with pytest.raises(UserError, match="unknown class or group 'fw': choose one of many, few, cat, owl"):
        models.paired("loss", [None, "fw"])


def test_what_cannot_be_paired_is_refused_and_no_table_speaks_of_it(models):
    alone = compare({"A": models["A"][0], "B": models["B"][0]})
    with pytest.raises(UserError, match="no two models share two trainings"):
        alone.paired()
    assert not any("paired" in line for line in alone.notes)
    numbered = {label: Runs(list(models[label]), [f"run {i + 1}" for i in range(10)]) for label in models}
    with pytest.raises(UserError, match="no two models share two trainings"):
        paired(numbered)
    with pytest.raises(UserError, match="level=5"):
        models.paired(level=5)
