"""Histories, basins and paired comparisons are saved and read back, and odd files are refused."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from sharpness import UserError, load_result
from sharpness.results import MeasureResult, Runs
from sharpness.results.basins import Basins, basins_of
from sharpness.results.history import COLUMNS, History
from sharpness.results.paired import Paired, paired

X = np.linspace(-2, 2, 21)


def table(seed, loss):
    return MeasureResult(
        names=("loss",), overall=np.array([loss]), values=np.array([[loss]]), standard_errors=np.array([[0.1]]),
        overall_standard_errors=np.array([0.1]), train_counts=np.array([5]), class_names=("cat",),
        class_samples=np.array([5]), groups={}, provenance={"run": f"seed {seed}"},
    )  # fmt: skip


def kept():
    rows = [
        (1.0, "all", "loss", 0.5, np.nan, 0, 0.1, 0.2, 0.1, ""),
        (2.0, "few", "loss", 0.4, 1e-3, 9, 0.1, 0.2, None, "é"),
    ]
    surface = (X**2 - 1) ** 2 + X[:, None] ** 2
    names = ["seed 0", "seed 1", "seed 2"]
    models = {label: Runs([table(s, a + s) for s in range(3)], names) for label, a in (("A", 1.0), ("B", 2.0))}
    return {
        "history": History(pd.DataFrame(rows, columns=list(COLUMNS))),
        "empty": History(pd.DataFrame([], columns=list(COLUMNS))),
        "basins": basins_of(surface, X, X, model=(1.0, 0.0)),
        "above all": basins_of(surface, X, X, model=(0.0, 2.0)),
        "every dent": basins_of(surface, X, X, least=0),
        "paired": paired(models),
    }


@pytest.mark.parametrize("name", list(kept()))
def test_tables_come_back_as_they_were(tmp_path, name):
    one = kept()[name]
    found = load_result(one.save(tmp_path / "one.nc"), type(one))
    assert type(found) is type(one)
    pd.testing.assert_frame_equal(found.to_frame(), one.to_frame(), check_dtype=False)
    if isinstance(one, Basins):
        assert found.model == one.model and found.least == one.least
        assert all((a.mask == b.mask).all() and a.level == b.level for a, b in zip(found.found, one.found, strict=True))
    if isinstance(one, Paired):
        assert found.sentences == one.sentences and found.level == one.level
    with pytest.raises(UserError, match=f"holds a {type(one).__name__}"):
        load_result(tmp_path / "one.nc", MeasureResult)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("history", lambda d: d.assign_attrs(sharpness_table="Other"), "names no kind of table"),
        ("history", lambda d: d.drop_vars("value"), "has no column value"),
        ("history", lambda d: d.assign_attrs(texts=json.dumps({"of": []})), "lacks texts"),
        ("history", lambda d: d.assign_attrs(texts=json.dumps({n: [1, 2] for n in History.TEXTS})), "odd column"),
        ("basins", lambda d: d.assign_attrs(plain=json.dumps({"model": 7, "least": 0.1})), "does not have"),
        ("basins", lambda d: d.assign(mask=d["mask"].isel(i=0)), "has no column mask"),
        ("paired", lambda d: d.assign_attrs(plain=json.dumps({"level": 2.0})), "no level"),
    ],
)
def test_odd_files_are_refused_in_one_line(tmp_path, name, change, message):
    path = kept()[name].save(tmp_path / "one.nc")
    with xr.open_dataset(path, engine="scipy") as opened:
        data = opened.load()
    attributes = {k: v for k, v in data.attrs.items() if k != "sha256"}
    changed = change(data.assign_attrs(attributes))
    changed.attrs.pop("sha256", None)
    changed.to_netcdf(tmp_path / "odd.nc", engine="scipy")
    with pytest.raises(UserError, match=message):
        load_result(tmp_path / "odd.nc")
