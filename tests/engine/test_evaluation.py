"""Losses at many points of parameter space against the module itself, moved by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness import Objective, UserError
from sharpness.engine.evaluation import Evaluation
from sharpness.models import build_model

SCOPES = ("all", "backbone", "classifier")


def displacement(objective, seed=0, size=0.1):
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(objective.num_parameters, dtype=torch.float64, generator=generator).to(objective.dtype)


def class_losses(network, objective, d):
    """Of the network at w + d, by its own forward pass in float64."""
    saved = [p.detach().clone() for p in objective.parameters]
    with torch.no_grad():
        for p, piece in zip(objective.parameters, d.split([p.numel() for p in saved]), strict=True):
            p.add_(piece.view_as(p))
        values = F.cross_entropy(network.outputs(), network.y, reduction="none")
        for p, old in zip(objective.parameters, saved, strict=True):
            p.copy_(old)
    return np.array([float(values[network.y == c].mean()) for c in range(3)])


@pytest.mark.every(2)
@pytest.mark.parametrize("scope", SCOPES)
def test_every_network_in_every_scope_is_evaluated_as_the_module_would(network, scope):
    try:
        objective = network.objective(batch_size=2, parameters=scope)
    except UserError as error:
        assert "matches no parameter" in str(error)
        return
    evaluation = objective.evaluation()
    assert isinstance(evaluation, Evaluation)
    for seed in (0, 1, 0):
        d = displacement(objective, seed)
        np.testing.assert_allclose(evaluation(d).class_means, class_losses(network, objective, d), rtol=1e-10)
    np.testing.assert_allclose(evaluation(None).class_means, objective.class_losses(), rtol=1e-10)


@pytest.mark.every(3)
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_in_reduced_precision_every_network_is_near_its_value_in_float64(network, precision, tolerance):
    """bfloat16 has 8 bits: a rounding error of 0.4 % in every layer."""
    wide = network.objective()
    d = displacement(wide)
    expected = class_losses(network, wide, d)
    network.model.float()
    if hasattr(network.model, "mask"):  # a plain tensor, which a module does not convert
        network.model.mask = network.model.mask.float()
    network.x = network.x.float() if network.x.is_floating_point() else network.x
    objective = network.objective(batch_size=2)
    evaluation = objective.evaluation(precision)
    assert isinstance(evaluation, Evaluation)
    for _ in range(2):
        found = evaluation(d.float()).class_means
        assert np.abs(found - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("head", ["linear", "cosine"])
@pytest.mark.parametrize("name", ["resnet20", "resnet32"])
def test_a_whole_resnet_in_float32_agrees_with_float64(name, head):
    torch.manual_seed(0)
    model = build_model(name, 5, 3, head=head)
    x, y = torch.randn(12, 3, 16, 16), torch.arange(12) % 5
    for _ in range(3):
        model(torch.randn(16, 3, 16, 16))
    model.eval()
    reduced = Objective(model, (x, y), num_classes=5).evaluation
    d = displacement(Objective(model, (x, y), num_classes=5), size=0.01)
    single, half = reduced()(d).class_means, reduced("bfloat16")(d).class_means
    wide = Objective(model.double(), (x, y), num_classes=5)
    with wide.at(d.double()):
        exact = wide.class_losses()
    np.testing.assert_allclose(single, exact, rtol=1e-4)
    np.testing.assert_allclose(half, exact, rtol=0, atol=0.02 * exact.max())


def test_right_answers_are_added_up_by_their_weights(build):
    network = build("ResNet-8")
    right = (network.outputs().argmax(1) == network.y).double()
    a = torch.tensor([0.5, 2.0, 1.0, 4.0, 0.25], dtype=torch.float64)
    found = network.objective(weights=a).evaluation()(None)
    np.testing.assert_array_equal(found.correct, [float((a * right)[network.y == c].sum()) for c in range(3)])
    assert found.accuracy == float((a * right).sum() / a.sum())
    np.testing.assert_array_equal(found.count, [2, 2, 1])


@pytest.fixture
def counted(wrap):
    """A network whose first ReLU counts the samples that pass: ``.seen``."""
    torch.manual_seed(0)
    network = wrap(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(5, 4))
    network.seen = 0

    def count(module, inputs, output):
        network.seen += len(output)

    network.model[1].register_forward_hook(count)
    return network


@pytest.mark.parametrize(("memory", "passes"), [(None, 1), (0, 3)], ids=["kept", "no memory"])
def test_layers_below_the_scope_run_once_while_memory_lasts(counted, memory, passes):
    objective = counted.objective(parameters="classifier", batch_size=2, memory=memory)
    evaluation = objective.evaluation()
    counted.seen = 0
    found = [evaluation(displacement(objective, seed)).class_means for seed in range(3)]
    assert counted.seen == passes * 5
    expected = [class_losses(counted, objective, displacement(objective, seed)) for seed in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        u = torch.tanh(self.fc(self.norm(x)))
        return u if u.sum() > 100 else u * u + u


def test_a_model_without_a_trace_is_moved_evaluated_and_put_back(wrap):
    torch.manual_seed(0)
    network = wrap(Branching(), torch.randn(5, 4))
    objective = network.objective(batch_size=2)
    before = {n: t.clone() for n, t in network.model.state_dict().items()}
    evaluation = objective.evaluation()
    assert not isinstance(evaluation, Evaluation)
    d = displacement(objective)
    np.testing.assert_allclose(evaluation(d).class_means, class_losses(network, objective, d), rtol=1e-12)
    assert all(torch.equal(before[n], t) for n, t in network.model.state_dict().items())


def test_a_model_without_a_trace_is_moved_once_in_filter_coordinates(wrap):
    torch.manual_seed(0)
    network = wrap(Branching(), torch.randn(5, 4))
    objective = network.objective(batch_size=2)
    units = []
    for p in (q.detach() for q in network.model.parameters()):
        norms = p.norm() if p.ndim == 1 else p.norm(dim=1, keepdim=True)
        units.append(norms.expand(p.shape).reshape(-1))
    d = displacement(objective)
    found = objective.in_coordinates("filter").evaluation()(d).class_means
    np.testing.assert_allclose(found, class_losses(network, objective, d * torch.cat(units)), rtol=1e-12)


class BranchingImages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        u = torch.tanh(self.conv(x))
        return u if u.sum() > 100 else u * u + u


def test_outputs_that_are_picked_by_a_view_may_have_images_before_them(wrap):
    """Images with channels last, which are faster, leave outputs that ``view`` does not flatten."""
    torch.manual_seed(0)
    network = wrap(BranchingImages(), torch.randn(5, 2, 3, 3))
    network.output = lambda u: u.view(len(u), -1)[:, :3]
    objective = network.objective(batch_size=2)
    evaluation = objective.evaluation()
    assert not isinstance(evaluation, Evaluation)
    d = displacement(objective)
    np.testing.assert_allclose(evaluation(d).class_means, class_losses(network, objective, d), rtol=1e-12)


def test_recalibrated_statistics_are_those_of_the_moved_model(build):
    """With statistics of the data themselves, the scale of a convolution before BatchNorm is of no effect."""
    objective = build("convolution with bias, BatchNorm").objective(batchnorm="recalibrate")
    evaluation = objective.evaluation()
    first = objective.parameters[0]
    d = torch.zeros(objective.num_parameters, dtype=torch.float64)
    start = evaluation(d).mean
    d[: first.numel()] = 2.0 * first.detach().reshape(-1)
    assert evaluation(d).mean == pytest.approx(start, rel=1e-4)
    assert objective.restrict(0).num_samples == 2
    assert build("convolution with bias, BatchNorm").objective().evaluation()(d).mean != pytest.approx(start, rel=1e-2)


def test_batches_and_threads_do_not_change_the_value(build):
    network = build("ResNet-8, cosine")
    threads = torch.get_num_threads()
    values = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            for size in (1, 2, 5, "auto"):
                objective = network.objective(batch_size=size)
                values.append(objective.evaluation()(displacement(objective)).class_means)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(values, np.broadcast_to(values[0], (8, 3)), rtol=1e-12)


def test_weights_count(build):
    network = build("softmax regression")
    a = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    objective = network.objective(weights=a)
    d = displacement(objective)
    with torch.no_grad():
        w, b = d[:12].view(3, 4), d[12:]
        moved = network.x @ (network.model.weight + w).T + network.model.bias + b
        expected = F.cross_entropy(moved, network.y, reduction="none")
    assert objective.evaluation()(d).mean == pytest.approx(float((a * expected).sum() / a.sum()), rel=1e-12)


def test_an_overflow_stays_an_overflow(wrap):
    network = wrap(nn.Linear(4, 3), torch.randn(5, 4))
    objective = network.objective()
    d = torch.full((objective.num_parameters,), torch.inf, dtype=torch.float64)
    assert not np.isfinite(objective.evaluation()(d).mean)
