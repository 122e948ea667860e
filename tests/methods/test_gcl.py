"""GCL: published cloud sizes, the distribution of its noise, and its stages."""

import math
from dataclasses import replace

import pytest
import torch
from scipy import integrate, stats
from torch.nn import functional as F

from sharpness.data import SAMPLERS
from sharpness.errors import UserError
from sharpness.methods import build_recipe
from sharpness.methods.changes import Rescale
from sharpness.methods.gcl import GCL, MEAN_ABSOLUTE_NOISE, cloud_sizes
from sharpness.steps import Batch, Context, mixed_loss

CLOUDS = "0.000 0.111 0.222 0.333 0.445 0.556 0.667 0.778 0.890 1.000"


@pytest.fixture
def clouded(counts10, monkeypatch):
    """The logits that reach cross-entropy, divided by the scale."""

    def run(loss, logits, labels, seed=0):
        seen = []
        original = F.cross_entropy
        with monkeypatch.context() as patch:
            patch.setattr(F, "cross_entropy", lambda u, *a, **k: (seen.append(u), original(u, *a, **k))[1])
            context = Context(counts10, 1, 1, torch.Generator().manual_seed(seed))
            loss.terms(logits, labels, context)
        return seen[0] / loss.scale

    return run


def test_cloud_sizes_are_the_published_ones(counts10):
    assert " ".join(f"{c:.3f}" for c in cloud_sizes(counts10)) == CLOUDS


def test_classes_of_equal_size_have_no_cloud():
    assert cloud_sizes(torch.tensor([7, 7, 7])).tolist() == [0.0, 0.0, 0.0]


def test_the_mean_of_the_noise_is_its_integral():
    """e ~ N(0, (1/3)^2), clamped to [-1, 1]."""
    density = stats.norm(0, 1 / 3).pdf
    mean, error = integrate.quad(lambda e: min(abs(e), 1) * density(e), -6, 6, points=[-1, 0, 1], limit=200)
    assert error < 1e-7
    assert pytest.approx(mean, abs=1e-7) == MEAN_ABSOLUTE_NOISE


def test_noise_is_never_positive_and_bounded_by_the_cloud(clouded, counts10):
    zeros, labels = torch.zeros(4000, 10, dtype=torch.float64), torch.zeros(4000, dtype=torch.int64)
    noise = clouded(GCL(scale=30.0, kappa=0.5), zeros, labels)
    assert noise.max() <= 0
    assert noise[:, 0].count_nonzero() == 0, "the largest class has none"
    sizes = torch.tensor([float(c) for c in CLOUDS.split()], dtype=torch.float64)
    assert (noise.amin(0) >= -0.5 * (sizes + 5e-4)).all()
    assert float(noise[:, 9].min()) == pytest.approx(-0.5, rel=1e-12), "4000 draws reach the clamp"


def test_noise_of_every_logit_is_independent_with_the_stated_distribution(clouded):
    zeros, labels = torch.zeros(4000, 10, dtype=torch.float64), torch.zeros(4000, dtype=torch.int64)
    draws = -clouded(GCL(scale=30.0, kappa=0.5), zeros, labels) / 0.5
    draws = (draws / draws.amax(0).clamp_min(1e-9))[:, 1:]
    unclamped = draws[draws < 0.999].numpy()
    folded = stats.truncnorm(0, 3, scale=1 / 3)
    assert stats.kstest(unclamped[unclamped < 0.99], lambda x: folded.cdf(x) / folded.cdf(0.99)).pvalue > 1e-3
    correlations = torch.corrcoef(draws.T) - torch.eye(9)
    assert correlations.abs().max() < 6 / math.sqrt(4000)


def test_the_margin_is_taken_from_the_target_alone(clouded, logits10):
    logits, labels = logits10
    without = clouded(GCL(scale=20.0), logits, labels, seed=3)
    with_margin = clouded(GCL(scale=20.0, margin=0.1), logits, labels, seed=3)
    expected = 0.1 * F.one_hot(labels, 10)
    assert torch.allclose(without - with_margin, expected.double(), atol=1e-12)


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_the_focal_factor_is_one_minus_p_and_carries_no_gradient(logits10, counts10, gamma):
    logits, labels = logits10
    logits.requires_grad_()
    losses, _ = GCL(kappa=0.0, gamma=gamma).terms(logits, labels, Context(counts10, 1, 1))
    plain = F.cross_entropy(logits, labels, reduction="none")
    p = logits.softmax(1).gather(1, labels[:, None]).squeeze(1).detach()
    assert torch.allclose(losses, (1 - p) ** gamma * plain, rtol=1e-10)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    expected = (1 - p)[:, None] ** gamma * (logits.softmax(1) - F.one_hot(labels, 10)).detach()
    assert torch.allclose(gradient, expected, atol=1e-12)


