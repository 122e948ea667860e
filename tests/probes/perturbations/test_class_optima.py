"""Displacements to the optima of classes: a mixture whose optima are known, and scipy's."""

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import nn

from sharpness import Objective, UserError, class_optima, load_result, measure, plane
from sharpness.probes.perturbations.class_optima import _Search


def squares(u, t):
    return (u[:, 0] - t) ** 2


@pytest.fixture(scope="module")
def mixture():
    """Class c wants X_c w = X_c o_c, each with two full-rank images."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 4.0]]))
    optima = torch.tensor([[3.0, 6.0], [1.0, 4.0], [3.0, 3.0]], dtype=torch.float64)
    x = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    t = torch.cat([x[2 * c : 2 * c + 2] @ optima[c] for c in range(3)])
    objective = Objective(
        model, (x, t), squares, classes=[0, 0, 1, 1, 2, 2], class_names="abc", groups={"many": (0,), "few": (1, 2)}
    )
    return objective, optima - torch.tensor([3.0, 4.0])


def test_optima_of_a_mixture_are_found(mixture, tmp_path):
    objective, displacements = mixture
    found = class_optima(objective, damping=0)
    np.testing.assert_allclose(found.vectors, displacements, atol=1e-8)
    np.testing.assert_allclose(found.lengths, displacements.norm(dim=1) / 5, rtol=1e-8)
    np.testing.assert_allclose(found.cosines, [[1, 0, -1], [0, 1, 0], [-1, 0, 1]], atol=1e-8)
    np.testing.assert_allclose(found.optimum_losses, 0, atol=1e-12)
    with objective.at(displacements[0]):
        np.testing.assert_allclose(found.losses_at[0], objective.class_losses(), atol=1e-9)
    assert found.converged.all() and found.to_frame()["with"].tolist()[0] == "c"
    assert plane(objective, x=(0, 1, 2), y=(0, 1, 2), directions=(found.direction("a"), found.direction("b")),
                 normalization=None).class_losses[0, 0, 1] == pytest.approx(0, abs=1e-9)  # fmt: skip
    ax = found.plot()
    assert (ax.images[0].norm.vmin, ax.images[0].norm.vmax) == (-1, 1)
    found.save(tmp_path / "o.nc")
    np.testing.assert_array_equal(load_result(tmp_path / "o.nc").cosines, found.cosines)


def test_an_interrupted_call_finds_only_what_is_missing(mixture, tmp_path, monkeypatch):
    objective, _ = mixture
    whole, search = class_optima(objective), _Search.optimum
    found = []

    def interrupted(self, part, update):
        if len(found) == 2:
            raise KeyboardInterrupt
        found.append(part)
        return search(self, part, update)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_Search, "optimum", interrupted)
        class_optima(objective, resume=tmp_path)
    again = class_optima(objective, resume=tmp_path)
    assert len(found) == 2 and np.array_equal(again.vectors, whole.vectors)
    np.testing.assert_array_equal(again.losses_at, whole.losses_at)
    del found[:]
    with monkeypatch.context() as patch:
        patch.setattr(_Search, "optimum", lambda *_: pytest.fail("found again"))
        class_optima(objective, resume=tmp_path)


@pytest.fixture(scope="module")
def logistic():
    """Two overlapping classes; a linear model without a bias."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 3, generator=generator).double()
    model = nn.Linear(3, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(2, 3, generator=generator))
    return Objective(model, (x, torch.tensor([0] * 30 + [1] * 10)), groups={"few": (1,)})


def damped_optimum(objective, indices, damping):
    """By scipy, on the loss written out."""
    w = objective.model.weight.detach().reshape(-1)
    x, y = objective.x[indices], objective.y[indices]

    def value(d):
        d = torch.tensor(d, requires_grad=True)
        loss = nn.functional.cross_entropy(x @ (w + d).view(2, 3).T, y) + damping / 2 * (d @ d) / (w @ w)
        (gradient,) = torch.autograd.grad(loss, d)
        return loss.item(), gradient.numpy()

    found = scipy.optimize.minimize(value, np.zeros(6), jac=True, method="BFGS", options={"gtol": 1e-9})
    return found.x


def test_damped_optima_are_those_of_scipy(logistic):
    found = class_optima(logistic, damping=0.5, steps=30, cg_steps=50)
    for c in range(2):
        expected = damped_optimum(logistic, torch.nonzero(logistic.y == c)[:, 0], 0.5)
        np.testing.assert_allclose(found.vectors[c], expected, atol=0.05 * np.linalg.norm(expected))
    table = measure(logistic, "displacement,optimum_loss", damping=0.5)
    np.testing.assert_allclose(table.values[0], class_optima(logistic, damping=0.5).lengths)
    assert np.isnan(table.overall).all()


def test_errors_of_lengths_are_the_jackknifes(logistic):
    found = class_optima(logistic, damping=0.5, steps=30, cg_steps=50)
    members = torch.nonzero(logistic.y == 0)[:, 0]
    norm = logistic.weight_norm
    left = np.array([
        np.linalg.norm(damped_optimum(logistic, members[torch.arange(30) != i], 0.5)) / norm for i in range(30)
    ])  # fmt: skip
    jackknife = np.sqrt(29 / 30 * ((left - left.mean()) ** 2).sum())
    assert found.length_errors[0] == pytest.approx(jackknife, rel=0.25)


def test_groups_have_optima_over_all_their_images(logistic):
    found = class_optima(logistic, damping=0.5, per_group=True)
    of_classes = class_optima(logistic, damping=0.5)
    assert found.class_names == ("few",) and found.lengths[0] == pytest.approx(of_classes.lengths[1])


@pytest.mark.parametrize("given", [{"damping": -1}, {"steps": 0}, {"cg_steps": 0}])
def test_settings_out_of_range_are_refused(logistic, given):
    with pytest.raises(UserError, match=next(iter(given))):
        class_optima(logistic, **given)


def test_recalibrated_statistics_are_those_of_all_samples():
    """Normalised inputs of class 0 are k, by statistics of all samples: (w k - 2)^2 is least at w = 2 / k."""
    model = nn.Sequential(nn.BatchNorm1d(1, affine=False), nn.Linear(1, 1, bias=False)).double().eval()
    nn.init.ones_(model[1].weight)
    x = torch.tensor([[1.0], [1.0], [-3.0], [-3.0]], dtype=torch.float64)
    data = x, torch.tensor([2.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    objective = Objective(model, data, squares, classes=[0, 0, 1, 1], batchnorm="recalibrate")
    found = class_optima(objective, damping=0)
    k = 2 / (16 / 3 + model[0].eps) ** 0.5
    np.testing.assert_allclose(found.losses, [(k - 2) ** 2, (k + 1) ** 2], rtol=1e-9)
    np.testing.assert_allclose(found.vectors[:, 0], [2 / k - 1, -1 / k - 1], rtol=1e-6)
    np.testing.assert_allclose(found.optimum_losses, 0, atol=1e-9)
    np.testing.assert_allclose(np.diag(found.losses_at), found.optimum_losses, atol=1e-12)
