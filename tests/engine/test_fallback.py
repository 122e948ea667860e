"""Models that cannot be traced faithfully: plain double backward does them, and says why, once and in one line."""

import logging
import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


class Branching(nn.Module):
    """Control flow that depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        u = torch.tanh(self.fc(x))
        return u if u.sum() > 100 else u * u + u


class Overwriting(Branching):
    """Changes in place what the result is made of twice."""

    def forward(self, x: Tensor) -> Tensor:
        u = self.fc(x)
        bent = u * u
        bent.mul_(2)
        return torch.tanh(bent) + u


class OverwritingThroughAView(Branching):
    def forward(self, x: Tensor) -> Tensor:
        u = torch.tanh(self.fc(x))
        v = u * 1
        v.view(-1, 3)[:, :2].mul_(3)
        return v * u


class OverwritingThroughDropout(Branching):
    """Dropout in eval mode hands on its input itself, so that the ReLU after it changes both."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.relu = nn.Dropout(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        u = self.fc(x)
        return self.relu(self.drop(u)) + 2 * u * u


class Counting(Branching):
    """A number that differs in every pass; a trace would keep the first."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return torch.tanh(self.fc(x)) * (1 + 0 * self.passes)


class Silent(Branching):
    """An assertion without a message, which a symbolic value does not pass."""

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(x, Tensor)
        return torch.tanh(self.fc(x))


class Strided(nn.Module):
    """Reads memory as it lies, which depends on the memory format."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 3, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.conv(x)).as_strided((x.size(0), 4), (12, 1)))


class Sliced(nn.Module):
    """A tuple as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(4, 6), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(torch.cat(self.fc(x).chunk(3, dim=1)[:2], 1)))


@pytest.fixture(
    params=[
        (Branching, "cannot trace it"),
        (Overwriting, "changes in place a value that is used elsewhere"),
        (OverwritingThroughAView, "differs from double backward"),
        (OverwritingThroughDropout, "differs from double backward"),
        (Counting, "attributes change"),
        (Silent, "cannot trace it: AssertionError"),
        (Strided, "differs from double backward"),
        (Sliced, "while tracing|torch.fx cannot trace it: TypeError: cat"),  # before torch 2.7 the latter
    ],
    ids=lambda p: p[0].__name__,
)
def untraceable(request, wrap):
    torch.manual_seed(0)
    model, why = request.param
    return wrap(model(), torch.randn(5, 2, 2, 2) if model is Strided else torch.randn(5, 4)), why


def test_a_model_that_cannot_be_traced_gets_plain_double_backward(untraceable, close, caplog):
    network, why = untraceable
    objective = network.objective(batch_size=2)
    v = torch.randn(objective.num_parameters, dtype=torch.float64)
    with caplog.at_level(logging.INFO, logger="sharpness"):
        for _ in range(2):
            close(objective.hvp(v), network.hessian_product(objective.parameters, v))
        close(objective.hvp(v, kind="ggn"), network.gauss_newton_product(objective.parameters, v))
        close(objective.gradient(), network.gradient(objective.parameters))
        with objective.operator() as operator:
            close(operator(v), network.hessian_product(objective.parameters, v))
            assert operator.route.startswith("double backward (")
            assert operator.kept_bytes == 0
    (record,) = [r for r in caplog.records if r.name == "sharpness"]
    assert record.levelno == logging.WARNING
    assert re.search(why, record.getMessage())
    assert record.getMessage().endswith(operator.route)
    assert "\n" not in record.getMessage()


def test_a_traced_model_is_logged_once_as_information(build, caplog):
    objective = build("constants").objective()
    v = torch.ones(objective.num_parameters)
    with caplog.at_level(logging.INFO, logger="sharpness"):
        objective.hvp(v), objective.hvp(v), objective.gradient()
    assert [(r.levelno, r.getMessage()) for r in caplog.records if r.name == "sharpness"] == [
        (logging.INFO, "curvature products: traced, BatchNorm folded, activations kept")
    ]


@pytest.mark.parametrize("name", ["constants", "transformer layer"])
@pytest.mark.parametrize(
    "loss",
    [
        lambda u, y: F.relu(1 + u.amax(1) - u.gather(1, y[:, None])[:, 0]),
        lambda u, y: (u - F.one_hot(y, 3)).square().sum(1),
        lambda u, y: u.gather(1, y[:, None])[:, 0],
    ],
    ids=["hinge", "square", "linear"],
)
def test_a_loss_of_any_shape_is_followed(build, close, name, loss):
    network = build(name)
    objective = network.objective(loss=loss)
    v = torch.randn(objective.num_parameters, dtype=torch.float64)
    with sdpa_kernel(SDPBackend.MATH):
        value = loss(network.outputs(), network.y).mean()
        first = torch.autograd.grad(value, objective.parameters, create_graph=True)
        slope = torch.cat([g.reshape(-1) for g in first]) @ v
        second = torch.autograd.grad(slope, objective.parameters, materialize_grads=True)
    close(objective.hvp(v), torch.cat([s.reshape(-1) for s in second]))
    assert objective._engine.route.startswith("traced")
