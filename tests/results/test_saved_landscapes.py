"""Landscapes, perturbations and worst cases read back as they were, field by field."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from sharpness import Objective, UserError, line, load_result, plane, random_perturbation, worst_case
from sharpness.probes import interpolate, plane_through, trajectory_plane


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4))


def make_objective():
    """Four classes, one without samples, with names that no file system or encoding likes."""
    torch.manual_seed(9)
    data = torch.randn(9, 4), torch.arange(9) % 3
    names, groups = ["ä b", "c/d", "", "e, f"], {"many": (0, 1), "few": (2,), "none": ()}
    return Objective(network(0), data, class_names=names, groups=groups)


PROBES = {
    "line": lambda o: line(o, (-1, 1, 4), seed=3),
    "line, reversed": lambda o: line(o, (1, -1, 4), "gradient"),
    "line of one point": lambda o: line(o, (0, 0, 1)),
    "line between models": lambda o: interpolate(o, network(1), (0, 1, 4), names=("here", "ü")),
    "plane": lambda o: plane(o, (-1, 1, 4), (-2, 0, 3), normalization="layer"),
    "plane, adaptive": lambda o: plane(o, (-4, 4, 25), (-4, 4, 21), adaptive=0.05),
    "plane, in bfloat16": lambda o: plane(o, (-1, 1, 3), (-1, 1, 3), precision="bfloat16"),
    "plane of one row": lambda o: plane(o, (-1, 1, 4), (0, 0, 1)),
    "plane that overflows": lambda o: plane(o, (-1e38, 1e38, 4), (-1e38, 1e38, 3), normalization=None),
    "plane through models": lambda o: plane_through(o, network(1), network(2), points=3),
    "trajectory": lambda o: trajectory_plane(o, [network(1), network(2), network(3)], points=3),
    "perturbation": lambda o: random_perturbation(o, [0.0, 0.1], 3, distribution="sphere"),
    "worst case": lambda o: worst_case(o, 0.1, 2),
}


@pytest.fixture(params=PROBES.values(), ids=PROBES)
def result(request):
    return request.param(make_objective())


def test_every_field_is_as_it_was(result, tmp_path):
    again = load_result(result.save(tmp_path / "file.nc"))
    assert type(again) is type(result)
    for field in dataclasses.fields(result):
        before, after = getattr(result, field.name), getattr(again, field.name)
        if isinstance(before, np.ndarray):
            assert before.dtype.kind == after.dtype.kind, field.name
            assert before.shape == after.shape, field.name
            np.testing.assert_array_equal(before, after, err_msg=field.name)
        else:
            assert after == before or json.dumps(after) == json.dumps(before), field.name
            assert type(after) is type(before), field.name
    assert repr(again) == repr(result)
    assert again.to_frame().equals(result.to_frame())


def test_xarray_opens_the_file(result, tmp_path):
    with xr.open_dataset(result.save(tmp_path / "file.nc")) as data:
        for name in result.DIMENSIONS:
            if getattr(result, name, None) is not None:
                np.testing.assert_array_equal(data[name].values, getattr(result, name))


def test_saved_again_it_is_the_same_file(result, tmp_path):
    first = result.save(tmp_path / "first.nc")
    second = load_result(first).save(tmp_path / "second.nc")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("lacking", ["base_loss", "class_names", "groups", "provenance", "seed"])
def test_a_file_without_a_field_is_refused_by_its_name(lacking, tmp_path):
    data = PROBES["plane"](make_objective()).to_dataset()
    plain = json.loads(data.attrs["fields"])
    del plain[lacking]
    data.attrs["fields"] = json.dumps(plain)
    data.to_netcdf(tmp_path / "old.nc", engine="scipy")
    with pytest.raises(UserError, match=f"PlaneResult of another version, without {lacking}: probe again"):
        load_result(tmp_path / "old.nc")


@pytest.mark.parametrize("lacking", ["interpolation_errors", "evaluated", "class_losses", "x"])
def test_a_file_without_an_array_is_refused_by_its_name(lacking, tmp_path):
    PROBES["plane"](make_objective()).to_dataset().drop_vars(lacking).to_netcdf(tmp_path / "old.nc", engine="scipy")
    with pytest.raises(UserError, match=f"another version, without {lacking}: probe again"):
        load_result(tmp_path / "old.nc")


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_refused_in_one_line(keep, tmp_path):
    path = PROBES["plane, adaptive"](make_objective()).save(tmp_path / "plane.nc")
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(UserError, match="not a saved result"):
        load_result(path)
