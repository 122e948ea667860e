"""The worst case in a ball: SAM's point by autograd, per class and batch, for every adaptive and plain norm."""

import copy
import functools

import numpy as np
import pytest
import torch
from torch import nn

from sharpness import Objective, UserError, load_result, worst_case
from sharpness.probes.perturbations.class_ascents import split_batches

ROWS = (None, 0, 1, 2)
BALLS = [(norm, adaptive) for norm in ("l2", "linf") for adaptive in (False, True)]


def of(case, **options):
    return Objective(case.model, (case.x, case.y), case.loss, num_classes=3, **options)


def sam_point(w, g, rho, norm, adaptive):
    """w + rho T (T g) / |T g|, or w + rho T sign(T g)."""
    t = w.abs() if adaptive else torch.ones_like(w)
    return w + rho * t * ((t * g).sign() if norm == "linf" else t * g / (t * g).norm())


def moved_loss(case, point, rows, weights):
    model = copy.deepcopy(case.model)
    nn.utils.vector_to_parameters(point, model.parameters())
    with torch.no_grad():
        outputs = model(case.x[rows])
    a = weights[rows]
    right = (outputs.argmax(1) == case.y[rows]).double() if outputs.shape[1] == 3 else torch.tensor(torch.nan)
    return float((a * case.function(outputs, case.y[rows])).sum() / a.sum()), float((a * right).sum() / a.sum())


@pytest.mark.every(5)
@pytest.mark.parametrize(("norm", "adaptive"), BALLS)
@pytest.mark.parametrize("weighted", [False, True])
def test_one_step_is_the_point_of_sam_of_all_samples_and_of_every_class(case, norm, adaptive, weighted):
    """Gradients by torch.func, losses of a copy of the model that holds the moved weights."""
    weights = torch.linspace(0.5, 3, len(case.y), dtype=torch.float64) if weighted else torch.ones(len(case.y)).double()
    rho = 0.01
    result = worst_case(of(case, weights=weights), rho, norm=norm, adaptive=adaptive)
    w = nn.utils.parameters_to_vector(case.model.parameters()).detach()
    for row in ROWS:
        chosen = torch.ones(len(case.y), dtype=torch.bool) if row is None else case.y == row
        loss, gradient, _ = case.dense(weights, chosen)
        worst, right = moved_loss(case, sam_point(w, gradient, rho, norm, adaptive), chosen, weights)
        found = result.overall if row is None else result.values[:, row]
        expected = [loss, max(loss, worst), max(worst - loss, 0)]
        np.testing.assert_allclose(found[:3], expected, rtol=1e-9, atol=1e-13)
        if worst > loss:
            assert found[3] == pytest.approx(right, nan_ok=True)


@pytest.mark.every(5)
@pytest.mark.parametrize(("norm", "adaptive"), BALLS)
def test_more_steps_never_find_less_and_no_rise_is_negative(case, norm, adaptive):
    found = [worst_case(of(case), 0.3, steps, norm, adaptive) for steps in (1, 3, 8)]
    for fewer, more in zip(found, found[1:], strict=False):
        assert (more.values[2] >= fewer.values[2]).all()
        assert more.of("worst_rise") >= fewer.of("worst_rise") >= 0


