"""Which epochs stochastic weight averaging takes."""

import pytest

from sharpness.errors import UserError
from sharpness.flattening import SWA, build_operation


def test_as_published_epochs_161_to_200_are_averaged():
    assert [e for e in range(1, 201) if SWA().averages(e, 200)] == list(range(161, 201))


@pytest.mark.parametrize("start", [0.0, 0.3, 0.8, 0.999])
@pytest.mark.parametrize("epochs", [1, 2, 7, 200])
def test_the_last_epoch_is_always_among_them(start, epochs):
    averaged = [e for e in range(1, epochs + 1) if SWA(start).averages(e, epochs)]
    assert averaged == list(range(averaged[0], epochs + 1))
    assert len(averaged) == pytest.approx((1 - start) * epochs, abs=1)


@pytest.mark.parametrize(
    ("options", "message"), [({"start": 1}, "start=1"), ({"start": -0.1}, "start=-0.1"), ({"lr": 0}, "lr=0")]
)
def test_wrong_numbers_are_refused_in_one_line(options, message):
    with pytest.raises(UserError, match=message) as caught:
        SWA(**options)
    assert "\n" not in str(caught.value)


def test_it_is_built_by_name():
    assert build_operation("swa:0.5") == SWA(start=0.5)
