"""The per-class table agrees with the probes it is made of."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

import sharpness
from sharpness import Objective, UserError
from sharpness.probes import answers


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    sharpness.train("gcl", sharpness.load_data("digits-lt"), folder / "gcl", epochs=2)
    return folder / "gcl"


def small():
    torch.manual_seed(0)
    x, y = torch.randn(12, 3, dtype=torch.float64), torch.tensor([0] * 6 + [1] * 4 + [2] * 2)
    return Objective(nn.Linear(3, 3).double(), (x, y), groups={"many": (0,), "few": (1, 2)})


def test_columns_are_those_of_the_probes():
    objective = small()
    table = sharpness.measure(objective, sharpness.probes.MEASURES, train_counts=[60, 40, 20], trace_draws=5)
    column = dict(zip(table.names, table.values, strict=True))
    spectrum = sharpness.eigenvalues(objective, which="both", per_class=True)
    np.testing.assert_array_equal(column["lambda_max"], spectrum.largest)
    np.testing.assert_array_equal(column["lambda_min"], spectrum.smallest)
    np.testing.assert_array_equal(column["loss"], objective.class_losses())
    np.testing.assert_array_equal(column["worst_rise"], sharpness.worst_case(objective).values[2])
    rises = sharpness.random_perturbation(objective, [0.1]).rise(1)
    assert column["random_rise"][1] == rises[0][0]
    assert table["random_rise"].standard_errors[1] == rises[1][0]


def test_the_frame_has_overall_groups_and_classes_with_standard_errors():
    frame = sharpness.measure(small(), ["loss", "random_rise"], train_counts=[60, 40, 20]).to_frame()
    assert list(frame["class"]) == ["all", "many", "few", "0", "1", "2"]
    assert list(frame["train"]) == [120, 60, 60, 60, 40, 20]
    few, one, two = (frame[frame["class"] == c].iloc[0] for c in ("few", "1", "2"))
    assert few["loss"] == pytest.approx((one["loss"] + two["loss"]) / 2)
    assert few["loss_se"] == pytest.approx((one["loss_se"] ** 2 + two["loss_se"] ** 2) ** 0.5 / 2)
    rise, error = sharpness.random_perturbation(small(), [0.1]).rise("few")
    assert (few["random_rise"], few["random_rise_se"]) == (pytest.approx(rise[0]), pytest.approx(error[0]))


def test_errors_of_groups_are_the_spread_over_seeds(tmp_path):
    """All classes see the same draws and random vectors, so that errors of classes do not add up in squares."""
    objective = small()
    tables = [sharpness.measure(objective, "trace, random_rise", seed=seed) for seed in range(40)]
    traces = [
        sharpness.trace(objective, per_class=True, draws=6, seed=seed, estimator="hutchinson") for seed in range(40)
    ]
    for name, results in (("trace", traces), ("random_rise", tables)):
        rows = [result.to_frame().set_index("class").loc["few"] for result in results]
        found = np.array([[row[name], row[f"{name}_se"]] for row in rows])
        assert (found[:, 1] ** 2).mean() ** 0.5 == pytest.approx(found[:, 0].std(ddof=1), rel=0.3)
    kept = sharpness.load_result(tables[0].save(tmp_path / "table.nc"))
    pd.testing.assert_frame_equal(kept.to_frame(), tables[0].to_frame())
    older = dataclasses.replace(kept, group_standard_errors=None).to_frame().set_index("class")["trace_se"]
    assert older["few"] == pytest.approx(np.hypot(older["1"], older["2"]) / 2)


def test_overall_accuracy_counts_samples_as_the_loss_does():
    """One right and two wrong of a class that stands for 100 each, two right that stand for 1 each."""
    model = nn.Linear(2, 2, bias=False).double()
    nn.init.eye_(model.weight)
    x = torch.tensor([[1.0, 0], [0, 1], [0, 1], [0, 1], [0, 1]], dtype=torch.float64)
    objective = Objective(model, (x, torch.tensor([0, 0, 0, 1, 1])), weights=torch.tensor([100, 100, 100, 1, 1]))
    share = 102 / 302
    table = sharpness.measure(objective, ["accuracy"])
    assert table.overall[0] == pytest.approx(share)
    np.testing.assert_allclose(table.values[0], [1 / 3, 1])
    assert answers(objective).accuracy == pytest.approx(share)
    assert sharpness.random_perturbation(objective, [0.0], 1, None).base_accuracy() == pytest.approx(share)
    assert sharpness.random_perturbation(objective, [0.0], 1, None).accuracies()[0, 0] == pytest.approx(share)
    plane = sharpness.plane(objective, x=(0, 0, 1), y=(0, 0, 1), normalization=None)
    assert plane.accuracies()[0, 0] == pytest.approx(share)
    assert sharpness.worst_case(objective, 1e-9).of("worst_accuracy") == pytest.approx(share)


def test_standard_errors_over_images_are_those_of_means():
    """Of losses and answers; of a quotient v' H v, which is a mean as well; of the rise at one and the same point."""
    objective = small()
    table = sharpness.measure(objective)
    errors = dict(zip(table.names, table.standard_errors, strict=True))
    logits = objective.model(objective.x)
    losses = nn.functional.cross_entropy(logits, objective.y, reduction="none").detach().numpy()
    right = (logits.argmax(1) == objective.y).numpy()
    spectrum = sharpness.eigenvalues(objective, which="both", per_class=True)
    for c in range(3):
        chosen = (objective.y == c).numpy()
        n, part = chosen.sum(), objective.restrict(c)
        wilson = stats.binomtest(int(right[chosen].sum()), int(n)).proportion_ci(stats.chi2.cdf(1, 1), "wilson")
        assert errors["accuracy"][c] == pytest.approx((wilson.high - wilson.low) / 2)
        assert errors["loss"][c] == pytest.approx(losses[chosen].std(ddof=1) / n**0.5)
        g = part.gradient()
        with objective.at(0.05 * g / g.norm()):
            moved = nn.functional.cross_entropy(objective.model(part.x), part.y, reduction="none").detach().numpy()
        assert errors["worst_rise"][c] == pytest.approx((moved - losses[chosen]).std(ddof=1) / n**0.5, rel=1e-6)
        v = torch.from_numpy(spectrum.vectors[c, 0])
        quotients = [float(v @ part.restrict([i]).hvp(v)) for i in range(n)]
        assert errors["lambda_max"][c] == pytest.approx(np.std(quotients, ddof=1) / n**0.5, rel=1e-6)


