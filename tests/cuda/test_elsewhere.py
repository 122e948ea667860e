"""The pretence refuses what a GPU refuses, and computes what the CPU does."""

import pytest
import torch
from elsewhere import pretence


@pytest.fixture
def away():
    with pretence() as device:
        yield device


def test_tensors_of_two_devices_do_not_meet(away):
    x = torch.ones(3).to(away)
    for mixed in (
        lambda: x + torch.ones(3),
        lambda: torch.cat([x, torch.ones(1)]),
        lambda: torch.ones(3).add_(x),
        lambda: torch.ones(3)[torch.tensor([0, 1], device=away)],
        lambda: torch.zeros(3).index_add_(0, torch.tensor([0, 1, 2]), x),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(3, device=away, generator=torch.Generator())
    with pytest.raises(TypeError, match="cpu"):
        x.numpy()


def test_what_a_gpu_allows_is_allowed(away):
    x = torch.arange(4.0).to(away)
    assert x.device == away
    assert (x * torch.tensor(2.0)).cpu().tolist() == [0, 2, 4, 6]
    assert x[torch.tensor([3, 1])].cpu().tolist() == [3, 1]
    x[1:3] += 1
    target = torch.zeros(4)
    target.copy_(x)
    assert target.tolist() == [0, 2, 3, 3]
    assert torch.tensor([1.0, 2.0], device=away).cpu().tolist() == [1, 2]
    assert float(x.sum()) == 8


def test_derivatives_are_those_of_the_cpu(away):
    w = torch.tensor([1.0, 2.0], device=away, requires_grad=True)
    (first,) = torch.autograd.grad((w**3).sum(), w, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), w)
    assert first.detach().cpu().tolist() == [3, 12]
    assert second.cpu().tolist() == [6, 12]
