"""Results: frozen, tidy, and the same after a round trip through a file."""

import dataclasses
import json

import matplotlib
import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import sharpness
from sharpness import Objective, UserError
from sharpness.errors import SystemRefusal


@pytest.fixture(scope="module")
def objective():
    torch.manual_seed(0)
    x, y = torch.randn(12, 3), torch.tensor([0] * 6 + [1] * 4 + [2] * 2)
    return Objective(
        nn.Linear(3, 3), (x, y), groups={"many": (0,), "medium": (), "few": (1, 2)}, class_names=("cat", "dog", "ox")
    )


PROBES = {
    "perturbation": lambda o: sharpness.random_perturbation(o, (0.1, 0.2), 3),
    "eigenvalues": lambda o: sharpness.eigenvalues(o, 2, "both"),
    "class eigenvalues": lambda o: sharpness.eigenvalues(o, 1, "both", per_class=True),
    "class eigenvalues with intervals and checks": lambda o: sharpness.eigenvalues(
        o, 2, "both", per_class=True, bootstrap=200, verify=True, keep_vectors=False
    ),
    "group eigenvalues": lambda o: sharpness.eigenvalues(o, per_group=True),
    "layer eigenvalues": lambda o: sharpness.eigenvalues(o, per_layer=True),
    "class layer eigenvalues": lambda o: sharpness.eigenvalues(o, which="SA", per_layer=True, per_class=True),
    "class layer traces": lambda o: sharpness.trace(o, per_layer=True, per_class=True, draws=3),
    "density": lambda o: sharpness.spectral_density(o, draws=2, steps=4),
    "class density": lambda o: sharpness.spectral_density(o, per_class=True, draws=2, steps=4),
    "class traces with intervals": lambda o: sharpness.trace(o, per_class=True, draws=3, bootstrap=200, verify=True),
    "trace of everything with an interval": lambda o: sharpness.trace(o, draws=3, bootstrap=200),
    "line": lambda o: sharpness.line(o, (-1, 1, 5)),
    "plane": lambda o: sharpness.plane(o, (-1, 1, 3), (-1, 1, 4)),
    "trace": lambda o: sharpness.trace(o, per_class=True, draws=3),
    "worst case": lambda o: sharpness.worst_case(o),
    "characteristic radius": lambda o: sharpness.characteristic_radius(o, (30, 9, 1), steps=2),
    "measure": lambda o: sharpness.measure(o, ["loss", "random_rise"]),
}


@pytest.fixture(params=PROBES)
def result(request, objective):
    return PROBES[request.param](objective)


def test_a_saved_result_reads_back_equal(result, tmp_path):
    again = sharpness.load_result(result.save(tmp_path / "r.nc"))
    assert type(again) is type(result)
    for f in dataclasses.fields(result):
        a, b = getattr(result, f.name), getattr(again, f.name)
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b)
            assert a.dtype.kind == b.dtype.kind
        else:
            assert a == b
    assert again.to_frame().equals(result.to_frame())


def test_the_file_opens_in_xarray_with_named_dimensions(result, tmp_path):
    with xr.open_dataset(result.save(tmp_path / "r.nc"), engine="scipy") as data:
        assert data.attrs["sharpness_result"] == type(result).__name__
        assert json.loads(data.attrs["fields"])["provenance"]["samples"] == 12
        assert data.sizes["class"] == 3


def test_results_are_frozen_and_say_what_they_are(result):
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.provenance = {}
    assert len(repr(result).splitlines()) == 1
    assert "<table" in result._repr_html_()


def test_provenance_names_versions_data_loss_and_scope(result):
    for key in (
        "sharpness",
        "torch",
        "model_sha256",
        "data_sha256",
        "loss",
        "scope",
        "batchnorm",
        "dtype",
        "device",
        "probe",
    ):
        assert result.provenance[key]


def test_every_result_plots_on_a_given_axes_without_touching_settings(result):
    before, state = dict(matplotlib.rcParams), torch.get_rng_state()
    figure = matplotlib.figure.Figure()
    axes = figure.subplots()
    options = {"measure": result.names[0]} if hasattr(result, "names") else {}
    returned = result.plot(axes, **options)
    assert axes is (returned[0] if isinstance(returned, list) else returned)
    assert dict(matplotlib.rcParams) == before
    assert torch.equal(state, torch.get_rng_state())


def test_select_takes_classes_groups_and_names(objective):
    r = sharpness.line(objective, (-1, 1, 3))
    np.testing.assert_array_equal(r.values(None), r.losses)
    np.testing.assert_array_equal(r.values("dog"), r.class_losses[1])
    np.testing.assert_array_equal(r.values(2), r.class_losses[2])
    np.testing.assert_allclose(r.values("few"), r.class_losses[1:].mean(0))
    assert np.isnan(r.values("medium")).all()
    for wrong in ("cow", 3, -1):
        with pytest.raises(UserError, match="unknown class or group"):
            r.values(wrong)


def test_the_rarest_class_is_the_last_of_the_smallest_that_is_present(objective):
    r = sharpness.line(objective, (0, 0, 1))
    assert r.rarest_class == 2
    for samples, expected in [([3, 1, 1], 2), ([1, 5, 5], 0), ([3, 1, 0], 1)]:
        assert dataclasses.replace(r, class_samples=np.array(samples)).rarest_class == expected


def test_what_is_not_a_result_is_refused(tmp_path):
    with pytest.raises(UserError, match="no result at"):
        sharpness.load_result(tmp_path / "none.nc")
    (tmp_path / "text.nc").write_text("hello")
    with pytest.raises(UserError, match="not a saved result"):
        sharpness.load_result(tmp_path / "text.nc")


def test_a_failed_save_leaves_the_old_file(objective, tmp_path, monkeypatch):
    r = sharpness.line(objective, (0, 0, 1))
    path = r.save(tmp_path / "r.nc")
    before = path.read_bytes()

    def fail(self, target, **options):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", fail)
    with pytest.raises(SystemRefusal, match="disk full"):
        r.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.nc"]


def test_a_result_of_ones_own_may_name_its_dimensions_in_a_table():
    class Own(sharpness.results.Result):
        DIMENSIONS = {"depths": ("layer",)}  # noqa: RUF012

    try:
        assert Own.DIMENSIONS == sharpness.results.Result.DIMENSIONS | {"depths": ("layer",)}
    finally:
        del sharpness.results.Result.REGISTRY["Own"]
