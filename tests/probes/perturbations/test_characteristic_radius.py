"""The radius of the bound against its formula written out, against a search for its minimum, and against training."""

import copy
import functools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import nn
from torch.nn import functional as F

import sharpness
from sharpness import Objective, UserError, characteristic_radius, worst_case
from sharpness.flattening import SAM, ClassConditionalStep
from sharpness.models import BACKBONES, CifarResNet, build_model
from sharpness.steps import Batch, Context, Loss

COUNTS = (90, 20, 5)
ROWS = (None, 0, 1, 2)
FACTORS = (1e-3, 0.03, 1.0, 2.0)
QUICK = {"lambda_max": False, "steps": 0, "factors": FACTORS}


def of(case, **options):
    return Objective(case.model, (case.x, case.y), case.loss, num_classes=3, **options)


def bound(rho, loss, g_norm, w_norm, k, n):
    return loss + k**0.5 * rho * g_norm + w_norm / (2 * rho * (n - 1) ** 0.5)


def moved_loss(case, displacement, rows):
    model = copy.deepcopy(case.model)
    w = nn.utils.parameters_to_vector(model.parameters()).detach()
    nn.utils.vector_to_parameters(w + displacement, model.parameters())
    with torch.no_grad():
        return float(case.function(model(case.x[rows]), case.y[rows]).mean())


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_every_number_is_that_of_dense_derivatives_and_of_a_moved_copy(case, scale):
    result = characteristic_radius(of(case), COUNTS, scale=scale, factors=FACTORS, steps=0, tol=1e-8)
    w = nn.utils.parameters_to_vector(case.model.parameters()).detach()
    k, w_norm = len(w), float(w.norm())
    for row in ROWS:
        chosen = torch.ones(len(case.y), dtype=torch.bool) if row is None else case.y == row
        n = sum(COUNTS) if row is None else COUNTS[row]
        loss, g, hessian = case.dense(rows=chosen)
        norm = float(g.norm())
        direction = g / norm
        rho = (w_norm / (2 * norm)) ** 0.5 * k**-0.25 * (n - 1) ** -0.25
        step = scale * k**0.5 * rho
        q = float(direction @ hessian @ direction)
        expected = {
            "loss": loss,
            "gradient_norm": norm,
            "rho": rho,
            "bound": bound(rho, loss, norm, w_norm, k, n),
            "step": step,
            "first_order": step * norm,
            "second_order": step * norm + step**2 * q / 2,
            "measured": moved_loss(case, step * direction, chosen) - loss,
            "curvature": q,
        }
        for name, value in expected.items():
            assert result.of(name, row) == pytest.approx(value, rel=1e-7, abs=1e-11), (name, row)
        assert np.isnan(result.of("worst", row))
        lengths = np.array(FACTORS) * k**0.5 * rho
        curve = result.curve(row)
        measured = [moved_loss(case, length * direction, chosen) for length in lengths]
        np.testing.assert_allclose(curve.measured, measured, rtol=1e-7, atol=1e-11)
        np.testing.assert_allclose(curve.linear, loss + lengths * norm, rtol=1e-9)
        np.testing.assert_allclose(curve.quadratic, loss + lengths * norm + lengths**2 * q / 2, rtol=1e-7)
        radii = np.array(FACTORS) * rho
        np.testing.assert_allclose(curve.bound, bound(radii, loss, norm, w_norm, k, n), rtol=1e-9)
        if np.isfinite(result.of("lambda_max", row)):
            top = float(torch.linalg.eigvalsh(hessian)[-1])
            assert result.of("lambda_max", row) == pytest.approx(top, rel=1e-5, abs=1e-8)


