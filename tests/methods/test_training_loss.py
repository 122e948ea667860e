"""The loss that a probe rebuilds from a manifest."""

import pytest
import torch
from torch.nn import functional as F

from sharpness.methods import METHODS
from sharpness.methods.gcl import GCL
from sharpness.methods.ldam import effective_number_weights
from sharpness.methods.mislas import LabelAwareSmoothing
from sharpness.methods.training_loss import training_loss
from sharpness.steps import Context


@pytest.fixture
def rebuilt(cifar):
    def build(method, **options):
        return training_loss(method, cifar(), options)

    return build


def test_cross_entropy_is_cross_entropy(rebuilt, logits10):
    loss = rebuilt("ce")
    assert torch.equal(loss(*logits10), F.cross_entropy(*logits10, reduction="none"))
    assert loss.weights(logits10[1]).unique().tolist() == [1.0]


def test_deferred_weights_are_on(rebuilt, logits10, counts10):
    weights = rebuilt("ldam-drw").weights(logits10[1])
    assert torch.allclose(weights.double(), effective_number_weights(counts10)[logits10[1]], rtol=1e-6)


def test_the_last_stage_counts(rebuilt, logits10, counts10):
    context = Context(counts10, 1, 1)
    expected = LabelAwareSmoothing(0.3, 0.0).terms(*logits10, context)[0]
    assert torch.equal(rebuilt("mislas")(*logits10), expected)
    gcl = GCL(scale=20.0, kappa=1.0, margin=0.1, gamma=1.0, noise="mean").terms(*logits10, context)[0]
    assert torch.equal(rebuilt("gcl", kappa=1.0)(*logits10), gcl)


def test_offsets_are_added_also_those_subtracted_after_training(rebuilt, logits10, counts10):
    logits, labels = logits10
    for method, options in (
        ("balanced-softmax", {}),
        ("balanced-softmax", {"decoupled": True}),
        ("logit-adjustment", {}),
        ("logit-adjustment", {"posthoc": True}),
    ):
        expected = F.cross_entropy(logits + counts10.double().log(), labels, reduction="none")
        assert torch.allclose(rebuilt(method, **options)(logits, labels), expected, rtol=1e-12)


@pytest.mark.parametrize("deferred", [True, False])
def test_class_weights_of_cross_entropy_are_on(rebuilt, logits10, counts10, deferred):
    weights = rebuilt("ce-drw", deferred=deferred).weights(logits10[1])
    assert torch.allclose(weights.double(), effective_number_weights(counts10)[logits10[1]], rtol=1e-6)


@pytest.mark.parametrize("method", ["crt", "lws", "tau-norm"])
def test_balancing_of_the_classifier_keeps_cross_entropy(rebuilt, logits10, method):
    assert torch.equal(rebuilt(method)(*logits10), F.cross_entropy(*logits10, reduction="none"))


def test_generated_samples_are_left_out(rebuilt, logits10):
    """What remains is the loss of real images: cross-entropy, and re-weighted margins."""
    assert torch.equal(rebuilt("m2m", helper="runs/ce")(*logits10), rebuilt("ce")(*logits10))
    rsg, ldam = rebuilt("rsg"), rebuilt("ldam-drw")
    assert torch.equal(rsg(*logits10), ldam(*logits10))
    assert torch.equal(rsg.weights(logits10[1]), ldam.weights(logits10[1]))


@pytest.mark.parametrize("method", METHODS)
def test_a_probe_sees_a_deterministic_function_in_float64(rebuilt, logits10, method):
    loss = rebuilt(method)
    before = torch.get_rng_state()
    first = loss(logits10[0].float(), logits10[1])
    assert torch.equal(first, loss(logits10[0].float(), logits10[1]))
    assert (first.shape, first.dtype) == ((40,), torch.float64)
    assert torch.equal(torch.get_rng_state(), before)
