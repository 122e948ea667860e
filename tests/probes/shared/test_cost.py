"""Plans: the time that work should take, from passes of two sizes."""

import time

import pytest
import torch
from torch import nn

from sharpness import Objective
from sharpness.engine.operator import CurvatureOperator
from sharpness.engine.threads import Workers
from sharpness.probes.measures.duration import expected, settled
from sharpness.probes.measures.measure import Passes
from sharpness.probes.measures.registry import MEASURES
from sharpness.probes.shared import cost
from sharpness.probes.shared.cost import Cost, Linear, row_workers

NONE = Linear(0.0, 0.0)


@pytest.mark.parametrize("fixed", [0.0, 0.3])
def test_a_line_through_two_times_tells_those_of_other_sizes(fixed):
    times = [fixed + 0.01 * n for n in (4, 32)]
    assert Linear.through((4, 32), times)(500) == pytest.approx(fixed + 5)


def test_noise_never_makes_many_samples_cheap():
    assert Linear.through((4, 32), (0.4, 0.32))(3200) >= 16
    assert Linear.through((5,), (0.5,))(10) == pytest.approx(0.75)


def test_rows_share_the_workers_and_the_longest_is_done_by_one():
    product = Linear(0.1, 0.01)
    two = Cost(NONE, NONE, product, workers=2)
    even = expected(Passes(products=10), two, [10, 10])
    assert even == pytest.approx(2.0)  # 10 products of 0.2 s each, both at a time
    assert expected(Passes(products=10), Cost(NONE, NONE, product), [10, 10]) == pytest.approx(4.0)
    assert expected(Passes(products=10, of_all=10), two, [10, 10]) == pytest.approx((2 + 2 + 3) / 2)
    assert expected(Passes(products=10, of_all=10), two, [10]) == pytest.approx(2.0)  # which is all there is
    assert expected(Passes(products=1, of_all=1), two, [500, 1]) == pytest.approx((5.1 + 0.11 + 5.11) / 2)


def test_forward_passes_and_gradients_are_added():
    found = expected(Passes(forwards=3, gradients=2), Cost(Linear(0, 1), Linear(1, 1), NONE), [2, 3])
    assert found == pytest.approx(3 * 5 + 2 * (3 + 4))


def test_products_are_timed_as_rows_make_them(monkeypatch):
    """As many at a time as there are workers; an operator that sleeps takes as long as it sleeps."""
    original = CurvatureOperator.__call__

    def slow(self, vector):
        time.sleep(0.02 + 0.002 * self.samples)
        return original(self, vector)

    monkeypatch.setattr(CurvatureOperator, "__call__", slow)
    monkeypatch.setattr(cost, "SAMPLES", (4, 24))
    torch.manual_seed(0)
    objective = Objective(nn.Linear(2, 2), (torch.randn(40, 2), torch.arange(40) % 2))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        found = Cost.of(objective, rows=3, gradients=False)
        with row_workers(objective, 3) as pool:
            assert isinstance(pool, Workers) and pool.number == found.workers == 2
    finally:
        torch.set_num_threads(before)
    assert found.product(40) >= 0.06 and found.gradient(40) == 0


def test_one_end_is_announced_in_less_time_than_both():
    one, both = (
        sum(MEASURES[n].passes(MEASURES[n].settings()).products for n in names)
        for names in (["lambda_max"], ["lambda_max", "lambda_min"])
    )
    assert 0 < one < both
    assert MEASURES["trace"].passes(MEASURES["trace"].settings(trace_draws=7)).draws == 7


def test_a_trace_is_announced_by_its_backward_passes_or_by_its_products():
    data = torch.randn(6, 4), torch.arange(6) % 3
    total = Passes(gradients=1, products=2, draws=5)
    exact = Objective(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)), data)
    assert settled(total, exact) == Passes(gradients=1 + 2 / 3 * 3, products=2)
    other = Objective(nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4), nn.Linear(4, 3)), data)
    assert settled(total, other) == Passes(gradients=1, products=7)
    assert settled(total._replace(draws=0), other) == total._replace(draws=0)
