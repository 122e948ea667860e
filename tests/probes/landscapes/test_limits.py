"""Landscapes at the edge: ranges, data and models that are degenerate, and calls that fail half-way."""

import itertools
import logging

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpness import Objective, UserError, line, load_result, plane, random_perturbation, worst_case
from sharpness.probes import barrier, interpolate


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4))


@pytest.fixture
def objective():
    """Four classes, of which the last one has no samples."""
    torch.manual_seed(1)
    groups = {"many": (0, 1), "few": (2,), "tail": (2, 3), "none": ()}
    return Objective(network(), (torch.randn(9, 4), torch.arange(9) % 3), groups=groups)


def moved_losses(objective, d):
    with objective.at(d):
        return objective.loss()


RANGES = [
    ((0, 0, 1), (-1, 1, 5)),
    ((-1, 1, 5), (0.5, 0.5, 1)),
    ((0, 0, 1), (0, 0, 1)),
    ((1, -1, 5), (2, -1, 4)),
    ((0.2, 3, 4), (-1, 0.1, 3)),
]


@pytest.mark.parametrize("adaptive", [None, 0.01])
@pytest.mark.parametrize(("x", "y"), RANGES)
def test_every_range_has_its_cells(objective, x, y, adaptive):
    torch.manual_seed(2)
    d1, d2 = torch.randn(2, objective.num_parameters)
    found = plane(objective, x, y, (d1, d2), adaptive=adaptive)
    assert found.losses.shape == (y[2], x[2])
    for j, b in enumerate(np.linspace(*y)):
        for i, a in enumerate(np.linspace(*x)):
            expected = moved_losses(objective, float(a) * d1 + float(b) * d2)
            assert found.losses[j, i] == pytest.approx(expected, rel=1e-5)
    assert (found.to_frame()["class"] == "all").sum() == x[2] * y[2]


def test_reversed_ranges_are_the_same_surface_mirrored(objective):
    found, mirrored = plane(objective, (-1, 1, 21), (-1, 1, 15)), plane(objective, (1, -1, 21), (1, -1, 15))
    np.testing.assert_allclose(mirrored.class_losses[:, ::-1, ::-1], found.class_losses, rtol=1e-5)
    refined = plane(objective, (1, -1, 21), (1, -1, 15), adaptive=0.01)
    assert np.abs(refined.losses - mirrored.losses).max() <= 0.01 * np.ptp(mirrored.losses)


@pytest.mark.parametrize("points", [23, 39, 45, 75, 89])
@pytest.mark.parametrize("radius", [0.05, 0.1, 0.2, 0.3])
def test_the_middle_of_a_symmetric_range_is_the_centre(objective, radius, points):
    found = line(objective, (-radius, radius, points))
    assert found.x[points // 2] == 0
    assert found.losses[points // 2] == found.base_loss == objective.loss()


@pytest.mark.parametrize("ends", [(0, 1), (1, 0), (-1, 2), (2, -1)])
def test_a_barrier_does_not_depend_on_how_the_line_is_walked(objective, ends):
    torch.manual_seed(3)
    found = barrier(interpolate(objective, network(5), (0, 1, 5)))
    step = 4 * abs(ends[1] - ends[0]) + 1
    pd.testing.assert_frame_equal(barrier(interpolate(objective, network(5), (*ends, step))), found, rtol=1e-4)


@pytest.mark.parametrize("adaptive", [None, 0.01])
def test_cells_that_overflow_are_kept_as_they_are(tmp_path, adaptive):
    """``exp(w)`` in float32, which is infinite from about 88.7 on."""
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    objective = Objective(
        model, (torch.eye(2), torch.tensor([0, 1])), loss=lambda u, t: torch.where(t > 0, u[:, 0], u[:, 0].exp()),
        num_classes=2,
    )  # fmt: skip
    found = plane(objective, (-100, 100, 21), (-1, 1, 21), torch.eye(2), adaptive=adaptive)
    again = load_result(found.save(tmp_path / "plane.nc"))
    infinite = np.broadcast_to(found.x > np.log(np.finfo(np.float32).max), (21, 21))
    for result in (found, again):
        np.testing.assert_array_equal(np.isposinf(result.losses), infinite)
        np.testing.assert_array_equal(np.isposinf(result.class_losses[0]), infinite)
        assert np.isfinite(result.class_losses[1]).all()
    assert f"{infinite.sum()} not finite" in repr(again)


@pytest.mark.parametrize("adaptive", [None, 0.01])
def test_a_class_without_samples_is_nan_and_nothing_else_is(objective, adaptive, caplog):
    found = plane(objective, (-1, 1, 9), (-1, 1, 7), adaptive=adaptive)
    assert np.isnan(found.class_losses[3]).all()
    assert np.isfinite(found.class_losses[:3]).all()
    assert np.isfinite(found.accuracies()).all()
    table = found.to_frame()
    assert table.loc[table["class"] == "3", ["loss", "accuracy"]].isna().all(axis=None)
    assert table[table["class"] != "3"].notna().all(axis=None)
    of = table.groupby("class")["loss"].agg(list)
    assert of["tail"] == of["2"]  # its other class has no samples
    assert "loss" in repr(found)
    assert "<table" in found._repr_html_()
    heights = barrier(interpolate(objective, network(5), (0, 1, 5))).set_index("class")["barrier"]
    assert heights.isna()[heights.isna()].index.tolist() == ["3"]
    for subset in (None, "many", 0):
        assert found.plot(of=subset).has_data()
    with caplog.at_level(logging.WARNING):
        assert [ax.has_data() for ax in found.plot(of=[None, "tail", "few", 3])] == [True, True, True]
    assert caplog.text.strip().endswith("3")
    with pytest.raises(UserError, match="no samples here"):
        found.plot(of=3)


def test_samples_count_by_their_weight():
    torch.manual_seed(0)
    x, y, a = torch.randn(9, 4), torch.arange(9) % 3, torch.rand(9) + 0.5
    objective = Objective(network(), (x, y), weights=a)
    d = torch.randn(objective.num_parameters)
    found = line(objective, (-1, 1, 3), d)
    with objective.at(d), torch.no_grad():
        values = F.cross_entropy(objective.model(x).double(), y, reduction="none")
    assert found.losses[2] == pytest.approx(float((a * values).sum() / a.sum()), rel=1e-5)
    for c in range(3):
        mean = float((a * values)[y == c].sum() / a[y == c].sum())
        assert found.class_losses[c, 2] == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_hundred_classes_of_which_few_are_there(dtype):
    torch.manual_seed(0)
    objective = Objective(nn.Linear(4, 100).to(dtype), (torch.randn(7, 4), torch.arange(7) * 9))
    found = plane(objective, (-1, 1, 5), (-1, 1, 3), adaptive=0.05)
    assert found.class_losses.shape == (100, 3, 5)
    present = np.isfinite(found.class_losses).all(axis=(1, 2))
    assert np.flatnonzero(present).tolist() == [9 * i for i in range(7)]
    np.testing.assert_allclose(found.class_losses[present].mean(axis=0), found.losses, rtol=1e-6)


def test_one_sample_and_inputs_that_are_indices():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 3))
    objective = Objective(model, (torch.tensor([[1, 4, 1]]), torch.tensor([2])))
    found = line(objective, (-1, 1, 3), seed=3)
    assert found.losses[1] == objective.loss()
    np.testing.assert_array_equal(found.losses, found.class_losses[2])


