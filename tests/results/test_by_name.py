"""Measures by name, of all samples, of classes and of groups, against the arrays that they come from."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import sharpness
from sharpness import Objective, UserError

FEW = [0, 2]


@pytest.fixture(scope="module")
def objective():
    torch.manual_seed(2)
    x, y = torch.randn(14, 4), torch.tensor([0] * 2 + [1] * 8 + [2] * 4)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return Objective(model, (x, y), groups={"many": (1,), "few": FEW}, class_names=("owl", "cat", "dog"))


def test_a_table_answers_by_name(objective):
    table = sharpness.measure(objective, "loss,random_rise,trace", draws=4)
    assert tuple(table) == table.keys() == table.names
    for m, name in enumerate(table.names):
        one = table[name]
        assert one.overall == table.overall[m] == one.of() == table.of(name)
        np.testing.assert_array_equal(one.values, table.values[m])
        np.testing.assert_array_equal(one.standard_errors, table.standard_errors[m])
        np.testing.assert_array_equal(one.intervals, [table.lower[m], table.upper[m]])
        assert one.of("cat") == one.of(1) == one.of(np.int64(1)) == table.of(name, "cat") == table.values[m, 1]
        assert one.of("few") == pytest.approx(table.values[m, FEW].mean())
        assert one.standard_error("few") == pytest.approx(table.group_standard_errors[m, 1]) or name == "loss"
    few = table["loss"]
    squares = (table.standard_errors[0, FEW] ** 2).sum() ** 0.5 / 2
    assert few.standard_error("few") == pytest.approx(squares)
    assert few.interval("few") == pytest.approx((table.group_lower[0, 1], table.group_upper[0, 1]))


def test_the_worst_case_needs_no_name(objective):
    worst = sharpness.worst_case(objective, 0.1, 2)
    m = worst.names.index("worst_rise")
    assert worst.of() == worst.overall[m] and worst.of("dog") == worst.values[m, 2]
    assert worst.of("few") == worst["worst_rise"].of("few") == pytest.approx(worst.values[m, FEW].mean())
    assert worst.of(subset="few") == worst.of("few")
    assert worst.of("loss", "few") == pytest.approx(worst.values[0, FEW].mean())
    assert sharpness.trace(objective, per_class=True, seed=3).of("few") > -np.inf


def test_eigenvalues_by_end(objective):
    ends = sharpness.eigenvalues(objective, 2, "both", per_class=True, standard_errors=True)
    assert ends.keys() == ("lambda_max", "lambda_min")
    np.testing.assert_array_equal(ends["lambda_max"].values, ends.values[:, 0])
    np.testing.assert_array_equal(ends["lambda_min"].standard_errors, ends.standard_errors[:, -1])
    assert ends.of("few") == pytest.approx(ends.values[FEW, 0].mean())
    assert ends.of("lambda_min", "few") == pytest.approx(ends.values[FEW, -1].mean())
    whole = sharpness.eigenvalues(objective, which="SA")
    assert whole.of() == whole["lambda_min"].overall == whole.values[0]
    with pytest.raises(UserError, match=r"of every class: name one, or ask for per_class=False"):
        ends.of()
    with pytest.raises(UserError, match=r"of all samples together: ask for per_class=True"):
        whole.of("few")


def test_layers_by_name(objective):
    layers = sharpness.trace(objective, per_layer=True, per_class=True, draws=5, estimator="hutchinson")
    np.testing.assert_array_equal(layers["2"].values, layers.values[1])
    assert layers.of("0", "few") == pytest.approx(layers.values[0, FEW].mean())
    half = stats.t.ppf(0.975, 4) * layers.standard_errors[1, 2]
    np.testing.assert_allclose(layers["2"].interval("dog"), layers.values[1, 2] + np.array([-half, half]))
    # Classes share the random vectors: the error of a mean is at most the mean of the errors.
    assert layers["0"].standard_error("few") == pytest.approx(layers.standard_errors[0, FEW].mean())
    with pytest.raises(UserError, match="of which layer"):
        layers.of("few")
    found = sharpness.eigenvalues(objective, per_layer=True)
    assert found.standard_errors is None and found.residuals.shape == found.values.shape
    assert found.of("2") == found.values[1, 0] and np.isnan(found["2"].standard_error())


def test_densities_perturbations_and_landscapes_by_name(objective):
    density = sharpness.spectral_density(objective, per_class=True, draws=3, steps=5)
    rules = [density.quadrature(c) for c in FEW]
    assert density.of("few") == pytest.approx(np.mean([rule.size * rule.moment(1)[0] for rule in rules]))
    assert density.of("share_above_1%", "cat") == density["share_above_1%"].values[1]
    shaken = sharpness.random_perturbation(objective, (0.1, 0.2), 3)
    rises = shaken.class_losses[:, :, FEW].mean(axis=2) - shaken.base_class_losses[FEW].mean()
    np.testing.assert_allclose(shaken.of("few"), rises.mean(axis=1))
    np.testing.assert_allclose(shaken["rise"].standard_error("few"), stats.sem(rises, axis=1))
    np.testing.assert_allclose(shaken["accuracy"].of("dog"), shaken.class_accuracies[:, :, 2].mean(axis=1))
    line = sharpness.line(objective, (-1, 1, 5))
    np.testing.assert_array_equal(line.of("few"), line.class_losses[FEW].mean(axis=0))
    np.testing.assert_array_equal(line["rise"].of("cat"), line.class_losses[1] - line.base_class_losses[1])
    assert line["accuracy"].values.shape == (3, 5)


def test_the_radius_has_no_groups(objective):
    radius = sharpness.characteristic_radius(objective)
    assert radius.of() == radius.of("rho") == radius["rho"].overall and radius.of("cat") == radius.rho[1]
    with pytest.raises(UserError, match="no class 'few'"):
        radius.of("few")


def test_what_is_not_there_is_named(objective):
    table = sharpness.measure(objective, "loss,random_rise")
    with pytest.raises(UserError, match="unknown measure 'lambda': choose one of loss, random_rise"):
        table["lambda"]
    with pytest.raises(UserError, match="unknown measure 'lambda'"):
        table.of("lambda", "few")
    with pytest.raises(UserError, match=r"of which measure\? name one of loss, random_rise"):
        table.of("few")
    with pytest.raises(UserError, match="unknown measure, class or group 'tail': choose one of loss, worst_loss"):
        sharpness.worst_case(objective, 0.1).of("tail")
    with pytest.raises(UserError, match="unknown class or group 'fwe': choose one of many, few, owl, cat, dog"):
        table["loss"].of("fwe")
    for subset in (["few", "many"], 0.5, True):  # one class or group at a time, and no number that is not an index
        with pytest.raises(UserError, match="unknown class or group"):
            table["loss"].of(subset)


def test_a_class_without_samples_has_no_spectrum_and_the_others_have_theirs(objective):
    x, y = objective.x[2:], objective.y[2:]
    rest = Objective(objective.model, (x, y), groups={"few": FEW}, class_names=objective.class_names)
    density = sharpness.spectral_density(rest, per_class=True, draws=2, steps=4)
    rules = [density.quadrature(c) for c in (1, 2)]
    expected = [rule.size * rule.moment(1)[0] for rule in rules]
    np.testing.assert_allclose(density["trace"].values, [np.nan, *expected])
    assert density.of("few") == pytest.approx(expected[1])
