"""Probes in several threads give what they give one after another, and modules stay what they were for others."""

import copy
import functools
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import fx, nn

import sharpness
from sharpness import Objective, line
from sharpness.engine import tracing
from sharpness.engine.stateless import called_with
from sharpness.engine.undisturbed import undisturbed
from sharpness.probes.directions.gaussian import gaussian

PROBES = {
    "line": lambda o: sharpness.line(o, (-1, 1, 5)),
    "worst_case": lambda o: sharpness.worst_case(o),
    "eigenvalues": lambda o: sharpness.eigenvalues(o, keep_vectors=False, max_iterations=30),
    "perturbation": lambda o: sharpness.random_perturbation(o, radii=(0.1,), draws=2),
    "measure": lambda o: sharpness.measure(o, draws=2),
}


class Counting(nn.Module):
    """A layer that torch.fx does not look into, with a buffer that every pass changes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.passes += 1
        return torch.tanh(x)


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LayerNorm(64), Counting(), nn.Linear(64, 3)
    ).eval()  # fmt: skip


def objective(model, **options):
    x = torch.randn(24, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    return Objective(model, (x, torch.arange(24) % 3), **options)


def numbers(result):
    return result.to_dataset()


@functools.cache
def numbers_of(name, seed):
    """Of a probe alone, in one thread."""
    return numbers(PROBES[name](objective(network(seed))))


@pytest.mark.parametrize("shared", [True, False])
def test_two_threads_give_the_numbers_of_one(shared):
    models = [network(0)] * 2 if shared else [network(0), network(1)]
    before = [copy.deepcopy(m.state_dict()) for m in models]
    expected = {(i, name): numbers_of(name, 0 if shared else i) for i in range(2) for name in PROBES}
    with ThreadPoolExecutor(2 * len(PROBES)) as pool:
        found = {
            (i, name): pool.submit(lambda probe=probe, m=m: numbers(probe(objective(m))))
            for i, m in enumerate(models)
            for name, probe in PROBES.items()
        }
        for key, future in found.items():
            data = future.result()
            for name in data.data_vars:
                assert data[name].equals(expected[key][name]), (key, name)
    for m, state in zip(models, before, strict=True):
        assert m.state_dict().keys() == state.keys()
        for name, t in m.state_dict().items():
            assert t.dtype == state[name].dtype and torch.equal(t, state[name]), name


def test_a_layer_that_has_other_tensors_in_another_thread_is_no_other_layer():
    """Rows side by side were told that the parameters were replaced, or traced the model again."""
    entered, go = threading.Event(), threading.Event()

    class Slow(nn.Linear):
        def forward(self, x):
            entered.set()
            assert go.wait(30)
            return super().forward(x)

    model = nn.Sequential(Slow(2, 2))
    before, other = tracing.structure(model), {"0.weight": torch.zeros(2, 2)}
    with ThreadPoolExecutor(2) as pool:
        call = pool.submit(called_with, model, other, (torch.ones(1, 2),))
        assert entered.wait(30)
        look = pool.submit(tracing.structure, model)
        time.sleep(0.05)
        go.set()
        call.result()
        assert look.result() == before


def test_a_forward_pass_in_another_thread_is_not_traced(monkeypatch):
    """torch.fx patches ``nn.Module`` for the whole process while it traces."""
    model, other = network(0), network(1)
    x = torch.randn(2, 2, 6, 6)
    expected = other(x), model(x)
    found = []
    forward = Counting.forward

    def slow(self, values):
        if isinstance(values, fx.Proxy) and not found:
            thread = threading.Thread(target=lambda: found.extend([other(x), model(x)]))
            thread.start()
            thread.join()
        return forward(self, values)

    class Leafless(tracing._Tracer):
        def is_leaf_module(self, m, name):
            return not isinstance(m, Counting) and super().is_leaf_module(m, name)

    monkeypatch.setattr(Counting, "forward", slow)
    Leafless().trace(model)
    assert [torch.equal(a, b) for a, b in zip(found, expected, strict=True)] == [True, True]


def test_an_interrupted_trace_leaves_modules_as_they_were(monkeypatch):
    before = nn.Module.__call__, nn.Module.__getattr__

    def interrupted(self, *args):
        nn.Module.__call__ = None  # as where an interrupt falls into the removal of the patch
        raise KeyboardInterrupt

    monkeypatch.setattr(fx.Tracer, "call_module", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tracing._graph(network(0))
    assert (nn.Module.__call__, nn.Module.__getattr__) == before


def test_ctrl_c_is_held_back_for_a_few_lines_only():
    from sharpness.engine.undisturbed import interrupts_held

    found = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        reached = []
        with pytest.raises(KeyboardInterrupt), interrupts_held():
            os.kill(os.getpid(), signal.SIGINT)
            reached.append(1)
        assert reached and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, found)


@pytest.mark.parametrize("batchnorm", ["eval", "recalibrate"])
@pytest.mark.parametrize("name", PROBES)
def test_buffers_are_left_as_found(name, batchnorm):
    if name in ("eigenvalues", "measure") and batchnorm == "recalibrate":
        pytest.skip("curvature takes the running statistics as they are")
    model = network(0)
    before = copy.deepcopy(model.state_dict())
    PROBES[name](objective(model, batchnorm=batchnorm))
    for key, t in model.state_dict().items():
        assert torch.equal(t, before[key]), key


@pytest.mark.every(3)
@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("around", ["autocast", "inference_mode", "no_grad"])
def test_surroundings_change_no_number(name, around):
    contexts = {
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
        "inference_mode": torch.inference_mode,
        "no_grad": torch.no_grad,
    }
    model, expected = network(0), numbers_of(name, 0)
    with contexts[around]():
        found = numbers(PROBES[name](objective(model)))
        assert torch.is_autocast_enabled("cpu") == (around == "autocast")
        assert torch.is_inference_mode_enabled() == (around == "inference_mode")
    for key in found.data_vars:
        assert found[key].equals(expected[key]), key


def test_weights_that_a_forward_pass_renormalises_are_put_back():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 4, max_norm=1.0), nn.Flatten(), nn.Linear(12, 3)).eval()
    before = model[0].weight.detach().clone()
    assert (before.norm(dim=1) > 1).any()
    found = sharpness.line(Objective(model, (torch.randint(0, 7, (9, 3)), torch.arange(9) % 3)), (-1, 1, 3))
    assert torch.equal(model[0].weight, before)
    assert len(found.losses) == 3


def test_another_thread_waits():
    reached = []
    with undisturbed():
        thread = threading.Thread(target=lambda: objective(network(0)).loss() and reached.append(1))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive() and not reached
    thread.join(60)
    assert reached


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_are_moved_from_weights_that_no_pass_has_renormalised(dtype):
    """A copy whose weights are moved by hand renormalises what was moved: the loss at every point, in any order."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 4, max_norm=1.0), nn.Flatten(), nn.Linear(12, 3)).to(dtype).eval()
    assert float(model[0].weight.norm(dim=1).max()) > 1.2
    x, y = torch.randint(0, 7, (25, 3)), torch.arange(25) % 3
    objective = Objective(model, (x, y))
    direction = gaussian(objective, 0)
    expected = []
    for t in (-1.0, 0.0, 1.0):
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for p, piece in zip(
                moved.parameters(), direction.split([p.numel() for p in moved.parameters()]), strict=True
            ):
                p.add_(t * piece.view_as(p))
            expected.append(float(nn.functional.cross_entropy(moved(x).double(), y)))
    for _ in range(2):
        found = line(objective, (-1, 1, 3), directions=direction).losses
        np.testing.assert_allclose(found, expected, rtol=1e-5)
