"""Between models: the ends are the models, a quadratic's barrier is known, three models lie where they are drawn."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from sharpness import Objective, UserError, line
from sharpness.checkpoints import save_checkpoint
from sharpness.models import build_model
from sharpness.probes.directions.between_models import toward
from sharpness.probes.landscapes.interpolation import barrier, interpolate, model_axes, plane_through

X, Y = torch.randn(18, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(18) % 3


def network(seed=0, hidden=5):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, 3)).double()


def convolutional(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(3, 3),
    ).double()  # fmt: skip
    model(IMAGES)
    return model.eval()


IMAGES = torch.randn(18, 1, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def of(model, **options):
    return Objective(model, (X, Y), **options)


def moved(model, **changes):
    """A copy of a quadratic's model at another point."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.w.copy_(torch.as_tensor(changes["w"]))
    return other


@pytest.fixture
def subjects(tmp_path):
    """One model as everything that it can be given as."""
    torch.manual_seed(5)
    model = build_model("resnet8", 4, 1).eval()
    save_checkpoint(tmp_path / "last.pt", model, {"method": "ce", "label": "CE"})
    return model, {
        "model": model,
        "state dict": model.state_dict(),
        "path": tmp_path / "last.pt",
        "text": str(tmp_path / "last.pt"),
        "folder": tmp_path,
        "objective": Objective(model, (torch.randn(4, 1, 8, 8), torch.arange(4))),
    }


@pytest.mark.parametrize("kind", ["model", "state dict", "path", "text", "folder", "objective"])
def test_a_displacement_leads_to_the_other_model_however_it_is_given(subjects, kind):
    model, given = subjects
    torch.manual_seed(6)
    objective = Objective(build_model("resnet8", 4, 1).eval(), (torch.randn(4, 1, 8, 8), torch.arange(4)))
    with objective.at(toward(objective, given[kind])):
        for p, q in zip(objective.model.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (network(hidden=6), r"'0.weight' is of shape \(6, 4\) there and of shape \(5, 4\) in this objective"),
        (nn.Linear(4, 3), "'0.weight' is absent there"),
        (3, "a int has no weights"),
        ({"0.weight": 3}, "a dict has no weights"),
        ("nowhere/last.pt", "no checkpoint at nowhere"),
    ],
)
def test_what_is_no_model_of_the_architecture_is_refused_in_one_line(other, message):
    with pytest.raises(UserError, match=message) as caught:
        toward(of(network()), other)
    assert "\n" not in str(caught.value)


def test_the_ends_of_the_line_are_the_two_models():
    a, b = of(network(0)), of(network(1))
    result = interpolate(a, b)
    assert len(result.x) == 25
    assert (result.x[0], result.x[-1]) == (0, 1)
    for index, end in ((0, a), (-1, b)):
        assert result.losses[index] == pytest.approx(end.loss(), rel=1e-12)
        np.testing.assert_allclose(result.class_losses[:, index], end.class_losses(), rtol=1e-12)
    np.testing.assert_array_equal(result.marks, [[0], [1]])
    assert (result.directions, result.mark_names) == ("models", ("A", "B"))
    assert interpolate(a, b, (0, 1, 2), names=("first", "second")).mark_names == ("first", "second")


def test_the_middle_of_the_line_is_the_mean_of_the_weights():
    a, b = network(0), network(1)
    middle = copy.deepcopy(a)
    with torch.no_grad():
        for p, q in zip(middle.parameters(), b.parameters(), strict=True):
            p.copy_((p + q) / 2)
    assert interpolate(of(a), b, (0, 1, 3)).losses[1] == pytest.approx(of(middle).loss(), rel=1e-12)


def test_a_checkpoint_lends_its_label(subjects):
    _, given = subjects
    torch.manual_seed(6)
    objective = Objective(build_model("resnet8", 4, 1).eval(), (torch.randn(4, 1, 8, 8), torch.arange(4)))
    assert interpolate(objective, given["path"], (0, 1, 2)).mark_names == ("A", "CE")


def test_the_barrier_of_a_quadratic_is_an_eighth_of_its_negative_curvature(quadratic, symmetric):
    """On ``w' A w / 2`` the loss minus the chord is ``-x (1 - x) d' A d / 2``."""
    matrices = np.stack(
        [symmetric([-4.0, -1.0, 0.5], 0), symmetric([3.0, 1.0, 0.2], 1), symmetric([-1.0, 2.0, 5.0], 2)]
    )
    objective = quadratic(matrices, [0, 1, 1])
    w = objective.parameters[0].detach().numpy()
    end = np.array([0.3, -2.0, 1.0])
    result = interpolate(objective, moved(objective.model, w=end), (-0.5, 1.5, 41))
    table = barrier(result).set_index("class")
    d = end - w
    curvatures = [d @ matrices.mean(0) @ d, d @ matrices[0] @ d, d @ matrices[1:].mean(0) @ d]
    assert min(curvatures) < 0 < max(curvatures)
    for subset, curvature in zip(["all", "0", "1"], curvatures, strict=True):
        assert table.barrier[subset] == pytest.approx(max(0, -curvature / 8), rel=1e-9, abs=1e-12)
        if curvature < 0:
            assert table.position[subset] == pytest.approx(0.5, abs=1e-9)


