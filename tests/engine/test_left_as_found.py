"""Whatever is asked, and however it ends, the model and the generators of random numbers are as they were."""

import logging
import os
import random
import signal
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from sharpness import Objective, UserError, eigenvalues, random_perturbation, trace

NAMES = ("ResNet-8, cosine", "constants", "weight norm", "transformer layer", "hooks", "sum in place", "tied")


def snapshot(model):
    state = {n: t.clone() for n, t in model.state_dict().items()}
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {
        "values": state,
        "identities": [(n, id(t), type(t), t.data_ptr(), t.stride(), t.requires_grad) for n, t in tensors],
        "grad": [None if t.grad is None else (id(t.grad), t.grad.clone()) for _, t in tensors],
        "modes": [(n, m.training) for n, m in model.named_modules()],
        "hooks": [(n, len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()],
        "attributes": [(n, sorted(vars(m))) for n, m in model.named_modules()],
        "random": (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()),
        "settings": (torch.get_num_threads(), torch.is_grad_enabled(), torch.backends.cuda.flash_sdp_enabled()),
        "flags": (torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled(), torch.is_anomaly_enabled()),
        "process": (os.getcwd(), environment(), signal.getsignal(signal.SIGINT), np.geterr(), list(sys.path)),
        "warnings": list(warnings.filters),
        "loggers": {n: (log.level, list(log.handlers)) for n, log in loggers() if "." not in n},
        "files": len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0,
        "patched": (nn.Module.__call__, nn.Module.__getattr__, len(nn.modules.module._global_forward_hooks)),
    }


def environment():
    """The environment without a name that torch sets by itself when it loads more of itself."""
    return {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}


def loggers():
    return [(n, log) for n, log in logging.root.manager.loggerDict.items() if isinstance(log, logging.Logger)]


def assert_same(before, after):
    if isinstance(before, torch.Tensor):
        assert torch.equal(before, after)
    elif isinstance(before, np.ndarray):
        np.testing.assert_array_equal(before, after)
    elif isinstance(before, dict):
        assert before.keys() == after.keys()
        for key in before:
            assert_same(before[key], after[key])
    elif isinstance(before, list | tuple):
        assert len(before) == len(after)
        for one, other in zip(before, after, strict=True):
            assert_same(one, other)
    else:
        assert before == after


def ask_everything(objective):
    v = torch.ones(objective.num_parameters)
    objective.evaluate(), objective.gradient(), objective.gradient(1)
    for kind in ("hessian", "ggn"):
        objective.hvp(v, kind=kind)
        with objective.operator(kind=kind) as operator:
            operator(v), operator(v)
    objective.quadratic_forms(v)
    objective.evaluation()(v)


@pytest.mark.parametrize("grads", [False, True], ids=["grad None", "grad set"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_changed(build, name, grads):
    network = build(name)
    frozen, *rest = network.model.parameters()
    if len(rest) > 3:
        frozen.requires_grad_(False)
    if grads:
        for p in rest:
            p.grad = torch.randn_like(p)
    if network.x.ndim == 4:
        network.model.to(memory_format=torch.channels_last)
    before = snapshot(network.model)
    x, y = network.x.clone(), network.y.clone()
    objective = network.objective(batch_size=2)
    ask_everything(objective)
    assert objective._engine.route.startswith("traced")
    assert_same(before, snapshot(network.model))
    assert torch.equal(network.x, x)
    assert torch.equal(network.y, y)


@pytest.mark.every(3)
@pytest.mark.parametrize("when", [1, 2, 3, 4, 6, 9])
@pytest.mark.parametrize("name", ["ResNet-8, cosine", "weight norm", "transformer layer"])
def test_nothing_is_changed_when_the_loss_raises(build, name, when):
    network = build(name)
    passes = []

    def failing(u, y):
        passes.append(len(y))
        if raising and len(passes) >= when:
            raise KeyError(when)
        return nn.functional.cross_entropy(u, y, reduction="none")

    raising = False
    objective = Objective(network.model, (network.x, network.y), loss=failing, num_classes=3, batch_size=2)
    raising = True
    before = snapshot(network.model)
    v = torch.ones(objective.num_parameters)

    def one_product():
        with objective.operator() as operator:
            operator(v)

    for act in (
        objective.evaluate,
        objective.gradient,
        lambda: objective.hvp(v),
        lambda: objective.hvp(v, kind="ggn"),
        one_product,
        lambda: objective.quadratic_forms(v),
    ):
        passes.clear()
        with pytest.raises(KeyError):
            for _ in range(when):
                act()
        assert_same(before, snapshot(network.model))


def test_a_model_in_training_mode_is_refused_before_its_statistics_move(build):
    network = build("ResNet-8")
    objective = network.objective()
    network.model.train()
    before = snapshot(network.model)
    with pytest.raises(UserError):
        ask_everything(objective)
    assert_same(before, snapshot(network.model))


class Counts(nn.Module):
    """Counts its passes in a buffer, in place or by a new one."""

    def __init__(self, in_place):
        super().__init__()
        self.in_place, self.body = in_place, nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        if self.in_place:
            self.passes += 1
        else:
            self.passes = self.passes + 1
        return self.body(x)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_buffer_that_the_forward_pass_changes_is_put_back(in_place):
    torch.manual_seed(0)
    model = Counts(in_place)
    model(torch.zeros(1, 4))
    before = snapshot(model)
    objective = Objective(model, (torch.randn(9, 4), torch.arange(9) % 3))
    objective.check()
    ask_everything(objective)
    with objective.at(torch.ones(objective.num_parameters)):
        objective.evaluate_samples()
    objective.confusion(), objective.flops_per_sample
    after = snapshot(model)
    for part in ("values", "identities"):
        assert_same(before[part], after[part])
    assert float(model.passes) == 1


class Draws(nn.Module):
    """Draws from all three generators, to no effect or as noise."""

    def __init__(self, noise):
        super().__init__()
        self.body, self.noise = nn.Linear(4, 3), noise

    def forward(self, x):
        drawn = np.random.rand() + random.random()
        return self.body(x) + self.noise * (torch.rand(len(x), 1) + drawn) * torch.eye(3)[0]


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_generators_from_which_a_model_draws_are_put_back(noise):
    model, data = Draws(noise), (torch.randn(9, 4), torch.arange(9) % 3)
    model(data[0])
    before = snapshot(model)
    for probe in (eigenvalues, trace, lambda *given: random_perturbation(*given, [0.1], 2)):
        if noise:
            with pytest.raises(UserError, match="random, or keeps a state"):
                probe(model, data)
        else:
            probe(model, data)
        after = snapshot(model)
        assert_same(before | {"loggers": 0}, after | {"loggers": 0})
    with Objective(Draws(0.0), data).at(torch.ones(15)):  # what a caller draws in between is the caller's
        torch.rand(1)
    assert not torch.equal(torch.get_rng_state(), before["random"][0])
