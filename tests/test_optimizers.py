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
from sharpness.methods.ldam import LDAM
from sharpness.models import build_model
from sharpness.steps import Batch, Context, EpochRule, Loss, PlainStep
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


def flat(network):
    return torch.cat([p.grad.to_dense().flatten() for p in network.parameters()])


@pytest.mark.parametrize(
    "rule",
    ["sam:1", "asam", "gp:1", "mp:bound=1", "imbsam:1", "focal-sam:1", "rwsam:1", "fs-dgpm:0.2:samples=8", "cc-sam"],
)
def test_all_passes_of_steps_in_one_autocast_see_the_weights_as_they_are(rule, batches):
    """Autocast copies weights once: also those seen without gradients before, and those before a step."""

    def gradients(enabled):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(288, 3))
        sgd = torch.optim.SGD(network.parameters(), lr=0.2)
        stepper, found = optimizers.wrap(sgd, rule, network, train_counts=COUNTS), []
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            with torch.no_grad():
                network(batches[0][0])
            stepper.begin_epoch(1, batches)
            for x, y in batches[:2]:
                stepper.step(x, y)
                found.append(flat(network))
            found.append(network(batches[0][0]).float())
        return found

    for there, exact in zip(gradients(True), gradients(False), strict=True):
        assert (there - exact).norm() < 0.01 * exact.norm()


class Tempered(nn.Module):
    """Cross-entropy with a trained temperature, in a loss of one's own."""

    def __init__(self):
        super().__init__()
        self.t = nn.Parameter(torch.tensor(1.5).double())

    def forward(self, logits, labels):
        return F.cross_entropy(self.t * logits, labels, reduction="none")


@pytest.mark.parametrize("given", ["module", "function", "tensor"])
@pytest.mark.parametrize("rule", ["sam:0.3", "gp:0.3", "imbsam:0.3:eta=60:tail_factor=2", "cc-sam", "mp"])
def test_parameters_of_a_loss_are_treated_like_those_of_the_network(rule, given):
    """The step is that of a network that multiplies its logits by the temperature itself."""
    torch.manual_seed(2)
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(8, 3)).double()
    x, y = torch.randn(6, 1, 2, 2).double(), torch.tensor([0, 0, 0, 1, 1, 2])
    loss = Tempered()

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.t = copy.deepcopy(network), copy.deepcopy(loss.t)

        def forward(self, x):
            return self.t * self.network(x)

    whole = Whole()
    of_whole = optimizers.wrap(torch.optim.SGD(whole.parameters(), lr=0.0), rule, whole, train_counts=COUNTS)
    if given == "tensor":  # no nn.Parameter
        del loss.t
        loss.t = torch.tensor(1.5).double().requires_grad_()
    sgd = torch.optim.SGD([*network.parameters(), loss.t], lr=0.0)
    stepper = optimizers.wrap(
        sgd, rule, network, loss if given == "module" else lambda u, y: loss(u, y), train_counts=COUNTS
    )
    for _ in range(2):
        for each in (stepper, of_whole):
            each.step(x, y)
        torch.testing.assert_close(flat(network), flat(whole.network), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(loss.t.grad, whole.t.grad, rtol=1e-9, atol=1e-12)


def test_the_optimizer_has_all_that_is_trained():
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3))
    head = torch.optim.SGD(network[1].parameters(), lr=0.1)
    with pytest.raises(UserError, match=r"lacks 0\.weight of the network.*requires_grad_\(False\)"):
        optimizers.wrap(head, "sam", network)
    with pytest.raises(UserError, match="lacks t of the loss"):
        optimizers.wrap(torch.optim.SGD(network.parameters(), lr=0.1), "sam", network, Tempered())
    network[0].requires_grad_(False)
    optimizers.wrap(head, "sam", network).step(torch.randn(2, 3), torch.tensor([0, 1]))
    assert network[0].weight.grad is None and network[1].weight.grad is not None