def test_between_models_of_different_loss_the_barrier_is_above_the_chord():
    class Bump(nn.Module):
        """``w + 3 sin(pi w)``, a chord and a bump, at w."""

        def __init__(self, w):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([float(w)], dtype=torch.float64))

        def forward(self, x):
            return (self.w + 3 * torch.sin(torch.pi * self.w)).expand(len(x), 1)

    objective = Objective(Bump(0), (X, torch.zeros(18).long()), lambda u, t: u[:, 0], num_classes=2)
    table = barrier(interpolate(objective, Bump(1), (0, 1, 5))).set_index("class")
    assert table.barrier["all"] == pytest.approx(3, rel=1e-12)
    assert table.position["all"] == 0.5
    assert np.isnan(table.barrier["1"])
    assert np.isnan(table.position["1"])


def test_groups_have_a_barrier_and_errors_have_one_too():
    objective = of(network(0), groups={"many": (0,), "few": (1, 2), "none": ()})
    result = interpolate(objective, network(1))
    table = barrier(result, of="error")
    assert list(table.columns) == ["class", "group", "samples", "barrier", "position"]
    assert table["class"].tolist() == ["all", "many", "few", "0", "1", "2"]
    for row, errors in (
        (0, 1 - result.class_accuracies.mean(0)),  # The classes are of equal size.
        (1, 1 - result.class_accuracies[0]),
        (2, 1 - result.class_accuracies[1:].mean(0)),
    ):
        chord = np.interp(result.x, [0, 1], errors[[0, -1]])
        assert table.barrier[row] == pytest.approx((errors - chord).max(), abs=1e-12)
    assert (barrier(result).barrier >= 0).all()
    with pytest.raises(UserError, match="barrier"):
        barrier(result, of="accuracy")


@pytest.mark.parametrize("x", [(0, 0.9, 10), (-1, 2, 3), (0.1, 1, 5)])
def test_a_line_without_the_models_has_no_barrier(x):
    result = line(of(network()), x)
    with pytest.raises(UserError, match="lacks the point 0 or 1"):
        barrier(result)


def images(model, **options):
    return Objective(model, (IMAGES, Y), **options)


def test_batchnorm_statistics_that_differ_are_refused_unless_they_are_recalibrated():
    a, b = convolutional(0), convolutional(1)
    for act in (lambda o: interpolate(o, b), lambda o: plane_through(o, b, convolutional(2))):
        with pytest.raises(UserError, match=r"'1.running_mean', .* batchnorm='recalibrate'") as caught:
            act(images(a))
        assert "\n" not in str(caught.value)
    result = interpolate(images(a, batchnorm="recalibrate"), b, (0, 1, 3))
    for index, model in ((0, a), (-1, b)):
        end = images(model, batchnorm="recalibrate")
        with end.at(torch.zeros(end.num_parameters)):
            assert result.losses[index] == pytest.approx(end.loss(), rel=1e-10)


def test_equal_batchnorm_statistics_need_no_recalibration():
    a, b = convolutional(0), convolutional(1)
    b[1].load_state_dict({**b[1].state_dict(), **{n: t for n, t in a[1].state_dict().items() if "running" in n}})
    b[1].num_batches_tracked += 3
    result = interpolate(images(a), b, (0, 1, 3))
    assert result.losses[-1] == pytest.approx(images(b).loss(), rel=1e-10)


def test_models_that_differ_out_of_scope_are_refused():
    with pytest.raises(UserError, match=r"differ in '0.weight', which is not among .*parameters='all'"):
        interpolate(of(network(0), parameters="classifier"), network(1))
    other = copy.deepcopy(network(0))
    with torch.no_grad():
        other[2].weight += 1
    assert interpolate(of(network(0), parameters="classifier"), other, (0, 1, 2)).losses[1] == pytest.approx(
        of(other).loss(), rel=1e-12
    )


def test_models_of_another_logit_scale_are_refused():
    models = []
    for scale in (30.0, 15.0):
        torch.manual_seed(0)
        models.append(build_model("resnet8", 4, 1, "cosine", scale).eval())
    with torch.no_grad():
        models[1].head.weight[0] += 1
    objective = Objective(models[0], (torch.randn(4, 1, 8, 8), torch.arange(4)))
    with pytest.raises(UserError, match="scale their logits by 30 and 15"):
        interpolate(objective, models[1])