def test_the_mean_version_is_deterministic_and_replaces_the_noise_by_its_mean(clouded, logits10, counts10):
    logits, labels = logits10
    loss = GCL(margin=0.1, gamma=1.0).deterministic()
    context = Context(counts10, 1, 1)
    before = context.generator.get_state()
    assert torch.equal(loss.terms(logits, labels, context)[0], loss.terms(logits, labels, context)[0])
    assert torch.equal(context.generator.get_state(), before)
    mean, _ = integrate.quad(lambda e: 2 * min(e, 1) * stats.norm(0, 1 / 3).pdf(e), 0, 6, points=[1])
    gap = torch.tensor([math.log(5000 / n) / math.log(100) for n in counts10.tolist()], dtype=torch.float64)
    expected = logits / 30 - 0.5 * mean * gap
    assert torch.allclose(clouded(replace(loss, margin=0.0), logits, labels), expected, atol=1e-8)
    assert (loss.margin, loss.gamma, loss.scale) == (0.1, 1.0, 30.0)


def test_the_random_version_draws_anew_in_every_call(logits10, counts10):
    context = Context(counts10, 1, 1)
    assert not torch.equal(GCL().terms(*logits10, context)[0], GCL().terms(*logits10, context)[0])


def test_noise_is_a_function_of_the_contexts_generator_alone(logits10, counts10):
    before = torch.get_rng_state()
    values = [
        GCL().terms(*logits10, Context(counts10, 1, 1, torch.Generator().manual_seed(seed)))[0] for seed in (1, 1, 2)
    ]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_mixup_clouds_both_labels_independently(logits10, counts10, monkeypatch):
    logits, labels = logits10
    seen = []
    original = F.cross_entropy
    monkeypatch.setattr(F, "cross_entropy", lambda u, *a, **k: (seen.append(u), original(u, *a, **k))[1])
    batch = Batch(logits, labels, labels.roll(1), lam=0.75)
    value = mixed_loss(logits, batch, GCL(), Context(counts10, 1, 1))
    first, second = ((u - logits)[:, 1:].flatten() for u in seen)
    sizes = torch.tensor([math.log(5000 / n) for n in counts10.tolist()[1:]]).repeat(40)
    correlation = torch.corrcoef(torch.stack([first / sizes, second / sizes]))[0, 1]
    assert abs(float(correlation)) < 5 / math.sqrt(360)
    terms = [original(seen[0], labels), original(seen[1], labels.roll(1))]
    assert float(value) == pytest.approx(0.75 * float(terms[0]) + 0.25 * float(terms[1]), rel=1e-12)


def test_the_stages_are_the_published_ones(cifar):
    recipe = build_recipe("gcl", cifar())
    first, second = recipe.stages
    assert (recipe.head, recipe.scale) == ("cosine", 30.0)
    assert first.loss == GCL(scale=30.0, kappa=0.5, margin=0.0, gamma=0.0)
    assert (first.mixup, first.sampler, first.trainable, first.enter) == (1.0, "instance", "all", ())
    assert second.loss == GCL(scale=20.0, kappa=0.5, margin=0.1, gamma=1.0)
    assert (second.mixup, second.trainable, second.enter) == (1.0, "head", (Rescale(20.0),))
    assert (second.sampler, second.frozen_batchnorm) == ("inverse_frequency", True)


def test_options_reach_both_stages(cifar):
    recipe = build_recipe("gcl", cifar(), sampler="cben", kappa=1.0)
    assert [s.loss.kappa for s in recipe.stages] == [1.0, 1.0]
    assert [s.sampler for s in recipe.stages] == ["instance", "cben"]


@pytest.mark.parametrize("sampler", ["cbne", "cben:2", "effective_number:2", 3])
def test_a_wrong_sampler_of_stage_2_is_refused_before_stage_1(cifar, sampler):
    with pytest.raises(UserError, match="sampler"):
        build_recipe("gcl", cifar(), sampler=sampler)
    for valid in (*SAMPLERS, "effective_number:0.99", "class_balanced:4"):
        assert build_recipe("gcl", cifar(), sampler=valid).stages[1].sampler == valid
