"""Principal directions of a run: those of a singular value decomposition, from the end, with the path in them."""

import copy

import numpy as np
import pytest
import torch
from sklearn.decomposition import TruncatedSVD
from torch import nn

from sharpness import Objective, UserError
from sharpness.checkpoints import save_checkpoint
from sharpness.models import build_model
from sharpness.probes.directions.direction_set import load_directions
from sharpness.probes.directions.run_steps import snapshots
from sharpness.probes.landscapes.trajectory import trajectory, trajectory_plane


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def objective(dtype=torch.float64, **options):
    return Objective(network(dtype), (torch.ones(6, 4, dtype=dtype), torch.arange(6) % 3), **options)


def run(model, steps=8, seed=1):
    """Models on a random walk that ends in ``model``, and their displacements from it, (n, k)."""
    walk = np.random.default_rng(seed).standard_normal((steps, sum(p.numel() for p in model.parameters())))
    moves = np.cumsum(walk[::-1], axis=0)[::-1] * np.linspace(2, 1, steps)[:, None]
    return [displaced(model, m) for m in moves], moves


def displaced(model, move):
    other = copy.deepcopy(model)
    with torch.no_grad():
        pieces = torch.as_tensor(np.array(move)).split([p.numel() for p in other.parameters()])
        for p, d in zip(other.parameters(), pieces, strict=True):
            p.add_(d.view_as(p))
    return other


def test_the_directions_are_the_right_singular_vectors():
    own = objective()
    models, moves = run(own.model)
    found = trajectory(own, models)
    _, singular, right = np.linalg.svd(moves, full_matrices=False)
    for v, expected in zip(found.vectors.numpy(), right[:2], strict=True):
        assert abs(v @ expected) == pytest.approx(1, abs=1e-10)
    np.testing.assert_allclose(found.explained, (singular**2 / (singular**2).sum())[:2], rtol=1e-9)
    np.testing.assert_allclose(found.marks[:-1], moves @ found.vectors.numpy().T, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(found.marks[-1], [0, 0])
    assert found.mark_names == (*map(str, range(8)), "end")


def test_steps_may_be_an_iterator_and_files_keep_their_names(tmp_path):
    own = objective()
    models, _ = run(own.model)
    expected = trajectory(own, models)
    assert torch.equal(trajectory(own, (m for m in models)).vectors, expected.vectors)
    for i, model in enumerate(models[:2]):
        torch.save(model.state_dict(), tmp_path / f"step-{i}.pt")
    found = trajectory(own, tmp_path.glob("*.pt"))
    assert sorted(found.mark_names) == ["end", "step-0", "step-1"]


def test_the_path_is_that_of_scikit_learn_up_to_sign():
    own = objective()
    models, moves = run(own.model)
    found = trajectory(own, models)
    expected = TruncatedSVD(2, algorithm="arpack", random_state=0).fit_transform(moves)
    signs = np.sign((found.marks[:-1] * expected).sum(axis=0))
    np.testing.assert_allclose(found.marks[:-1], expected * signs, rtol=1e-7, atol=1e-7)


def test_the_farthest_point_of_the_path_is_on_the_positive_side_of_each_axis():
    own = objective()
    for seed in range(5):
        models, _ = run(own.model, seed=seed)
        for steps in (models, models[::-1]):
            marks = trajectory(own, steps).marks
            assert (marks[np.abs(marks).argmax(axis=0), [0, 1]] > 0).all()


def test_the_directions_are_orthonormal_and_do_not_depend_on_the_chunk(monkeypatch):
    own = objective()
    models, _ = run(own.model)
    whole = trajectory(own, models)
    gram = whole.vectors @ whole.vectors.T
    torch.testing.assert_close(gram, torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-13)
    monkeypatch.setitem(trajectory.__globals__, "CHUNK", 7)
    torch.testing.assert_close(trajectory(own, models).vectors, whole.vectors, rtol=1e-10, atol=1e-12)


def test_a_path_in_a_plane_is_recovered_from_the_plane():
    own = objective()
    k = own.num_parameters
    plane, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((k, 2)))
    angles = np.linspace(0, 2, 9)
    moves = (np.stack([5 * np.cos(angles), 2 * np.sin(angles)], axis=1) * np.linspace(1, 0, 9)[:, None]) @ plane.T
    found = trajectory(own, {f"step {i}": displaced(own.model, m) for i, m in enumerate(moves)})
    np.testing.assert_allclose(found.marks @ found.vectors.numpy(), moves, atol=1e-10)
    assert found.explained.sum() == pytest.approx(1, abs=1e-12)
    # The last step is the end itself: it is not added again.
    assert found.mark_names == tuple(f"step {i}" for i in range(9))


def test_in_float32_the_directions_are_those_of_float64():
    models, _ = run(network())
    exact = trajectory(objective(), models)
    rounded = trajectory(objective(torch.float32), models)
    assert rounded.vectors.dtype == torch.float32
    torch.testing.assert_close(rounded.vectors.double(), exact.vectors, rtol=0, atol=1e-5)