def test_the_radius_is_where_a_search_finds_the_smallest_bound(case):
    result = characteristic_radius(of(case), COUNTS, **QUICK)
    w_norm, k = result.weight_norm, result.num_parameters
    for row in ROWS:
        loss, norm, n = result.of("loss", row), result.of("gradient_norm", row), result.count(row)
        found = minimize_scalar(
            lambda t, norm, n: bound(np.exp(t), 0.0, norm, w_norm, k, n), (-10, 5), args=(norm, n), tol=1e-10
        )
        assert np.exp(found.x) == pytest.approx(result.of("rho", row), rel=1e-5)
        assert loss + found.fun == pytest.approx(result.of("bound", row), rel=1e-9)
        at_best = result.curve(row)
        assert at_best.best == result.of("rho", row)
        rise = k**0.5 * at_best.best * norm
        assert w_norm / (2 * at_best.best * (n - 1) ** 0.5) == pytest.approx(rise, rel=1e-9)


def test_on_a_quadratic_the_second_order_is_the_rise(quadratic, symmetric):
    matrices = np.stack([symmetric((5.0, 2.0, 0.5, -1.0), seed) for seed in range(3)])
    result = characteristic_radius(quadratic(matrices, [0, 0, 1]), (30, 4), lambda_max=False)
    for row in (None, 0, 1):
        assert result.of("measured", row) == pytest.approx(result.of("second_order", row), rel=1e-9)
        curve = result.curve(row)
        np.testing.assert_allclose(curve.measured, curve.quadratic, rtol=1e-9)


@pytest.mark.parametrize(
    ("head", "tail", "ratio"),
    [
        (5000, 25, 3.80), (5000, 50, 3.18), (5000, 100, 2.67), (5000, 500, 1.78),
        (500, 2, 4.73), (500, 5, 3.34), (500, 10, 2.73), (500, 50, 1.79),
        (1280, 5, 4.23), (4980, 5, 5.94), (1000, 2, 5.62),
    ],
)  # fmt: skip
def test_with_equal_gradients_the_tail_has_the_radius_of_its_count(head, tail, ratio):
    """CIFAR-10-LT and CIFAR-100-LT at imbalance 200, 100, 50, 10; ImageNet-LT, Places-LT, iNaturalist."""
    data = torch.ones(2, 3), torch.tensor([0, 1])
    objective = Objective(nn.Linear(3, 2, bias=False), data, loss=lambda u, y: u[:, 0])
    rho = characteristic_radius(objective, (head, tail), **QUICK).rho
    assert rho[1] / rho[0] == pytest.approx(ratio, abs=0.005)


class PlainCrossEntropy(Loss):
    def terms(self, logits, labels, context):
        return F.cross_entropy(logits, labels, reduction="none"), torch.ones(len(labels)).to(logits)


@pytest.mark.parametrize("c", [0, 1, 2])
@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_training_on_one_class_is_sam_with_the_step_of_that_class(c, scale):
    torch.manual_seed(3)
    model = build_model("resnet8", 3, in_channels=1).double().eval()
    x, y = torch.randn(15, 1, 8, 8, dtype=torch.float64), torch.arange(15) % 3
    step = characteristic_radius(Objective(model, (x, y)), COUNTS, scale=scale, **QUICK).step[c]
    batch, context = Batch(x[y == c], y[y == c]), Context(torch.tensor(COUNTS), epoch=1, epochs=1)
    found = []
    for rule in (ClassConditionalStep("all", rho_scale=scale), SAM(float(step))):
        model.zero_grad()
        rule.backward(model, batch, PlainCrossEntropy(), context)
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.allclose(*found, rtol=1e-9, atol=1e-12)


def test_the_worst_rise_is_that_of_the_worst_case_in_the_same_ball(case):
    objective = of(case)
    result = characteristic_radius(objective, COUNTS, scale=0.1, steps=4, lambda_max=False, factors=[1.0])
    for row in ROWS:
        part = objective if row is None else objective.restrict(row)
        found = worst_case(part, result.of("step", row), steps=4).of("worst_rise")
        assert result.of("worst", row) == pytest.approx(found, rel=1e-9, abs=1e-12)
        assert result.of("worst", row) >= max(result.of("measured", row), 0) - 1e-12


def small(seed=0, **options):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    data = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5)), torch.arange(9) % 3
    return Objective(model, data, **options)


