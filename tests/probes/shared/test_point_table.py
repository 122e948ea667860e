"""Points that are done stay done: after an interruption, in another process, under other settings not."""

import os
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from sharpness import Objective, plane
from sharpness.probes.shared import point_table as module, work
from sharpness.probes.shared.point_table import PointTable

RANK = """
import sys
import torch
from sharpness.engine import distributed
sys.path.insert(0, sys.argv[1])
import test_point_table as test

distributed.start()
table = test.table(test.make_objective(), sys.argv[3])
table.evaluate(test.SOME)
table.evaluate()
torch.save([torch.from_numpy(table.rows), torch.from_numpy(table.own)], f"{sys.argv[2]}/{distributed.rank()}.pt")
distributed.stop()
"""
SOME = np.array([1, 4, 5])


def make_objective():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return Objective(model, (torch.randn(9, 4), torch.arange(9) % 3))


class Counting(PointTable):
    """Notes which points it evaluates itself, and is interrupted before the one after ``limit``."""

    limit = np.inf

    def __init__(self, *args, **options):
        self.own = np.zeros(7, dtype=np.int64)
        super().__init__(*args, **options)

    def _row(self, displacement):
        if displacement is not None:
            if self.own.sum() >= self.limit:
                raise KeyboardInterrupt
            self.own[round(float(displacement[0]) * 10)] += 1
        return super()._row(displacement)


def table(objective, folder=None, **settings):
    direction = torch.ones(objective.num_parameters, dtype=torch.float64)
    return Counting(objective, lambda i: 0.1 * i * direction, 7, "test", "float64", folder, settings)


@pytest.fixture
def objective():
    return make_objective()


def test_rows_are_losses_and_accuracies_at_the_points(objective):
    found = table(objective)
    assert found.evaluate(SOME).shape == (3, 7)
    assert found.done.tolist() == [False, True, False, False, True, True, False]
    assert np.isnan(found.losses[[0, 2, 3, 6]]).all()
    for i in SOME:
        with objective.at(torch.full((objective.num_parameters,), 0.1 * i, dtype=torch.float64)):
            sums = objective.evaluate()
        assert found.losses[i] == pytest.approx(sums.mean, rel=1e-12)
        np.testing.assert_allclose(found.class_losses[:, i], sums.class_means, rtol=1e-12)
        np.testing.assert_array_equal(found.class_accuracies[:, i], sums.class_accuracies)
    assert found.center[0] == pytest.approx(objective.loss(), rel=1e-12)


def test_no_point_is_evaluated_twice(objective):
    found = table(objective)
    found.evaluate(SOME), found.evaluate(), found.evaluate()
    assert found.own.tolist() == [1] * 7


@pytest.mark.parametrize("limit", range(7))
def test_interrupted_work_goes_on_and_ends_with_the_same_bits(objective, tmp_path, monkeypatch, limit):
    whole = table(objective)
    whole.evaluate()
    broken = table(objective, tmp_path)
    broken.limit = limit
    with pytest.raises(KeyboardInterrupt):
        broken.evaluate()
    again = table(objective, tmp_path)
    again.evaluate()
    np.testing.assert_array_equal(again.rows, whole.rows)
    assert again.own.sum() == 7 - limit
    third = table(objective, tmp_path)
    third.evaluate()
    assert third.own.sum() == 0


def test_a_point_that_is_not_finite_is_done_as_well(tmp_path):
    objective = Objective(
        nn.Linear(1, 1, bias=False), (torch.ones(2, 1), torch.tensor([0, 0])), loss=lambda u, t: u[:, 0].exp(),
        num_classes=1,
    )  # fmt: skip
    for _ in range(2):
        found = PointTable(objective, lambda i: torch.tensor([1e4 * i]), 2, "test", "float32", tmp_path)
        assert found.done.sum() in (0, 2)
        found.evaluate()
        assert np.isposinf(found.losses[1])


