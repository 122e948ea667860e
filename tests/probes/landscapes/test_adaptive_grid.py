"""Adaptive grids: closed-form surfaces within the tolerance from few points, and nothing made up."""

import numpy as np
import pytest
from scipy.special import logsumexp

from sharpness.engine import distributed
from sharpness.probes.landscapes.adaptive_grid import refine

TOL = 0.01


def axes(ny=51, nx=51):
    return np.meshgrid(np.linspace(-1, 1, nx), np.linspace(-1, 1, ny))


def logistic(ny=51, nx=51, scale=10.0):
    """Mean cross-entropy of a linear model on a plane through its weights, (ny, nx, 4): overall and of 3 classes."""
    rng = np.random.default_rng(1)
    slopes, offsets, labels = rng.normal(size=(30, 2, 3)), rng.normal(size=(30, 3)), np.arange(30) % 3
    logits = scale * np.einsum("nac,ayx->yxnc", slopes, np.stack(axes(ny, nx))) + offsets
    losses = logsumexp(logits, axis=-1) - np.take_along_axis(logits, labels[:, None][None, None], axis=-1)[..., 0]
    return np.stack([losses.mean(-1), *(losses[..., labels == c].mean(-1) for c in range(3))], axis=-1)


def rotated(ny=51, nx=51):
    x, y = axes(ny, nx)
    return (100 * (0.8 * x + 0.6 * y) ** 2 + (0.8 * y - 0.6 * x) ** 2 + x)[..., None]


def surfaces():
    x, y = axes()
    return {
        "quadratic": rotated(),
        "logistic": logistic(),
        "valley": ((1 - 2 * x) ** 2 + 20 * (2 * y - 4 * x**2) ** 2)[..., None],
        "kink": (np.abs(x + 0.3 * y) + 0.5 * y**2)[..., None],
        "cone": np.hypot(x, y)[..., None],
        "wall": (np.exp(7 * x) + x**2 + 3 * y**2)[..., None],
        "well": (1 - np.exp(-(x**2 + y**2) / 0.02))[..., None],
        "concave": (-(x**2) - 3 * y**2)[..., None],
    }


class Recorder:
    """The evaluation of a known surface (ny, nx, K), and its calls."""

    def __init__(self, surface):
        self.rows, self.calls = surface.reshape(-1, surface.shape[-1]), []

    def __call__(self, cells):
        self.calls.append(cells.copy())
        return self.rows[cells]


def run(surface, tol=TOL, criteria=None):
    recorder = Recorder(surface)
    found = refine(recorder, surface.shape[:2], tol, surface.shape[-1] if criteria is None else criteria)
    return found, recorder


def relative_errors(found, rows):
    """Over the larger of relief and height above the minimum, per interpolated cell and column."""
    finite = rows[np.isfinite(rows).all(axis=1)]
    low, high = finite.min(axis=0), np.quantile(finite, 0.9, axis=0)
    rest = ~found.evaluated
    scale = np.maximum(high - low, rows[rest] - low)
    return np.abs(found.values[rest] - rows[rest]) / scale, found.errors[rest] / scale


@pytest.mark.parametrize("name", surfaces())
def test_a_closed_form_is_within_the_tolerance_from_at_most_a_third_of_the_points(name):
    surface = surfaces()[name]
    found, recorder = run(surface)
    error, estimate = relative_errors(found, recorder.rows)
    assert found.evaluated.mean() <= 1 / 3
    assert error[:, 0].max() <= TOL
    assert error.max() <= 4 * TOL
    assert estimate[:, 0].max() <= TOL * (1 + 1e-9)


@pytest.mark.parametrize("name", surfaces())
def test_the_estimate_is_above_the_true_error_in_nine_of_ten_cells(name):
    found, recorder = run(surfaces()[name])
    error, estimate = relative_errors(found, recorder.rows)
    assert (error <= estimate).mean(axis=0).min() >= 0.9


def test_corners_a_thousand_times_as_high_leave_the_bowl_within_the_tolerance():
    x, y = axes()
    found, recorder = run((x**2 + y**2 + np.exp(8 * x * y))[..., None])
    assert recorder.rows.max() > 1000 * np.median(recorder.rows)
    assert relative_errors(found, recorder.rows)[0].max() <= TOL
    assert found.evaluated.mean() <= 1 / 3


