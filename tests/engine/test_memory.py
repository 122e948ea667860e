"""Batch sizes and memory, worked out and not timed."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sharpness import UserError
from sharpness.engine.memory import ACTIVATION, LARGEST_BATCH, even_batch, fastest_batch, memory_budget

CPU = torch.device("cpu")


class Wide(nn.Module):
    """Its output is ``width`` numbers a sample, its input one."""

    def __init__(self, width):
        super().__init__()
        self.fc = nn.Linear(1, width)

    def forward(self, x):
        return self.fc(x)


@pytest.mark.parametrize("width", [1, 100, 1000, 5000, 2**19, 2**19 + 1, 2**21])
def test_the_fastest_batch_is_the_largest_power_of_two_whose_widest_activation_fits(width):
    found = fastest_batch(Wide(width), torch.ones(1, 1))
    assert found == 2 ** round(math.log2(found))
    assert found == 1 or found * width * 4 <= ACTIVATION["cpu"]
    assert found == LARGEST_BATCH or 2 * found * width * 4 > ACTIVATION["cpu"]


def test_a_large_input_counts_as_an_activation():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2**16, 1))
    assert fastest_batch(model, torch.ones(1, 2**16)) == ACTIVATION["cpu"] // (4 * 2**16)


def test_double_precision_halves_the_batch():
    model = Wide(5000)
    assert fastest_batch(model, torch.ones(1, 1)) == 2 * fastest_batch(model.double(), torch.ones(1, 1).double())


@pytest.mark.parametrize("x", [torch.ones(1, 1), torch.ones(1, 3)], ids=["fits", "raises"])
def test_measuring_leaves_no_hooks_behind(x):
    model = nn.Sequential(Wide(3), nn.ReLU())
    try:
        fastest_batch(model, x)
    except RuntimeError:
        assert x.shape == (1, 3)
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("largest", [1, 7, 64])
def test_batches_keep_within_the_largest_and_all_threads_busy(monkeypatch, threads, largest):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for samples in range(200):
        size = even_batch(samples, largest, CPU)
        assert 1 <= size <= largest
        assert samples < threads**2 or -(-samples // size) >= threads


def test_a_gpu_is_given_one_batch_at_a_time():
    assert even_batch(1000, 512, torch.device("cuda")) == 500


def test_the_budget_is_what_was_asked_for():
    assert memory_budget(CPU, 0) == 0
    assert memory_budget(CPU, 1.5) == 3 * 2**29
    assert memory_budget(CPU, np.float32(1.5)) == memory_budget(CPU, 1.5)
    assert memory_budget(CPU) > 2**20


@pytest.mark.parametrize("limit", [-1, -1e-9, math.nan, math.inf, "4"])
def test_a_budget_that_is_no_amount_of_memory_is_refused(limit):
    with pytest.raises(UserError, match=rf"memory={limit!r}: give GiB"):
        memory_budget(CPU, limit)


def test_a_system_that_does_not_tell_its_memory_gets_a_modest_budget(monkeypatch):
    def unknown(name):
        raise ValueError(name)

    monkeypatch.setattr("os.sysconf", unknown)
    assert memory_budget(CPU) == 2 * 2**30
