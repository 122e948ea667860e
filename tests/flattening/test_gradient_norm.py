"""The gradient-norm penalty: SGD and SAM are its ends, and for small distances it is what its name says."""

import pytest
import torch

from sharpness.flattening import GradientNormPenalty


@pytest.mark.parametrize("alpha", [0.3, 0.8])
def test_the_gradient_of_every_loss_is_the_formula(case, same, alpha):
    run, restated = case
    g = restated.gradient()
    far = restated.gradient(restated.climbed(g, 0.2))
    _, gradients = run(GradientNormPenalty(0.2, alpha))
    same(gradients, restated.combined((1 - alpha, g), (alpha, far)))


def test_on_a_quadratic_it_is_the_gradient_of_the_penalised_loss(bowls):
    """grad(L + lambda |grad L|) = g + lambda H g / |g|, exactly, whatever the distance."""
    w = bowls.model.w.detach().clone().requires_grad_(True)
    g = bowls.gradient(w)
    (penalty,) = torch.autograd.grad(g.norm(), w)
    expected = (g + 0.7 * 0.3 * penalty).detach()
    torch.testing.assert_close(bowls.run(GradientNormPenalty(0.3, 0.7)), expected, rtol=1e-11, atol=1e-11)