def test_the_standard_error_of_an_eigenvalue_is_near_what_leaving_samples_out_gives():
    """The jackknife: sqrt((n - 1) / n * sum of squared deviations) over eigenvalues without one sample each."""
    torch.manual_seed(1)
    x, y = torch.randn(60, 3, dtype=torch.float64) * torch.tensor([3.0, 1.0, 0.3]), torch.arange(60) % 2
    objective = Objective(nn.Linear(3, 2).double(), (x, y))
    found = sharpness.eigenvalues(objective, tol=1e-9, standard_errors=True)
    left = [objective.restrict([i for i in range(60) if i != j]) for j in range(60)]
    values = np.array([sharpness.eigenvalues(part, tol=1e-9).values[0] for part in left])
    jackknife = (59 / 60 * ((values - values.mean()) ** 2).sum()) ** 0.5
    assert found.standard_errors[0] == pytest.approx(jackknife, rel=0.1)


def test_a_class_of_one_image_has_no_error_over_images():
    torch.manual_seed(0)
    objective = Objective(nn.Linear(3, 2).double(), (torch.randn(4, 3).double(), torch.tensor([0, 0, 0, 1])))
    table = sharpness.measure(objective, ["loss", "accuracy", "lambda_max", "worst_rise"])
    assert np.isfinite(table.standard_errors[:, 0]).all() and np.isnan(table.standard_errors[:, 1]).all()
    assert np.isfinite(table.overall_standard_errors).all()


class Counted:
    """Cross-entropy that counts its calls."""

    __name__, calls = "counted", 0

    def __call__(self, outputs, targets):
        self.calls += 1
        return nn.functional.cross_entropy(outputs, targets, reduction="none")