def test_other_weights_data_settings_or_precision_read_nothing(objective, tmp_path):
    table(objective, tmp_path).evaluate()
    assert table(objective, tmp_path).done.all()
    assert not table(objective, tmp_path, seed=1).done.any()
    assert not table(objective.restrict(range(8)), tmp_path).done.any()
    with torch.no_grad():
        objective.parameters[0].add_(1e-3)
    assert not table(objective, tmp_path).done.any()


def test_unfinished_work_is_written_now_and_then(objective, tmp_path, monkeypatch):
    """A process that is killed has no chance to write."""
    monkeypatch.setattr(work, "INTERVAL", 0.0)
    monkeypatch.setattr(Counting, "evaluate", PointTable.evaluate)
    broken = table(objective, tmp_path)
    seen = []
    original = broken._row

    def row(displacement):
        seen.append(table(objective, tmp_path).done.sum() if displacement is not None else 0)
        return original(displacement)

    broken._row = row
    broken.evaluate()
    assert seen == list(range(7))


@pytest.fixture
def one_thread():
    """As in the processes of these tests, because last digits depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
@pytest.mark.parametrize("started", [False, True], ids=["from the beginning", "half done"])
def test_two_processes_share_the_points(objective, in_two_processes, tmp_path, started, one_thread):
    store = tmp_path / "store"
    if started:
        table(objective, store).evaluate(np.array([0, 1, 6]))
    in_two_processes(RANK, os.path.dirname(__file__), tmp_path, store)
    whole = table(objective)
    whole.evaluate()
    rows, own = zip(*(torch.load(tmp_path / f"{r}.pt") for r in (0, 1)), strict=True)
    for found in rows:
        np.testing.assert_array_equal(found.numpy(), whole.rows)
    together = (own[0] + own[1]).tolist()
    assert together == ([0, 0, 1, 1, 1, 1, 0] if started else [1] * 7)
    assert min(int(o.sum()) for o in own) >= (2 if started else 3)
    assert table(objective, store).done.all()


def test_a_plane_goes_on_where_it_stood(objective, tmp_path, monkeypatch):
    calls = []
    original = PointTable._row
    monkeypatch.setattr(PointTable, "_row", lambda self, d: calls.append(d) or original(self, d))
    ranges = ((-1, 1, 4), (-1, 1, 3))
    first = plane(objective, *ranges, resume=tmp_path)
    made = len(calls)
    second = plane(objective, *ranges, resume=tmp_path)
    assert (made, len(calls) - made) == (13, 1)
    np.testing.assert_array_equal(first.losses, second.losses)
    plane(objective, *ranges, seed=1, resume=tmp_path)
    assert len(calls) == made + 1 + 13


class Bar:
    """What progress was shown."""

    shown: ClassVar[list] = []

    def __init__(self, total, what, unit, done=0):
        self.total, self.what, self.done = total, what, done
        Bar.shown.append(self)

    def update(self, number):
        self.done += number

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


def test_an_adaptive_plane_has_one_bar_and_one_estimate_beforehand(objective, monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(Bar, "shown", [])
    monkeypatch.setattr(module, "progress", Bar)
    monkeypatch.setattr(module, "LONG", 0.0)
    with caplog.at_level("INFO", "sharpness"):
        result = plane(objective, (-3, 3, 25), (-3, 3, 21), adaptive=0.05)
    (bar,) = Bar.shown
    assert (bar.total, bar.what) == (525, "plane, at most")
    assert bar.done == result.evaluated.sum() < 525
    (line,) = [m for m in caplog.messages if "samples" in m]
    assert line.startswith("plane: up to 524 points x 9 samples, usually a third, about ")


def test_a_plane_that_goes_on_counts_from_where_it_was(objective, monkeypatch, tmp_path):
    plane(objective, (-3, 3, 25), (-3, 3, 21), adaptive=0.05, resume=tmp_path)
    monkeypatch.setattr(Bar, "shown", [])
    monkeypatch.setattr(module, "progress", Bar)
    result = plane(objective, (-3, 3, 25), (-3, 3, 21), adaptive=0.05, resume=tmp_path)
    assert [bar.done for bar in Bar.shown] == [result.evaluated.sum()]
