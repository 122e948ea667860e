"""Tables say how they were made: by a published schema, in every format."""

import hashlib
import json

import jsonschema
import numpy as np
import pandas as pd
import pytest

from sharpness import UserError, compare
from sharpness.results import MeasureResult, Runs
from sharpness.results.record import read_table, record, schema, write_table

COMMAND = {"name": "measure", "options": {"radius": np.float64(0.1), "measures": ("loss",), "device": None}}


def table(label, run=None, loss=0.5):
    row = np.array([[loss, np.inf]])
    return MeasureResult(
        class_names=("a", "b"), class_samples=np.array([3, 1]), groups={"few": (1,)}, names=("flat",),
        provenance={"label": label, "run": run, "model_sha256": "aa", "torch": "2.13", "tol": 1e-3},
        overall=row[:, 0], values=row, standard_errors=np.full((1, 2), 0.1),
        overall_standard_errors=np.array([0.1]),
        train_counts=np.array([30, 1]),
        described={"flat": {"title": "Flatness", "unit": "1/step", "lower_is_flatter": False}},
    )  # fmt: skip


def test_every_format_has_the_rows_and_what_made_them(tmp_path):
    results = compare({"CE": Runs([table("CE", "seed 0"), table("CE", "seed 1", 0.75)]), "GCL": table("GCL")})
    frame = results.to_frame()
    for suffix in ("csv", "json"):
        write_table(frame, tmp_path / f"t.{suffix}", results, COMMAND)
        read = read_table(tmp_path / f"t.{suffix}")
        assert list(read) == list(frame) and len(read) == len(frame)
        np.testing.assert_allclose(read.flat, frame.flat.replace(np.inf, np.nan if suffix == "json" else np.inf))
    document = json.loads((tmp_path / "t.json").read_text())
    sidecar = json.loads((tmp_path / "t.csv.json").read_text())
    for made in (document, sidecar):
        jsonschema.Draft202012Validator(schema()).validate(made)
        assert [(t["model"], t["seeds"]["training"], t["n"]) for t in made["trainings"]] == [
            ("CE", "seed 0", 4), ("CE", "seed 1", 4), ("GCL", None, 4),
        ]  # fmt: skip
        first = made["trainings"][0]
        assert (
            first["hashes"]["model"] == "aa" and first["versions"]["torch"] == "2.13" and first["config"]["tol"] == 1e-3
        )
        flat = next(c for c in made["columns"] if c["name"] == "flat")
        assert flat == {"name": "flat", "title": "Flatness", "unit": "1/step", "lower_is_flatter": False}
        assert made["command"] == {"name": "measure", "options": {"radius": 0.1, "measures": ["loss"], "device": None}}
    assert sidecar["sha256"] == hashlib.sha256((tmp_path / "t.csv").read_bytes()).hexdigest()
    with pytest.raises(UserError, match="says how t.csv was made"):
        read_table(tmp_path / "t.csv.json")


def test_parquet_holds_its_record(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    write_table(table("CE").to_frame(), tmp_path / "t.parquet", table("CE"), COMMAND)
    made = json.loads(parquet.read_schema(tmp_path / "t.parquet").metadata[b"sharpness.result/1"])
    assert made["trainings"][0]["hashes"]["model"] == "aa" and made["kind"] == "MeasureResult"
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet"), table("CE").to_frame())


def test_a_table_of_no_result_and_one_of_before_are_read(tmp_path):
    frame = pd.DataFrame({"epoch": [1, 2], "loss": [0.5, np.nan]})
    jsonschema.Draft202012Validator(schema()).validate({**record(frame), "rows": []})
    write_table(frame, tmp_path / "h.json")
    (tmp_path / "old.json").write_text(frame.to_json(orient="records"))
    pd.testing.assert_frame_equal(read_table(tmp_path / "h.json"), read_table(tmp_path / "old.json"), check_dtype=False)
    for wrong in ("missing.csv", "missing.json"):
        with pytest.raises(UserError, match="No such file"):
            read_table(tmp_path / wrong)
    (tmp_path / "text.json").write_text("3")
    with pytest.raises(UserError, match="no table"):
        read_table(tmp_path / "text.json")


def test_json_keeps_all_digits_of_small_numbers(tmp_path):
    frame = pd.DataFrame({"class": ["a", "b"], "loss": [1.2345678901234567e-10, 2.5e-16], "n": [1, 2]})
    write_table(frame, tmp_path / "t.json")
    read = read_table(tmp_path / "t.json")
    assert read.loss.tolist() == frame.loss.tolist() and read.n.tolist() == [1, 2]
    assert json.loads((tmp_path / "t.json").read_text())["rows"][0]["n"] == 1


def test_a_table_of_twenty_megabytes_of_json_is_read_back(tmp_path):
    frame = pd.DataFrame({"class": [f"{'n' * 180}{i}" for i in range(100_000)], "loss": np.linspace(0, 1, 100_000)})
    write_table(frame, tmp_path / "t.json")
    assert (tmp_path / "t.json").stat().st_size > 20 * 2**20
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.json"), frame, check_dtype=False)
