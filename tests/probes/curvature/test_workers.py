"""Rows side by side: the same bits as one after another, interrupted and continued, and in other processes."""

import pickle
import signal
import threading
from concurrent.futures import Executor, Future

import numpy as np
import pytest
import torch
from torch import nn

import sharpness
from sharpness import Objective
from sharpness.engine.operator import CurvatureOperator


@pytest.fixture
def threads():
    """torch's threads for a test, and back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def objective():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 5)).eval()
    return Objective(model, (torch.randn(22, 1, 5, 5), torch.arange(22) % 4), num_classes=5)


class Elsewhere(Executor):
    """What goes to another process and comes back is pickled on the way."""

    def __init__(self):
        self.sent = []

    def submit(self, fn, /, *args, **kwargs):
        done = Future()
        self.sent.append(len(pickle.dumps((fn, args, kwargs))))
        fn, args, kwargs = pickle.loads(pickle.dumps((fn, args, kwargs)))
        done.set_result(pickle.loads(pickle.dumps(fn(*args, **kwargs))))
        return done


PROBES = {
    "eigenvalues": lambda o, **options: sharpness.eigenvalues(o, 2, "both", True, standard_errors=True, **options),
    "trace": lambda o, **options: sharpness.trace(o, True, 4, estimator="hutchinson", **options),
    "exact trace": lambda o, **options: sharpness.trace(o, True, estimator="exact", **options),
    "table": lambda o, **options: sharpness.measure(o, "lambda_max, lambda_min, trace", trace_draws=4, **options),
}


def numbers(result):
    return result.to_frame().select_dtypes("number").to_numpy()


@pytest.mark.parametrize("name", PROBES)
def test_numbers_are_the_same_bits_with_two_threads_and_in_other_processes(name, objective, threads):
    threads(1)
    expected = numbers(PROBES[name](objective))
    threads(2)
    np.testing.assert_array_equal(numbers(PROBES[name](objective)), expected)
    assert torch.get_num_threads() == 2
    executor = Elsewhere()
    threads(1)
    np.testing.assert_array_equal(numbers(PROBES[name](objective, executor=executor)), expected)
    assert len(executor.sent) >= (1 if name == "exact trace" else 4)  # the fifth class has no samples


def test_rows_without_samples_are_announced_nowhere(objective, caplog):
    """Groups of classes that are not in the data have no row to send, and no value."""
    empty = Objective(objective.model, (objective.x, objective.y), num_classes=5, groups={"rare": (4,)})
    caplog.set_level("INFO", logger="sharpness")
    found = sharpness.eigenvalues(empty, per_group=True, executor=Elsewhere())
    assert np.isnan(found.values).all()


def test_rows_are_done_at_the_same_time(objective, threads, monkeypatch):
    """The first products of two rows wait for each other."""
    meeting, seen = threading.Barrier(2, timeout=60), set()
    original = CurvatureOperator.__call__

    def call(self, vector):
        if threading.get_ident() not in seen:
            seen.add(threading.get_ident())
            meeting.wait()
        return original(self, vector)

    monkeypatch.setattr(CurvatureOperator, "__call__", call)
    threads(2)
    sharpness.eigenvalues(objective, per_class=True)
    assert len(seen) == 2 and threading.get_ident() not in seen


def interrupt():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def fail():
    raise ValueError


@pytest.fixture
def ctrl_c():
    """A shell's background jobs ignore it, and with them the tests that run in one."""
    found = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, found)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("happens", "error"), [(interrupt, KeyboardInterrupt), (fail, ValueError)])
def test_an_error_or_an_interrupt_stops_the_other_row_and_leaves_what_was_done(
    happens, error, objective, threads, tmp_path, monkeypatch
):
    threads(1)
    expected = numbers(PROBES["eigenvalues"](objective))
    original, products = CurvatureOperator.__call__, []

    def call(self, vector):
        products.append(self)
        if len(products) == 75:
            happens()
        return original(self, vector)

    threads(2)
    with monkeypatch.context() as patch:
        patch.setattr(CurvatureOperator, "__call__", call)
        with pytest.raises(error):
            PROBES["eigenvalues"](objective, resume=tmp_path)
    assert len(products) < 90 and threading.active_count() < 10
    again = []
    with monkeypatch.context() as patch:
        patch.setattr(CurvatureOperator, "__call__", lambda self, v: again.append(0) or original(self, v))
        np.testing.assert_array_equal(numbers(PROBES["eigenvalues"](objective, resume=tmp_path)), expected)
    assert sharpness.eigenvalues(objective, 2, "both", True, standard_errors=True).hvp_count > len(again)


def test_models_without_a_trace_are_done_one_after_another(threads, monkeypatch):
    class Untraced(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            return self.linear(x) if float(x.sum()) < 1e9 else x

    threads(2)
    seen, original = set(), CurvatureOperator.__call__
    monkeypatch.setattr(
        CurvatureOperator, "__call__", lambda self, v: seen.add(threading.get_ident()) or original(self, v)
    )
    torch.manual_seed(0)
    objective = Objective(Untraced().double(), (torch.randn(8, 3, dtype=torch.float64), torch.arange(8) % 3))
    found = sharpness.eigenvalues(objective, per_class=True)
    assert seen == {threading.get_ident()} and found.converged.all()


def test_one_end_alone_is_within_tolerance_of_the_dense_hessian(objective):
    table = sharpness.measure(objective, "lambda_max")
    part = objective.restrict(1)
    with part.operator() as operator:
        dense = torch.stack([operator(row) for row in torch.eye(operator.size)]).double()
    largest = float(torch.linalg.eigvalsh((dense + dense.T) / 2)[-1])
    assert table["lambda_max"].values[1] == pytest.approx(largest, rel=5e-3)
    assert table.names == ("lambda_max",)


def test_the_last_row_of_an_interrupted_call_has_the_threads_that_it_would_have_had(objective, threads, tmp_path):
    threads(2)
    seen, original = [], CurvatureOperator.__call__

    def call(self, *arguments):
        seen.append(torch.get_num_threads())
        return original(self, *arguments)

    whole = PROBES["eigenvalues"](objective, resume=tmp_path)
    next(tmp_path.rglob("row-*.npz")).unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CurvatureOperator, "__call__", call)
        again = PROBES["eigenvalues"](objective, resume=tmp_path)
    assert set(seen) == {1}
    np.testing.assert_array_equal(numbers(again), numbers(whole))
