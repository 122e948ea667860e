"""Result files of unknown origin: believed only where everything fits together, and harmless where it is shown."""

import dataclasses
import gzip
import json

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import sharpness
from sharpness import Objective, UserError
from sharpness.results import Comparison, LineResult, MeasureResult, load_result

SCRIPT = "<img src=x onerror=alert(1)>\x1b[2J\u202e"


@pytest.fixture(scope="module")
def objective():
    torch.manual_seed(0)
    x, y = torch.randn(12, 3), torch.tensor([0] * 6 + [1] * 4 + [2] * 2)
    return Objective(nn.Linear(3, 3), (x, y), groups={"many": (0,), "few": (1, 2)}, class_names=("cat", "dog", "ox"))


@pytest.fixture(scope="module")
def results(objective):
    return {
        "line": sharpness.line(objective, (-1, 1, 5)),
        "measure": sharpness.measure(objective, ["loss", "random_rise"]),
        "eigenvalues": sharpness.eigenvalues(objective, 1, "both", per_class=True),
        "layers": sharpness.eigenvalues(objective, per_layer=True, per_class=True),
        "density": sharpness.spectral_density(objective, draws=2, steps=4),
        "perturbation": sharpness.random_perturbation(objective, (0.1, 0.2), 3),
    }


def opened(path):
    """Its data without the checksum, so that it is read as far as its content goes."""
    with xr.open_dataset(path, engine="scipy") as data:
        data = data.load()
    del data.attrs["sha256"]
    return data


def told(path):
    with pytest.raises(UserError) as caught:
        sharpness.load_result(path)
    line = str(caught.value)
    assert str(path) in line and line.isprintable() and len(line) < 300 + len(str(path))
    return line


def with_fields(path, **changed):
    data = opened(path)
    plain = json.loads(data.attrs["fields"]) | changed
    data.attrs["fields"] = json.dumps({k: v for k, v in plain.items() if v is not ...}, default=str)
    data.to_netcdf(path, engine="scipy")


ODD_FIELDS = {
    "class_names": [None, "cat", {}, ["cat"], [1, 2, 3], ["cat", "dog", "ox", "cow"], []],
    "groups": [None, [], {"many": 1}, {"many": [7]}, {"many": ["0"]}, {"many": [-1]}, {"many": [0.5]}],
    "provenance": [None, [], "text", {"num_parameters": "k"}, {"checks": 3}, {"checks": [3]}],
    "names": [None, "loss", [1, 2], ["loss"], ["a", "b", "c"]],
    "layers": [None, [1], ["a", "b", "c"]],
    "measure": [None, "area", 3],
    "per_class": [None, 1, False],
    "which": [None, "XY", 2],
    "k": [None, 3, "1", 1.0, True, 10**30],
    "normalization": ["odd", 3],
    "base_loss": [None, "1", [], True],
    "seed": [None, 1.5, "0"],
}


@pytest.mark.every(3)
@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in ODD_FIELDS.items() for v in values])
def test_odd_fields_are_told(results, tmp_path, field, value):
    for name, result in results.items():
        if field in {f.name for f in dataclasses.fields(result)}:
            path = result.save(tmp_path / f"{name}.nc")
            if getattr(result, field) == value or (field == "normalization" and getattr(result, field) is value):
                continue
            with_fields(path, **{field: value})
            told(path)


@pytest.mark.parametrize("kind", ["line", "measure", "eigenvalues", "layers", "density", "perturbation"])
def test_odd_arrays_are_told(results, tmp_path, kind):
    """Each array of each kind: left out, of another length, with another axis, of another type."""
    good = opened(results[kind].save(tmp_path / "good.nc"))
    optional = {f.name for f in dataclasses.fields(results[kind]) if f.default is not dataclasses.MISSING}
    for name in set(map(str, good.data_vars)) - optional | {"class_samples"}:
        array = good[name]
        others = {
            "left out": None,
            "another axis": (("odd", *array.dims), array.values[None]),
            "text": (array.dims, np.full(array.shape, "a")),
            "no axis": ((), np.array(1)) if array.ndim else (("odd",), np.ones(2)),
        }
        if array.ndim:
            others["other axes"] = (tuple(f"o{i}" for i in range(array.ndim)), array.values)
            others["longer"] = (tuple(f"o{i}" for i in range(array.ndim)), np.concatenate([array.values] * 2))
        for how, other in others.items():
            data = good.drop_vars(name)
            if other is not None:
                data = data.assign({name: other})
            data.to_netcdf(path := tmp_path / f"{kind}-{name}-{how}.nc", engine="scipy")
            told(path)


