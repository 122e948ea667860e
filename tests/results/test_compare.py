"""Results side by side: what cannot be compared is refused by the field that differs, and one file keeps the rest."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure
from torch import nn

import sharpness
from sharpness import Comparison, Objective, UserError, load_result
from sharpness.results import Runs

NAMES = ("owl", "cat", "dog")


def objective(seed, width=5, **options):
    torch.manual_seed(7)
    x, y = torch.randn(14, 4), torch.tensor([0] * 2 + [1] * 8 + [2] * 4)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3)).double()
    settings = {"groups": {"many": (1,), "few": (0, 2)}, "class_names": NAMES, **options}
    return Objective(model, (x, y), **settings)


PROBES = {
    "measure": lambda o: sharpness.measure(o, "loss,random_rise", draws=3),
    "eigenvalues": lambda o: sharpness.eigenvalues(o, 2, "both", per_class=True),
    "layers": lambda o: sharpness.trace(o, per_layer=True, per_class=True, draws=3),
    "density": lambda o: sharpness.spectral_density(o, per_class=True, draws=2, steps=4),
    "perturbation": lambda o: sharpness.random_perturbation(o, (0.1, 0.2), 3),
    "line": lambda o: sharpness.line(o, (-1, 1, 5)),
    "plane": lambda o: sharpness.plane(o, (-1, 1, 3), (-1, 1, 4)),
    "radius": lambda o: sharpness.characteristic_radius(o, steps=3),
}


@pytest.fixture(params=PROBES)
def probe(request):
    return PROBES[request.param]


def equal(a, b):
    for f in dataclasses.fields(a):
        one, other = getattr(a, f.name), getattr(b, f.name)
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, other)
            assert one.dtype.kind == other.dtype.kind
        else:
            assert one == other


def test_a_comparison_is_what_probing_all_models_together_gives_and_one_file_keeps_it(probe, tmp_path):
    models = {"CE": objective(0), "GCL": objective(1)}
    together = probe(models)
    alone = {label: load_result(probe(o).save(tmp_path / f"{label}.nc")) for label, o in models.items()}
    found = sharpness.compare(alone)
    assert isinstance(found, Comparison) and list(found) == ["CE", "GCL"]
    pd.testing.assert_frame_equal(found.to_frame(), together.to_frame())
    again = load_result(found.save(tmp_path / "both.nc"))
    assert isinstance(again, Comparison) and list(again) == list(found)
    for label in found:
        equal(again[label], found[label])
    assert again.plot(Figure().subplots(1, 2) if isinstance(found["CE"], sharpness.results.PlaneResult) else None)


def test_trainings_and_networks_of_other_sizes_are_kept_in_one_file(probe, tmp_path):
    results = [probe(objective(seed)) for seed in range(2)]
    other = probe(objective(0, width=4))
    found = sharpness.compare({"CE": results, "small": other, "again": Runs(results[:1])})
    assert isinstance(found["CE"], Runs) and found["CE"].results == tuple(results)
    again = load_result(found.save(tmp_path / "all.nc"))
    assert list(again) == ["CE", "small", "again"] and again["CE"].names == ("run 1", "run 2")
    assert [len(again[label]) for label in ("CE", "again")] == [2, 1]
    for a, b in zip([*again["CE"], again["small"], *again["again"]], [*results, other, results[0]], strict=True):
        equal(a, b)


def test_the_file_names_models_and_stacks_what_has_one_shape(tmp_path):
    both = sharpness.compare({"CE": PROBES["eigenvalues"](objective(0)), "s": PROBES["eigenvalues"](objective(0, 4))})
    with xr.open_dataset(both.save(tmp_path / "b.nc"), engine="scipy") as data:
        assert data["model"].values.tolist() == ["CE", "s"] and data["class"].values.tolist() == list(NAMES)
        assert data["values"].dims == ("model", "class", "rank")
        largest = data["values"].sel(model="s", rank="lambda_max")
        np.testing.assert_array_equal(largest, both["s"].largest)
        assert data["vectors[1]"].dims == ("class[1]", "rank[1]", "parameter[1]")


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (lambda: PROBES["measure"](objective(0)), lambda: PROBES["line"](objective(0)), "LineResult and MeasureResult"),
        (
            lambda: sharpness.measure(objective(0), "random_rise", radius=0.1),
            lambda: sharpness.measure(objective(0), "random_rise", radius=0.2),
            "radius is 0.1 and 0.2",
        ),
        (
            lambda: sharpness.worst_case(objective(0), 0.1),
            lambda: sharpness.worst_case(objective(0), 0.1, norm="linf"),
            "norm is l2 and linf",
        ),
        (
            lambda: sharpness.eigenvalues(objective(0)),
            lambda: sharpness.eigenvalues(objective(0), kind="ggn"),
            "kind is hessian and ggn",
        ),
        (
            lambda: sharpness.eigenvalues(objective(0)),
            lambda: sharpness.eigenvalues(objective(0), which="SA"),
            "which is LA and SA",
        ),
        (
            lambda: sharpness.eigenvalues(objective(0)),
            lambda: sharpness.eigenvalues(objective(0), per_class=True),
            "per_class is False and True",
        ),
        (
            lambda: sharpness.eigenvalues(objective(0), per_layer=True),
            lambda: sharpness.trace(objective(0), per_layer=True),
            "measure is lambda_max and trace",
        ),
        (
            lambda: sharpness.random_perturbation(objective(0), (0.1, 0.2), 2),
            lambda: sharpness.random_perturbation(objective(0), (0.1, 0.3), 2),
            r"radii is .* and must be the same",
        ),
        (
            lambda: sharpness.line(objective(0), (-1, 1, 3)),
            lambda: sharpness.line(objective(0), (-1, 1, 3), seed=1),
            "seed is 0 and 1",
        ),
        (
            lambda: sharpness.characteristic_radius(objective(0)),
            lambda: sharpness.characteristic_radius(objective(0), scale=0.2),
            "scale is 1.0 and 0.2",
        ),
        (
            lambda: sharpness.critical_radius(objective(0), "gradient"),
            lambda: sharpness.critical_radius(objective(0), "gradient", factor=5),
            "factor is 2.0 and 5",
        ),
        (
            lambda: sharpness.critical_radius(objective(0), "gradient"),
            lambda: sharpness.critical_radius(objective(0), "gradient", drop=0.5),
            "drop is 0.1 and 0.5",
        ),
        (
            lambda: sharpness.measure(objective(0), "displacement", damping=0.5),
            lambda: sharpness.measure(objective(0), "displacement", damping=1.0),
            "damping is 0.5 and 1.0",
        ),
        (
            lambda: sharpness.measure(objective(0), "loss"),
            lambda: sharpness.measure(objective(0, parameters="0.*"), "loss"),
            r"scope is all and 0\.\*",
        ),
        (
            lambda: sharpness.measure(objective(0), "loss"),
            lambda: sharpness.measure(objective(0, groups={"few": (0,)}), "loss"),
            "groups is",
        ),
        (
            lambda: sharpness.measure(objective(0), "loss"),
            lambda: sharpness.measure(objective(0).restrict([*range(12)]), "loss"),
            "cannot be compared: 2 of 14 samples|cannot be compared",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_by_the_field_that_differs(first, second, told):
    with pytest.raises(UserError, match=told) as caught:
        sharpness.compare({"a": first(), "b": second()})
    assert "cannot be compared" in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_result_is_refused():
    result = sharpness.measure(objective(0), "loss")
    for wrong in ({}, [result], None):
        with pytest.raises(UserError, match="no results to compare: give {label: result}"):
            sharpness.compare(wrong)
    with pytest.raises(UserError, match="'a': str is no result: give what a probe or load_result returns"):
        sharpness.compare({"a": "a.nc"})
    with pytest.raises(UserError, match="'b': int is no result"):
        sharpness.compare({"a": result, "b": [result, 3]})
    with pytest.raises(UserError, match="labels 1, 1: give every model one of its own"):
        sharpness.compare({1: result, "1": result})
    with pytest.raises(UserError, match="an empty comparison has nothing to save"):
        Comparison().save("x.nc")
    empty = Comparison()
    for what in (empty.to_frame, empty.summary, empty.to_table, empty.to_latex, lambda: empty.pivot("loss"),
                 lambda: empty.plot):  # fmt: skip
        with pytest.raises(UserError, match="an empty comparison has no numbers: give it a result"):
            what()


@pytest.mark.parametrize(
    "told", [[], 3, "a", [["a"]], [["a", 3]], [["a", []]], [["a", None]], [["a", None], ["a", None]], [[1, None]] * 2]
)
def test_a_file_that_names_its_models_oddly_is_refused(tmp_path, told):
    both = sharpness.compare({label: sharpness.line(objective(i), (-1, 1, 3)) for i, label in enumerate("ab")})
    path = both.save(tmp_path / "r.nc")
    with xr.open_dataset(path, engine="scipy") as opened:
        data = opened.load()
    data.attrs["comparison"] = json.dumps(told)
    del data.attrs["sha256"]
    data.to_netcdf(path, engine="scipy")
    with pytest.raises(UserError, match="not a saved result of sharpness: it (names|has)"):
        load_result(path)


COORDINATES = {
    "measure": {"class": list(NAMES), "group": ["many", "few"], "measure": ["loss", "random_rise"]},
    "eigenvalues": {"class": list(NAMES), "rank": ["lambda_max", "lambda_max 2", "lambda_min 2", "lambda_min"]},
    "layers": {"layer": ["0", "2"], "column": list(NAMES), "class": list(NAMES)},
    "density": {"class": list(NAMES), "run": [0, 1]},
    "perturbation": {"class": list(NAMES), "radius": [0.1, 0.2], "draw": [0, 1, 2]},
    "line": {"class": list(NAMES), "x": [-1, -0.5, 0, 0.5, 1]},
    "plane": {"class": list(NAMES), "x": [-1, 0, 1], "y": [-1, -1 / 3, 1 / 3, 1]},
    "radius": {"class": list(NAMES), "factor": None, "measure": None},
}


@pytest.mark.parametrize("kind", COORDINATES)
def test_every_file_has_coordinates(tmp_path, kind):
    result = PROBES[kind](objective(0))
    for number, one in enumerate((result, Runs([result, result]), sharpness.compare({"a": result, "b": result}))):
        with xr.open_dataset(one.save(tmp_path / f"{number}.nc"), engine="scipy") as data:
            for name, values in COORDINATES[kind].items():
                of_result = {"factor": "factors", "measure": "names"}
                expected = getattr(result, of_result[name]) if values is None else values
                found = data.coords[name].values.tolist()
                assert found == list(expected) if isinstance(expected[0], str) else np.allclose(found, expected)
