"""Focal loss, written plainly."""

import math

import pytest
import torch

from sharpness.methods.focal import Focal
from sharpness.steps import Context


@pytest.mark.parametrize("gamma", [1.0, 2.0, 3.5])
def test_a_sample_is_weighted_by_how_unlikely_its_label_is(logits10, counts10, gamma):
    logits = logits10[0].clone().requires_grad_()
    p = logits.softmax(1)[torch.arange(40), logits10[1]]
    expected = -((1 - p) ** gamma) * p.log()
    losses, _ = Focal(gamma).terms(logits, logits10[1], Context(counts10, 1, 1))
    assert torch.allclose(losses, expected, rtol=1e-10)
    slopes = [torch.autograd.grad(loss.sum(), logits, retain_graph=True)[0] for loss in (losses, expected)]
    assert torch.allclose(*slopes, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_a_certain_sample_has_finite_derivatives(counts10, gamma):
    logits = torch.tensor([[200.0] + [0.0] * 9], dtype=torch.float64, requires_grad=True)
    loss = Focal(gamma).terms(logits, torch.tensor([0]), Context(counts10, 1, 1))[0].sum()
    (slope,) = torch.autograd.grad(loss, logits, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), logits)
    assert loss == 0
    assert not slope.any()
    assert not bend.any()


def test_two_equal_logits_have_a_closed_form(counts10):
    losses, _ = Focal(1.0).terms(torch.zeros(1, 2, dtype=torch.float64), torch.tensor([1]), Context(counts10, 1, 1))
    assert float(losses) == pytest.approx(0.5 * math.log(2), rel=1e-14)