def test_samples_that_are_no_numbers_are_told(results, tmp_path):
    path = results["measure"].save(tmp_path / "r.nc")
    good = opened(path)
    for samples in ([np.nan, 1, 2], [-1, 1, 2], [0.5, 1, 2]):
        values = np.array(samples) if samples[0] != -1 else np.array(samples, dtype=np.int32)
        good.assign(class_samples=("class", values)).to_netcdf(path, engine="scipy")
        told(path)


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.9])
def test_truncated_files_are_told(results, tmp_path, share):
    content = results["line"].save(tmp_path / "r.nc").read_bytes()
    (tmp_path / "r.nc").write_bytes(content[: int(share * len(content))])
    told(tmp_path / "r.nc")


def test_what_is_no_netcdf_is_told(results, tmp_path):
    content = results["line"].save(tmp_path / "r.nc").read_bytes()
    for other in (gzip.compress(content), b"\x89HDF\r\n\x1a\n" + bytes(100), b"CDF\1" + bytes(100)):
        (tmp_path / "r.nc").write_bytes(other)
        told(tmp_path / "r.nc")


def hostile(result):
    return dataclasses.replace(
        result,
        class_names=tuple(f"{SCRIPT}{c}" for c in range(3)),
        groups={SCRIPT: (0,), "few": (1, 2)},
        provenance={**result.provenance, "label": SCRIPT},
    )


@pytest.mark.parametrize("kind", ["line", "measure", "eigenvalues", "layers", "density", "perturbation"])
def test_labels_and_names_run_nothing_in_a_notebook(results, tmp_path, kind):
    made = hostile(results[kind])
    read = sharpness.load_result(made.save(tmp_path / "r.nc"))
    for result in (made, read):
        for shown in (result._repr_html_(), Comparison({SCRIPT: result})._repr_html_()):
            assert "<img" not in shown
        assert repr(result).isprintable()
    assert all(name.isprintable() for name in (*read.class_names, *read.groups, read.label))
    assert "\x1b" not in read.to_frame().to_string()


def test_an_interactive_picture_escapes_labels(objective):
    pytest.importorskip("plotly")
    plane = hostile(sharpness.plane(objective, (-1, 1, 3), (-1, 1, 3)))
    figure = Comparison({SCRIPT: plane}).plot(kind="interactive", of=[None, 0])
    texts = json.dumps(
        [a.text for a in figure.layout.annotations] + [b.label for b in figure.layout.updatemenus[0].buttons]
    )
    assert "onerror" in texts and "<img" not in texts


def test_a_measurement_goes_on_where_a_file_is_damaged(objective, tmp_path, caplog):
    first = sharpness.measure(objective, ["loss"], resume=tmp_path)
    (stored,) = tmp_path.glob("*.nc")
    damages = {
        "is made again": (lambda: stored.write_bytes(b"CDF"), lambda: with_fields(stored, groups=3)),
        "holds another result, which is replaced": (lambda: sharpness.line(objective, (0, 1, 2)).save(stored),),
    }
    caplog.set_level("INFO", logger="sharpness")
    for message, damage in ((message, damage) for message, some in damages.items() for damage in some):
        damage()
        again = sharpness.measure(objective, ["loss"], resume=tmp_path)
        assert np.array_equal(again.values, first.values) and message in caplog.text
        caplog.clear()
        assert np.array_equal(sharpness.load_result(stored).values, first.values)


def test_a_result_of_another_kind_is_refused(results, tmp_path):
    path = results["line"].save(tmp_path / "line.nc")
    both = Comparison({"a": results["line"], "b": results["line"]}).save(tmp_path / "both.nc")
    assert isinstance(load_result(path, LineResult), LineResult)
    assert list(load_result(both, Comparison[LineResult])) == ["a", "b"]
    wrong = (path, MeasureResult), (path, Comparison), (both, LineResult), (both, Comparison[MeasureResult])
    for file, kind in wrong:
        with pytest.raises(UserError, match="holds a .*LineResult, not a .*: leave kind out to read it"):
            load_result(file, kind)