def test_a_model_has_no_line_to_itself():
    objective = of(network())
    with pytest.raises(UserError, match="same weights"):
        interpolate(objective, objective)


def test_the_three_models_are_recovered_from_their_marks():
    a, b, c = (of(network(seed)) for seed in range(3))
    axes = model_axes(a, b, c)
    torch.testing.assert_close(axes.vectors @ axes.vectors.T, torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-12)
    for mark, model in zip(torch.from_numpy(axes.marks), (a, b, c), strict=True):
        with a.at(mark @ axes.vectors):
            for p, q in zip(a.model.parameters(), model.model.parameters(), strict=True):
                torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)
    # Distances on the plane are distances of parameters.
    assert np.linalg.norm(axes.marks[1]) == pytest.approx(float(toward(a, b).norm()), rel=1e-12)
    assert np.linalg.norm(axes.marks[2] - axes.marks[1]) == pytest.approx(float(toward(b, c).norm()), rel=1e-12)


def test_a_plane_through_three_models_has_their_losses_where_they_are():
    a, b, c = (of(network(seed)) for seed in range(3))
    marks = model_axes(a, b, c).marks
    result = plane_through(a, b, c, margin=0, points=5, names=("a", "b", "c"))
    assert result.losses.shape == (5, 5)
    low, high = marks.min(0), marks.max(0)
    assert (result.x[0], result.x[-1]) == pytest.approx((low[0], high[0]))
    assert (result.y[0], result.y[-1]) == pytest.approx((low[1], high[1]))
    np.testing.assert_array_equal(result.marks, marks)
    assert (result.directions, result.mark_names) == ("models", ("a", "b", "c"))
    wider = plane_through(a, b, c, margin=0.5, points=2)
    assert wider.x[0] == pytest.approx(low[0] - 0.5 * (high[0] - low[0]))
    assert wider.y[-1] == pytest.approx(high[1] + 0.5 * (high[1] - low[1]))


def test_a_plane_through_three_points_of_a_quadratic_is_that_quadratic(quadratic, symmetric):
    a = symmetric([3.0, 1.0, -2.0, 0.5])
    objective = quadratic(a)
    w = objective.parameters[0].detach().numpy()
    ends = np.random.default_rng(0).standard_normal((2, 4))
    result = plane_through(objective, *(moved(objective.model, w=e) for e in ends), points=4)
    # In the plane's own coordinates any point is w + B s, with B from the models themselves.
    base = np.stack(ends - w, axis=1)
    weights = np.linalg.solve(result.marks[1:].T, np.stack(np.meshgrid(result.x, result.y), 0).reshape(2, -1))
    at = w[:, None] + base @ weights
    expected = 0.5 * np.einsum("in,ij,jn->n", at, a, at).reshape(4, 4)
    np.testing.assert_allclose(result.losses, expected, rtol=1e-9, atol=1e-9)


def test_models_on_one_line_are_no_plane(quadratic, symmetric):
    objective = quadratic(symmetric([3.0, 1.0, 2.0]))
    w = objective.parameters[0].detach().numpy()
    d = np.array([1.0, -2.0, 0.5])
    with pytest.raises(UserError, match="on one line"):
        plane_through(objective, moved(objective.model, w=w + d), moved(objective.model, w=w - 3 * d))
    with pytest.raises(UserError, match="on one line"):
        plane_through(objective, moved(objective.model, w=w + d), objective.model)
    with pytest.raises(UserError, match="same weights"):
        plane_through(objective, objective.model, moved(objective.model, w=w + d))


def test_names_are_one_for_each_model():
    with pytest.raises(UserError, match="give 2, one for each model"):
        interpolate(of(network(0)), network(1), names=("one",))


def test_models_and_random_numbers_are_left_as_they_were():
    a, b, c = (convolutional(seed) for seed in range(3))
    for model in (a, b, c):
        model[0].weight.grad = torch.ones_like(model[0].weight)
    before = [copy.deepcopy(m.state_dict()) for m in (a, b, c)]
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    objective = images(a, batchnorm="recalibrate")
    interpolate(objective, b, (0, 1, 3))
    plane_through(objective, b, c, points=2)
    for model, old in zip((a, b, c), before, strict=True):
        assert all(torch.equal(t, old[name]) for name, t in model.state_dict().items())
        assert bool((model[0].weight.grad == 1).all())
        assert not any(m.training for m in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_the_result_is_saved_with_its_marks(tmp_path):
    from sharpness import load_result

    result = interpolate(of(network(0)), network(1), (0, 1, 3))
    loaded = load_result(result.save(tmp_path / "line.nc"))
    np.testing.assert_array_equal(loaded.marks, result.marks)
    assert loaded.mark_names == result.mark_names
    pd.testing.assert_frame_equal(barrier(loaded), barrier(result))
