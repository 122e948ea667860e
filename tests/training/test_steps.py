"""Steps that are replayed: the same weights as plain ones, whatever is drawn, changes or comes last."""

from dataclasses import replace

import pytest
import torch

from sharpness import load_data, train
from sharpness.methods import build_recipe
from sharpness.methods.cc_sam_head import ClassConditionalHead
from sharpness.methods.cross_entropy import CrossEntropy
from sharpness.methods.m2m import MajorToMinor
from sharpness.methods.rsg import RSG
from sharpness.models import Frozen
from sharpness.steps import Batch, Context, PlainStep
from sharpness.training import loop, steps
from sharpness.training.loop import initial_model
from sharpness.training.optimizer import regrouped
from sharpness.training.steps import ReplayedSteps, Replays, Steps, stage_steps


@pytest.fixture
def made(monkeypatch):
    """What is captured and replayed, in order. A replay calls the function anew, on what a graph would read."""
    made = []

    def record(function, device):
        value = torch.zeros(())
        made.append("capture")

        def replay():
            made.append("replay")
            value.copy_(function())

        return replay, value

    monkeypatch.setattr(steps, "record", record)
    return made


@pytest.fixture
def replaying(monkeypatch, made):
    """Training replays its steps as on a GPU."""

    def choose(network, optimizer, loss, rule, device):
        capturable = loss.capturable and getattr(rule, "capturable", False)
        return (ReplayedSteps if capturable else Steps)(network, optimizer, loss)

    monkeypatch.setattr(loop, "stage_steps", choose)
    return made


@pytest.mark.every(2)
@pytest.mark.parametrize("method", ["ce", "ldam-drw", "mislas", "gcl", "cc-sam", "balanced-softmax", "focal"])
def test_replayed_steps_end_in_the_same_weights(method, digits, tmp_path, identical, weights, monkeypatch, made):
    """GCL draws in its loss, LDAM-DRW and adversarial features depend on the epoch, mixup mixes by a number of a batch,
    and 380 images leave an incomplete batch.
    """
    train(method, digits, tmp_path / "plain", epochs=7, batch_size=64)
    monkeypatch.setattr(loop, "stage_steps", lambda *given: ReplayedSteps(*given[:3]))
    train(method, digits, tmp_path / "replayed", epochs=7, batch_size=64)
    assert made.count("replay") > 25
    identical(weights(tmp_path / "plain"), weights(tmp_path / "replayed"))


def test_a_graph_lasts_while_nothing_it_has_fixed_changes(digits, tmp_path, replaying):
    """Cross-entropy for ten epochs: the learning rate warms up in the first (5 of 200 are 0.25 of 10), drops after the
    eighth and ninth, and the incomplete batch is captured beside the full one.
    """
    train("ce", digits, tmp_path / "run", epochs=10, batch_size=64)
    full, incomplete = 1 + 2, 1 + 2
    assert replaying.count("capture") == full + incomplete
    assert replaying.count("replay") == 10 * 6 - 2  # the first of either size is computed as it is


def test_a_loss_that_looks_at_the_epoch_is_captured_in_each(digits, tmp_path, replaying):
    train("ldam-drw", digits, tmp_path / "run", epochs=10, batch_size=64)
    assert replaying.count("capture") == 10
    assert replaying.count("replay") == 10 * 5 - 1


def test_what_cannot_be_captured_is_launched_as_it_is(digits, tmp_path, identical, weights, monkeypatch, caplog):
    def refuse(function, device):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    train("gcl", digits, tmp_path / "plain", epochs=2)
    monkeypatch.setattr(steps, "record", refuse)
    monkeypatch.setattr(loop, "stage_steps", lambda *given: ReplayedSteps(*given[:3]))
    train("gcl", digits, tmp_path / "refused", epochs=2)
    identical(weights(tmp_path / "plain"), weights(tmp_path / "refused"))
    told = [r.message for r in caplog.records if "launched one by one" in r.message]
    assert (
        told == ["steps are not replayed but launched one by one: operation not permitted when stream is capturing"] * 2
    )


def test_only_what_says_so_is_captured_and_only_on_a_gpu():
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)

    def kind(loss, rule, device="cuda"):
        return type(stage_steps(network, optimizer, loss, rule, torch.device(device)))

    assert kind(CrossEntropy(), PlainStep()) is ReplayedSteps
    assert kind(CrossEntropy(), ClassConditionalHead()) is ReplayedSteps
    assert kind(CrossEntropy(), PlainStep(), "cpu") is Steps
    assert kind(CrossEntropy(), ClassConditionalHead(mode="magnitude")) is Steps
    assert kind(RSG(), PlainStep()) is Steps


def test_an_earlier_state_with_a_group_for_every_parameter_is_read(digits):
    """Momentum goes to the parameter it belongs to, also where groups put the parameters in another order."""
    stage = build_recipe("mislas", digits.longtail).stages[0]
    stage = replace(stage, lr_factors=(("backbone.bn1.", 0.5), ("head.", 2.0)))
    network = loop.initial_model(build_recipe("ce", digits.longtail), "resnet8", digits, 0)
    earlier = torch.optim.SGD([{"params": [p], "factor": 1.0} for p in network.parameters()], lr=0.1, momentum=0.9)
    for i, p in enumerate(network.parameters()):
        p.grad = torch.full_like(p, float(i))
    earlier.step()
    optimizer = loop.make_optimizer(stage, network)
    optimizer.load_state_dict(regrouped(earlier.state_dict(), optimizer, network))
    assert [group["factor"] for group in optimizer.param_groups] == [1.0, 0.5, 2.0]
    for i, p in enumerate(network.parameters()):
        assert (optimizer.state[p]["momentum_buffer"] == i).all()


@pytest.mark.parametrize("folded", [False, True])
def test_calls_are_replayed_from_the_second_on(monkeypatch, folded):
    """M2m's translations of a batch are those that are computed for its slots alone, however many there are."""
    captured = []

    def record(function, device):
        outputs = function()
        captured.append(len(outputs[0]))

        def replay():
            for into, result in zip(outputs, function(), strict=True):
                into.copy_(result)

        return replay, outputs

    monkeypatch.setattr(steps, "record", record)
    data = load_data("digits-lt")
    network = initial_model(build_recipe("ce", data.longtail), "resnet8", data, 0).double()
    network.auxiliary = Frozen(initial_model(build_recipe("ce", data.longtail), "resnet8", data, 1).double())
    network.train()
    counts, replays, transform = torch.tensor(data.train_counts), Replays(), MajorToMinor(gamma=0.0)
    for seed in range(3):
        chosen = torch.randint(len(data.train), (24,), generator=torch.Generator().manual_seed(seed))
        batch = Batch(data.train.normalize(data.train.images[chosen]).double(), data.train.labels[chosen])

        contexts = [Context(counts, 1, 1, torch.Generator().manual_seed(seed), replayed=r) for r in (None, replays)]
        way = transform.for_epoch(network, data.train, contexts[1]) if folded else transform
        assert (way.folded is not None) == folded
        alone = transform(network, batch, data.train, contexts[0]).x
        replayed = way(network, batch, data.train, contexts[1]).x
        assert not torch.equal(alone, batch.x)
        torch.testing.assert_close(replayed, alone, rtol=1e-9, atol=1e-9)
    assert captured == [24]