def test_a_scope_has_its_own_directions():
    own = objective(parameters="classifier")
    models, moves = run(own.model)
    _, _, right = np.linalg.svd(moves[:, -own.num_parameters :], full_matrices=False)
    assert abs(trajectory(own, models).vectors[0].numpy() @ right[0]) == pytest.approx(1, abs=1e-10)


def test_a_saved_trajectory_gives_the_same_plane(tmp_path):
    own = objective()
    models, _ = run(own.model)
    found = trajectory(own, [m.state_dict() for m in models])
    loaded = load_directions(found.save(tmp_path / "trajectory.npz"))
    a, b = (trajectory_plane(own, steps, points=3) for steps in (models, loaded))
    np.testing.assert_array_equal(a.losses, b.losses)
    np.testing.assert_array_equal(a.marks, b.marks)


def test_the_plane_covers_the_path_and_carries_it():
    own = objective()
    models, _ = run(own.model)
    found = trajectory(own, models)
    result = trajectory_plane(own, models, margin=0.1, points=4)
    low, high = found.marks.min(0), found.marks.max(0)
    assert (result.x[0], result.y[-1]) == pytest.approx(
        (low[0] - 0.1 * (high[0] - low[0]), high[1] + 0.1 * (high[1] - low[1]))
    )
    assert result.losses.shape == (4, 4)
    np.testing.assert_array_equal(result.marks, found.marks)
    assert (result.directions, result.mark_names) == ("trajectory", found.mark_names)
    assert result.provenance["explained"] == found.explained.tolist()
    for j, y in enumerate(result.y):
        with own.at(float(result.x[1]) * found.vectors[0] + float(y) * found.vectors[1]):
            assert result.losses[j, 1] == pytest.approx(own.loss(), rel=1e-10)


def test_the_plane_of_a_quadratic_is_exact(quadratic, symmetric):
    a = symmetric([4.0, 1.0, -2.0, 0.5, 3.0])
    own = quadratic(a, at_minimum=True)
    models, moves = run(own.model, 6)
    result = trajectory_plane(own, models, points=5)
    _, _, right = np.linalg.svd(moves, full_matrices=False)
    axes = right[:2] * np.sign((moves @ right[:2].T * result.marks[:-1]).sum(axis=0))[:, None]
    at = np.stack(np.meshgrid(result.x, result.y), axis=-1) @ axes
    np.testing.assert_allclose(result.losses, 0.5 * np.einsum("yxi,ij,yxj->yx", at, a, at), rtol=1e-8, atol=1e-8)


def test_a_runs_snapshots_are_read_in_the_order_of_their_numbers(tmp_path):
    torch.manual_seed(0)
    model = build_model("resnet8", 4, 1).eval()
    for epoch in (10, 2, 0):
        other = copy.deepcopy(model)
        with torch.no_grad():
            for p in other.parameters():
                p.add_(torch.randn_like(p) * (11 - epoch))
        save_checkpoint(tmp_path / "snapshots" / f"epoch-{epoch}.pt", other, {"method": "ce"})
    save_checkpoint(tmp_path / "last.pt", model, {"method": "ce"})
    assert [p.stem for p in snapshots(tmp_path)] == ["epoch-0", "epoch-2", "epoch-10"]
    own = Objective(model, (torch.randn(4, 1, 8, 8), torch.arange(4)))
    found = trajectory(own, tmp_path)
    assert found.mark_names == ("epoch-0", "epoch-2", "epoch-10", "end")
    assert trajectory(own, snapshots(tmp_path / "snapshots")).mark_names == found.mark_names


def test_a_folder_without_snapshots_is_refused(tmp_path):
    (tmp_path / "last.pt").write_bytes(b"")
    with pytest.raises(UserError, match="holds no snapshots: train with snapshots=N"):
        trajectory(objective(), tmp_path)


def test_what_spans_no_plane_is_refused():
    own = objective()
    models, moves = run(own.model)
    for steps in ([], models[:1], [models[0], own.model]):
        with pytest.raises(UserError, match="two that differ from its end"):
            trajectory(own, steps)
    for steps in ([models[0], models[0]], [displaced(own.model, t * moves[0]) for t in (1, 0.5, 0.2)]):
        with pytest.raises(UserError, match="on one line"):
            trajectory(own, steps)


def test_steps_of_another_architecture_are_refused_by_the_first_difference():
    with pytest.raises(UserError, match=r"'0.weight' is of shape \(6, 4\) there"):
        trajectory(objective(), [nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))])


def test_models_and_random_numbers_are_left_as_they_were():
    own = objective()
    models, _ = run(own.model, 3)
    before = [copy.deepcopy(m.state_dict()) for m in (own.model, *models)]
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    trajectory_plane(own, models, points=2)
    for model, old in zip((own.model, *models), before, strict=True):
        assert all(torch.equal(t, old[name]) for name, t in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()
