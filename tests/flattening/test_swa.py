"""Which epochs stochastic weight averaging takes."""

import pytest

from sharpness.flattening import SWA


def test_as_published_epochs_161_to_200_are_averaged():
    assert [e for e in range(1, 201) if SWA().averages(e, 200)] == list(range(161, 201))


@pytest.mark.parametrize("start", [0.0, 0.3, 0.8, 0.999])
@pytest.mark.parametrize("epochs", [1, 2, 7, 200])
def test_the_last_epoch_is_always_among_them(start, epochs):
    averaged = [e for e in range(1, epochs + 1) if SWA(start).averages(e, epochs)]
    assert averaged == list(range(averaged[0], epochs + 1))
    assert len(averaged) == pytest.approx((1 - start) * epochs, abs=1)
