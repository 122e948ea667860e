"""Step rules in a loop of one's own: the steps of training, on networks without a head and with any optimizer."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpness import UserError, optimizers
from sharpness.flattening import ClassConditionalStep, build_operation
from sharpness.methods.balanced_softmax import BalancedSoftmax
from sharpness.methods.cross_entropy import CrossEntropy
from sharpness.models import build_model
from sharpness.steps import Batch, Context, EpochRule, PlainStep
from sharpness.training.state import epoch_generator
from sharpness.training.steps import Steps

COUNTS = [60, 20, 5]
RULES = ("sam:0.1", "asam", "gp", "mp", "imbsam", "focal-sam", "rwsam", "fs-dgpm:samples=8", "cc-sam")


@pytest.fixture(scope="module")
def batches():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(6, 1, 8, 8, generator=generator), torch.tensor([0, 0, 0, 1, 1, 2])) for _ in range(3)]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_model("resnet8", num_classes=3, in_channels=1)


@pytest.mark.parametrize("name", RULES)
def test_steps_are_those_of_training(name, batches, network):
    """With a classifier as training has it: ``Steps`` is what ``sharpness.train`` makes its steps by."""
    theirs, ours = copy.deepcopy(network), copy.deepcopy(network)
    sgd = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}
    rule = ClassConditionalStep() if name == "cc-sam" else build_operation(name)
    generators = epoch_generator(4, 0, 2), epoch_generator(4, 0, 2, "/rule")
    context = Context(torch.tensor(COUNTS), 2, 5, *generators)
    if isinstance(rule, EpochRule):
        rule = rule.for_epoch(theirs, (Batch(x, y) for x, y in batches), context)
    steps = Steps(theirs, torch.optim.SGD(theirs.parameters(), **sgd), CrossEntropy())
    stepper = optimizers.wrap(
        torch.optim.SGD(ours.parameters(), **sgd), name, ours, train_counts=COUNTS, epochs=5, seed=4
    )
    stepper.begin_epoch(2, batches)
    for x, y in batches:
        expected = steps(rule, Batch(x, y), context)
        torch.testing.assert_close(stepper.step(x, y), expected)
    for (key, a), b in zip(theirs.state_dict().items(), ours.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda told, key=key: f"{key}: {told}")


def test_sam_is_sam_on_a_plain_network_with_adam():
    """Against the two passes written out."""
    torch.manual_seed(1)
    ours = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    theirs, x, y = copy.deepcopy(ours), torch.randn(5, 3).double(), torch.tensor([0, 1, 1, 0, 1])
    stepper = optimizers.wrap(torch.optim.Adam(ours.parameters(), lr=0.01), "sam:0.2", ours)
    adam = torch.optim.Adam(theirs.parameters(), lr=0.01)
    for _ in range(3):
        stepper.step(x, y)
        parameters = list(theirs.parameters())
        gradient = torch.autograd.grad(F.cross_entropy(theirs(x), y), parameters)
        norm = torch.cat([g.reshape(-1) for g in gradient]).norm()
        moved = [0.2 * g / norm for g in gradient]
        with torch.no_grad():
            for p, d in zip(parameters, moved, strict=True):
                p += d
        adam.zero_grad()
        F.cross_entropy(theirs(x), y).backward()
        with torch.no_grad():
            for p, d in zip(parameters, moved, strict=True):
                p -= d
        adam.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_a_training_goes_on_from_its_state(batches, network):
    def stepper_of(model):
        return optimizers.wrap(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), "mp", model, seed=3)

    first = stepper_of(whole := copy.deepcopy(network))
    first.begin_epoch(1)
    first.step(*batches[0])
    weights, state = copy.deepcopy(whole.state_dict()), copy.deepcopy(first.state_dict())
    first.step(*batches[1])
    second = stepper_of(resumed := copy.deepcopy(network))
    resumed.load_state_dict(weights)
    second.load_state_dict(state)
    second.step(*batches[1])
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_loss_that_depends_on_counts_is_no_plain_loss_without_them(network, batches):
    """A single count, broadcast, would make Balanced Softmax cross-entropy."""
    counts, model = torch.tensor(COUNTS), copy.deepcopy(network).eval()
    x, y = batches[0]
    with torch.no_grad():
        expected = F.cross_entropy(model(x) + counts.log(), y)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    given = optimizers.wrap(sgd, PlainStep(), model, BalancedSoftmax(), train_counts=COUNTS)
    torch.testing.assert_close(given.step(x, y), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError) as told:
        optimizers.wrap(sgd, PlainStep(), model, BalancedSoftmax()).step(x, y)
    assert "train_counts= was not given" in told.value.__notes__[0]


def test_a_restored_rule_of_an_epoch_is_made_anew(network, batches):
    model = copy.deepcopy(network)
    stepper = optimizers.wrap(torch.optim.SGD(model.parameters(), lr=0.1), "fs-dgpm:samples=8", model, epochs=5)
    stepper.begin_epoch(3, batches)
    state = stepper.state_dict()
    stepper.begin_epoch(4, batches)
    stepper.load_state_dict(state)
    with pytest.raises(UserError, match=r"call begin_epoch\(3, batches\)"):
        stepper.step(*batches[0])


def test_what_cannot_serve_in_a_loop_is_refused(network, batches):
    sgd = torch.optim.SGD(network.parameters(), lr=0.1)
    for rule in ("swa", "sn", "pof"):
        with pytest.raises(UserError, match="changes a training rather than the gradient"):
            optimizers.wrap(sgd, rule, network)
    with pytest.raises(UserError, match="unknown flattening operation 'sma'"):
        optimizers.wrap(sgd, "sma", network)
    with pytest.raises(UserError, match="give train_counts="):
        optimizers.wrap(sgd, "imbsam", network)
    with pytest.raises(UserError, match="no parameter of this network"):
        optimizers.wrap(sgd, "sam", nn.Linear(2, 2))
    with pytest.raises(UserError, match="loss=3"):
        optimizers.wrap(sgd, "sam", network, loss=3)
    with pytest.raises(UserError, match=r"call begin_epoch\(1, batches\)"):
        optimizers.wrap(sgd, "fs-dgpm", network).step(*batches[0])
    with pytest.raises(UserError, match="one value for each"):
        optimizers.wrap(sgd, "sam", network, loss=nn.CrossEntropyLoss()).step(*batches[0])
