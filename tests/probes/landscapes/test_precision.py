"""bfloat16 where it pays and is good enough, with its error beside it."""

import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpness import Objective, UserError, line, load_result, plane
from sharpness.probes.landscapes import precision
from sharpness.probes.landscapes.precision import RELIEF, landscape_precision, stands_out

RANGES = (-1, 1, 5), (-1, 1, 3)


def network(temperature=1.0, dtype=torch.float32):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    x = torch.randn(24, 2, 8, 8)
    model(x)
    with torch.no_grad():
        model[-1].weight *= temperature
        model[-1].bias *= temperature
    return Objective(model.eval().to(dtype), (x, torch.arange(24) % 3), num_classes=4)


@pytest.fixture
def objective():
    return network()


@pytest.fixture
def worthwhile(monkeypatch):
    """Any work is large, and the hardware is made for bfloat16."""
    monkeypatch.setattr(precision, "WORTHWHILE", 0)
    monkeypatch.setattr(precision, "GAIN", np.inf)
    monkeypatch.setattr(precision, "fast_bfloat16", lambda device: True)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("hardware", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_auto_is_bfloat16_for_large_work_of_float32_models_on_hardware_for_it(monkeypatch, large, hardware, dtype):
    objective = network(dtype=dtype)
    operations = 7 * objective.num_samples * objective.flops_per_sample
    monkeypatch.setattr(precision, "WORTHWHILE", operations if large else operations + 1)
    monkeypatch.setattr(precision, "fast_bfloat16", lambda device: hardware)
    expected = "bfloat16" if large and hardware and dtype is torch.float32 else str(dtype).removeprefix("torch.")
    assert landscape_precision(objective, "auto", 7) == expected


def test_what_is_asked_for_is_taken(objective):
    assert [landscape_precision(objective, p, 1) for p in ("float32", "bfloat16")] == ["float32", "bfloat16"]


@pytest.mark.parametrize("asked", ["bfloat16", "float32"])
def test_models_in_float64_take_no_other_precision(asked):
    with pytest.raises(UserError, match=f"precision='{asked}', but the model is in float64"):
        line(network(dtype=torch.float64), (-1, 1, 3), precision=asked)
    assert line(network(dtype=torch.float64), (-1, 1, 3)).precision == "float64"


def test_an_unknown_precision_is_refused(objective):
    with pytest.raises(UserError, match="unknown precision 'half'"):
        plane(objective, *RANGES, precision="half")


@pytest.mark.parametrize(
    ("relief", "error", "adaptive", "expected"),
    [
        ([1.0, 1.0], [0.99 / RELIEF, 0.0], None, True),
        ([1.0, 1.0], [1.01 / RELIEF, 0.0], None, False),
        ([1.0, 1.0], [0.0, 1.01 / RELIEF], None, False),
        ([1.0, np.nan], [0.0, np.nan], None, True),
        ([1.0, 1.0], [np.nan, 0.0], None, False),
        ([1.0, np.inf], [0.0, 0.0], None, True),
        ([1.0, 1.0], [0.99e-3, 0.0], 0.01, True),
        ([1.0, 1.0], [1.01e-3, 0.0], 0.01, False),
        ([1.0, 1.0], [0.0, 3.99e-3], 0.01, True),
        ([1.0, 1.0], [0.0, 4.01e-3], 0.01, False),
        ([1.0, 1.0], [1.01 / RELIEF, 0.0], 0.5, False),
        ([0.0, 0.0], [0.0, 0.0], None, True),
    ],
)
def test_a_relief_stands_out_from_the_error_and_so_does_a_tolerance(relief, error, adaptive, expected):
    exact = np.stack([np.full(2, 2.0), 2.0 + np.array(relief)])
    exact[:, np.isnan(relief)] = np.nan
    reduced = exact + np.array([[1.0], [-1.0]]) * np.array(error)
    assert stands_out(reduced, exact, adaptive) is expected


def test_the_error_is_the_root_mean_square_over_points():
    exact = np.linspace(0, 1, 9)[:, None]
    off = np.zeros((9, 1))
    off[4] = 3 * 0.99 / RELIEF  # of one point among nine
    assert stands_out(exact + off, exact)
    assert not stands_out(exact + 1.03 * off, exact)


def test_a_plane_in_bfloat16_says_so_and_by_how_much_it_is_off(objective, worthwhile, tmp_path):
    found, exact = plane(objective, *RANGES), plane(objective, *RANGES, precision="float32")
    assert (found.precision, exact.precision) == ("bfloat16", "float32")
    half = objective.evaluation("bfloat16")(None)
    assert found.precision_error == abs(half.mean - objective.loss()) > 0
    np.testing.assert_array_equal(found.class_precision_errors, np.abs(half.class_means - objective.class_losses()))
    assert np.isnan(found.class_precision_errors[3])
    assert found.base_loss == objective.loss() == exact.losses[1, 2]
    assert found.losses[1, 2] == half.mean
    assert exact.precision_error == 0
    again = load_result(found.save(tmp_path / "plane.nc"))
    assert (again.precision, again.precision_error) == (found.precision, found.precision_error)
    np.testing.assert_array_equal(again.class_precision_errors, found.class_precision_errors)


def test_values_in_bfloat16_are_off_by_a_few_of_its_rounding_errors(objective):
    """Every value has 8 bits, and there are two layers of them: 2^-8 each of logits of the size of the loss."""
    found, exact = (plane(objective, *RANGES, precision=p) for p in ("bfloat16", "float32"))
    np.testing.assert_allclose(found.losses, exact.losses, rtol=4 * 2**-8)
    np.testing.assert_allclose(found.class_losses, exact.class_losses, rtol=8 * 2**-8)


@pytest.mark.parametrize("adaptive", [None, 0.01])
def test_a_relief_below_the_error_is_taken_in_float32_exactly(objective, worthwhile, adaptive, caplog):
    flat = ((-1e-4, 1e-4, 5), (-1e-4, 1e-4, 3))
    with caplog.at_level(logging.INFO):
        found = plane(objective, *flat, adaptive=adaptive)
    assert "plane: its relief is too small for bfloat16, it is taken in float32" in caplog.text
    caplog.clear()
    exact = plane(objective, *flat, adaptive=adaptive, precision="float32")
    assert "relief" not in caplog.text
    assert found.to_dataset().identical(exact.to_dataset())


def test_what_is_asked_for_is_never_replaced(objective, worthwhile, caplog):
    found = plane(objective, (-1e-4, 1e-4, 3), (-1e-4, 1e-4, 3), precision="bfloat16")
    assert found.precision == "bfloat16"
    assert not caplog.text


@pytest.mark.parametrize(("gain", "expected"), [(np.inf, "bfloat16"), (0.0, "float32")])
def test_a_pass_of_each_decides_and_what_was_begun_goes_on(
    objective, worthwhile, gain, expected, monkeypatch, tmp_path
):
    monkeypatch.setattr(precision, "GAIN", gain)
    begun = plane(objective, *RANGES, resume=tmp_path)
    assert begun.precision == expected
    monkeypatch.setattr(precision, "GAIN", 0.0 if gain else np.inf)
    assert plane(objective, *RANGES, resume=tmp_path).to_dataset().identical(begun.to_dataset())
    assert plane(objective, *RANGES).precision != expected


def test_a_folder_of_one_precision_is_not_read_by_another(objective, tmp_path):
    found = {p: line(objective, (-1, 1, 5), precision=p, resume=tmp_path) for p in ("bfloat16", "float32")}
    for p, result in found.items():
        fresh = line(objective, (-1, 1, 5), precision=p)
        assert result.to_dataset().identical(fresh.to_dataset())
    assert not np.array_equal(found["bfloat16"].losses, found["float32"].losses)


def test_a_model_without_a_trace_is_autocast():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(2, 4, 3), nn.Linear(4, 3)

        def forward(self, x):
            z = F.relu(self.conv(x)).mean((2, 3))
            return self.fc(z if z.sum() > 1e9 else 2 * z)

    torch.manual_seed(0)
    objective = Objective(Branching(), (torch.randn(9, 2, 6, 6), torch.arange(9) % 3))
    found, exact = (line(objective, (-1, 1, 5), precision=p) for p in ("bfloat16", "float32"))
    np.testing.assert_allclose(found.losses, exact.losses, rtol=4 * 2**-8)
    assert found.precision_error > 0