def test_the_n_of_the_bound_is_given_or_known_from_training_or_that_of_the_samples():
    """On test images the bound is still that of the training images."""
    cases = {
        "given": (small(train_counts=(7, 8, 9)), (50, 5, 4), [50, 5, 4]),
        "training images": (small(train_counts=(70, 8, 9)), None, [70, 8, 9]),
        "probed samples": (small(), None, [3, 3, 3]),
    }
    for source, (objective, given, expected) in cases.items():
        result = characteristic_radius(objective, given, **QUICK)
        assert result.train_counts.tolist() == expected and result.count() == sum(expected)
        assert result.provenance["counts"] == source
        assert result.class_samples.tolist() == [3, 3, 3]


def test_a_checkpoint_knows_its_training_images_whatever_it_is_probed_on(tmp_path, monkeypatch):
    monkeypatch.setitem(BACKBONES, "resnet8", functools.partial(CifarResNet, 8, width=4))
    sharpness.train("ce", sharpness.load_data("digits-lt"), out=tmp_path, epochs=1, model="resnet8", seed=0)
    for options in ({}, {"split": "test"}, {"limit_per_class": 2}):
        result = characteristic_radius(tmp_path, options=options, **QUICK)
        assert result.train_counts.tolist() == [124, 84, 58, 39, 27, 18, 12, 8, 6, 4]


def test_the_scope_is_what_norms_and_k_are_of():
    objective = small(parameters="2.*")
    result = characteristic_radius(objective, COUNTS, **QUICK)
    w = torch.cat([p.detach().flatten() for p in objective.model[2].parameters()])
    assert result.num_parameters == len(w) == 18
    assert result.weight_norm == pytest.approx(float(w.norm()), rel=1e-12)
    assert result.of("gradient_norm", 1) == pytest.approx(float(objective.gradient(1).norm()), rel=1e-12)


def test_a_class_without_gradient_has_no_step_and_says_so():
    """At a saturated sample the gradient is 0 in all digits: training divides by 1e-12 and moves nowhere."""
    model = nn.Linear(2, 2, bias=False).double()
    model.weight.data.copy_(torch.tensor([[900.0, 0.0], [-900.0, 0.0]]))
    data = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.1e-2, 1.0]]).double(), torch.tensor([0, 1, 1])
    result = characteristic_radius(Objective(model, data), (8, 4), lambda_max=False, steps=3, factors=FACTORS)
    assert result.clamped(0) and not result.clamped(1)
    for name in ("gradient_norm", "step", "first_order", "second_order", "measured", "worst"):
        assert result.of(name, 0) == 0, name
    assert np.isnan(result.of("curvature", 0))
    assert result.rho[0] == pytest.approx((result.weight_norm / 2e-12) ** 0.5 * 4**-0.25 * 7**-0.25)
    assert np.isfinite(result.curve(0).bound).all()


def test_a_tiny_gradient_is_perturbed_as_far_as_training_does():
    data = torch.tensor([[3e-14, 4e-14]], dtype=torch.float64), torch.tensor([0])
    objective = Objective(nn.Linear(2, 1, bias=False).double(), data, loss=lambda u, y: u[:, 0])
    result = characteristic_radius(objective, [5], **QUICK)
    assert result.clamped(0)
    unclamped = 2**0.5 * result.rho[0]
    assert result.step[0] == pytest.approx(unclamped * 5e-14 / 1e-12, rel=1e-9)
    assert result.of("measured", 0) == pytest.approx(result.step[0] * 5e-14, rel=1e-6)


def test_one_image_counts_as_two():
    one, two = (characteristic_radius(small(), (9, 9, n), **QUICK) for n in (1, 2))
    np.testing.assert_array_equal(one.rho, two.rho)
    assert one.clamped(2) and not two.clamped(2)


def test_a_class_without_samples_stays_empty():
    result = characteristic_radius(small().restrict([0, 2, 3, 5]), COUNTS, **QUICK)
    assert np.isnan(result.values[:, 1]).all() and np.isnan(result.curve(1).measured).all()
    assert np.isfinite(result.rho[[0, 2]]).all()


