"""Steps that are replayed: the same weights as plain ones, whatever is drawn, changes or comes last."""

from dataclasses import replace

import pytest
import torch

from sharpness import train
from sharpness.flattening import PlainStep
from sharpness.methods import build_recipe
from sharpness.methods.cc_sam_head import ClassConditionalHead
from sharpness.methods.cross_entropy import CrossEntropy
from sharpness.methods.rsg import RSG
from sharpness.training import loop
from sharpness.training.loop import regrouped
from sharpness.training.steps import ReplayedSteps, Steps, stage_steps


class OnCPU(ReplayedSteps):
    """A replay computes the step anew, from the memory that a graph would read."""

    made: list[str] = []

    def record(self, step, device):
        value = torch.zeros(())
        self.made.append("capture")

        def replay():
            self.made.append("replay")
            self.optimizer.zero_grad(set_to_none=True)
            value.copy_(step())

        return replay, value


@pytest.fixture
def replaying(monkeypatch):
    OnCPU.made = []

    def choose(network, optimizer, loss, rule, device):
        capturable = loss.capturable and getattr(rule, "capturable", False)
        return (OnCPU if capturable else Steps)(network, optimizer, loss)

    monkeypatch.setattr(loop, "stage_steps", choose)
    return OnCPU.made


@pytest.mark.parametrize("method", ["ce", "ldam-drw", "mislas", "gcl", "cc-sam", "balanced-softmax", "focal"])
def test_replayed_steps_end_in_the_same_weights(method, digits, tmp_path, identical, weights, monkeypatch):
    """GCL draws in its loss, LDAM-DRW and adversarial features depend on the epoch, mixup mixes by a number of a batch,
    and 380 images leave an incomplete batch.
    """
    train(method, digits, tmp_path / "plain", epochs=7, batch_size=64)
    OnCPU.made = []
    monkeypatch.setattr(
        loop, "stage_steps", lambda network, optimizer, loss, rule, device: OnCPU(network, optimizer, loss)
    )
    train(method, digits, tmp_path / "replayed", epochs=7, batch_size=64)
    assert OnCPU.made.count("replay") > 25
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
    class Refusing(ReplayedSteps):
        def record(self, step, device):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    train("gcl", digits, tmp_path / "plain", epochs=2)
    monkeypatch.setattr(
        loop, "stage_steps", lambda network, optimizer, loss, rule, device: Refusing(network, optimizer, loss)
    )
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
