"""Tables with a record of how they were made: JSON (schema ``sharpness.result/1``), CSV with a sidecar, Parquet."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sharpness.errors import UserError
from sharpness.files import shortened, write_atomically
from sharpness.results.base import Result
from sharpness.results.comparison import names_of, trainings_of
from sharpness.results.description import Description
from sharpness.results.runs import Runs
from sharpness.untrusted.plain_json import parse_json
from sharpness.untrusted.refused import Refused
from sharpness.version import __version__

SCHEMA = "sharpness.result/1"
#: Longest JSON of a table that is read, in bytes.
LIMIT = 2**28
#: Suffixes of tables that carry a record.
TABLES = (".csv", ".json", ".parquet")
#: Columns of names, which are text whatever they look like.
NAMES = ("model", "run", "class", "group")
HASHES = {"model": "model_sha256", "data": "data_sha256", "images": "images_sha256"}
VERSIONS = ("sharpness", "torch", "python")
#: Entries of a provenance that the record of a training holds elsewhere.
ELSEWHERE = (*HASHES.values(), *VERSIONS, "class_samples", "samples", "label", "run", "seed")


def record(frame: pd.DataFrame, results: Any = None, command: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Describe a table by the schema ``sharpness.result/1``, without its rows.

    Args:
        frame: the table.
        results: the :class:`Comparison`, result or :class:`Runs` that the table is of; None if there is none.
        command: ``name`` and ``options`` of the command that made it.

    >>> record(pd.DataFrame({"epoch": [1], "loss": [0.5]}))["columns"][1]
    {'name': 'loss', 'title': 'Loss', 'unit': '', 'lower_is_flatter': None}
    """
    entries: Mapping[str, Any] = {} if results is None else results
    if isinstance(results, Result | Runs):
        entries = {results.label: results}
    trainings = [
        _training(label, run, one)
        for label, entry in entries.items()
        for run, one in zip(names_of(entry), trainings_of(entry), strict=True)
    ]
    first = trainings_of(next(iter(entries.values())))[0] if entries else None
    return plain({
        "schema": SCHEMA,
        "kind": None if first is None else type(first).__name__,
        "command": command,
        "versions": _versions(),
        "trainings": trainings,
        "classes": [] if first is None else first.class_names,
        "groups": {} if first is None else first.groups,
        "columns": [_column(str(name), first) for name in frame],
    })  # fmt: skip


def schema() -> dict[str, Any]:
    """The JSON schema of :func:`record`, which is published with the package."""
    text = files("sharpness.results").joinpath("schema/result-1.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def write_table(frame: pd.DataFrame, path: Path, results: Any = None, command: Mapping[str, Any] | None = None) -> None:
    """Write a table and its record: inside ``.json`` and ``.parquet``, next to a ``.csv`` as ``NAME.csv.json``.

    Raises:
        UserError: Parquet without pyarrow.
    """
    made = record(frame, results, command)
    if path.suffix == ".json":
        # Not by pandas, which writes 15 decimal places: too few digits of small numbers.
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
        _write(path, as_json({**made, "rows": plain(rows)}))
    elif path.suffix == ".parquet":
        _write_parquet(frame, path, made)
    else:
        text = frame.to_csv(index=False)
        _write(path, text)
        write_sidecar(path, text, made)


def write_sidecar(path: Path, text: str, made: Mapping[str, Any]) -> None:
    """Write the record of a table file next to it, as ``NAME.json``; long names are shortened."""
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    _write(path.with_name(f"{shortened(path.name)}.json"), as_json({**made, "table": path.name, "sha256": sha256}))


def read_table(path: str | Path) -> pd.DataFrame:
    """Read the rows of a table that :func:`write_table` wrote, or of an older JSON file, which is a list of rows.

    Raises:
        UserError: no such file, or none of these.
    """
    path = Path(path)
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix != ".json":
            # Names are text: pandas takes a class "NA" for a missing value, and seeds for floats if a cell is empty.
            names = pd.read_csv(path, usecols=NAMES.__contains__, dtype=str, keep_default_na=False, na_values=[""])
            return pd.read_csv(path).assign(**{str(column): names[column] for column in names})
        found = parse_json(path.read_text(encoding="utf-8"), LIMIT)
        if isinstance(found, dict) and "rows" not in found and "table" in found:
            raise UserError(f"{path} says how {found['table']} was made: give that file")
        return pd.DataFrame(found["rows"] if isinstance(found, dict) else found)
    except UserError:
        raise
    except Refused as error:
        raise UserError(f"{path}: no table, it {error}: give what sharpness measure -o wrote, or a .csv") from None
    except (OSError, ValueError, KeyError, ImportError) as error:
        told = getattr(error, "strerror", None) or "no table"
        raise UserError(f"{path}: {told}: give what sharpness measure -o wrote, {', '.join(TABLES)}") from None


def plain(value: Any) -> Any:
    """Convert a value to JSON types: arrays and tuples to lists, paths to text, non-finite numbers to None.

    >>> plain({"a": (1, float("inf")), 2: np.arange(2)})
    {'a': [1, None], '2': [0, 1]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def as_json(value: Any) -> str:
    """A plain value as indented JSON, ending with a newline."""
    return json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8", newline=""))


def _write_parquet(frame: pd.DataFrame, path: Path, made: Mapping[str, Any]) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"{path}: pyarrow is not installed: pip install pyarrow, or give a name that ends in .csv"
        ) from None
    table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    known = {**(table.schema.metadata or {}), SCHEMA.encode(): json.dumps(made).encode()}
    write_atomically(path, lambda partial: pyarrow.parquet.write_table(table.replace_schema_metadata(known), partial))


def _training(label: str, run: str | None, result: Result) -> dict[str, Any]:
    told = result.provenance
    own = {f.name: getattr(result, f.name) for f in fields(result) if f.name not in result.DIMENSIONS}
    described = ("class_names", "groups", "provenance", "described", "seed", "names", "mark_names")
    return {
        "model": label,
        "n": int(result.class_samples.sum()),
        "class_samples": result.class_samples,
        "seeds": {"training": run, "probe": getattr(result, "seed", told.get("seed"))},
        "hashes": {name: told.get(key) for name, key in HASHES.items()},
        "versions": {name: told.get(name) for name in VERSIONS},
        "config": {
            **{name: value for name, value in own.items() if name not in described},
            **{name: value for name, value in told.items() if name not in ELSEWHERE},
        },
    }  # fmt: skip


def _column(name: str, result: Any) -> dict[str, Any]:
    described = getattr(result, "description", Description.of)(name)
    return {
        "name": name, "title": described.title, "unit": described.unit,
        "lower_is_flatter": described.lower_is_flatter,
    }  # fmt: skip


def _versions() -> dict[str, str]:
    found = {"sharpness": __version__, "python": platform.python_version()}
    for name in ("torch", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
