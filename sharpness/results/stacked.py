"""Several data sets in one: arrays of equal shape are stacked along a new dimension, others are kept separately."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

#: Names of arrays and dimensions of a single part: the original name and the part's number.
_ALONE = re.compile(r"(.*)\[(\d+)\]", re.DOTALL)


def stack(parts: Sequence[xr.Dataset], dimension: str, names: Sequence[str]) -> xr.Dataset:
    """Combine the data sets of several results of one kind, with their attributes.

    Args:
        dimension: name of the new dimension, along which arrays of equal shape in all parts are stacked.
        names: names of the parts, the coordinate of that dimension.

    >>> parts = [xr.Dataset({"a": ("x", [1, 2]), "b": ("y", [0] * n)}, attrs={"fields": ""}) for n in (1, 2)]
    >>> data = stack(parts, "model", ["CE", "GCL"])
    >>> data["a"].dims, data["b[1]"].dims
    (('model', 'x'), ('y[1]',))
    >>> unstack(data, "model", 1).sizes["y"]
    2
    """
    arrays: dict[str, Any] = {}
    for name in dict.fromkeys(str(name) for part in parts for name in part.variables):
        found = [part.variables.get(name) for part in parts]
        kept = [variable for variable in found if variable is not None]
        first = kept[0]
        one_shape = len(kept) == len(parts) and len({(v.dims, v.shape) for v in kept}) == 1
        if one_shape and name in parts[0].dims and all(first.equals(v) for v in kept):
            arrays[name] = first
        elif one_shape and name not in parts[0].dims:
            arrays[name] = ((dimension, *first.dims), np.stack([v.values for v in kept]), first.attrs)
        else:
            for i, v in enumerate(found):
                if v is not None:
                    arrays[f"{name}[{i}]"] = (tuple(f"{d}[{i}]" for d in v.dims), v.values, v.attrs)
    data = xr.Dataset(arrays, coords={dimension: list(names)})
    data.attrs = {f"fields_{i}": part.attrs["fields"] for i, part in enumerate(parts)}
    return data.assign_attrs(sharpness_result=parts[0].attrs.get("sharpness_result"))


def unstack(data: xr.Dataset, dimension: str, part: int) -> xr.Dataset:
    """One of the parts of :func:`stack`, without its attributes."""
    arrays: dict[str, Any] = {}
    for name, variable in data.variables.items():
        alone = _ALONE.fullmatch(str(name))
        if alone and int(alone[2]) == part:
            dims = [_ALONE.sub(r"\1", str(d)) for d in variable.dims]
            arrays[alone[1]] = (dims, variable.values, variable.attrs)
        elif alone is None and name != dimension:
            arrays[str(name)] = variable.isel({dimension: part}) if dimension in variable.dims else variable
    return xr.Dataset(arrays)
