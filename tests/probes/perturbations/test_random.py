"""Random perturbations: closed forms, the same noise everywhere, resumed and shared."""

import numpy as np
import pytest
import torch
from torch import nn

from sharpness import Objective, UserError, random_perturbation
from sharpness.models import build_model
from sharpness.probes.directions.gaussian import gaussian
from sharpness.probes.perturbations.random import DISTRIBUTIONS, draw_direction


def of(case, **options):
    return Objective(case.model, (case.x, case.y), case.loss, num_classes=3, **options)


def norm_of(case):
    """Filter normalisation, where there are filters."""
    return None if case.name == "indefinite quadratic" else "filter"


def of_filters(case):
    if norm_of(case) is None:
        pytest.skip("a vector has no filters")
    return of(case)


def normal_entries(a, sigma):
    """Mean and variance of sigma^2/2 d'Ad for independent standard normal entries."""
    return sigma**2 / 2 * np.trace(a), sigma**4 / 2 * np.trace(a @ a)


def on_the_sphere(a, r):
    """The same for d uniform on the unit sphere: E (d'Ad)^2 = (tr(A)^2 + 2 tr A^2) / (k (k + 2))."""
    k, t, s = len(a), np.trace(a), np.trace(a @ a)
    return r**2 / 2 * t / k, r**4 / 4 * ((t**2 + 2 * s) / (k * (k + 2)) - (t / k) ** 2)


def uniform_entries(a, sigma):
    """The same for independent entries of variance 1 and fourth moment 9/5."""
    return sigma**2 / 2 * np.trace(a), sigma**4 / 4 * (2 * np.trace(a @ a) + (9 / 5 - 3) * (np.diag(a) ** 2).sum())


@pytest.mark.parametrize(
    ("distribution", "moments"),
    [("gaussian", normal_entries), ("sphere", on_the_sphere), ("uniform", uniform_entries)],
)
def test_the_mean_rise_on_a_quadratic_is_that_of_its_trace(quadratic, symmetric, distribution, moments):
    """Mean and variance over draws are known exactly; both are met within four of their standard errors."""
    a = symmetric([4.0, 2.0, 1.0, -0.5, 0.1])
    draws = 2000
    result = random_perturbation(
        quadratic(a, at_minimum=True), [0.3, 0.6], draws, normalization=None, distribution=distribution
    )
    for i, radius in enumerate((0.3, 0.6)):
        expected, variance = moments(a, radius)
        rises = result.draws()[i] - result.base()
        assert abs(rises.mean() - expected) < 4 * (variance / draws) ** 0.5
        fourth = ((rises - rises.mean()) ** 4).mean()
        assert abs(rises.var() - variance) < 4 * ((fourth - variance**2) / draws) ** 0.5


def test_on_the_sphere_every_displacement_has_the_length_of_the_radius(quadratic, symmetric):
    """With A the identity the rise is r^2/2 in every draw."""
    result = random_perturbation(
        quadratic(np.eye(6), at_minimum=True), [0.2, 3.0], 10, normalization=None, distribution="sphere"
    )
    np.testing.assert_allclose(result.losses, np.broadcast_to([[0.02], [4.5]], (2, 10)), rtol=1e-12)


def test_uniform_entries_are_uniform():
    objective = Objective(nn.Linear(400, 10), (torch.randn(2, 400), torch.tensor([0, 1])))
    entries = draw_direction(objective, 0, 0, None, "uniform").double().numpy()
    assert abs(entries).max() <= 3**0.5
    sorted_entries = np.sort(entries) / (2 * 3**0.5) + 0.5
    steps = np.arange(1, len(entries) + 1) / len(entries)
    assert abs(sorted_entries - steps).max() < 1.95 / len(entries) ** 0.5  # Kolmogorov, at 0.1 %


@pytest.mark.parametrize("normalization", ["filter", "layer"])
def test_normalised_by_blocks_the_sphere_is_the_same_as_gaussian(case, normalization):
    objective = of_filters(case)
    one, two = (draw_direction(objective, 2, 5, normalization, d) for d in ("gaussian", "sphere"))
    torch.testing.assert_close(one, two, rtol=1e-8, atol=0)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("normalization", ["filter", None])
def test_every_cell_is_the_loss_and_accuracy_at_its_point(case, distribution, normalization):
    objective = of_filters(case) if normalization else of(case)
    result = random_perturbation(
        objective, (0.1, 0.5), draws=2, normalization=normalization, seed=3, distribution=distribution
    )
    for i, radius in enumerate((0.1, 0.5)):
        for j in range(2):
            with objective.at(radius * draw_direction(objective, j, 3, normalization, distribution)):
                sums = objective.evaluate()
            assert result.losses[i, j] == pytest.approx(sums.mean, rel=1e-11)
            np.testing.assert_allclose(result.class_losses[i, j], sums.class_means, rtol=1e-11)
            np.testing.assert_array_equal(result.class_accuracies[i, j], sums.class_accuracies)
            assert result.accuracies()[i, j] == pytest.approx(sums.correct.sum() / sums.count.sum(), nan_ok=True)
    assert result.base_loss == pytest.approx(objective.loss(), rel=1e-12)
    np.testing.assert_allclose(result.base_class_losses, objective.class_losses(), rtol=1e-12)


