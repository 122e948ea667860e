"""Critical radii of losses and networks whose first crossing is known."""

import numpy as np
import pytest
import torch
from torch import nn

from sharpness import Objective, UserError, critical_radius, measure


def squares(outputs, targets):
    return outputs[:, 0] ** 2


@pytest.fixture(scope="module")
def classifier():
    """Logits (w x, -w x) of x > 0: class 0 is right as long as w > 0; the second input moves both alike."""
    model = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    x = torch.tensor([[1.0, 0.5], [1.0, 0.5], [1.0, 0.5], [-2.0, 0.5]], dtype=torch.float64)
    return Objective(model, (x, torch.tensor([0, 0, 0, 1])), groups={"few": (1,)})


def test_a_quadratic_doubles_where_it_must():
    """(w x)^2 with w = 1: at w = sqrt(2) along +1, whatever x; also far beyond the first radius."""
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 1e-4]]))
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    objective = Objective(model, (x, torch.tensor([0, 1])), squares, num_classes=2)
    found = critical_radius(objective, "class_gradient")
    # Class 1 moves along w_2 alone, from 1e-4 to 1.41e-4.
    np.testing.assert_allclose(found["class_gradient"].values, [2**0.5 - 1, (2**0.5 - 1) * 1e-4], rtol=0.03)
    assert "class_gradient_accuracy" not in found.names


def test_losses_double_and_accuracies_fall_along_an_update(classifier):
    """Down the scale of the logits: w = 1 - s with s = r |w| / sqrt(2)."""
    found = critical_radius(classifier, "update", update=[-1.0, 0.0, 1.0, 0.0])
    grid = np.linspace(0, 2, 200001)
    for c, x in ((0, 1.0), (1, 2.0)):
        losses = np.log1p(np.exp(-2 * (1 - grid) * x))
        double = grid[np.argmax(losses >= 2 * losses[0])]
        assert found["update_loss"].of(c) == pytest.approx(double, rel=0.03)
        assert found["update_accuracy"].of(c) == pytest.approx(1, rel=0.03)
        assert found["update"].of(c) == found["update_loss"].of(c)


def test_what_is_never_lost_has_no_radius(classifier):
    found = critical_radius(classifier, update=[1.0, 0.0, -1.0, 0.0], directions=())
    assert np.isnan(found["update"].values).all()


def test_random_directions_are_those_of_a_finer_search_and_have_errors(classifier):
    found = critical_radius(classifier, "random", draws=3, seed=1)
    from sharpness.probes.directions.gaussian import gaussian

    radii = []
    for draw in range(3):
        d = gaussian(classifier, draw, 1)
        grid = np.geomspace(1e-2, 2, 300)
        base = classifier.class_losses()[0]
        hit = [r for r in grid if _lost(classifier, r * d * 2**0.5 / d.norm(), base)]
        radii.append(hit[0] if hit else np.nan)
    assert found["random"].of(0) == pytest.approx(np.mean(radii), rel=0.03, nan_ok=True)
    table = measure(classifier, "critical_radius", draws=3, seed=1)
    np.testing.assert_array_equal(table.values[0], found["random"].values)
    np.testing.assert_array_equal(table.standard_errors[0], found["random"].standard_errors)


def _lost(objective, displacement, base):
    with objective.at(displacement):
        now = objective.evaluate()
    return now.class_means[0] >= 2 * base or now.class_accuracies[0] <= 0.9


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"directions": "up"}, "unknown direction 'up'"),
        ({"directions": "update"}, "or give update="),
        ({"factor": 1.0}, "factor above 1"),
        ({"drop": 0.0}, "a drop in"),
        ({"draws": 1}, "at least 2, for a standard error"),
        ({"update": [0.0, 0.0, 0.0, 0.0]}, "a direction vanishes"),
        ({"update": [1.0]}, "this objective needs"),
    ],
)
def test_settings_out_of_range_are_refused(classifier, given, message):
    with pytest.raises(UserError, match=message):
        critical_radius(classifier, **{"directions": (), **given} if "update" in given else given)


def test_recalibrated_statistics_are_those_of_all_samples():
    """Normalised inputs are k and -k, by statistics of all samples; those of a class alone would make them 0."""
    model = nn.Sequential(nn.BatchNorm1d(1, affine=False), nn.Linear(1, 1, bias=False)).double().eval()
    nn.init.ones_(model[1].weight)
    x = torch.tensor([[1.0], [1.0], [-3.0], [-3.0]], dtype=torch.float64)
    data = x, torch.zeros(4, dtype=torch.float64)
    objective = Objective(model, data, lambda u, t: (u[:, 0] + 1) ** 2, classes=[0, 0, 1, 1], batchnorm="recalibrate")
    found = critical_radius(objective, "class_gradient")["class_gradient"].values
    k = 2 / (16 / 3 + model[0].eps) ** 0.5
    # Class 0 moves to w > 1, where its loss is (w k + 1)^2, class 1 to w < 1, where its loss is (1 - w k)^2.
    up, down = (2**0.5 * (k + 1) - 1) / k - 1, 1 - (1 - 2**0.5 * (1 - k)) / k
    np.testing.assert_allclose(found, [up, down], rtol=0.03)
