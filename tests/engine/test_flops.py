"""Counters and estimates stop no measurement, whatever a model is made of."""

import pytest
import torch
from torch import Tensor, nn

import sharpness
from sharpness import Objective


class Parameters(nn.Module):
    """A quadratic in parameters alone: no module is called, no input is read."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.w.square().sum(1).expand(len(x), 3)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.w)


class Uncalled(Functional):
    """A layer whose parameters are read, and which is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleList([nn.Linear(4, 3), nn.Identity()])

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.inner[0].weight.T


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.fc(x), [x]


class Tuples(nn.Module):
    """Layers that return tuples and take keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.pair, self.rnn, self.out = Pair(), nn.GRU(3, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        z, (rest,) = self.pair(x=x)
        return self.out(self.rnn(z[:, None])[0][:, 0]) + rest[:, :3]


@pytest.mark.parametrize("kind", [Parameters, Functional, Uncalled, Tuples])
def test_every_probe_measures_a_model_of_any_make_up(kind):
    torch.manual_seed(0)
    objective = Objective(kind(), (torch.randn(12, 4), torch.arange(12) % 3))
    assert objective.flops_per_sample >= 0
    plane = sharpness.plane(objective, x=(-1, 1, 3), y=(-1, 1, 3), normalization=None)
    assert torch.isfinite(torch.as_tensor(plane.losses)).all()
    assert plane.losses[1, 1] == pytest.approx(objective.loss(), rel=1e-6)
    assert sharpness.eigenvalues(objective).converged.all()
    sharpness.measure(objective)


def test_where_torchs_counter_fails_the_number_is_an_estimate(monkeypatch):
    def fail(*args, **options):
        raise AssertionError("Global is not a parent")

    objective = Objective(nn.Linear(4, 3), (torch.randn(6, 4), torch.arange(6) % 3))
    monkeypatch.setattr("sharpness.engine.flops.FlopCounterMode", fail)
    assert objective.flops_per_sample == 2 * (4 * 3 + 3)