def recalibrated(samples=9, loss="ce", **options):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6, momentum=0.3), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 5),
        nn.BatchNorm1d(5), nn.Linear(5, 3),
    ).eval()  # fmt: skip
    data = torch.randn(samples, 4), torch.arange(samples) % 3
    return Objective(model, data, loss, batchnorm="recalibrate", **options)


PROBES = {
    "line": lambda o: line(o, (-1, 1, 3)),
    "plane": lambda o: plane(o, (-1, 1, 3), (-1, 1, 3)),
    "perturbation": lambda o: random_perturbation(o, [0.0, 0.2], 2),
}


@pytest.mark.parametrize("samples", [9, 251, 501])
@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_recalibration_is_deterministic_whatever_the_number_of_samples(probe, samples):
    """251 leave one over after a batch of 250, of which there is no variance; dropout stays off."""
    objective = recalibrated(samples)
    state = torch.get_rng_state()
    first, second = probe(objective), probe(objective)
    assert torch.equal(state, torch.get_rng_state())
    assert first.to_dataset().identical(second.to_dataset())


def test_recalibrated_statistics_are_those_of_the_moved_weights_without_dropout():
    objective = recalibrated()
    d = 0.5 * torch.ones(objective.num_parameters)
    found = line(objective, (0, 1, 2), d)
    first, norm, relu, _, second, last_norm, head = objective.model
    with torch.no_grad():
        value = seen = objective.x  # in training mode, variances are biased; what is kept of them is not
        for linear, bn in ((first, norm), (second, last_norm)):
            value, seen = (v @ (linear.weight + 0.5).T + linear.bias + 0.5 for v in (value, seen))
            mean, kept, passing = seen.mean(0), seen.var(0), seen.var(0, correction=0)
            value, seen = (
                (v - mean) / (variance + bn.eps).sqrt() * (bn.weight + 0.5) + bn.bias + 0.5
                for v, variance in ((value, kept), (seen, passing))
            )
            value, seen = (relu(v) if bn is norm else v for v in (value, seen))
        expected = F.cross_entropy(value @ (head.weight + 0.5).T + head.bias + 0.5, objective.y)
    assert found.losses[1] == pytest.approx(float(expected), rel=1e-4)


def test_one_sample_cannot_be_recalibrated():
    with pytest.raises(UserError, match="one sample is too few to recalibrate BatchNorm: give more"):
        line(recalibrated(1), (-1, 1, 3))


def state_of(model):
    return (
        {n: t.clone() for n, t in model.state_dict().items()},
        [(n, m.training, getattr(m, "momentum", None)) for n, m in model.named_modules()],
        [(n, id(p), p.stride(), p.requires_grad, p.grad) for n, p in model.named_parameters()],
        torch.get_rng_state(),
    )