def test_an_interrupted_table_goes_on_where_it_was_model_by_model(tmp_path, monkeypatch):
    def models(loss):
        torch.manual_seed(0)
        data = torch.randn(12, 3, dtype=torch.float64), torch.tensor([0] * 6 + [1] * 4 + [2] * 2)
        return {name: Objective(nn.Linear(3, 3).double(), data, loss) for name in "ab"}

    whole = Counted()
    expected = sharpness.measure(models(whole))
    first = Counted()
    sharpness.measure(models(first)["a"])
    interrupted, inside = Counted(), nn.functional.cross_entropy

    def stopping(*args, **options):
        if interrupted.calls >= whole.calls - 1:  # in the second model, when most is done
            raise KeyboardInterrupt
        return inside(*args, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(nn.functional, "cross_entropy", stopping)  # a change of the loss would make it another one
        sharpness.measure(models(interrupted), resume=tmp_path)
    resumed = Counted()
    built = models(resumed)
    before = resumed.calls
    found = sharpness.measure(built, resume=tmp_path)
    assert resumed.calls - before < whole.calls - first.calls
    for name in "ab":
        np.testing.assert_array_equal(found[name].values, expected[name].values)
        np.testing.assert_array_equal(found[name].standard_errors, expected[name].standard_errors)
    again = Counted()
    built = models(again)
    before = again.calls
    sharpness.measure(built, resume=tmp_path)
    assert again.calls - before < 12  # the loss at the centre, which tells one function from another
    (tmp_path / sorted(tmp_path.glob("*.nc"))[0].name).write_bytes(b"damaged")
    repeated = sharpness.measure(models(Counted()), resume=tmp_path)
    np.testing.assert_array_equal(repeated["a"].values, expected["a"].values)


def test_the_work_is_announced_with_the_time_it_should_take(caplog):
    with caplog.at_level("INFO", logger="sharpness"):
        sharpness.measure({"a": small(), "b": small()}, ["loss", "random_rise"])
    said = [r.message for r in caplog.records]
    assert said[0].startswith("measuring loss, random_rise of a and 1 more on 12 samples of 3 classes, about ")
    assert len(said) == 2  # of curvature products, which are not needed, nothing


def test_nothing_is_timed_where_nothing_is_announced(caplog, monkeypatch):
    monkeypatch.setattr("sharpness.probes.shared.cost._seconds", lambda work: pytest.fail("timed"))
    with caplog.at_level("WARNING", logger="sharpness"):
        sharpness.measure(small(), ["loss", "lambda_max"])
        sharpness.critical_radius(small(), draws=2)


def test_what_has_not_converged_is_named_once_a_model(caplog):
    table = sharpness.measure({"mine": small()}, ["lambda_max", "lambda_min"], max_iterations=1)["mine"]
    (said,) = [r.message for r in caplog.records if "converged" in r.message]
    missing = [name for name, gone in zip("012", np.isnan(table.values).any(0), strict=True) if gone]
    assert np.isnan(table.overall).any() and missing
    assert said.startswith("mine: not converged to tol=0.001 in max_iterations=1")
    assert said.endswith("eigenvalues of " + ", ".join(["all samples", *missing]))


def test_models_and_mappings_of_them_are_measured_on_data():
    objective = small()
    expected = sharpness.measure(objective, ["loss"]).values
    data = {"data": (objective.x, objective.y), "batch_size": 5}
    np.testing.assert_allclose(sharpness.measure(objective.model, "loss", **data).values, expected)
    both = sharpness.measure({"a": objective.model, "b": objective.model}, "loss", **data)
    assert [table.label for table in both.values()] == ["a", "b"]
    with pytest.raises(UserError, match="Linear is a model without data"):
        sharpness.measure(objective.model)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"draws": 0}, "draws=0: give an integer, at least 2"),
        ({"draws": 1}, "draws=1: give an integer, at least 2, for a standard error"),
        ({"draws": 2.5}, "draws=2.5: give an integer"),
        ({"trace_draws": 1}, "trace_draws=1: give an integer, at least 2"),
        ({"max_iterations": 0}, "max_iterations=0: give an integer, at least 1"),
        ({"radius": float("nan")}, "radius=nan: give a finite number above 0"),
        ({"radius": -0.1}, "radius=-0.1: give"),
        ({"rho": -1.0}, "rho=-1.0: give"),
        ({"tol": float("inf")}, "tol=inf: give"),
    ],
)
def test_settings_are_checked_before_any_work(setting, message):
    loss = Counted()
    objective = Objective(nn.Linear(3, 3).double(), (torch.randn(4, 3).double(), torch.tensor([0, 1, 2, 0])), loss)
    before = loss.calls
    with pytest.raises(UserError, match=message):
        sharpness.measure(objective, **setting)
    assert loss.calls == before


