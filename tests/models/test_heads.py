"""Heads: what they compute, and what they hold."""

import pytest
import torch

from sharpness.errors import UserError
from sharpness.models import HEADS, CosineHead, LearnableWeightScaling, LinearHead, build_head


@pytest.fixture
def features():
    return torch.randn(50, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_linear_logits_are_affine(features):
    head = LinearHead(7, 4).double()
    expected = [[head.weight[c] @ z + head.bias[c] for c in range(4)] for z in features]
    assert torch.allclose(head(features), torch.stack([torch.stack(row) for row in expected]), rtol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 16.0, 30.0])
def test_cosine_logits_are_scaled_cosines(features, scale):
    head = CosineHead(7, 4, scale).double()
    head.weight.data.mul_(torch.tensor([0.5, 1, 2, 10], dtype=torch.float64))
    columns = head.weight.detach()
    cosines = (features @ columns) / (features.norm(dim=1)[:, None] * columns.norm(dim=0))
    assert torch.allclose(head(features), scale * cosines, rtol=1e-12)


def test_cosine_logits_lie_between_minus_and_plus_the_scale(features):
    head = CosineHead(7, 7, 30.0).double()
    logits = head(torch.cat([1e3 * features, 1e-3 * features, head.weight.T, -head.weight.T]))
    assert logits.abs().max() <= 30 * (1 + 1e-12)
    assert torch.allclose(logits[-14:-7].diagonal(), torch.full((7,), 30.0, dtype=torch.float64))
    assert torch.allclose(logits[-7:].diagonal(), torch.full((7,), -30.0, dtype=torch.float64))


def test_cosine_logits_see_neither_the_length_of_features_nor_of_columns(features):
    head = CosineHead(7, 4).double()
    before = head(features)
    head.weight.data.mul_(3)
    assert torch.allclose(head(features * 0.2), before, rtol=1e-12)


def test_cosine_columns_start_with_length_one_in_the_layout_of_ldam():
    head = CosineHead(7, 4)
    assert head.weight.shape == (7, 4)
    assert torch.allclose(head.weight.norm(dim=0), torch.ones(4))
    assert head.filter_axes == {"weight": 1}
    assert [name for name, _ in head.named_parameters()] == ["weight"]


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_scale_that_is_not_positive_is_refused(scale):
    with pytest.raises(UserError, match=f"is {scale}"):
        CosineHead(7, 4, scale)


@pytest.mark.parametrize("below", [LinearHead, CosineHead])
def test_weight_scaling_multiplies_the_whole_output_bias_included(features, below):
    inner = below(7, 4).double()
    head = LearnableWeightScaling(inner, 4).double()
    assert torch.equal(head(features), inner(features))
    head.factor.data.copy_(torch.tensor([2.0, -1.0, 0.0, 0.5]))
    assert torch.allclose(head(features), inner(features) * torch.tensor([2.0, -1.0, 0.0, 0.5]), rtol=1e-14)


def test_weight_scaling_of_a_zero_feature_scales_the_bias():
    inner = LinearHead(7, 4).double()
    head = LearnableWeightScaling(inner, 4).double()
    head.factor.data.copy_(torch.tensor([2.0, 3.0, 4.0, 5.0]))
    at_zero = head(torch.zeros(1, 7, dtype=torch.float64))
    assert torch.allclose(at_zero, inner.bias * torch.tensor([2.0, 3.0, 4.0, 5.0]))


@pytest.mark.parametrize("kind", HEADS)
def test_every_kind_of_head_is_built_by_name(kind):
    head = build_head(kind, 7, 4)
    assert isinstance(head, LearnableWeightScaling) == kind.endswith("+lws")
    inner = head.head if kind.endswith("+lws") else head
    assert isinstance(inner, LinearHead if kind.startswith("linear") else CosineHead)
    assert head(torch.ones(2, 7)).shape == (2, 4)


def test_wrong_requests_are_refused():
    with pytest.raises(UserError, match="linear, cosine"):
        build_head("tau", 7, 4)
    with pytest.raises(UserError, match="scale=20"):
        build_head("linear", 7, 4, scale=20)
