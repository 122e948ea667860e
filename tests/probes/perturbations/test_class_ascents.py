"""Which samples ascend together, how often they are visited, and what is left behind."""

import os

import numpy as np
import pytest
import torch
from torch import nn

from sharpness import Objective, worst_case
from sharpness.probes.perturbations.class_ascents import split_batches

RANK = """
import sys
import torch
from sharpness.engine import distributed
sys.path.insert(0, sys.argv[1])
import test_class_ascents as test

distributed.start()
torch.save(test.answers(), f"{sys.argv[2]}/{distributed.rank()}.pt")
distributed.stop()
"""


class Counted:
    """Cross-entropy that counts the samples it is asked for, and stops at its call number ``stop``."""

    samples, calls, stop = 0, 0, np.inf

    def __call__(self, outputs, targets):
        self.samples, self.calls = self.samples + len(targets), self.calls + 1
        if self.calls >= self.stop:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(outputs, targets, reduction="none")


def make_objective(loss="ce", **options):
    torch.manual_seed(0)
    y = torch.tensor([0] * 9 + [1] * 5 + [2] * 3)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    return Objective(model, (torch.randn(17, 4, dtype=torch.float64), y), loss, **options)


@pytest.mark.parametrize(("samples", "m"), [(10, 1), (10, 3), (10, 9), (10, 10), (10, 11), (10, None), (1, 1)])
def test_batches_are_a_partition_and_only_the_last_is_smaller(samples, m):
    batches = split_batches(samples, m, seed=1)
    assert sorted(np.concatenate(batches).tolist()) == list(range(samples))
    size = min(m or samples, samples)
    assert [len(b) for b in batches[:-1]] == [size] * (len(batches) - 1)
    assert 1 <= len(batches[-1]) <= size


def test_batches_are_drawn_by_seed():
    one, again, other = ([b.tolist() for b in split_batches(50, 7, seed)] for seed in (0, 0, 1))
    assert one == again != other


def test_one_step_of_all_classes_is_one_pass_for_gradients_and_two_for_losses():
    """Besides the two of the check: not one pass for every class, nor one for the overall gradient."""
    loss = Counted()
    objective = make_objective(loss)
    worst_case(objective)
    loss.samples = 0
    result = worst_case(objective)
    assert loss.samples == (2 + 1 + 2) * 17
    assert result.provenance["gradients"] == 3


def test_passes_do_not_grow_with_the_number_of_classes():
    loss = Counted()
    torch.manual_seed(0)
    objective = Objective(nn.Linear(4, 40), (torch.randn(80, 4), torch.arange(80) % 40), loss)
    worst_case(objective)
    loss.samples = 0
    worst_case(objective)
    assert loss.samples == 5 * 80


@pytest.mark.parametrize(("m", "steps"), [(None, 4), (4, 1), (3, 3)])
def test_a_step_visits_every_sample_at_most_twice_for_its_class_and_twice_for_all(m, steps):
    loss = Counted()
    objective = make_objective(loss)
    worst_case(objective, 0.2, steps, m=m)
    loss.samples = 0
    worst_case(objective, 0.2, steps, m=m)
    batch_centers = 0 if m is None else 2 * 17
    assert loss.samples <= 2 * 17 + batch_centers + steps * 2 * 2 * 17


OPTIONS = {
    "one step": {},
    "steps": {"steps": 4, "rho": 0.3},
    "batches": {"m": 4, "steps": 2},
    "linf, adaptive": {"steps": 3, "norm": "linf", "adaptive": True},
}


def state_of(objective):
    model = objective.model
    return (
        [t.clone() for t in [*model.parameters(), *model.buffers()]],
        [p.grad for p in model.parameters()],
        [p.requires_grad for p in model.parameters()],
        [module.training for module in model.modules()],
        torch.get_rng_state(),
        np.random.get_state()[1].copy(),
    )