def test_a_checkpoint_is_measured_on_the_data_it_was_trained_on(run):
    table = sharpness.measure(str(run), ["accuracy", "loss"])
    assert table.class_samples.tolist() == [124, 84, 58, 39, 27, 18, 12, 8, 6, 4]
    assert table.label == "GCL"
    assert table.provenance["logit_scale"] == 20.0
    test = sharpness.measure(str(run), ["accuracy"], split="test")
    recorded = sharpness.load_checkpoint(run).manifest.accuracy
    assert test.overall[0] == recorded["accuracy"]
    np.testing.assert_allclose(test.values[0], [recorded[f"accuracy_class_{c}"] for c in range(10)])


def test_limiting_the_samples_keeps_the_weight_of_every_class(run):
    limited = sharpness.checkpoint_objective(str(run), limit_per_class=4)
    assert limited.class_samples.tolist() == [4] * 10
    shares = np.array([124, 84, 58, 39, 27, 18, 12, 8, 6, 4]) / 380
    assert limited.loss() == pytest.approx(shares @ limited.class_losses(), rel=1e-6)
    given = sharpness.checkpoint_objective(str(run), limit_per_class=4, weights=[2.0] * 40, class_names=None)
    assert set(given.weights.tolist()) == {2.0} and given.class_names == limited.class_names
    assert given.loss() == pytest.approx(limited.class_losses().mean(), rel=1e-6)


def test_the_training_loss_of_gcl_is_deterministic_and_another_than_cross_entropy(run):
    trained_with = sharpness.checkpoint_objective(str(run), loss="training")
    trained_with.check()
    assert trained_with.loss() != pytest.approx(sharpness.checkpoint_objective(str(run)).loss(), rel=1e-3)


def test_a_mapping_compares(run):
    both = sharpness.measure({"a": str(run), "b": str(run)}, ["loss"])
    assert len(both.to_frame()) == 2 * 14 - 2 * (14 - len(both["a"].to_frame()))
    assert set(both.to_frame()["model"]) == {"a", "b"}


def test_bad_settings_are_refused(run):
    with pytest.raises(UserError, match="unknown measure 'flatness'"):
        sharpness.measure(small(), ["flatness"])
    with pytest.raises(UserError, match="no part 'val' here: choose one of train, test"):
        sharpness.measure(str(run), split="val")
    with pytest.raises(UserError, match="no measures: choose some of accuracy"):
        sharpness.measure(small(), [])
    with pytest.raises(UserError, match="train_counts of 2 classes: give one for each of the 3"):
        sharpness.measure(small(), train_counts=[3, 4])
    with pytest.raises(UserError, match="split: an Objective has its own, give them when it is made"):
        sharpness.measure(small(), split="test")
    with pytest.raises(UserError, match="no checkpoint at"):
        sharpness.measure("nowhere.pt")


def test_a_folder_stands_for_the_checkpoints_in_it(run, tmp_path):
    """One under a name of its own, or several by what they call themselves and where they lie."""
    shutil.copy(run / "last.pt", tmp_path / "mine.pt")
    alone = sharpness.measure(tmp_path, ["loss"])
    assert alone.overall == sharpness.measure(run, ["loss"]).overall
    shutil.copy(run / "last.pt", tmp_path / "other.pt")
    assert list(sharpness.measure(tmp_path, ["loss"])) == [str(tmp_path / "mine.pt"), str(tmp_path / "other.pt")]


def test_saved_work_is_that_of_the_parameters_in_scope(tmp_path):
    """Equally many: freezing one layer or another of the same size leaves the loss and its number of parameters."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    data, tables = (torch.randn(9, 3, dtype=torch.float64), torch.arange(9) % 3), []
    for frozen in (0, 2):
        for layer in (0, 2):
            model[layer].requires_grad_(layer != frozen)
        found = [sharpness.measure(model, data, "lambda_max", resume=folder) for folder in (tmp_path, None)]
        np.testing.assert_allclose(found[0].values, found[1].values, rtol=1e-6)
        tables.append(found[0].values)
    assert not np.allclose(*tables, rtol=0.01)
