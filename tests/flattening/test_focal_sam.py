"""Focal-SAM: its formula, and the rules that it becomes at the ends of its parameters."""

import pytest
import torch

from sharpness.flattening import FocalSAM


def focal(gamma):
    counts = torch.tensor([100.0, 30, 9, 2], dtype=torch.float64)
    return (1 - counts / 141) ** gamma


@pytest.mark.parametrize(("gamma", "lam"), [(3.0, 0.5), (0.8, 1.1)])
def test_the_gradient_of_every_loss_is_the_formula(case, same, gamma, lam):
    run, restated = case
    part = restated.gradient(factor=focal(gamma))
    there = restated.gradient(restated.climbed(part, 0.3), factor=focal(gamma))
    expected = restated.combined((lam, there), (1, restated.gradient()), (-lam, part))
    value, gradients = run(FocalSAM(0.3, gamma, lam))
    same(gradients, expected)
    assert float(value) == pytest.approx(float(restated.value(restated.w)), rel=1e-12)


def test_on_quadratics(bowls):
    """The Hessian of the focal part is the common one times the mean of the factors."""
    w, factor = bowls.model.w.detach().clone(), focal(2.0)
    g = bowls.gradient(w, factor)
    curvature = sum(share * factor[c] for c, share in bowls.shares) * bowls.loss.hessian
    expected = bowls.gradient(w) + 0.6 * 0.7 * curvature @ g / g.norm()
    torch.testing.assert_close(bowls.run(FocalSAM(0.7, 2.0, 0.6)), expected, rtol=1e-11, atol=1e-11)
