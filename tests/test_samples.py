"""Samples prepared once, and taken by objectives of any model and loss."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpness import Objective, UserError, eigenvalues
from sharpness.data import read_images
from sharpness.objective import Description, Samples


def square(u, t):
    return (u.sum(1) - t) ** 2


def three_outputs(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return nn.Linear(4, 3).to(dtype)


X = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2] * 2 + [0, 0, 0, 1, 1, 0])


@pytest.mark.parametrize(
    "told, y, loss",
    [
        ({"num_classes": 3}, LABELS, "ce"),
        ({"class_names": ("a", "b", "c"), "train_counts": (500, 50, 5)}, LABELS, "ce"),
        ({"classes": LABELS, "num_classes": 4, "groups": {"first": [0, 1]}}, X[:, 0], square),
        ({"group_by": ["x", "y"] * 6, "weights": torch.arange(1.0, 13.0)}, F.one_hot(LABELS).double(), "ce"),
        ({}, X[:, 0], square),
        ({"num_classes": 3}, LABELS[:, None], "ce"),
        ({"class_names": ("a", "b", "c")}, LABELS[:, None], "ce"),
    ],
)
def test_prepared_samples_give_the_numbers_of_the_data_themselves(told, y, loss):
    model = three_outputs()
    of_data, of_samples = (
        Objective(model, (X, y), loss, **told),
        Objective(model, Description(**told).prepare((X, y)), loss),
    )
    assert of_samples.data_sha256 == of_data.data_sha256 and of_samples.identity.sha256 == of_data.identity.sha256
    assert of_samples.class_names == of_data.class_names and of_samples.groups == of_data.groups
    assert torch.equal(of_samples.gradient(), of_data.gradient())
    np.testing.assert_array_equal(of_samples.class_losses(), of_data.class_losses())
    assert of_samples.provenance() == of_data.provenance()


def test_samples_of_one_objective_serve_another_model_in_another_precision():
    first = Objective(three_outputs(), (X, LABELS), num_classes=3)
    other = three_outputs(seed=5, dtype=torch.float32)
    again = Objective(other, first.samples)
    oracle = F.cross_entropy(other(X.float()).double(), LABELS).item()
    assert again.x.dtype == torch.float32 and again.loss() == pytest.approx(oracle, rel=1e-6)
    assert first.x.dtype == torch.float64


def test_inputs_keep_their_digits_until_a_model_says_its_precision():
    """1 + 1e-12 is 1 in single precision: a slope by x there would be lost."""
    x = torch.tensor([[1.0], [1.0 + 1e-12]], dtype=torch.float64)
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(model.weight)
    samples = Description(group_by=lambda x, y: (x[:, 0] > 1).tolist()).prepare(
        (x, torch.zeros(2, dtype=torch.float64))
    )
    losses = Objective(model, samples, lambda u, t: u.squeeze(1) - t).class_losses()
    assert samples.class_samples.tolist() == [1, 1] and losses[1] - losses[0] == pytest.approx(1e-12, rel=1e-3)


def test_groups_by_inputs_see_them_as_they_were_given():
    x = torch.tensor([[0.1], [0.1 + 1e-12]], dtype=torch.float64)
    objective = Objective(nn.Linear(1, 2), (x, [0, 1]), group_by=lambda x, y: (x[:, 0] > 0.1).tolist())
    assert objective.class_samples.tolist() == [1, 1]


def test_several_inputs_are_prepared_as_well():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 3))

        def forward(self, values, index):
            return values @ self.weight + F.one_hot(index, 3)

    inputs = {"values": torch.rand(6, 2), "index": torch.tensor([0, 1, 2, 0, 1, 2])}
    samples = Description(num_classes=3).prepare((inputs, LABELS[:6]))
    objective = Objective(Sum(), samples)
    assert objective.loss() == Objective(Sum(), (inputs, LABELS[:6])).loss()
    again = Objective(Sum(), objective.samples.restrict([0, 4]))
    kept = {name: values[[0, 4]] for name, values in inputs.items()}
    assert again.loss() == Objective(Sum(), (kept, LABELS[[0, 4]])).loss()


def test_a_loss_weighs_prepared_samples_unless_their_weights_are_settled():
    class Weighing:
        def weights(self, y):
            return 1.0 + y

        def __call__(self, u, t):
            return F.cross_entropy(u, t, reduction="none")

    model, samples = three_outputs(), Description(num_classes=3).prepare((X, LABELS))
    weighed = Objective(model, samples, Weighing())
    torch.testing.assert_close(weighed.weights, (1.0 + LABELS).double())
    twice = Objective(model, weighed.samples, Weighing())
    torch.testing.assert_close(twice.weights, weighed.weights)
    given = Description(num_classes=3, weights=torch.ones(12)).prepare((X, LABELS))
    torch.testing.assert_close(Objective(model, given, Weighing()).weights, torch.ones(12, dtype=torch.float64))


def test_other_samples_have_numbers_of_their_own():
    samples = Description(num_classes=3).prepare((X, LABELS))
    assert samples.class_samples.tolist() == [6, 4, 2] and samples.data_sha256 and samples.class_weights[0] == 6
    part = samples.restrict([0, 1, 2])
    assert part.class_samples.tolist() == [1, 1, 1] and part.class_weights[0] == 1
    assert part.data_sha256 != samples.data_sha256 and len(part.identity) == 3 and len(samples.identity) == 12
    with pytest.raises(FrozenInstanceError):
        samples.weights = torch.ones(12)


def test_matched_and_reordered_samples_are_those_of_the_objective():
    objective = Objective(three_outputs(), (X, LABELS), num_classes=3)
    assert torch.equal(objective.samples.matched(2, seed=3).x, objective.matched(2, seed=3).x)
    mixed = objective.restrict(torch.randperm(12))
    assert torch.equal(mixed.samples.in_order_of(objective.samples).x, objective.x)
    assert objective.in_order_of(objective) is objective


def test_foreign_images_are_prepared_with_what_they_know():
    images = torch.randint(0, 256, (6, 1, 4, 4), dtype=torch.uint8)
    data = read_images((images, torch.tensor([0, 0, 0, 1, 1, 1])), train_counts=(500, 5), mean=[0.5], std=[0.5])
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    prepared, direct = Objective(model, Description().prepare(data)), Objective(model, data)
    assert prepared.groups == direct.groups == {"many": (0,), "medium": (), "few": (1,)}
    assert prepared.loss() == direct.loss() and prepared.identity.by == direct.identity.by == "pixels"


def test_probes_take_prepared_samples_as_data():
    model = three_outputs()
    samples = Description(num_classes=3).prepare((X, LABELS))
    assert isinstance(samples, Samples)
    found = eigenvalues(model, samples)
    logits = torch.func.hessian(
        lambda w: F.cross_entropy(X @ w[:12].view(3, 4).T + w[12:], LABELS)
    )(torch.cat([model.weight.flatten(), model.bias]).detach())  # fmt: skip
    assert float(found.values[0]) == pytest.approx(float(torch.linalg.eigvalsh(logits)[-1]), rel=5e-3)


@pytest.mark.parametrize("told", [{"num_classes": 3}, {"weights": torch.ones(12)}, {"mean": [0.5], "std": [0.5]}])
def test_prepared_samples_are_not_described_again(told):
    samples = Description(num_classes=3).prepare((X, LABELS))
    with pytest.raises(UserError, match=f"{', '.join(f'{name}=' for name in told)}: prepared Samples have their own"):
        Objective(three_outputs(), samples, **told)


def test_labels_alone_are_refused_where_no_model_tells_how_many_classes_there_are():
    with pytest.raises(UserError, match="give num_classes= or class_names="):
        Description().prepare((X, LABELS))


def test_names_of_classes_without_labels_are_told_apart_from_a_number_of_classes():
    with pytest.raises(UserError, match="^3 class_names and 1 class: .* say with classes= or group_by="):
        Description(class_names=("a", "b", "c")).prepare((X, X[:, 0]))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32, np.int64])
def test_samples_are_chosen_by_integers_of_any_kind(kind):
    samples = Description(num_classes=3).prepare((X, LABELS))
    assert torch.equal(samples.restrict(np.array([7, 2], dtype=kind)).x, X[[7, 2]])


def test_samples_of_more_classes_than_a_model_has_outputs_are_refused():
    with pytest.raises(UserError, match="there are 4 classes: cross-entropy takes one logit for each class"):
        Objective(three_outputs(), Description(num_classes=4).prepare((X, LABELS)))


def test_the_old_name_of_class_samples_warns():
    objective = Objective(three_outputs(), (X, LABELS), num_classes=3)
    with pytest.warns(FutureWarning, match=r"Objective\.class_counts is now Objective\.class_samples"):
        assert objective.class_counts.tolist() == [6, 4, 2]
