"""Owners of sharp directions: quadratics with known owners, and dense Hessians of every class."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sharpness import Objective, UserError, compare, eigenvalues, load_result, owners
from sharpness.cli import main
from sharpness.probes.curvature.class_shares import owners_of

SCALES = torch.tensor([4.0, 3.0, 2.0], dtype=torch.float64)


def squares(outputs, targets):
    return outputs[:, 0] ** 2


@pytest.fixture(scope="module")
def quadratic():
    """Loss (w . x)^2 with x = s_j e_j: class j has all curvature along axis j, and 3 - j of the samples."""
    rows = [j for j in range(3) for _ in range(3 - j)]
    x = torch.eye(3, dtype=torch.float64)[rows] * SCALES[rows, None]
    model = nn.Linear(3, 1, bias=False).double()
    return Objective(model, (x, torch.tensor(rows)), squares, num_classes=3, class_names="abc", groups={"few": (1, 2)})


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    x, y = torch.randn(30, 4).double(), torch.tensor([0] * 18 + [1] * 8 + [2] * 4)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    weights = torch.linspace(0.5, 2, 30)
    return Objective(model, (x, y), weights=weights, class_names=("cat", "dog", "owl"), groups={"tail": (1, 2)})


def dense(objective, class_index):
    """Gradient and Hessian of a class, by torch.func."""
    chosen = objective.y == class_index
    names = [n for n, _ in objective.model.named_parameters()]
    shapes = [p.shape for p in objective.model.parameters()]

    def loss(w):
        pieces = w.split([s.numel() for s in shapes])
        named = {n: v.view(s) for n, v, s in zip(names, pieces, shapes, strict=True)}
        u = torch.func.functional_call(objective.model, named, (objective.x[chosen],))
        a = objective.weights[chosen]
        return (a * nn.functional.cross_entropy(u, objective.y[chosen], reduction="none")).sum() / a.sum()

    w = torch.cat([p.detach().reshape(-1) for p in objective.model.parameters()])
    return torch.func.grad(loss)(w).numpy(), torch.func.hessian(loss)(w).numpy()


def test_every_class_owns_the_direction_that_is_its_own(quadratic):
    found = eigenvalues(quadratic, k=3).owners()
    np.testing.assert_allclose(found.values, 2 * np.array([16 * 3, 9 * 2, 4 * 1]) / 6, rtol=1e-9)
    np.testing.assert_allclose(found.shares, np.eye(3), atol=1e-9)
    assert np.isnan(found.accuracy_changes).all() and "accuracy_change_plus" not in found.to_frame()
    assert found["1"].of("few") == pytest.approx(0, abs=1e-9) and found["2"].of("few") == pytest.approx(1)
    assert found.of("3", "c") == pytest.approx(1)
    np.testing.assert_allclose(found.epsilons**2 * found.values / 2, 0.1)


def test_shares_and_slopes_are_those_of_dense_hessians(network):
    pairs = eigenvalues(network, k=2, which="both", tol=1e-5)
    found, vectors = pairs.owners(), pairs.vectors
    part = network.class_weights / network.class_weights.sum()
    for c in range(3):
        gradient, hessian = dense(network, c)
        forms = np.einsum("ji,il,jl->j", vectors, hessian, vectors)
        np.testing.assert_allclose(found.shares[:, c], part[c] * forms / found.values, atol=1e-8)
        np.testing.assert_allclose(found.slopes[:, c], vectors @ gradient, atol=1e-9)
    np.testing.assert_allclose(found.shares.sum(axis=1), 1, atol=1e-5)


def test_accuracies_change_as_the_moved_network_says(network):
    found = owners(network, k=1, epsilon=0.7)
    v = torch.as_tensor(eigenvalues(network).vectors[0])
    assert found.epsilons == pytest.approx([0.7])
    base = network.evaluate().class_accuracies
    for side, sign in enumerate((-1, 1)):
        with network.at(sign * 0.7 * v):
            np.testing.assert_allclose(
                found.accuracy_changes[0, :, side], network.evaluate().class_accuracies - base, atol=1e-12
            )


def test_standard_errors_are_the_spread_over_other_images():
    """Shares of resampled data along the same vector, the images of every class drawn again."""
    random = np.random.default_rng(0)
    x, y = torch.from_numpy(random.standard_normal((120, 1))), torch.tensor([0] * 80 + [1] * 40)
    x[80:] *= 1.5
    objective = Objective(nn.Linear(1, 1, bias=False).double(), (x, y), squares, num_classes=2)
    found = owners(objective, k=1)
    forms, classes = 2 * x[:, 0].numpy() ** 2, y.numpy()
    drawn = []
    for _ in range(2000):
        rows = np.concatenate([random.choice(np.flatnonzero(classes == c), n) for c, n in ((0, 80), (1, 40))])
        drawn.append(forms[rows][classes[rows] == 1].sum() / forms[rows].sum())
    assert found.standard_errors[0, 1] == pytest.approx(np.std(drawn), rel=0.1)
    assert found.standard_errors[0, 0] == pytest.approx(found.standard_errors[0, 1])


def test_owners_of_several_models_are_tabulated_drawn_and_kept(network, tmp_path):
    both = owners({"a": network, "b": network}, k=3, tol=0.1)
    assert len(both.to_frame()) == 2 * 3 * 3 and both.to_table() is not None
    figure = both.plot()
    assert len([ax for ax in figure.axes if ax.images]) == 2
    rows = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert rows[0].startswith("1: ") and rows[-1] == "images"
    both.save(tmp_path / "o.nc")
    again = load_result(tmp_path / "o.nc")
    np.testing.assert_array_equal(again["a"].shares, both["a"].shares)
    assert (
        compare({"one": again["a"], "two": both["b"]})
        .to_frame()
        .equals(compare({"one": both["a"], "two": both["b"]}).to_frame())
    )
    ax = both["a"].plot()
    np.testing.assert_allclose(ax.images[0].get_array()[-1], -np.sort(-both["a"].image_shares))


def test_what_has_no_owners_is_refused(network, tmp_path):
    per_class = eigenvalues(network, per_class=True)
    with pytest.raises(UserError, match="per_class=False"):
        per_class.owners()
    with pytest.raises(UserError, match=r"sharpness.owners\(objective"):
        eigenvalues(network, keep_vectors=False).owners()
    found = eigenvalues(network)
    found.save(tmp_path / "e.nc")
    with pytest.raises(UserError, match="not at hand"):
        load_result(tmp_path / "e.nc").owners()
    with pytest.raises(UserError, match="positive distance"):
        found.owners(epsilon=-1)
    with pytest.raises(UserError, match="kind='hessian'"):
        eigenvalues(network, kind="ggn").owners()
    with torch.no_grad():
        network.model[0].bias[0] += 1
    try:
        with pytest.raises(UserError, match="weights are others"):
            found.owners()
    finally:
        with torch.no_grad():
            network.model[0].bias[0] -= 1


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("owners") / "run"
    assert main(["train", "--method", "ce", "--epochs", "1", "--out", str(folder)]) == 0
    return folder


def test_the_command_prints_and_draws_owners(run, tmp_path, capsys):
    picture = tmp_path / "owners"
    quick = ["--limit-per-class", "2", "--parameters", "classifier"]
    assert main(["spectrum", str(run), *quick, "--owners", "-k", "2", "--json", "--plot", str(picture)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 2 * 10 and sum(r["share"] for r in rows if r["direction"] == 1) == pytest.approx(1, abs=1e-5)
    assert picture.with_suffix(".png").is_file() and "Shares of the classes" in picture.with_suffix(".txt").read_text()
    assert main(["spectrum", str(run), *quick, "--owners", "--per-class"]) == 2
    assert "leave --per-class out" in capsys.readouterr().err


def test_a_direction_without_curvature_has_no_distance(network):
    found = owners_of(network, replace(eigenvalues(network, keep_vectors=True), values=np.zeros(1)))
    assert np.isinf(found.epsilons).all() and np.isnan(found.accuracy_changes).all()
    assert np.isfinite(found.slopes).all()