def test_a_quadratic_needs_the_first_lattice_and_its_verification_only():
    found, recorder = run(rotated())
    assert len(recorder.calls) == 2
    assert found.evaluated.mean() < 0.05
    np.testing.assert_allclose(found.values, recorder.rows, atol=1e-9 * recorder.rows.max())


def test_a_larger_tolerance_takes_fewer_points():
    fractions = [run(logistic(scale=20.0), tol)[0].evaluated.mean() for tol in (0.003, 0.01, 0.1)]
    assert fractions[0] > fractions[1] > fractions[2]


@pytest.mark.parametrize("shape", [(51, 51), (7, 51), (51, 7), (30, 44), (1, 200), (2, 60), (90, 20)])
def test_cells_are_numbered_row_by_row_and_the_shape_is_free(shape):
    found, recorder = run(rotated(*shape))
    np.testing.assert_allclose(found.values, recorder.rows, atol=TOL * np.ptp(recorder.rows))
    assert found.evaluated.mean() < 0.5


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 2), (3, 3), (5, 4), (1, 2), (6, 6)])
def test_tiny_grids_are_evaluated_at_once(shape):
    found, recorder = run(rotated(*shape))
    assert len(recorder.calls) == 1
    assert found.evaluated.all()
    np.testing.assert_array_equal(found.values, recorder.rows)
    assert not found.errors.any()


@pytest.mark.parametrize("surface", [logistic(), surfaces()["kink"]], ids=["logistic", "kink"])
def test_evaluated_cells_carry_their_values_once_and_without_error(surface):
    found, recorder = run(surface)
    cells = np.concatenate(recorder.calls)
    assert len(np.unique(cells)) == len(cells)
    np.testing.assert_array_equal(np.sort(cells), np.flatnonzero(found.evaluated))
    np.testing.assert_array_equal(found.values[cells], recorder.rows[cells])
    assert not found.errors[cells].any()
    assert (found.errors[~found.evaluated] > 0).all()


def test_the_same_numbers_lead_to_the_same_calls():
    (first, one), (second, two) = run(logistic()), run(logistic())
    assert all(np.array_equal(a, b) for a, b in zip(one.calls, two.calls, strict=True))
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(first.errors, second.errors)


def test_every_process_follows_the_first(monkeypatch):
    first, recorder = run(logistic())
    decisions = iter(recorder.calls[1:])

    def total(part):
        assert not part.any()
        part[next(decisions, [])] = 1
        return part

    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(distributed, "total", total)
    second, other = run(logistic() * (1 + 1e-3 * axes()[0][..., None]))
    np.testing.assert_array_equal(second.evaluated, first.evaluated)
    assert len(other.calls) == len(recorder.calls)


@pytest.mark.parametrize("column", [0, 1])
def test_nothing_is_interpolated_at_or_beside_cells_that_are_not_finite(column):
    x, y = axes(41, 51)
    surface = np.stack([x**2 + y**2 + np.exp(5 * (x + y) - 5), x**2 - y], axis=-1)
    surface[x + y > 1.4, column] = np.inf
    surface[(x < -0.8) & (y < -0.8), column] = np.nan
    surface[20, 25, column] = -np.inf
    found, recorder = run(surface)
    np.testing.assert_array_equal(np.isfinite(found.values), np.isfinite(recorder.rows))
    infinite = ~np.isfinite(recorder.rows).all(axis=1).reshape(41, 51)
    padded = np.pad(infinite, 1)
    beside = np.any([padded[i : i + 41, j : j + 51] for i in range(3) for j in range(3)], axis=0)
    assert found.evaluated[beside.ravel()].all()
    assert not found.evaluated.all()
    assert relative_errors(found, recorder.rows)[0].max() <= 4 * TOL


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_surface_without_finite_values_is_evaluated_everywhere(value):
    found, recorder = run(np.full((20, 30, 2), value))
    assert found.evaluated.all()
    np.testing.assert_array_equal(found.values, recorder.rows)


def test_a_class_without_samples_is_left_out():
    surface = logistic()
    with_absent = np.insert(surface, 2, np.nan, axis=-1)
    (found, _), (without, _) = run(with_absent), run(surface)
    np.testing.assert_array_equal(found.evaluated, without.evaluated)
    assert np.isnan(found.values[:, 2]).all()
    np.testing.assert_array_equal(np.delete(found.values, 2, axis=1), without.values)
    assert np.isnan(found.errors[:, 2]).all()


