"""Loading of saved results, with checks of everything that a file says."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints, overload

import numpy as np
import xarray as xr

from sharpness.errors import UserError, printable
from sharpness.results.base import Result
from sharpness.results.comparison import MODEL, Comparison
from sharpness.results.kept import KIND, KeptTable, table_of_file
from sharpness.results.netcdf import read_dataset
from sharpness.results.runs import RUN, Runs
from sharpness.results.stacked import unstack
from sharpness.untrusted.plain_json import parse_json
from sharpness.untrusted.refused import Refused

WHOLE = ("class_samples", "train_counts", "products", "layer_parameters", "sample_ids")
TRUE_OR_FALSE = ("evaluated", "converged")
K = TypeVar("K", bound="Result | Runs[Any] | Comparison[Any] | KeptTable")
FINITE = ("class_samples", "class_weights", "x", "y", "radii", "factors", "sample_weights")


@overload
def load_result(path: str | Path, kind: None = None) -> Result | Runs[Any] | Comparison[Any] | KeptTable: ...
@overload
def load_result(path: str | Path, kind: type[K]) -> K: ...
def load_result(path: str | Path, kind: type[Any] | None = None) -> Any:
    """Read results saved by :meth:`Result.save`, :meth:`Runs.save` or :meth:`Comparison.save`, executing nothing.

    Saved histories, basins and paired comparisons can be read as well.

    Args:
        path: path of the NetCDF file.
        kind: the expected class, which is checked and also tells type checkers the type: a class of results such as
            :class:`MeasureResult`, or ``Runs[MeasureResult]`` or ``Comparison[MeasureResult]``.

    Returns:
        A result of the class that was saved, :class:`Runs` or a :class:`Comparison` of such results, or a table.

    Raises:
        UserError: no such file, or a file that is not a result: damaged, of another version, or with inconsistent
            values, types or shapes; or a result that is not of ``kind``.

    >>> import tempfile, torch, sharpness
    >>> objective = sharpness.Objective(torch.nn.Linear(2, 2), (torch.eye(2), torch.tensor([0, 1])))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = sharpness.measure(objective, "loss").save(f"{folder}/loss.nc")
    ...     load_result(path, sharpness.results.MeasureResult).names
    ('loss',)
    """
    found = _read(Path(path))
    if kind is None:
        return found
    # Comparison[MeasureResult] consists of Comparison and the class that all of its results must have.
    whole, of = get_origin(kind) or kind, tuple(one for one in get_args(kind) if isinstance(one, type))
    parts = list(found.each().values() if isinstance(found, Comparison) else found if isinstance(found, Runs) else ())
    if not isinstance(found, whole) or (of and not all(isinstance(one, of) for one in parts)):
        there = type(found).__name__ + (f" of {type(parts[0]).__name__}" if parts else "")
        raise UserError(f"{path} holds a {there}, not a {getattr(kind, '__name__', kind)}: leave kind out to read it")
    return found


def _read(path: Path) -> Result | Runs[Any] | Comparison[Any] | KeptTable:
    if not path.is_file():
        raise UserError(f"no result at {path}")
    try:
        data = read_dataset(path)
        if KIND in data.attrs:
            return table_of_file(data)
        if "comparison" in data.attrs:
            return _comparison(data)
        return _runs(data) if "trainings" in data.attrs else _result(data, data.attrs["fields"])
    except UserError:
        raise
    except Refused as error:
        raise UserError(f"{path} is not a saved result of sharpness: it {error}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or 'it is damaged'}: probe again") from None
    except Exception as error:
        # A damaged file can raise nearly any exception.
        raise UserError(f"{path} is not a saved result of sharpness ({type(error).__name__}): probe again") from None


def _runs(data: xr.Dataset) -> Runs[Any]:
    """The results of several trainings."""
    names = parse_json(str(data.attrs["trainings"]))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Refused("names its trainings oddly: probe again")
    if len(names) != data.sizes.get(RUN):
        raise Refused(f"has {data.sizes.get(RUN)} trainings and {len(names)} names: probe again")
    return Runs(_parts(data, RUN), list(map(printable, names)))


def _comparison(data: xr.Dataset) -> Comparison[Any]:
    """The results of several models."""
    named = parse_json(str(data.attrs["comparison"]))
    models = named if isinstance(named, list) else []
    if not all(
        isinstance(m, list) and len(m) == 2 and isinstance(m[0], str)
        and (m[1] is None or (isinstance(m[1], list) and m[1] and all(isinstance(name, str) for name in m[1])))
        for m in models
    ):  # fmt: skip
        raise Refused("names its models oddly: probe again")
    labels = [printable(label) for label, _ in models]
    count = sum(1 if names is None else len(names) for _, names in models)
    if not count or count != data.sizes.get(MODEL) or len(set(labels)) < len(labels):
        raise Refused(f"has {data.sizes.get(MODEL)} results and names {count} models and trainings: probe again")
    parts = iter(_parts(data, MODEL))
    return Comparison({
        label: next(parts) if names is None else Runs([next(parts) for _ in names], list(map(printable, names)))
        for label, (_, names) in zip(labels, models, strict=True)
    })  # fmt: skip


def _parts(data: xr.Dataset, dimension: str) -> list[Result]:
    """The results along a dimension, all of one kind."""
    kind = data.attrs.get("sharpness_result")
    parts = [unstack(data, dimension, i) for i in range(data.sizes[dimension])]
    return [
        _result(part.assign_attrs(sharpness_result=kind), data.attrs[f"fields_{i}"]) for i, part in enumerate(parts)
    ]


def _result(data: xr.Dataset, described: Any) -> Result:
    """The result that a data set of :meth:`Result.to_dataset` holds, whose plain values are ``described``."""
    kind = Result.REGISTRY.get(str(data.attrs.get("sharpness_result"))[:80])
    if kind is None:
        raise Refused("names no kind of result")
    plain = parse_json(str(described))
    if not isinstance(plain, dict):
        raise Refused("has fields without names")
    renamed = kind.renamed(plain)
    arrays = {renamed.get(str(name), str(name)): value for name, value in data.variables.items()}
    hints = get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}
    given = {name: _typed(name, value, hints[name]) for name, value in plain.items() if name in known}
    found = {name: value for name, value in arrays.items() if name in known}
    needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    missing = [n for n in needed if n not in given and n not in found]
    if missing:
        raise Refused(f"is a {kind.__name__} of another version, without {', '.join(missing[:4])}: probe again")
    # Checked here, where an error names the file: later, an array of another shape could raise any exception.
    _check_shapes(kind, given, found)
    for name, value in found.items():
        _check_numbers(name, value.values)
    classes = range(len(given["class_names"]))
    if any(c not in classes for group in given["groups"].values() for c in group):
        raise Refused("has groups of classes that it does not name")
    result = kind(**given | {name: value.values for name, value in found.items()})
    result.validate()
    return result


def _typed(name: str, value: Any, hint: Any) -> Any:
    """Check a plain value against the type of its field; lists become tuples, control characters are replaced."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is ClassVar or hint is Any:
        return _clean(value)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return _typed(name, value, next(i for i in inner if i is not type(None)))
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(name, one, inner[0]) for one in value)
    if origin is dict and isinstance(value, dict):
        return {printable(key): _typed(name, one, inner[1]) for key, one in value.items()}
    if hint is str and isinstance(value, str):
        return printable(value)
    if hint is float and type(value) in (int, float):
        return value
    if origin is None and hint is not np.ndarray and type(value) is hint:
        return value
    raise Refused(f"has a {type(value).__name__} as {name}: probe again")


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_clean(one) for one in value]
    return {printable(key): _clean(one) for key, one in value.items()} if isinstance(value, dict) else value


