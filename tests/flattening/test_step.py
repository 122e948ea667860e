"""The step protocol: what is perturbed is put back, and a batch is what mixup says."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpness.steps import (
    Loss,
    PlainStep,
    at_least_float32,
    frozen_running_statistics,
    joint_norm,
    mixed_loss,
    perturbed,
)


@pytest.fixture
def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.BatchNorm1d(4, momentum=None)).train()


def snapshot(model):
    return copy.deepcopy(model.state_dict())


def unchanged(model, before):
    after = model.state_dict()
    return before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


def test_perturbed_adds_and_puts_back_the_exact_values(network):
    before, parameters = snapshot(network), list(network.parameters())
    # 0.1 + 1e8 - 1e8 is not 0.1 in float32: subtracting would not restore.
    with perturbed(parameters, [torch.full_like(p, 1e8) for p in parameters]):
        for p, (name, _) in zip(parameters, network.named_parameters(), strict=True):
            assert torch.equal(p.detach(), before[name] + 1e8)
    assert unchanged(network, before)


def test_perturbed_restores_after_an_exception(network):
    before, parameters = snapshot(network), list(network.parameters())
    with (
        pytest.raises(RuntimeError, match="inside"),
        perturbed(parameters, [torch.ones_like(p) for p in parameters]),
    ):
        raise RuntimeError("inside")
    assert unchanged(network, before)


def test_perturbed_restores_when_a_perturbation_does_not_fit(network):
    before, parameters = snapshot(network), list(network.parameters())
    for wrong in ([torch.ones_like(p) for p in parameters[:2]], [torch.ones(1), torch.ones(99)]):
        with pytest.raises((ValueError, RuntimeError)), perturbed(parameters, wrong):
            pass
        assert unchanged(network, before)


def test_a_gradient_inside_is_the_one_at_the_perturbed_weights():
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    with perturbed([w], [torch.tensor([0.5, -1.0])]):
        (w**3).sum().backward()
    assert w.grad.tolist() == [3 * 1.5**2, 3.0]
    assert w.tolist() == [1.0, 2.0]


def test_frozen_statistics_normalise_with_the_batch_and_do_not_move(network):
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    before = snapshot(network)
    with frozen_running_statistics(network):
        inside = network(x)
    assert unchanged(network, before)
    assert torch.equal(inside, network(x))
    assert not unchanged(network, before), "outside again, statistics move"


def test_frozen_statistics_come_back_after_an_exception(network):
    before = snapshot(network)
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RuntimeError, match="inside"), frozen_running_statistics(network):
        network(x)
        raise RuntimeError("inside")
    assert unchanged(network, before)
    assert all(m.track_running_stats for m in network if isinstance(m, nn.BatchNorm1d))
    assert {name for name, _ in network.named_buffers()} == {k for k in before if "running" in k or "num_b" in k}


def test_layers_in_eval_mode_keep_normalising_with_their_statistics(network):
    network.eval()
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    outside = network(x)
    with frozen_running_statistics(network):
        assert torch.equal(network(x), outside)


def test_the_joint_norm_is_that_of_the_concatenation():
    assert float(joint_norm([torch.tensor([[3.0, 0.0]]), torch.tensor(4.0), torch.tensor([12.0])])) == 13.0


def test_plain_images_are_rows_of_weight_one(problem):
    index, labels, weights = problem.batch.rows()
    assert index.tolist() == list(range(11))
    assert torch.equal(labels, problem.batch.first)
    assert weights.tolist() == [1.0] * 11


def test_mixed_images_are_two_rows_whose_weights_sum_to_one(mixed):
    index, labels, weights = mixed.rows()
    rows = sorted(zip(index.tolist(), labels.tolist(), weights.tolist(), strict=True))
    first = [(i, y, 0.75) for i, y in enumerate(mixed.first.tolist())]
    second = [(i, y, 0.25) for i, y in enumerate(mixed.second.tolist())]
    assert rows == sorted(first + second)


@pytest.mark.parametrize("loss", ["plain", "weighted"])
def test_mixup_mixes_the_losses_of_both_labels(problem, mixed, loss):
    logits = torch.randn(11, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64) if loss == "weighted" else None
    expected = 0.75 * F.cross_entropy(logits, mixed.first, weights)
    expected = expected + 0.25 * F.cross_entropy(logits, mixed.second, weights)
    value = mixed_loss(logits, mixed, problem.losses[loss], problem.context)
    assert float(value) == pytest.approx(float(expected), rel=1e-14)


def test_a_loss_is_its_weighted_mean(problem):
    logits = torch.randn(11, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    value = problem.losses["weighted"](logits, problem.batch.first, problem.context)
    assert float(value) == pytest.approx(float(F.cross_entropy(logits, problem.batch.first, weights)), rel=1e-14)


def test_a_loss_without_terms_says_so(problem):
    with pytest.raises(NotImplementedError):
        Loss().terms(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64), problem.context)


@pytest.mark.parametrize("mixing", [False, True])
def test_a_plain_step_is_the_gradient_of_the_loss(problem, mixed, same, mixing):
    batch = mixed if mixing else problem.batch
    twin = copy.deepcopy(problem.model)
    logits = twin(batch.x)
    expected = F.cross_entropy(logits, batch.first)
    if mixing:
        expected = 0.75 * expected + 0.25 * F.cross_entropy(logits, batch.second)
    expected.backward()
    value, gradients = problem.run(PlainStep(), batch=batch)
    same(gradients, {name: p.grad for name, p in twin.named_parameters()})
    assert float(value) == pytest.approx(expected.item(), rel=1e-14)
    assert not value.requires_grad
    assert unchanged(problem.model, snapshot(twin)), "weights stay, statistics move once"


def test_half_precision_is_raised_and_double_is_kept():
    dtypes = {torch.bfloat16: torch.float32, torch.float32: torch.float32, torch.float64: torch.float64}
    for given, expected in dtypes.items():
        assert at_least_float32(torch.zeros(2, dtype=given)).dtype == expected


def test_the_protocol_is_found_where_it_was_with_a_warning():
    import sharpness.flattening

    with pytest.warns(FutureWarning, match=r"sharpness.flattening.Loss is now sharpness.steps.Loss"):
        assert sharpness.flattening.Loss is Loss