def test_gaussian_draws_are_those_of_every_other_probe(case):
    objective = of_filters(case)
    for normalization in ("filter", "layer", None):
        assert torch.equal(draw_direction(objective, 4, 2, normalization), gaussian(objective, 4, 2, normalization))


@pytest.mark.parametrize("batchnorm", ["eval", "recalibrate"])
def test_radius_zero_does_not_move_the_loss(case, batchnorm):
    result = random_perturbation(of(case, batchnorm=batchnorm), [0.0], 3, norm_of(case))
    assert (result.losses == result.base_loss).all()
    assert (result.class_losses == result.base_class_losses).all()


def test_groups_are_means_of_their_classes(case):
    result = random_perturbation(of(case, groups={"many": (0,), "medium": (), "few": (1, 2)}), [0.2], 2, norm_of(case))
    np.testing.assert_allclose(result.draws("few"), result.class_losses[..., 1:].mean(-1))
    np.testing.assert_allclose(result.accuracies("few"), result.class_accuracies[..., 1:].mean(-1))
    assert np.isnan(result.draws("medium")).all()
    assert result.to_frame()["class"].unique().tolist() == ["all", "many", "few", "0", "1", "2"]


def test_the_summary_has_mean_standard_deviation_and_standard_error_of_every_subset(case):
    result = random_perturbation(of(case, groups={"few": (1, 2)}), [0.1, 0.2, 0.4], 4, norm_of(case))
    summary, frame = result.summary(), result.to_frame()
    assert len(summary) == 3 * (1 + 1 + 3)
    assert len(frame) == 4 * len(summary)
    grouped = frame.groupby(["class", "radius"]).agg(
        rise=("rise", "mean"), rise_std=("rise", "std"), rise_se=("rise", "sem"), accuracy=("accuracy", "mean")
    )
    for row in summary.itertuples(name="Row"):
        expected = grouped.loc[(row[1], row.radius)]
        for column in expected.index:
            assert getattr(row, column) == pytest.approx(expected[column], rel=1e-9, abs=1e-13, nan_ok=True)


def test_a_single_draw_has_no_spread(case):
    result = random_perturbation(of(case), [0.1], 1, norm_of(case))
    assert np.isnan(result.spread()).all()
    assert np.isnan(result.rise()[1]).all()
    assert np.isfinite(result.rise()[0]).all()


def test_a_class_without_samples_stays_empty(case):
    objective = of(case).restrict([0, 1, 2, 13, 14])
    result = random_perturbation(objective, [0.1], 2, norm_of(case))
    assert np.isnan(result.class_losses[..., 1]).all()
    assert np.isfinite(result.class_losses[..., [0, 2]]).all()
    sums = objective.evaluate()
    assert result.base_accuracy() == pytest.approx(sums.correct.sum() / sums.count.sum(), nan_ok=True)


def network(scope="all", samples=4, seed=0):
    torch.manual_seed(seed)
    model = build_model("resnet8", 10, 1).eval()
    torch.manual_seed(1)
    return Objective(model, (torch.randn(samples, 1, 8, 8), torch.arange(samples) % 10), parameters=scope)


@pytest.mark.parametrize("scope", ["classifier", "backbone"])
@pytest.mark.parametrize("normalization", ["filter", None])
def test_a_scope_moves_its_part_of_the_displacement_of_all_and_nothing_else(scope, normalization):
    everything, part = network(), network(scope)
    inside = torch.cat([
        torch.full((p.numel(),), name in part.names)
        for name, p in zip(everything.names, everything.parameters, strict=True)
    ])  # fmt: skip
    assert 0 < inside.sum() < len(inside)
    whole = draw_direction(everything, 1, 7, normalization)
    torch.testing.assert_close(draw_direction(part, 1, 7, normalization), whole[inside], rtol=0, atol=0)
    result = random_perturbation(part, [0.3], 2, normalization, seed=7)
    with everything.at(0.3 * whole * inside):
        expected = everything.loss()
    assert result.losses[0, 1] == pytest.approx(expected, rel=1e-5)


def test_training_and_test_data_meet_the_same_displacements():
    train, test = network(samples=6), network(samples=3)
    for distribution in DISTRIBUTIONS:
        one, two = (draw_direction(o, 1, 3, "filter", distribution) for o in (train, test))
        assert torch.equal(one, two)


