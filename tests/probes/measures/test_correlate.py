"""Rank correlations: SciPy's coefficient, pairs counted one by one, and resamples that are made for real."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy.stats import kendalltau

import sharpness
from sharpness.cli import main
from sharpness.errors import UserError
from sharpness.results.correlations import stratified_tau, weighted_tau


def drawn(n=40, ties=False, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=n)
    y = x + random.normal(size=n)
    return (np.round(x), np.round(y)) if ties else (x, y)


@pytest.mark.parametrize("ties", [False, True])
def test_one_stratum_is_kendalls_tau(ties):
    x, y = drawn(ties=ties)
    value, *_ = stratified_tau(x, y, np.zeros(40), np.arange(40), 0, 0)
    assert value == pytest.approx(kendalltau(x, y).statistic, rel=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_strata_compare_pairs_inside_them_alone(ties):
    x, y = drawn(ties=ties)
    strata = np.arange(40) % 3
    agreeing = of_x = of_y = 0.0
    for i, j in itertools.combinations(range(40), 2):
        if strata[i] == strata[j]:
            s, t = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
            agreeing, of_x, of_y = agreeing + s * t, of_x + s * s, of_y + t * t
    value, *_ = stratified_tau(x, y, strata, np.arange(40), 0, 0)
    assert value == pytest.approx(agreeing / np.sqrt(of_x * of_y), rel=1e-12)


def test_given_a_column_it_is_kendalls_partial_coefficient():
    x, y = drawn(30)
    z = x + np.random.default_rng(5).normal(size=30)
    value, low, high = stratified_tau(x, y, np.zeros(30), np.arange(30), 300, 0, z)
    xy, xz, yz = (kendalltau(a, b).statistic for a, b in ((x, y), (x, z), (y, z)))
    assert value == pytest.approx((xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2)), rel=1e-12)
    assert low < value < high
    assert np.isnan(stratified_tau(z, y, np.zeros(30), np.arange(30), 0, 0, z)[0]), "nothing is left of z itself"


def test_the_size_of_a_class_is_given_where_the_table_has_it():
    """A measure that follows accuracy through the size of the class alone has no partial coefficient."""
    random = np.random.default_rng(0)
    rows = []
    for run, c in itertools.product(range(40), range(6)):
        own, noise = random.normal(size=2)
        key = {"model": "m", "run": str(run), "class": str(c), "group": "", "train": 6 - c}
        rows.append({**key, "accuracy": -c + own, "follows": c + noise, "tells": c - own})
    found = sharpness.correlate(pd.DataFrame(rows), resamples=300)
    for name, partial in (("follows", 0.0), ("tells", -1.0)):
        assert found.of(name, over="classes").tau < -0.5
        left = found.of(name, over="classes", given="train")
        assert abs(left.tau - partial) < (0.15 if name == "follows" else 0.6)
    assert (
        found.of("follows", over="classes", given="train").tau_upper
        > 0
        > found.of("tells", over="classes", given="train").tau_upper
    )
    with pytest.raises(UserError, match="unknown column to be given 'size'"):
        sharpness.correlate(pd.DataFrame(rows), given="size")


@pytest.mark.parametrize("old", [False, True])
def test_the_trainings_of_a_study_are_read_by_old_and_by_new_names(old, tmp_path):
    random = np.random.default_rng(1)
    names = ("acc", "λmax", "worst rise") if old else ("accuracy", "lambda_max", "worst_rise")
    accuracy, largest, rise = names
    few, tail = random.uniform(50, 90, 8), random.uniform(1, 9, 8)
    table = pd.DataFrame({
        "row": ["CE"] * 4 + ["GCL"] * 4, "column": ["none", "swa"] * 4, "seed": [0, 0, 1, 1] * 2, "status": "done",
        accuracy: np.arange(8.0), f"{accuracy} few": few, largest: -np.arange(8.0), f"{largest} tail": tail,
        f"{largest} tail se": 1.0, rise: random.normal(size=8),
    })  # fmt: skip
    table.loc[8] = {**table.loc[7].to_dict(), "status": "diverged", accuracy: np.nan}
    table.to_csv(tmp_path / "cells.csv", index=False)
    found = sharpness.correlate(tmp_path / "cells.csv", resamples=0)
    assert found.of("lambda_max").tau == -1 and found.of("lambda_max").rows == 8
    rows = found.to_frame().set_index(["measure", "subset", "given"])
    assert rows.loc[("lambda_max", "few", ""), "tau"] == pytest.approx(kendalltau(few, tail).statistic)
    assert set(rows.index.get_level_values("measure")) == {"lambda_max", "worst_rise"}
    assert ("lambda_max", "all", "model") in rows.index


def test_a_study_without_few_shot_classes_is_correlated_over_all_samples(tmp_path):
    table = pd.DataFrame({"row": "CE", "column": "none", "seed": range(4), "status": "done", "accuracy": range(4),
                          "lambda_max": [4, 3, 2, 1]})  # fmt: skip
    table.to_csv(tmp_path / "cells.csv", index=False)
    found = sharpness.correlate(tmp_path / "cells.csv", resamples=0)
    assert set(found.to_frame()["subset"]) == {"all"} and found.of("lambda_max").tau == -1


def test_a_resample_is_the_coefficient_of_the_rows_that_it_repeats():
    x, y = drawn(12)
    signs = tuple(np.sign(v[:, None] - v) for v in (x, y))
    counts = np.random.default_rng(1).multinomial(12, np.full(12, 1 / 12), size=20)
    for value, count in zip(weighted_tau(signs, counts), counts, strict=True):
        assert value == pytest.approx(kendalltau(np.repeat(x, count), np.repeat(y, count)).statistic, rel=1e-12)


def test_the_interval_holds_the_coefficient_of_the_population_about_as_often_as_it_says():
    """Normal numbers with correlation r have the coefficient 2 arcsin(r) / pi; of 200 intervals some 190 should."""
    r, held = 0.6, 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        x, noise = random.normal(size=(2, 40))
        _, low, high = stratified_tau(x, r * x + np.sqrt(1 - r * r) * noise, np.zeros(40), np.arange(40), 400, seed)
        held += low <= 2 * np.arcsin(r) / np.pi <= high
    assert 178 <= held <= 200  # four standard deviations below 190


def test_checkpoints_of_many_classes_are_drawn_whole_without_a_matrix_of_all_pairs():
    """Rows of a resample made for real: those of every checkpoint as often as it was drawn."""
    random = np.random.default_rng(2)
    x, y, strata = *np.round(random.normal(size=(2, 30))), np.arange(30) % 5  # with ties
    value, low, high = stratified_tau(x, y, strata, strata, 40, 7)
    taus = []
    for count in np.random.default_rng(7).multinomial(5, np.full(5, 0.2), size=40):
        rows = np.repeat(np.arange(30), count[strata])
        s, t = (np.sign(v[rows][:, None] - v[rows]) * (strata[rows][:, None] == strata[rows]) for v in (x, y))
        taus.append((s * t).sum() / np.sqrt((s * s).sum() * (t * t).sum()))
    assert [low, high] == pytest.approx(np.quantile(taus, [0.025, 0.975]), rel=1e-12) and low < value < high


def tables(models=2, runs=4, classes=5):
    """Tables of training and test images, with a measure that orders accuracy backwards and one that is noise."""
    random = np.random.default_rng(3)
    rows, tested = [], []
    for m, run in itertools.product(range(models), range(runs)):
        for c in ("all", "few", *map(str, range(classes))):
            level = m + 0.1 * run + (0.01 * int(c) if c.isdigit() else 0.05)
            key = {"model": f"m{m}", "run": f"seed {run}", "class": c, "group": "few" if c != "all" else ""}
            rows.append(
                {**key, "accuracy": 0.99, "lambda_max": 100 - level, "lambda_max_se": 1.0, "rise": random.random()}
            )
            tested.append({**key, "accuracy": level / (models + 1)})
    return pd.DataFrame(rows), pd.DataFrame(tested)


def test_tables_are_correlated_over_checkpoints_given_the_model_and_over_classes():
    train, test = tables()
    found = sharpness.correlate(train, test)
    frame = found.to_frame()
    assert set(frame["measure"]) == {"lambda_max", "rise"} and set(frame["outcome"]) == {"accuracy", "gap"}
    assert set(frame["subset"]) == {"all", "few", "every class"}
    for over, given in (("checkpoints", ""), ("checkpoints", "model"), ("classes", "")):
        assert found.of("lambda_max", "accuracy", over, given).tau == pytest.approx(-1)
        assert found.of("lambda_max", "gap", over, given).tau == pytest.approx(1)
    noise = found.of("rise")
    everything = train["class"] == "all"
    expected = kendalltau(train.loc[everything, "rise"], test.loc[everything, "accuracy"]).statistic
    assert noise.tau == pytest.approx(expected) and noise.tau_lower < noise.tau < noise.tau_upper


def test_a_class_called_all_is_a_class():
    train, test = (t.replace({"class": {"4": "all"}}) for t in tables())
    expected, found = sharpness.correlate(*tables(), resamples=0), sharpness.correlate(train, test, resamples=0)
    pd.testing.assert_frame_equal(found.to_frame(), expected.to_frame())
    for one, other in zip(*(np.ravel(c.plot("checkpoints")) for c in (found, expected)), strict=True):
        assert [len(line.get_xdata()) for line in one.lines] == [len(line.get_xdata()) for line in other.lines]
    with pytest.raises(UserError, match="several rows of class 'few' .* rename a class that is called as its group"):
        sharpness.correlate(train.replace({"class": {"all": "few"}}), test)


def test_without_a_test_table_there_is_no_gap_and_one_checkpoint_has_its_classes():
    train, test = tables(1, 1, 9)
    test["lambda_max"] = train["lambda_max"]
    found = sharpness.correlate(test.drop(columns=["model", "run"]))
    frame, told = found.to_frame(), found.caption("classes")
    assert told["Errors"].endswith("a bootstrap over classes") and "Models" not in told
    assert sharpness.correlate(*tables(), resamples=0).caption("classes")["Errors"].endswith("over checkpoints")
    assert frame["over"].tolist() == ["classes"] and frame["outcome"].tolist() == ["accuracy"]
    assert frame["tau"].item() == pytest.approx(-1) and frame["tau_upper"].item() < 0


def test_measured_models_are_taken_as_they_are():
    import torch

    torch.manual_seed(0)
    x, y = torch.randn(30, 4), torch.arange(30) % 3
    models = {f"m{i}": sharpness.Objective(torch.nn.Linear(4, 3).eval(), (x, y)) for i in range(4)}
    results = sharpness.measure(models, measures="accuracy,loss")
    found = sharpness.correlate(results)
    rows = [(float(r["loss"].overall), float(r["accuracy"].overall)) for r in results.values()]
    assert found.of("loss").tau == pytest.approx(kendalltau(*zip(*rows, strict=True)).statistic)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="accuracy"), "no accuracy: measure it"),
        (lambda t: t[["model", "run", "class", "group", "accuracy"]], "no measure besides accuracy"),
        (lambda t: t.drop(columns="class"), "no column 'class'"),
        (lambda t: t[t["model"].eq("m0") & t["run"].eq("seed 0")].head(3), "1 checkpoints: give three"),
        (lambda t: t.head(0), "no rows"),
        (lambda t: t.drop(columns="run"), "several rows of class 'all' of model 'm0'.*column 'run'"),
        (lambda t: pd.concat([t, t[["rise"]]], axis=1), "two columns 'rise'"),
        (lambda t: t.assign(accuracy="85%"), "'85%' in column 'accuracy': give numbers"),
        (lambda t: t.assign(lambda_max="-"), "'-' in column 'lambda_max': give numbers"),
        (lambda t: t.assign(lambda_max=np.nan, rise=None), "nowhere are a measure and accuracy known"),
        (lambda t: t.rename(columns={"rise": "value"}).assign(measure=0), "without long=True"),
        (dict, "table is a dict: give a DataFrame"),
    ],
)
def test_what_is_no_such_table_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        sharpness.correlate(change(tables()[0]))


def test_settings_and_a_test_table_that_do_not_fit_are_refused():
    train, test = tables()
    for given, options, message in [
        (test.drop(columns="accuracy"), {}, "test has no accuracy"),
        (test.assign(accuracy=100 * test["accuracy"]), {}, "give shares or per cent in both"),
        (None, {"resamples": -1}, "resamples=-1"),
        (None, {"seed": -1}, "seed=-1"),
    ]:
        with pytest.raises(UserError, match=message):
            sharpness.correlate(train, given, **options)
    found = sharpness.correlate(train.rename(columns={"run": "seed"}), measures="rise, lambda_max", resamples=0)
    assert set(found.to_frame()["measure"]) == {"rise", "lambda_max"}, "seeds tell checkpoints apart"
    for act in (lambda: found.of("nope"), lambda: found.plot("groups")):
        with pytest.raises(UserError, match="choose one of"):
            act()


def test_the_command_reads_what_measure_wrote(tmp_path, capsys):
    for name, table in zip(("train", "test"), tables(), strict=True):
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    arguments = ["correlate", str(tmp_path / "train.csv"), "--test", str(tmp_path / "test.csv"), "--resamples", "50"]
    train = pd.read_csv(tmp_path / "train.csv")
    train.replace({"class": {"0": "NA"}}).to_csv(tmp_path / "named.csv", index=False)
    assert sharpness.correlate(tmp_path / "named.csv", resamples=0).of("rise", over="classes").rows == 40
    assert main([*arguments, "-o", str(tmp_path / "tau.csv"), "--plot", str(tmp_path / "tau")]) == 0
    assert "lambda_max" in capsys.readouterr().out
    written = pd.read_csv(tmp_path / "tau.csv")
    assert written["tau"].abs().max() == pytest.approx(1) and (tmp_path / "tau.png").exists()
    assert "Kendall's rank correlation" in " ".join((tmp_path / "tau.txt").read_text().split())
    output = tmp_path / "part.csv"
    assert main([*arguments, "--plot", str(tmp_path / "part"), "--order", "m0", "-o", str(output)]) == 2
    assert "order leaves out m1" in capsys.readouterr().err and not output.exists()
    assert main(["correlate", str(tmp_path / "missing.csv")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_the_picture_has_a_panel_for_each_pair_and_says_the_coefficient():
    found = sharpness.correlate(*tables())
    axes = found.plot()
    assert axes.shape == (2, 2) and "-1.00" in axes[0, 0].get_title("left").replace("−", "-")
    assert {line.get_label() for line in axes[0, 0].lines} == {"m0", "m1"}
    assert len(found.plot("classes")[0, 0].lines[0].get_xdata()) == 20


def test_the_picture_takes_the_options_of_every_picture():
    found = sharpness.correlate(*tables())
    axes = found.plot(order=["m1", "m0"], labels={"m1": "Mine"}, width="single", title="Ranks", log=True)
    figure = axes[0, 0].figure
    assert [line.get_label() for line in axes[0, 0].lines] == ["Mine", "m0"]
    assert (figure.get_figwidth(), figure.get_suptitle()) == (3.3, "Ranks")
    assert axes[0, 0].get_xscale() in ("log", "symlog")
    given = Figure().subplots(2, 2)
    assert (found.plot(ax=given) == given).all()
    for options, told in [
        ({"wdth": 3}, "no option 'wdth'"),
        ({"order": ["m7"]}, "'m7'"),
        ({"order": ["m1"]}, "order leaves out m0, but the coefficients are those of all models"),
        ({"ax": given[0]}, "4 panels"),
    ]:
        with pytest.raises(UserError, match=told):
            found.plot(**options)
