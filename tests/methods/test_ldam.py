"""LDAM-DRW: published margins and weights, and torch's weighted cross-entropy."""

import pytest
import torch
from torch.nn import functional as F

from sharpness.methods import build_recipe
from sharpness.methods.ldam import LDAM, effective_number_weights, margins
from sharpness.steps import Context

MARGINS = [0.158, 0.180, 0.204, 0.232, 0.264, 0.300, 0.341, 0.387, 0.441, 0.500]
WEIGHTS = "0.0506 0.0769 0.1211 0.1950 0.3188 0.5246 0.8683 1.4426 2.4092 3.9927"


def test_margins_are_the_published_ones(counts10):
    # Three decimals; the ninth is 0.440497, published as 0.441.
    assert margins(counts10).tolist() == pytest.approx(MARGINS, abs=5.1e-4)
    assert margins(counts10).tolist() == pytest.approx([0.5 * (50 / n) ** 0.25 for n in counts10.tolist()], rel=1e-14)


def test_margins_fall_with_the_fourth_root_and_the_rarest_class_has_the_largest():
    m = margins(torch.tensor([625, 16, 81, 1]), max_margin=0.3)
    assert m.tolist() == pytest.approx([0.3 / 5, 0.3 / 2, 0.3 / 3, 0.3], rel=1e-14)


def test_weights_are_the_published_ones(counts10):
    weights = effective_number_weights(counts10)
    assert " ".join(f"{w:.4f}" for w in weights) == WEIGHTS
    assert float(weights.sum()) == pytest.approx(10, rel=1e-14)


def test_weights_of_beta_zero_are_one(counts10):
    assert torch.allclose(effective_number_weights(counts10, 0.0), torch.ones(10, dtype=torch.float64))


def weighted_cross_entropy(logits, labels, counts, scale, weights=None, max_margin=0.5):
    """The logits shifted by hand, then torch."""
    shifted = logits.clone()
    most = max(n**-0.25 for n in counts.tolist())
    for i, y in enumerate(labels.tolist()):
        shifted[i, y] -= scale * max_margin * counts[y].item() ** -0.25 / most
    return F.cross_entropy(shifted, labels, weights)


@pytest.mark.parametrize(("scale", "max_margin"), [(30.0, 0.5), (50.0, 0.2)])
def test_before_the_deferral_it_is_cross_entropy_of_shifted_logits(logits10, counts10, scale, max_margin):
    loss = LDAM(scale, max_margin)
    for epoch in (1, 160):
        value = loss(*logits10, Context(counts10, epoch, 200))
        expected = weighted_cross_entropy(*logits10, counts10, scale, None, max_margin)
        assert float(value) == pytest.approx(float(expected), rel=1e-12)


def test_after_the_deferral_it_is_torchs_weighted_cross_entropy(logits10, counts10):
    logits, labels = logits10
    raw = [(1 - 0.9999) / (1 - 0.9999**n) for n in counts10.tolist()]
    weights = torch.tensor([10 * w / sum(raw) for w in raw], dtype=torch.float64)
    for chosen in (slice(None), slice(0, 7), slice(9, 10)):
        for epoch in (161, 200):
            value = LDAM()(logits[chosen], labels[chosen], Context(counts10, epoch, 200))
            expected = weighted_cross_entropy(logits[chosen], labels[chosen], counts10, 30.0, weights)
            assert float(value) == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize(("epochs", "last_plain"), [(200, 160), (100, 80), (40, 32), (5, 4), (10, 8), (15, 12)])
def test_re_weighting_starts_after_four_fifths(logits10, counts10, epochs, last_plain):
    plain = [bool((LDAM().terms(*logits10, Context(counts10, e, epochs))[1] == 1).all()) for e in range(1, epochs + 1)]
    assert plain == [e <= last_plain for e in range(1, epochs + 1)]


def test_no_gradient_flows_through_the_weights(logits10, counts10):
    logits = logits10[0].requires_grad_()
    losses, weights = LDAM().terms(logits, logits10[1], Context(counts10, 200, 200))
    assert losses.requires_grad
    assert not weights.requires_grad


def test_the_recipe_has_a_cosine_head_of_the_scale_of_its_loss(cifar):
    recipe = build_recipe("ldam-drw", cifar(), scale=20.0, max_margin=0.3)
    assert (recipe.head, recipe.scale, recipe.stages[0].loss) == ("cosine", 20.0, LDAM(20.0, 0.3))
    assert build_recipe("ldam-drw", cifar()).stages[0].loss == LDAM(30.0, 0.5, 0.8, 0.9999)
    assert (recipe.stages[0].sampler, recipe.stages[0].mixup) == ("instance", 0)


def test_it_is_deterministic_already():
    assert LDAM().deterministic() == LDAM()
