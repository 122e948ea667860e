"""rwSAM: uphill by inverse frequency, downhill by the loss as it is."""

import pytest
import torch

from sharpness.flattening import ReweightedSAM


@pytest.mark.parametrize("p", [0.5, 1.0])
def test_the_gradient_of_every_loss_is_the_formula(case, same, p):
    run, restated = case
    inverse = torch.tensor([100.0, 30, 9, 2], dtype=torch.float64) ** -p
    there = restated.climbed(restated.gradient(factor=inverse), 0.3)
    value, gradients = run(ReweightedSAM(0.3, p))
    same(gradients, restated.gradient(there))
    assert float(value) == pytest.approx(float(restated.value(restated.w)), rel=1e-12)


def test_on_quadratics(bowls):
    w = bowls.model.w.detach().clone()
    g = bowls.gradient(w, (1 / 100, 1 / 30, 1 / 9, 1 / 2))
    expected = bowls.gradient(w) + 0.7 * bowls.loss.hessian @ g / g.norm()
    torch.testing.assert_close(bowls.run(ReweightedSAM(0.7)), expected, rtol=1e-11, atol=1e-11)


def test_weights_have_mean_one_over_the_images_and_a_class_without_any_does_no_harm():
    counts = torch.tensor([100, 30, 9, 2, 0])
    weights = ReweightedSAM(p=0.7).class_weights(counts)
    assert float((weights * counts.clamp_min(1)).sum() / 142) == pytest.approx(1, rel=1e-14)
    assert torch.isfinite(weights).all()
    assert float(weights[3] / weights[0]) == pytest.approx(50**0.7, rel=1e-12)