def test_the_model_and_the_random_numbers_are_left_as_they_were(case):
    objective = of(case)
    before = copy.deepcopy(case.model.state_dict())
    state = torch.get_rng_state()
    characteristic_radius(objective, COUNTS, steps=2, factors=FACTORS)
    assert all(torch.equal(t, before[name]) for name, t in case.model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None and p.requires_grad for p in case.model.parameters())


def test_recalibrated_statistics_are_those_of_all_samples_at_every_point():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)).double().eval()
    data = torch.randn(12, 4, dtype=torch.float64), torch.arange(12) % 3
    objective = Objective(model, data, batchnorm="recalibrate")
    result = characteristic_radius(objective, COUNTS, **QUICK)
    with objective.at(torch.zeros(objective.num_parameters)):
        direction = objective.gradient(1)
        assert result.of("loss", 1) == pytest.approx(objective.loss(1), rel=1e-12)
    with objective.at(result.step[1] * direction / direction.norm()):
        moved = objective.loss(1)
    assert result.of("measured", 1) == pytest.approx(moved - result.of("loss", 1), rel=1e-9)


def test_a_mapping_means_a_comparison():
    objectives = {"a": small(0), "b": small(1)}
    both = characteristic_radius(objectives, COUNTS, **QUICK)
    assert list(both) == ["a", "b"]
    for label, objective in objectives.items():
        alone = characteristic_radius(objective, COUNTS, **QUICK)
        np.testing.assert_array_equal(both[label].values, alone.values)
        assert both[label].label == label
    assert both.to_frame().groupby("model").size().tolist() == [4, 4]


def test_a_second_call_takes_what_is_done_from_the_folder(tmp_path, monkeypatch):
    settings = {"train_counts": COUNTS, "factors": FACTORS, "steps": 3, "resume": tmp_path}
    first = characteristic_radius(small(), **settings)
    calls = []
    gradient = Objective.gradient
    monkeypatch.setattr(Objective, "gradient", lambda *a, **k: calls.append(1) or gradient(*a, **k))
    again = characteristic_radius(small(), **settings)
    assert not calls
    np.testing.assert_array_equal(first.values, again.values)
    np.testing.assert_array_equal(first.class_losses, again.class_losses)
    characteristic_radius(small(), **{**settings, "train_counts": (9, 9, 9)})
    assert calls


def infinite_slope(u, y):
    """A loss of 1 whose gradient is infinite where the output is 0."""
    return (u[:, 0] - u[:, 0].detach()).abs().sqrt() + 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_counts": (1, 2)}, r"train_counts=\[1, 2\]: give the training images of each of the 3 classes"),
        ({"train_counts": (1, 2, -1)}, "train_counts"),
        ({"train_counts": (1, 2, 2.5)}, "train_counts"),
        ({"scale": 0}, "scale=0, steps=10: give a positive scale"),
        ({"scale": float("nan")}, "scale=nan"),
        ({"steps": -1}, "steps=-1"),
        ({"factors": ()}, "factors"),
        ({"factors": (1.0, 0.5)}, "ascending"),
        ({"factors": (0.0, 0.5)}, "positive"),
    ],
)
def test_bad_input_gets_one_line(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        characteristic_radius(small(), **settings)
    assert "\n" not in str(caught.value)


def test_weights_of_zero_and_gradients_that_are_not_finite_are_refused():
    model = nn.Linear(2, 2, bias=False)
    data = torch.eye(2), torch.tensor([0, 1])
    with pytest.raises(UserError, match="gradient of class 0 is not finite"):
        characteristic_radius(Objective(model, data, loss=infinite_slope), **QUICK)
    nn.init.zeros_(model.weight)
    with pytest.raises(UserError, match="the weights in scope are all 0"):
        characteristic_radius(Objective(model, data), **QUICK)


@pytest.mark.parametrize("counts", [(1, 2), (1, 2, -3)])
def test_an_objective_refuses_training_counts_of_another_number_of_classes(counts):
    with pytest.raises(UserError, match="train_counts"):
        small(train_counts=counts)
