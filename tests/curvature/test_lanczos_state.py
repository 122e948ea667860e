"""An interrupted Lanczos run goes on as if nothing had happened, bit for bit."""

import numpy as np
import pytest
import torch

from sharpness import UserError
from sharpness.curvature.lanczos import lanczos
from sharpness.curvature.lanczos_state import LanczosState

CASES = {
    "one pair": (np.linspace(-3, 5, 40), {"k": 1, "tol": 1e-6}),
    "both ends, repeated": (np.r_[7.0, 7.0, np.linspace(-1, 1, 30), -4], {"k": 2, "which": "both"}),
    "exhausted": (np.r_[5.0, 5.0, np.zeros(20)], {"k": 3, "which": "LA"}),
    "ended by the limit": (np.linspace(0, 1, 60), {"k": 2, "which": "SA", "max_iterations": 9}),
    "float32": (np.linspace(-3, 5, 40), {"k": 2, "which": "both", "dtype": torch.float32}),
}


def equal(a, b):
    assert a.products == b.products
    for field in ("values", "residuals", "converged"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
    assert torch.equal(a.vectors, b.vectors)


@pytest.mark.parametrize("name", CASES)
def test_a_run_interrupted_at_any_product_and_resumed_equals_an_uninterrupted_one(name, symmetric, tmp_path):
    values, options = CASES[name]
    dense = torch.as_tensor(symmetric(values)).to(options.get("dtype", torch.float64))
    whole = lanczos(lambda v: dense @ v, len(values), **options, generator=torch.Generator().manual_seed(5))
    for stop in range(1, whole.products + 1):
        calls, states = [], []

        def product(v, calls=calls, stop=stop):
            calls.append(v)
            if len(calls) == stop + 1:
                raise KeyboardInterrupt
            return dense @ v

        generator = torch.Generator().manual_seed(5)
        if stop < whole.products:
            with pytest.raises(KeyboardInterrupt):
                lanczos(product, len(values), **options, generator=generator, checkpoint=states.append)
        else:
            lanczos(product, len(values), **options, generator=generator, checkpoint=states.append)
        state = states[-1]
        assert state.products == stop
        np.savez(tmp_path / "state.npz", **state.arrays())
        with np.load(tmp_path / "state.npz", allow_pickle=False) as file:  # plain arrays alone
            state = LanczosState.of(dict(file))
        reported = []
        other = torch.Generator().manual_seed(99)
        rest = lanczos(
            lambda v: dense @ v, len(values), **options, generator=other, state=state, callback=reported.append
        )
        equal(rest, whole)
        assert sum(reported) == whole.products - stop


def test_every_state_of_a_run_stays_valid_as_the_run_goes_on(symmetric):
    dense = torch.as_tensor(symmetric(np.linspace(-3, 5, 40)))
    states = []
    whole = lanczos(lambda v: dense @ v, 40, 2, "both", checkpoint=states.append)
    assert {state.runs for state in states} == {0, 1}
    for state in states:
        equal(lanczos(lambda v: dense @ v, 40, 2, "both", state=state), whole)


@pytest.fixture
def state(symmetric):
    dense = torch.as_tensor(symmetric(np.linspace(-3, 5, 40)))
    states = []
    lanczos(lambda v: dense @ v, 40, checkpoint=states.append)
    return states[-1]


MISMATCHES = [{"k": 2}, {"which": "both"}, {"tol": 1e-5}, {"max_iterations": 9}, {"dtype": torch.float32}]


@pytest.mark.parametrize("options", MISMATCHES, ids=str)
def test_a_state_of_other_settings_is_refused(options, state):
    with pytest.raises(UserError, match=next(iter(options))):
        lanczos(lambda v: v, 40, **options, state=state)


def test_a_state_of_another_size_is_refused(state):
    with pytest.raises(UserError, match="size=40, not 41"):
        lanczos(lambda v: v, 41, state=state)


def test_a_state_on_another_device_is_refused(state):
    with pytest.raises(UserError, match="make it with device='meta'"):
        lanczos(lambda v: v, 40, state=state, device="meta")


def test_arrays_of_another_version_are_refused(state):
    with pytest.raises(ValueError, match="lanczos 0"):
        LanczosState.of({**state.arrays(), "format": np.array("lanczos 0")})
