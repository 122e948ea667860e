"""What differs from released code stands on the card of every method and operation it concerns."""

import math

import pytest
import torch
from torch import nn

from sharpness.flattening import build_operation
from sharpness.methods import build_recipe, flattened
from sharpness.models import LinearHead

#: Words of the note, by method or operation: the table of differences that were found by running released code.
METHODS = [
    ("logit-adjustment", {}, ("2 pixels of padding", "x / 255 - 0.5", "no normalisation by channel")),
    ("logit-adjustment", {}, ("incomplete batches", "every step")),
    ("gcl", {}, ("last epoch of stage 1", "best on the test set")),
    ("gcl", {"sampler": "cben"}, ("last epoch of stage 1", "best on the test set")),
    ("cc-sam", {}, ("last epoch", "best on the test set")),
    ("cc-sam", {"released_code": True}, ("every stage", "last epoch", "best on the test set")),
    ("cc-sam", {"released_code": True}, ("5 + 5 + 4", "16")),
    ("m2m", {}, ("cut to length 0.5 per image", "0.09 for 100")),
    ("cc-sam", {}, ("variance 2 / features", "1 / (3 features)", "1.6 times longer")),
    ("crt", {}, ("variance 2 / features", "1 / (3 features)")),
    ("balanced-softmax", {"decoupled": True}, ("variance 2 / features", "1 / (3 features)")),
]
OPERATIONS = [
    ("mp", ("one for all of a tensor", "beta distribution")),
    ("mp", ("twice their standard deviation",)),
    ("fs-dgpm", ("first order", "--second_order", "2.8 %")),
    ("imbsam", ("running statistics", "both passes")),
    ("focal-sam", ("running statistics", "passes")),
    ("asam", ("running statistics", "both passes")),
    ("sam", ("running statistics", "Saddle-LongTail")),
    ("pof", ("running statistics", "5e-4", "Nesterov", "50 epochs")),
]


@pytest.mark.parametrize(("method", "options", "words"), METHODS)
def test_a_method_names_how_it_differs(cifar, method, options, words):
    notes = build_recipe(method, cifar(), **options).notes
    assert any(all(word in note for word in words) for note in notes)


@pytest.mark.parametrize(("name", "words"), OPERATIONS)
def test_an_operation_names_how_it_differs(cifar, name, words):
    notes = flattened(build_recipe("ce", cifar()), (name,)).notes
    assert any(all(word in note for word in words) for note in notes)
    assert set(build_operation(name).deviations) <= set(notes)


def test_a_fresh_classifier_has_the_variances_that_the_notes_name():
    """Variances of 2 / d and 1 / (3 d); CC-SAM's radius goes with the root of the norm, and so with its fourth root."""
    torch.manual_seed(0)
    ours, theirs = LinearHead(640, 1000).weight, nn.Linear(640, 1000).weight
    assert float(ours.detach().var()) * 640 == pytest.approx(2, rel=0.02)
    assert float(theirs.detach().var()) * 640 == pytest.approx(1 / 3, rel=0.02)
    assert f"{math.sqrt(math.sqrt(2 / (1 / 3))):.1f}" == "1.6"


def test_levels_of_noise_have_the_deviation_that_the_note_names():
    levels = torch.arange(5) / 4 - 0.5
    assert f"{float(levels.std(correction=0)):.2f}" == "0.35"
