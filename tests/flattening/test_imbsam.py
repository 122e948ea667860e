"""ImbSAM: only the tail is perturbed, and what the tail is can be read off."""

import pytest
import torch

from sharpness.data.profiles import profile_counts
from sharpness.flattening import ImbSAM
from sharpness.steps import Batch, PlainStep

TAIL = (0.0, 0.0, 1.0, 1.0)  # of 100, 30, 9 and 2 images, those below 20
HEAD = (1.0, 1.0, 0.0, 0.0)


@pytest.mark.parametrize("tail_factor", [1.0, 2.0])
def test_the_gradient_of_every_loss_is_the_formula(case, same, tail_factor):
    run, restated = case
    there = restated.climbed(restated.gradient(factor=TAIL), 0.3)
    expected = restated.combined(
        (1, restated.gradient(factor=HEAD)), (tail_factor, restated.gradient(there, factor=TAIL))
    )
    value, gradients = run(ImbSAM(0.3, tail_factor=tail_factor))
    same(gradients, expected)
    assert float(value) == pytest.approx(float(restated.value(restated.w)), rel=1e-12)


def test_a_batch_without_a_tail_sample_is_a_plain_step(problem, same):
    batch = Batch(problem.batch.x[:7], problem.batch.first[:7])
    passes = []
    problem.model.head.register_forward_pre_hook(lambda *_: passes.append(1))
    _, expected = problem.run(PlainStep(), "weighted", batch)
    _, gradients = problem.run(ImbSAM(0.4), "weighted", batch)
    same(gradients, expected, rtol=0)
    assert len(passes) == 2, "one for each rule"


def test_a_partner_of_mixup_counts_as_a_tail_sample(problem):
    passes = []
    problem.model.head.register_forward_pre_hook(lambda *_: passes.append(1))
    first = torch.zeros(11, dtype=torch.int64)
    problem.run(ImbSAM(0.4), batch=Batch(problem.batch.x, first, first + 3, lam=0.75))
    assert len(passes) == 2


def test_on_quadratics(bowls):
    w = bowls.model.w.detach().clone()
    g = bowls.gradient(w, TAIL)
    curvature = 0.25 * bowls.loss.hessian  # class 3 is a quarter of the batch
    expected = bowls.gradient(w) + 0.7 * curvature @ g / g.norm()
    torch.testing.assert_close(bowls.run(ImbSAM(0.7)), expected, rtol=1e-11, atol=1e-11)


def test_the_tail_of_cifar_100_is_as_published_and_that_of_cifar_10_as_large_a_share():
    hundred = torch.tensor(profile_counts("exp", 100, 100, 500))
    by_images = ImbSAM(eta=20).tail(hundred)
    assert torch.equal(by_images, hundred < 20)
    # No class has fewer than 5 images: the share alone says the same as the published 20.
    assert torch.equal(ImbSAM(eta=5).tail(hundred), by_images)
    assert int(by_images.sum()) == 30
    ten = torch.tensor(profile_counts("exp", 100, 10, 5000))
    assert ImbSAM().tail(ten).nonzero().flatten().tolist() == [7, 8, 9]
    assert ImbSAM(eta=100).tail(ten).nonzero().flatten().tolist() == [8, 9]


def test_balanced_data_have_no_tail():
    assert not ImbSAM().tail(torch.full((10,), 50)).any()
    assert not ImbSAM(share=0).tail(torch.tensor([500, 100, 50])).any()


def test_the_choice_of_the_tail_is_quoted():
    assert repr(ImbSAM()) == "ImbSAM(rho=0.05, eta=20, share=0.3, tail_factor=1.0)"