def assert_same(before, after):
    assert all(torch.equal(before[0][n], after[0][n]) for n in before[0])
    assert before[1:3] == after[1:3]
    assert torch.equal(before[3], after[3])


@pytest.mark.every(3)
@pytest.mark.parametrize("where", ["loss", "model"])
@pytest.mark.parametrize("policy", ["eval", "recalibrate"])
@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_the_model_is_put_back_whatever_is_raised_and_whenever(probe, policy, where):
    calls, at, errors = [], [np.inf], itertools.cycle([KeyError, KeyboardInterrupt])

    def step(*_):
        calls.append(1)
        if len(calls) >= at[0]:
            raise error

    def loss(outputs, targets):
        if where == "loss":
            step()
        return F.cross_entropy(outputs, targets, reduction="none")

    objective = recalibrated(loss=loss, batch_size=4)
    objective.batchnorm = policy
    if where == "model":
        objective.model[2].register_forward_hook(step)
    probe(objective)  # operations are counted once
    calls.clear()
    probe(objective)
    needed = len(calls)
    before = state_of(objective.model)
    for k in range(1, needed + 1, max(1, needed // 12)):
        calls.clear()
        at[0], error = k, next(errors)
        with pytest.raises(error):
            probe(objective)
        assert_same(before, state_of(objective.model))


def test_a_model_in_channels_last_stays_so():
    torch.manual_seed(0)
    for layout in (torch.channels_last, torch.contiguous_format):
        model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
        model = model.eval().to(memory_format=layout)
        for policy in ("eval", "recalibrate"):
            objective = Objective(model, (torch.randn(6, 2, 6, 6), torch.arange(6) % 3), batchnorm=policy)
            before = state_of(model)
            line(objective, (-1, 1, 3))
            assert_same(before, state_of(model))


def test_parameters_in_the_same_memory_are_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model[2].weight = nn.Parameter(model[0].weight.data)
    with pytest.raises(UserError, match=r"'0.weight' and '2.weight' are different tensors in the same memory"):
        Objective(model, (torch.randn(6, 4), torch.arange(6) % 4))
    whole = torch.randn(8, 4)
    model[0].weight, model[2].weight = nn.Parameter(whole[:4]), nn.Parameter(whole[4:])
    assert Objective(model, (torch.randn(6, 4), torch.arange(6) % 4)).num_parameters == 40


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"nonsense" * 40])
def test_a_damaged_file_is_told_and_its_points_are_evaluated_again(objective, tmp_path, damage, caplog):
    whole = line(objective, (-1, 1, 5), resume=tmp_path)
    (path,) = tmp_path.glob("*/points-0.npz")
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        found = line(objective, (-1, 1, 5), resume=tmp_path)
    assert "points-0.npz is damaged" in caplog.text
    assert found.to_dataset().identical(whole.to_dataset())
    caplog.clear()
    line(objective, (-1, 1, 5), resume=tmp_path)
    assert not caplog.text


def test_a_folder_that_cannot_be_made_is_told_before_the_work(objective, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="resume=.*file: Not a directory: give a folder"):
        line(objective, (-1, 1, 5), resume=tmp_path / "file")


class Interrupted:
    """Cross-entropy that is interrupted at its call number ``at``."""

    calls, at = 0, np.inf

    def __call__(self, outputs, targets):
        self.calls += 1
        if self.calls >= self.at:
            raise KeyboardInterrupt
        return F.cross_entropy(outputs.double(), targets, reduction="none")


def test_an_adaptive_plane_that_was_interrupted_ends_with_the_same_bits(tmp_path):
    loss = Interrupted()
    torch.manual_seed(0)
    objective = Objective(network(), (torch.randn(9, 4), torch.arange(9) % 3), loss, num_classes=4)
    settings = {"x": (-3, 3, 25), "y": (-3, 3, 21), "adaptive": 0.01}
    start = loss.calls
    whole = plane(objective, **settings)
    needed = loss.calls - start
    assert needed < 25 * 21
    for part in (0.2, 0.5, 0.95):
        loss.at = loss.calls + int(part * needed)
        with pytest.raises(KeyboardInterrupt):
            plane(objective, **settings, resume=tmp_path / str(part))
        loss.at = np.inf
        start = loss.calls
        again = plane(objective, **settings, resume=tmp_path / str(part))
        assert loss.calls - start < needed * (1 - part) + 10
        assert again.to_dataset().identical(whole.to_dataset())


def test_a_damaged_worst_case_is_told_and_begins_again(objective, tmp_path, caplog):
    whole = worst_case(objective, 0.1, 2, resume=tmp_path)
    (path,) = tmp_path.glob("*/ascents.npz")
    path.write_bytes(path.read_bytes()[:-40])
    with caplog.at_level(logging.WARNING):
        found = worst_case(objective, 0.1, 2, resume=tmp_path)
    assert f"{path.name} is damaged" in caplog.text
    assert found.to_dataset().identical(whole.to_dataset())