def test_a_class_that_no_spline_can_follow_costs_a_fifth_of_the_points_and_its_errors_say_so():
    smooth = rotated()
    noise = np.random.default_rng(0).uniform(size=(51, 51, 1))
    alone, _ = run(smooth)
    found, _ = run(np.concatenate([smooth, noise], axis=-1))
    assert alone.evaluated.mean() < 0.1 < found.evaluated.mean() < 0.3
    left = ~found.evaluated
    assert np.abs(found.values - np.concatenate([smooth, noise], axis=-1).reshape(-1, 2))[left, 0].max() < TOL
    assert (found.errors[left, 1] > 0.1).mean() > 0.9


def test_columns_beyond_the_criteria_are_fractions_and_cost_nothing():
    x, y = axes()
    bowl = x**2 + y**2
    surface = np.stack([bowl, bowl < 0.2, np.where(bowl < 0.5, 1.0, 0.3)], axis=-1)
    found, recorder = run(surface, criteria=1)
    assert found.errors.shape == (51 * 51, 3)
    assert found.evaluated.mean() < 0.05
    assert found.values[:, 1].min() == 0 and found.values[:, 1].max() == 1
    assert found.values[:, 2].min() >= 0.3 - 1e-12 and found.values[:, 2].max() <= 1 + 1e-12
    np.testing.assert_array_equal(found.values[found.evaluated], recorder.rows[found.evaluated])


def accuracies(ny=51, nx=51, scale=10.0):
    """Losses of :func:`logistic`, and shares of right answers of its model overall and of 3 classes, (ny, nx, 8)."""
    rng = np.random.default_rng(1)
    slopes, offsets, labels = rng.normal(size=(30, 2, 3)), rng.normal(size=(30, 3)), np.arange(30) % 3
    logits = scale * np.einsum("nac,ayx->yxnc", slopes, np.stack(axes(ny, nx))) + offsets
    right = logits.argmax(-1) == labels
    shares = np.stack([right.mean(-1), *(right[..., labels == c].mean(-1) for c in range(3))], axis=-1)
    return np.concatenate([logistic(ny, nx, scale), shares], axis=-1)


@pytest.mark.parametrize("scale", [5.0, 10.0, 20.0])
def test_fractions_carry_an_error_that_is_above_the_true_one_in_nine_of_ten_cells(scale):
    found, recorder = run(accuracies(scale=scale), criteria=4)
    rest = ~found.evaluated
    missed = np.abs(found.values - recorder.rows)[rest, 4:]
    assert (missed <= found.errors[rest, 4:]).mean(axis=0).min() >= 0.9
    assert missed.mean() < 0.03
    assert not found.errors[found.evaluated].any()


@pytest.mark.parametrize("shape", [(1, 200), (60, 2), (200, 1), (30, 44)])
def test_fractions_between_their_neighbours_on_any_shape(shape):
    y, x = np.meshgrid(*(np.linspace(0, 1, n) if n > 1 else np.zeros(1) for n in shape), indexing="ij")
    surface = np.stack([(x - y) ** 2, x / 2 + y / 3], axis=-1)
    found, recorder = run(surface, criteria=1)
    assert not found.evaluated.all()
    np.testing.assert_allclose(found.values[:, 1], recorder.rows[:, 1], atol=1e-12)


def test_a_flat_surface_is_flat():
    found, _ = run(np.full((40, 40, 1), 2.5))
    np.testing.assert_allclose(found.values, 2.5, rtol=1e-12)


def test_scale_and_offset_of_a_loss_change_nothing():
    surface = surfaces()["valley"]
    (found, _), (other, _) = run(surface), run(surface * 1024 + 4096)
    np.testing.assert_array_equal(found.evaluated, other.evaluated)
    np.testing.assert_allclose(other.values, found.values * 1024 + 4096, rtol=1e-7)


def test_large_grids_are_interpolated_in_tiles_within_the_tolerance():
    x, y = axes(100, 150)
    found, recorder = run((np.exp(3 * x) * np.cos(2 * y) + np.abs(x - y))[..., None])
    assert relative_errors(found, recorder.rows)[0].max() <= TOL
    assert found.evaluated.mean() < 0.15
