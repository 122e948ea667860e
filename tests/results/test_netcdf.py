"""The checksum of result files: what was written is what is read."""

import hashlib
import random

import pytest
import torch
import xarray as xr

import sharpness
from sharpness.errors import UserError
from sharpness.results import netcdf


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    objective = sharpness.Objective(torch.nn.Linear(2, 2), (torch.eye(2), torch.tensor([0, 1])))
    return sharpness.measure(objective, "loss").save(tmp_path_factory.mktemp("saved") / "loss.nc")


def attribute(path):
    with xr.open_dataset(path, engine="scipy") as opened:
        return opened.attrs["sha256"]


def test_the_checksum_is_that_of_the_bytes_with_zeros_in_its_place(saved):
    told = attribute(saved)
    content = saved.read_bytes()
    assert content.count(told.encode()) == 1
    assert hashlib.sha256(content.replace(told.encode(), b"0" * 64)).hexdigest() == told


@pytest.mark.parametrize(("name", "how"), [("a.csv", "to_csv"), ("a.JSON", "to_json"), ("a.png", r"\.plot\(\)")])
def test_a_name_of_another_format_is_refused(saved, tmp_path, name, how):
    with pytest.raises(UserError, match=rf"{name}: results are saved as NetCDF.*{how}"):
        sharpness.load_result(saved).save(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [64, 100, 161, 1000])
def test_the_checksum_may_lie_across_two_pieces(saved, size, monkeypatch):
    monkeypatch.setattr(netcdf, "_PIECE", size)
    assert sharpness.load_result(saved).names == ("loss",)


def test_a_turned_bit_is_refused(saved, tmp_path):
    draw, content = random.Random(0), saved.read_bytes()
    for trial in range(60):
        turned = bytearray(content)
        turned[draw.randrange(3, len(content))] ^= 1 << draw.randrange(8)
        path = tmp_path / f"{trial}.nc"
        path.write_bytes(turned)
        if b"sha256\0\0" in turned:
            with pytest.raises(UserError, match=r"changed after it was written|not a saved result|damaged"):
                sharpness.load_result(path)


def test_a_file_that_was_changed_on_purpose_is_read_without_its_checksum(saved, tmp_path):
    path = tmp_path / "changed.nc"
    with xr.open_dataset(saved, engine="scipy") as opened:
        data = opened.load()
    data["overall"] = 2 * data["overall"]
    data.to_netcdf(path, engine="scipy")
    with pytest.raises(UserError, match="delete its attribute 'sha256' if you changed it"):
        sharpness.load_result(path)
    del data.attrs["sha256"]
    data.to_netcdf(path, engine="scipy")
    found, before = sharpness.load_result(path), sharpness.load_result(saved)
    assert found["loss"].overall == pytest.approx(2 * before["loss"].overall)