def _check_shapes(kind: type[Result], plain: dict[str, Any], arrays: Mapping[str, Any]) -> None:
    """Refuse arrays with other dimensions than those of their kind, or other lengths than those of their names."""
    leading = set()
    for name, array in arrays.items():
        wanted = kind.DIMENSIONS.get(name, ())
        short = wanted[1:] if wanted[:1] == (kind.OPTIONAL_DIMENSION,) and name not in Result.DIMENSIONS else wanted
        if array.dims not in (wanted, short):
            raise Refused(f"has {name} of shape {array.shape}, which is none of a {kind.__name__}: probe again")
        if short != wanted:
            leading.add(array.dims == wanted)
        for dimension, length in zip(array.dims, array.shape, strict=True):
            told = plain.get(Result.COORDINATES.get(str(dimension), ""))
            nameless = dimension == "mark" and not told
            if length == 0 or (told is not None and len(told) != length and not nameless):
                raise Refused(f"has {name} of shape {array.shape}, which its names do not fit: probe again")
    if len(leading) > 1:
        raise Refused("has arrays with and without classes: probe again")


def _check_numbers(name: str, values: np.ndarray[Any, Any]) -> None:
    kinds = "iu" if name in WHOLE else "b" if name in TRUE_OR_FALSE else "biuf"
    if values.dtype.kind not in kinds:
        raise Refused(f"has {name} of type {values.dtype}: probe again")
    if name in FINITE and not np.isfinite(values).all():
        raise Refused(f"has {name} that are no numbers: probe again")
    if name in ("class_samples", "class_weights", "sample_weights") and (values < 0).any():
        raise Refused(f"has {name} below 0: probe again")
