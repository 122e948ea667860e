"""The worst case in a ball: closed forms on quadratics."""

import numpy as np
import pytest
import torch

from sharpness import UserError, worst_case


def test_at_a_minimum_many_steps_approach_half_the_radius_squared_times_the_top_eigenvalue(quadratic, symmetric):
    """At the minimum itself the gradient is zero; a point 1e-6 beside it sees the top direction."""
    objective = quadratic(symmetric([8.0, 1.0, 0.5]), at_minimum=True)
    with torch.no_grad():
        objective.parameters[0].add_(1e-6)
    result = worst_case(objective, rho=0.3, steps=60)
    exact = 0.3**2 / 2 * 8.0
    assert 0.999 * exact < result.overall[2] < exact * (1 + 1e-5)


def test_one_step_is_the_point_of_sam(quadratic, symmetric):
    a = symmetric([3.0, -1.0, 0.2])
    objective = quadratic(a)
    w = objective.parameters[0].detach().numpy()
    g = a @ w
    at = w + 0.1 * g / np.linalg.norm(g)
    result = worst_case(objective, rho=0.1)
    np.testing.assert_allclose(
        result.overall, [w @ a @ w / 2, at @ a @ at / 2, (at @ a @ at - w @ a @ w) / 2], rtol=1e-9
    )


def test_one_step_in_the_maximum_norm_and_adaptive(quadratic, symmetric):
    a = symmetric([3.0, 1.0, 0.2])
    objective = quadratic(a)
    w = objective.parameters[0].detach().numpy()
    g, t = a @ w, np.abs(w)
    for options, at in [
        ({"norm": "linf"}, w + 0.05 * np.sign(g)),
        ({"adaptive": True}, w + 0.05 * t * (t * g) / np.linalg.norm(t * g)),
        ({"norm": "linf", "adaptive": True}, w + 0.05 * t * np.sign(t * g)),
    ]:
        assert worst_case(objective, rho=0.05, **options).overall[1] == pytest.approx(at @ a @ at / 2, rel=1e-9)


def test_every_class_ascends_on_its_own_loss(quadratic, symmetric):
    matrices = np.stack([symmetric([1.0, 2.0], 0), symmetric([3.0, 5.0], 1)])
    both = worst_case(quadratic(matrices, [0, 1]), rho=0.2)
    for c in (0, 1):
        alone = worst_case(quadratic(matrices[c]), rho=0.2)
        np.testing.assert_allclose(both.values[:, c], alone.overall, rtol=1e-12)


def test_more_steps_never_find_less(quadratic, symmetric):
    objective = quadratic(symmetric([4.0, -3.0, 1.0, 0.1]))
    rises = [worst_case(objective, rho=0.5, steps=s).overall[2] for s in (1, 20)]
    assert rises[1] >= rises[0]


@pytest.mark.parametrize("options", [{"rho": 0.0}, {"rho": np.inf}, {"steps": 0}, {"norm": "l1"}])
def test_bad_settings_are_refused(quadratic, symmetric, options):
    with pytest.raises(UserError):
        worst_case(quadratic(symmetric([1.0, 2.0])), **options)
