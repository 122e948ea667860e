"""Random perturbations: closed forms on quadratics."""

import numpy as np
import pytest
import torch

from sharpness import Objective, UserError, random_perturbation
from sharpness.probes import gaussian


def test_the_mean_rise_under_gaussian_noise_is_half_its_variance_times_the_trace(quadratic, symmetric):
    """E[L(w + sigma d)] - L(w) = sigma^2 / 2 tr A, exactly, and the draws have variance sigma^4 / 2 tr A^2."""
    a = symmetric([4.0, 2.0, 1.0, -0.5, 0.1])
    sigma, draws = 0.3, 2000
    result = random_perturbation(quadratic(a, at_minimum=True), [sigma], draws, normalization=None)
    mean, error = result.rise()
    expected, variance = sigma**2 / 2 * np.trace(a), sigma**4 / 2 * np.trace(a @ a)
    assert error[0] == pytest.approx((variance / draws) ** 0.5, rel=0.15)
    assert abs(mean[0] - expected) < 4 * (variance / draws) ** 0.5


def test_every_cell_is_the_loss_at_its_point(case):
    objective = Objective(case.model, (case.x, case.y), case.loss, num_classes=3)
    result = random_perturbation(objective, (0.1, 0.5), draws=2, normalization=None, seed=3)
    for i, radius in enumerate((0.1, 0.5)):
        for j in range(2):
            with objective.at(radius * gaussian(objective, j, 3, None)):
                assert result.losses[i, j] == objective.loss()
                np.testing.assert_array_equal(result.class_losses[i, j], objective.class_losses())
    assert result.base_loss == objective.loss()


def test_radius_zero_does_not_move_the_loss(case):
    result = random_perturbation(Objective(case.model, (case.x, case.y), case.loss, num_classes=3), [0.0], 3)
    assert (result.losses == result.base_loss).all()


def test_groups_are_means_of_their_classes(case):
    groups = {"many": (0,), "medium": (), "few": (1, 2)}
    objective = Objective(case.model, (case.x, case.y), case.loss, num_classes=3, groups=groups)
    result = random_perturbation(objective, [0.2], 2)
    np.testing.assert_allclose(result.draws("few"), result.class_losses[..., 1:].mean(-1))
    assert np.isnan(result.draws("medium")).all()
    assert set(result.to_frame().query("kind == 'group'").name) == {"many", "few"}


def test_models_are_compared_under_the_same_noise():
    x, y = torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1])
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    both = random_perturbation({"a": Objective(model, (x, y)), "b": Objective(model, (x, y))}, [0.1], 3)
    np.testing.assert_array_equal(both["a"].losses, both["b"].losses)
    assert both["b"].label == "b"
    assert set(both.to_frame().model) == {"a", "b"}


def test_what_cannot_be_compared_is_refused_with_the_field_that_differs():
    x, y = torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1])
    model = torch.nn.Linear(3, 2)
    with pytest.raises(UserError, match="'a' and 'b' cannot be compared: data_sha256"):
        random_perturbation({"a": Objective(model, (x, y)), "b": Objective(model, (x + 1, y))})
    with pytest.raises(UserError, match="scope is all and classifier"):
        random_perturbation({"a": Objective(model, (x, y)), "b": Objective(model, (x, y), parameters="classifier")})


@pytest.mark.parametrize("options", [{"radii": []}, {"radii": [-0.1]}, {"radii": [np.nan]}, {"draws": 0}])
def test_bad_settings_are_refused(quadratic, symmetric, options):
    with pytest.raises(UserError):
        random_perturbation(quadratic(symmetric([1.0, 2.0])), **options)