def assert_as_found(objective, before):
    for was, now in zip(before, state_of(objective), strict=True):
        if isinstance(was, list):
            for a, b in zip(was, now, strict=True):
                assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a is b
        else:
            assert (np.asarray(was) == np.asarray(now)).all()


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("batchnorm", ["eval", "recalibrate"])
def test_whatever_interrupts_it_everything_is_as_it_was(name, batchnorm):
    loss = Counted()
    objective = make_objective(loss, batchnorm=batchnorm)
    worst_case(objective, **OPTIONS[name])
    before, loss.calls = state_of(objective), 0
    worst_case(objective, **OPTIONS[name])
    assert_as_found(objective, before)
    needed = loss.calls
    for stop in range(1, needed + 1, 1 + needed // 12):
        loss.calls, loss.stop = 0, stop
        with pytest.raises(KeyboardInterrupt):
            worst_case(objective, **OPTIONS[name])
        assert_as_found(objective, before)


@pytest.mark.every(3)
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("batchnorm", ["eval", "recalibrate"])
def test_an_interrupted_call_ends_with_the_bits_of_one_that_was_not(name, batchnorm, tmp_path):
    loss = Counted()
    objective = make_objective(loss, batchnorm=batchnorm)
    whole = worst_case(objective, **OPTIONS[name])
    loss.calls = 0
    worst_case(objective, **OPTIONS[name])
    needed = loss.calls
    for stop in range(3, needed, 1 + needed // 8):
        folder = tmp_path / str(stop)
        loss.calls, loss.stop = 0, stop
        with pytest.raises(KeyboardInterrupt):
            worst_case(objective, **OPTIONS[name], resume=folder)
        loss.calls, loss.stop = 0, np.inf
        again = worst_case(objective, **OPTIONS[name], resume=folder)
        assert again.to_dataset().identical(whole.to_dataset())
        assert list(folder.rglob("*.npz"))
    assert loss.calls < needed
    loss.samples = 0
    worst_case(objective, **OPTIONS[name], resume=folder)
    assert loss.samples <= 3 * 17  # of the check


def test_calls_that_share_a_folder_do_not_read_what_others_wrote(tmp_path):
    objective = make_objective()
    changes = [{}, {"rho": 0.2}, {"steps": 3}, {"norm": "linf"}, {"adaptive": True}, {"m": 4}, {"m": 4, "seed": 1}, {}]
    others = [make_objective(parameters="3.*"), make_objective(weights=torch.linspace(1, 2, 17))]
    for one, options in [*((objective, c) for c in changes), *((other, {}) for other in others)]:
        found = worst_case(one, **options, resume=tmp_path)
        assert found.to_dataset().identical(worst_case(one, **options).to_dataset())


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    worst_case(make_objective(), m=4)
    assert not list(tmp_path.iterdir())


class Bar:
    """Stands for a progress bar."""

    def __init__(self, total, *names, done=0):
        self.total, self.n = total, done

    def update(self, more):
        self.n += more

    def __enter__(self):
        Bar.last = self
        return self

    def __exit__(self, *error):
        pass


@pytest.mark.parametrize("name", OPTIONS)
def test_progress_ends_at_its_total_in_gradients(name, monkeypatch):
    monkeypatch.setattr("sharpness.probes.perturbations.class_ascents.progress", Bar)
    objective = make_objective()
    result = worst_case(objective, **OPTIONS[name])
    assert Bar.last.n == Bar.last.total >= result.provenance["gradients"]


def answers():
    """Two processes share the samples of every class and batch; some batches have fewer samples than processes."""
    found = {}
    for name, options in OPTIONS.items():
        result = worst_case(make_objective(), **options)
        found[name] = torch.from_numpy(np.column_stack([result.values, result.overall]))
    return found


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_two_processes_find_what_a_single_one_finds(in_two_processes, tmp_path):
    in_two_processes(RANK, os.path.dirname(__file__), tmp_path)
    expected = answers()
    for rank in range(2):
        for name, table in torch.load(tmp_path / f"{rank}.pt").items():
            torch.testing.assert_close(table, expected[name], rtol=1e-9, atol=1e-11)
