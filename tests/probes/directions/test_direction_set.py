"""Directions in a file: what comes back is what was saved, and only for the model it is for."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from sharpness import Objective, UserError
from sharpness.probes.directions.direction_set import Directions, load_directions
from sharpness.probes.landscapes.named_directions import named_directions


def objective(hidden=5, dtype=torch.float64, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, 3)).to(dtype)
    return Objective(model, (torch.randn(9, 4, dtype=dtype), torch.arange(9) % 3), **options)


@pytest.mark.parametrize("spec", ["gaussian", "hessian", "gradient+gaussian"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_loaded_is_what_was_saved(tmp_path, spec, dtype):
    own = objective(dtype=dtype)
    saved = named_directions(own, spec, 2, seed=3, normalization="layer")
    path = saved.save(tmp_path / "deep" / "directions")
    assert path == tmp_path / "deep" / "directions"
    loaded = load_directions(path)
    assert torch.equal(loaded.vectors, saved.vectors)
    assert loaded.vectors.dtype == dtype
    for name in ("shapes", "name", "normalization", "seed", "marks", "mark_names", "explained"):
        assert getattr(loaded, name) == getattr(saved, name), name
    assert torch.equal(named_directions(own, loaded, 2).vectors, saved.vectors)


def test_marks_and_shares_are_saved_too(tmp_path):
    own = objective()
    vectors = torch.eye(own.num_parameters, dtype=torch.float64)[:2]
    marks, explained = np.array([[0.0, 1.0], [2.0, -3.5], [0.25, 0.125]]), np.array([0.75, 0.2])
    saved = Directions.of(
        own, vectors, "trajectory", marks=marks, mark_names=("start", "middle", "end"), explained=explained
    )
    loaded = load_directions(saved.save(tmp_path / "path.npz"))
    np.testing.assert_array_equal(loaded.marks, marks)
    np.testing.assert_array_equal(loaded.explained, explained)
    assert loaded.mark_names == ("start", "middle", "end")
    one = loaded.fit(own, 1)
    np.testing.assert_array_equal(one.marks, marks[:, :1])
    assert repr(loaded) == f"Directions(trajectory: 2 x {own.num_parameters}, 3 marks)"


def test_the_file_holds_no_pickled_objects(tmp_path):
    path = named_directions(objective(), "gaussian", 1).save(tmp_path / "d.npz")
    with np.load(path, allow_pickle=False) as file:
        assert {name: file[name].dtype.kind for name in file.files} == {"header": "U", "vectors": "f"}


def test_a_float32_direction_serves_a_float64_model(tmp_path):
    loaded = load_directions(named_directions(objective(dtype=torch.float32), "gaussian", 2).save(tmp_path / "d.npz"))
    assert named_directions(objective(), loaded, 2).vectors.dtype == torch.float64


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"hidden": 6}, r"'0.weight' is of shape \(5, 4\) there and of shape \(6, 4\) in this objective"),
        ({"parameters": "classifier"}, r"'0.weight' is of shape \(5, 4\) there and absent in this objective"),
    ],
)
def test_another_architecture_or_scope_is_refused_by_the_first_difference(tmp_path, other, message):
    loaded = load_directions(named_directions(objective(), "gaussian", 2).save(tmp_path / "d.npz"))
    with pytest.raises(UserError, match=message) as caught:
        named_directions(objective(**other), loaded, 2)
    assert "\n" not in str(caught.value)


def test_one_direction_is_no_plane():
    own = objective()
    with pytest.raises(UserError, match="a plane needs two"):
        named_directions(own, named_directions(own, "gradient", 1), 2)


def test_ranges_cover_the_marks_with_a_margin():
    own = objective()
    vectors = torch.eye(own.num_parameters, dtype=torch.float64)[:2]
    found = Directions.of(own, vectors, "models", marks=np.array([[0.0, 0.0], [4.0, 0.0], [1.0, 10.0]]))
    assert found.ranges(0.25, 7) == [(-1.0, 5.0, 7), (-2.5, 12.5, 7)]
    with pytest.raises(UserError, match="margin=-1"):
        found.ranges(-1, 7)
    with pytest.raises(UserError, match="mark no points"):
        Directions.of(own, vectors, "given").ranges(0.2, 7)


@pytest.mark.parametrize("content", ["missing", b"not an archive", "pickle", "archive", "directory"])
def test_what_is_no_saved_directions_is_told_in_one_line(tmp_path, content):
    path = tmp_path / "file.npz"
    if content == "pickle":
        path.write_bytes(pickle.dumps({"vectors": 1}))
    elif content == "archive":
        np.savez(path, vectors=np.ones((2, 3)))
    elif content == "directory":
        path.mkdir()
    elif content != "missing":
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"no directions") as caught:
        load_directions(path)
    assert "\n" not in str(caught.value)