def test_what_changes_with_the_epoch_needs_the_number_of_epochs():
    """Deferred re-weighting would otherwise begin in the first epoch."""
    network, x, y = nn.Linear(4, 3), torch.randn(6, 4), torch.tensor([0, 0, 0, 1, 1, 2])

    def stepper(loss, **options):
        sgd = torch.optim.SGD(network.parameters(), lr=0.0)
        return optimizers.wrap(sgd, "imbsam", network, loss, train_counts=COUNTS, **options)

    without = stepper(LDAM())
    for epoch in (None, 3):
        if epoch:
            without.begin_epoch(epoch)
        with pytest.raises(UserError, match=r"number of epochs: give wrap\(\.\.\., epochs=\)"):
            without.step(x, y)
    known = stepper(LDAM(), epochs=10)
    for epoch, deferred in ((8, LDAM(reweight_from=1.0)), (9, LDAM(reweight_from=0.0))):
        known.begin_epoch(epoch)
        assert known.step(x, y) == stepper(deferred, epochs=1).step(x, y)
    with pytest.raises(UserError, match=r"epoch=11: the training has 10, .*wrap\(\.\.\., epochs=\)"):
        known.begin_epoch(11)
    with pytest.raises(UserError, match="epochs=0"):
        stepper("ce", epochs=0)

    class OfEpoch(Loss):
        """Depends on the epoch, and not on their number."""

        def terms(self, logits, labels, context):
            return context.epoch * F.cross_entropy(logits, labels, reduction="none"), torch.ones(len(labels))

    plain = stepper(OfEpoch())
    first = plain.step(x, y)
    plain.begin_epoch(500)
    torch.testing.assert_close(plain.step(x, y), 500 * first)


@pytest.mark.parametrize("rule", ["imbsam:0.3", "focal-sam:0.3", "cc-sam"])
def test_rules_of_several_backward_passes_take_a_compiled_network(rule):
    """Code compiled for a plain step, such as that of a warm-up, frees what they need."""
    torch.manual_seed(3)
    plain = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    twin, x, y = copy.deepcopy(plain), torch.randn(6, 4), torch.tensor([0, 0, 0, 1, 1, 2])
    for network, called in ((plain, plain), (twin, torch.compile(twin, backend="aot_eager"))):
        F.cross_entropy(called(x), y).backward()
        sgd = torch.optim.SGD(network.parameters(), lr=0.0)
        optimizers.wrap(sgd, rule, called, train_counts=COUNTS).step(x, y)
    torch.testing.assert_close(flat(twin), flat(plain))


@pytest.mark.parametrize("rule", RULES)
def test_gradients_may_be_sparse(rule):
    """They stay so where the rule allows, as the optimizers for them demand."""
    torch.manual_seed(4)
    layers = (nn.Embedding(10, 8), nn.Unflatten(1, (1, 3)), nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(24, 3))
    dense = nn.Sequential(*layers).double()
    sparse, x, y = copy.deepcopy(dense), torch.randint(0, 10, (6, 3)), torch.tensor([0, 0, 0, 1, 1, 2])
    sparse[0].sparse = True
    for network in (dense, sparse):
        sgd = torch.optim.SGD(network.parameters(), lr=0.0)
        stepper = optimizers.wrap(sgd, rule, network, train_counts=COUNTS)
        stepper.begin_epoch(1, [(x, y)])
        stepper.step(x, y)
    assert sparse[0].weight.grad.is_sparse
    torch.testing.assert_close(flat(sparse), flat(dense), rtol=1e-9, atol=1e-12)


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
    with pytest.raises(UserError, match="LBFGS evaluates the loss several times"):
        optimizers.wrap(torch.optim.LBFGS(network.parameters()), "sam", network)
    with pytest.raises(UserError, match="loss=3"):
        optimizers.wrap(sgd, "sam", network, loss=3)
    with pytest.raises(UserError, match=r"call begin_epoch\(1, batches\)"):
        optimizers.wrap(sgd, "fs-dgpm", network).step(*batches[0])
    with pytest.raises(UserError, match="one value for each"):
        optimizers.wrap(sgd, "sam", network, loss=nn.CrossEntropyLoss()).step(*batches[0])
