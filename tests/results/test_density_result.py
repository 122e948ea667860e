"""The density of a spectrum as a picture of one model or several."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from sharpness import UserError, spectral_density
from sharpness.results import Comparison, Runs, SpectralDensityResult


@pytest.fixture(scope="module")
def found(pair):
    return spectral_density(pair, per_class=True, draws=3, steps=6)


@pytest.mark.parametrize("subset", [None, "cat", 2])
def test_models_are_drawn_alike_with_ticks_at_their_extreme_values(found, subset):
    ax = found.plot(Figure().subplots(), of=subset)
    rules = {label: r.quadrature(subset) for label, r in found.items()}
    width = max(rule.density().width for rule in rules.values())
    lines = {line.get_label(): line for line in ax.lines if line.get_label() in rules}
    floor = ax.get_ylim()[0]
    for label, rule in rules.items():
        curve = rule.density(width=width)
        shown = curve.density >= floor
        np.testing.assert_array_equal(lines[label].get_xdata(), curve.grid)
        np.testing.assert_array_equal(lines[label].get_ydata()[shown], curve.density[shown])
    marks = [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 2]
    np.testing.assert_array_equal(marks, [[np.nanmin(q.nodes), np.nanmax(q.nodes)] for q in rules.values()])
    assert ax.get_yscale() == "log"


def test_the_rarest_class_is_drawn_unless_another_is_asked_for(found):
    one, other = (found["a"].density(subset).density for subset in (None, "owl"))
    np.testing.assert_array_equal(one, other)


def test_all_samples_together_have_one_density_and_one_row(pair):
    result = spectral_density(pair["a"], draws=3, steps=6)
    assert result.nodes.shape == result.weights.shape == (3, 6)
    frame = result.to_frame()
    assert frame["class"].tolist() == ["all"] and frame.samples.tolist() == [14] and frame.products.tolist() == [18]
    result.plot(Figure().subplots(), smoothing=0.1)
    with pytest.raises(UserError, match="ask for per_class=True"):
        result.plot(Figure().subplots(), of="cat")


def test_the_band_is_around_the_density_and_widens_with_fewer_runs(pair):
    few, many = (spectral_density(pair["a"], draws=runs, steps=6) for runs in (2, 12))
    grid = np.linspace(-0.5, 2, 50)
    bands = []
    for result in (few, many):
        curve = result.density(grid=grid, width=0.2)
        assert (curve.lower <= curve.density).all() and (curve.density <= curve.upper).all()
        bands.append((curve.upper - curve.lower).mean())
    assert bands[0] > bands[1]


def test_trainings_are_averaged_at_the_points_of_all_of_their_grids():
    """Each training has an eigenvalue far from the others, narrower than an even grid over all of them is spaced."""

    def spectrum(top):
        return SpectralDensityResult(
            class_names=("a", "b"), class_samples=np.array([3, 1]), groups={}, provenance={"num_parameters": 10},
            nodes=np.array([[0.0, 0.1, top]] * 2), weights=np.array([[0.5, 0.3, 0.2]] * 2), products=np.array(6),
            sample_products=24,
        )  # fmt: skip

    results = Comparison({"a": Runs([spectrum(100.0), spectrum(200.0)])})
    ax = results.plot(Figure().subplots(), smoothing=0.5)
    (line,) = [line for line in ax.lines if line.get_label() == "a"]
    drawn = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
    peak = 0.2 / (0.5 * np.sqrt(2 * np.pi)) / 2  # of one of two trainings
    assert drawn[100.0] == pytest.approx(peak) and drawn[200.0] == pytest.approx(peak)


def test_a_smoothing_of_zero_and_spectra_of_other_rows_are_refused(found, pair):
    with pytest.raises(UserError, match="width=0: give the positive"):
        found.plot(Figure().subplots(), smoothing=0)
    whole = spectral_density(pair["b"], draws=2, steps=4)
    with pytest.raises(UserError, match="per_class is True and False"):
        SpectralDensityResult.compare({"a": found["a"], "b": whole})