def test_models_are_compared_under_the_same_noise():
    x, y = torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1])
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    both = random_perturbation({"a": Objective(model, (x, y)), "b": Objective(model, (x, y))}, [0.1], 3)
    np.testing.assert_array_equal(both["a"].losses, both["b"].losses)
    assert both["b"].label == "b"
    assert set(both.to_frame().model) == {"a", "b"}


def test_what_cannot_be_compared_is_refused_with_the_field_that_differs():
    x, y = torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1])
    model = nn.Linear(3, 2)
    with pytest.raises(UserError, match="'a' and 'b' cannot be compared: 6 of 6 images differ"):
        random_perturbation({"a": Objective(model, (x, y)), "b": Objective(model, (x + 1, y))})
    with pytest.raises(UserError, match="scope is all and classifier"):
        random_perturbation({"a": Objective(model, (x, y)), "b": Objective(model, (x, y), parameters="classifier")})


class Interrupted:
    """Cross-entropy that is interrupted at its call number ``at``."""

    calls, at = 0, np.inf

    def __call__(self, outputs, targets):
        self.calls += 1
        if self.calls >= self.at:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(outputs, targets, reduction="none")


def test_an_interrupted_call_ends_with_the_bits_of_one_that_was_not(tmp_path):
    loss = Interrupted()
    torch.manual_seed(0)
    objective = Objective(nn.Linear(4, 3), (torch.randn(9, 4), torch.arange(9) % 3), loss)
    options = {"radii": [0.1, 0.2, 0.5], "draws": 4, "distribution": "uniform"}
    whole = random_perturbation(objective, **options)
    before = [p.detach().clone() for p in objective.parameters]
    start, state = loss.calls, torch.get_rng_state()
    random_perturbation(objective, **options)
    needed = loss.calls - start
    loss.at = loss.calls + needed - 5
    with pytest.raises(KeyboardInterrupt):
        random_perturbation(objective, **options, resume=tmp_path)
    assert all(torch.equal(p, old) for p, old in zip(objective.parameters, before, strict=True))
    assert torch.equal(state, torch.get_rng_state())
    loss.at, start = np.inf, loss.calls
    again = random_perturbation(objective, **options, resume=tmp_path)
    assert loss.calls - start < needed
    assert again.to_dataset().identical(whole.to_dataset())


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"normalization": None}, {"distribution": "uniform"}, {"radii": [0.3]}, {"draws": 3}]
)
def test_calls_with_other_settings_do_not_read_what_was_kept(case, tmp_path, change):
    objective = of_filters(case)
    options = {"radii": [0.2], "draws": 2, "normalization": "layer"}
    random_perturbation(objective, **options, resume=tmp_path)
    found = random_perturbation(objective, **(options | change), resume=tmp_path)
    assert found.to_dataset().identical(random_perturbation(objective, **(options | change)).to_dataset())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"radii": []}, "radii"),
        ({"radii": [-0.1]}, "radii"),
        ({"radii": [np.nan]}, "radii"),
        ({"draws": 0}, "draws=0"),
        ({"distribution": "cauchy"}, "unknown distribution 'cauchy'"),
        ({"normalization": "weight"}, "unknown normalization 'weight'"),
    ],
)
def test_bad_settings_are_refused(quadratic, symmetric, options, match):
    with pytest.raises(UserError, match=match):
        random_perturbation(quadratic(symmetric([1.0, 2.0])), **options)


@pytest.fixture
def drawn_result():
    torch.manual_seed(0)
    objective = Objective(nn.Linear(4, 3), (torch.randn(9, 4), torch.arange(9) % 3))
    return random_perturbation(objective, [0.05, 0.2, 0.1], 4)


def test_draws_are_drawn_at_the_radius_that_was_asked_for_and_it_is_told(drawn_result):
    for radius, at in ((0.05, 0), (0.1 + 1e-9, 2), (None, 1)):
        ax = drawn_result.plot(radius=radius)
        np.testing.assert_allclose(ax.lines[0].get_ydata(), drawn_result.losses[at] - drawn_result.base_loss)
        assert ax.get_ylabel() == f"Rise of the loss\nat radius {drawn_result.radii[at]:g} (in filter norms)"
    for radius in (0.07, 0.0, 1.0):
        with pytest.raises(UserError, match=f"radius={radius:g} was not probed: choose one of 0.05, 0.2, 0.1"):
            drawn_result.plot(radius=radius)


def test_all_radii_are_a_kind_of_picture(drawn_result):
    ax = drawn_result.plot(kind="radii", of=1)
    rises = drawn_result.class_losses[..., 1] - drawn_result.base_class_losses[1]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), rises.mean(axis=1))
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), drawn_result.radii)
    assert ax.get_xlabel() == "Radius of the perturbation (in filter norms)"
    with pytest.raises(UserError, match="unknown kind of picture 'violin'"):
        drawn_result.plot(kind="violin")
    with pytest.raises(UserError, match="draws all of them"):
        drawn_result.plot(kind="radii", radius=0.1)
