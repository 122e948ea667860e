"""Model perturbation: the noise is what it says, where it says, and the gradient is the mean over the draws."""

import pytest
import torch
from torch.nn.utils.parametrizations import spectral_norm

from sharpness.errors import UserError
from sharpness.flattening import ModelPerturbation
from sharpness.models import build_model
from sharpness.optimizers import wrap
from sharpness.steps import PlainStep

LAST = ["layer2.0.conv2", "layer3.0.conv1", "layer3.0.conv2"]
LAST_WEIGHTS = [f"backbone.{layer}.weight" for layer in LAST]


@pytest.fixture
def draws(problem):
    """Weights at every forward pass."""
    seen = []
    problem.model.backbone.register_forward_pre_hook(
        lambda *_: seen.append({n: p.detach().clone() for n, p in problem.model.named_parameters()})
    )
    return seen


@pytest.mark.parametrize("noise", ["levels", "uniform"])
def test_the_gradient_of_every_loss_is_the_mean_over_the_draws(case, problem, draws, same, noise):
    run, restated = case
    value, gradients = run(ModelPerturbation(0.5, draws=3, layers=2, noise=noise))
    assert len(draws) == 3
    same(gradients, restated.combined(*((1 / 3, restated.gradient(w)) for w in draws)))
    assert float(value) == pytest.approx(sum(float(restated.value(w)) for w in draws) / 3, rel=1e-12)


def test_noise_lies_on_the_last_convolutions_alone_and_differs_between_draws(problem, draws):
    start = {n: p.detach().clone() for n, p in problem.model.named_parameters()}
    problem.run(ModelPerturbation(0.2, draws=2, layers=3))
    for w in draws:
        assert [n for n in w if not torch.equal(w[n], start[n])] == LAST_WEIGHTS
    assert not torch.equal(draws[0][LAST_WEIGHTS[0]], draws[1][LAST_WEIGHTS[0]])


@pytest.mark.parametrize(("noise", "variance"), [("levels", 0.125), ("uniform", 1 / 12)])
def test_noise_has_its_values_and_its_spread(problem, draws, noise, variance):
    """Five equal levels from -1/2 to 1/2 have variance 1/8; the uniform distribution has 1/12."""
    start = {n: p.detach().clone() for n, p in problem.model.named_parameters()}
    problem.run(ModelPerturbation(0.2, draws=1, layers=3, noise=noise))
    v = torch.cat([((draws[0][n] - start[n]) / 0.2).flatten() for n in LAST_WEIGHTS])
    assert v.abs().max() <= 0.5 + 1e-12
    values = {round(float(e), 9) for e in v}
    assert values == {-0.5, -0.25, 0.0, 0.25, 0.5} if noise == "levels" else len(values) > 1000
    # 64,512 draws: the standard error of the mean is below 0.0015, and of the variance below 0.0005.
    assert abs(float(v.mean())) < 0.007
    assert float(v.var()) == pytest.approx(variance, abs=0.003)


def test_without_noise_it_is_sgd(problem, mixed, same):
    plain, expected = problem.run(PlainStep(), "weighted", mixed)
    value, gradients = problem.run(ModelPerturbation(0.0), "weighted", mixed)
    same(gradients, expected)
    assert float(value) == pytest.approx(float(plain), rel=1e-14)


def test_a_head_trained_alone_steps_plainly(problem, same):
    problem.model.backbone.requires_grad_(False)
    plain, _ = problem.run(PlainStep())
    head = {n: p.grad.clone() for n, p in problem.model.named_parameters() if p.requires_grad}
    value, gradients = problem.run(ModelPerturbation(0.5))
    assert float(value) == float(plain)
    same({n: gradients[n] for n in head}, head)


@pytest.mark.parametrize(
    "network", [torch.nn.Linear(4, 3), torch.nn.Sequential(torch.nn.Conv1d(2, 3, 3), torch.nn.Flatten())]
)
def test_a_network_without_convolutions_is_refused_rather_than_trained_plainly(network):
    network.auxiliary = torch.nn.Conv2d(3, 3, 3)
    with pytest.raises(UserError, match="^mp perturbs the last 2-d convolutions, and the network has none: take "):
        ModelPerturbation(0.5).backward(network, None, None, None)
    with pytest.raises(UserError, match="mp perturbs the last 2-d convolutions"):
        wrap(torch.optim.SGD(network.parameters(), 0.1), "mp", network)


def test_normalised_convolutions_are_perturbed_where_their_weights_are_stored(problem):
    spectral_norm(problem.model.backbone.layer3[-1].conv2)
    names = ModelPerturbation(layers=1).perturbed_weights(problem.model)
    assert names == ["backbone.layer3.0.conv2.parametrizations.weight.original"]


@pytest.mark.parametrize("layers", [5, 6])
def test_a_shared_weight_is_perturbed_once(problem, draws, layers):
    """Under the one name that it has, also where only the later of its two convolutions is among the last."""
    block = problem.model.backbone.layer1[0]
    block.conv2.weight = block.conv1.weight
    start = {n: p.detach().clone() for n, p in problem.model.named_parameters()}
    problem.run(ModelPerturbation(0.2, draws=1, layers=layers))
    moved = {n: (w - start[n]).abs().max() for n, w in draws[0].items() if not torch.equal(w, start[n])}
    expected = ["layer1.0.conv1", "layer2.0.conv1", *LAST]
    assert list(moved) == [f"backbone.{layer}.weight" for layer in expected]
    assert all(float(size) == pytest.approx(0.1) for size in moved.values())


def test_parts_that_serve_training_alone_are_not_of_the_network(problem):
    expected = ModelPerturbation().perturbed_weights(problem.model)
    for auxiliary in (build_model("resnet8", 4, in_channels=1), torch.nn.Conv2d(3, 3, 3)):
        problem.model.auxiliary = auxiliary
        assert ModelPerturbation().perturbed_weights(problem.model) == expected
        assert all(name.startswith("backbone.") for name in expected) and len(expected) == 4