def test_every_class_ascends_on_its_own_loss(case):
    both = worst_case(of(case), rho=0.2, steps=5)
    for c in range(3):
        alone = worst_case(of(case).restrict(c), rho=0.2, steps=5)
        np.testing.assert_allclose(both.values[:, c], alone.overall, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("m", [15, 100])
def test_a_batch_of_all_is_the_plain_worst_case(case, m):
    plain, batched = worst_case(of(case), 0.1, 3), worst_case(of(case), 0.1, 3, m=m)
    np.testing.assert_array_equal(plain.values, batched.values)
    np.testing.assert_array_equal(plain.overall, batched.overall)


@pytest.mark.every(5)
@pytest.mark.parametrize("m", [1, 4])
@pytest.mark.parametrize("steps", [1, 3])
def test_batches_ascend_alone_and_are_averaged_by_their_weight(case, m, steps):
    weights = torch.linspace(0.5, 3, len(case.y), dtype=torch.float64)
    objective = of(case, weights=weights)
    result = worst_case(objective, 0.1, steps, m=m, seed=3)

    @functools.cache
    def of_batch(*indices):
        return worst_case(objective.restrict(np.array(indices)), 0.1, steps).overall

    for row in ROWS:
        indices = np.arange(15) if row is None else np.flatnonzero(case.y == row)
        batches = [indices[b] for b in split_batches(len(indices), m, 3)]
        alone = [of_batch(*b) for b in batches]
        shares = np.array([float(weights[b].sum()) for b in batches])
        found = result.overall if row is None else result.values[:, row]
        np.testing.assert_allclose(found, shares @ np.array(alone) / shares.sum(), rtol=1e-9, atol=1e-12)


def test_the_loss_of_batches_is_the_loss(case):
    result = worst_case(of(case), 0.1, m=2)
    assert result.of("loss") == pytest.approx(of(case).loss(), rel=1e-12)
    np.testing.assert_allclose(result.values[0], of(case).class_losses(), rtol=1e-12)
    np.testing.assert_allclose(result.values[2], result.values[1] - result.values[0], atol=1e-15)


def test_a_class_without_samples_stays_empty(case):
    result = worst_case(of(case).restrict([0, 1, 13]), 0.1, 2)
    assert np.isnan(result.values[:, 1]).all()
    assert np.isfinite(result.values[:3, [0, 2]]).all()


@pytest.mark.parametrize("m", [None, 4])
def test_recalibrated_statistics_are_those_of_all_samples(m):
    """The centre has them too, so that a class's loss there is what it is beside a tiny displacement."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)).double().eval()
    objective = Objective(
        model, (torch.randn(12, 4, dtype=torch.float64), torch.arange(12) % 3), batchnorm="recalibrate"
    )
    with objective.at(torch.zeros(objective.num_parameters)):
        expected, overall = objective.class_losses(), objective.loss()
    running = objective.loss()
    result = worst_case(objective, 1e-9, m=m)
    assert result.of("loss") == pytest.approx(overall, rel=1e-12) != pytest.approx(running, rel=1e-3)
    np.testing.assert_allclose(result.values[0], expected, rtol=1e-12)
    assert (result.values[2] < 1e-7).all()
    assert objective.loss() == running


def test_the_result_keeps_its_settings_and_reads_back(case, tmp_path):
    result = worst_case(of(case), 0.2, 3, "linf", adaptive=True, m=4, seed=5)
    settings = {"rho": 0.2, "steps": 3, "norm": "linf", "adaptive": True, "m": 4, "seed": 5}
    assert settings.items() <= result.provenance.items()
    again = load_result(result.save(tmp_path / "worst.nc"))
    assert again.to_frame().equals(result.to_frame())
    assert {"worst_loss", "worst_rise", "worst_accuracy"} <= set(again.to_frame())


def test_a_gradient_that_is_not_finite_is_refused():
    model = nn.Linear(2, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    data = torch.ones(3, 2), torch.tensor([0, 1, 1])
    objective = Objective(model, data, loss=lambda u, y: u[:, 0].abs().sqrt(), num_classes=2)
    with pytest.raises(UserError, match="gradient of class 0 is not finite"):
        worst_case(objective)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rho": 0.0}, "rho=0.0"),
        ({"rho": np.inf}, "rho=inf"),
        ({"steps": 0}, "steps=0"),
        ({"norm": "l1"}, "unknown norm 'l1'"),
        ({"m": 0}, "m=0"),
        ({"m": 2.5}, "m=2.5: give an integer, at least 1"),
        ({"steps": 1.5}, "steps=1.5: give an integer, at least 1"),
        ({"seed": "a"}, "seed='a': give an integer, at least 0"),
    ],
)
def test_bad_settings_are_refused(quadratic, symmetric, options, match):
    with pytest.raises(UserError, match=match):
        worst_case(quadratic(symmetric([1.0, 2.0])), **options)


def test_by_itself_a_worst_case_draws_the_worst_rise(case):
    result = worst_case(Objective(case.model, (case.x, case.y), case.loss, num_classes=3), 0.1)
    ax = result.plot()
    assert ax.get_ylabel() == "Worst rise"
    drawn = np.concatenate([line.get_ydata() for line in ax.lines])
    assert np.isin(result["worst_rise"].values, drawn).all()
