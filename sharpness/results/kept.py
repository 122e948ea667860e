"""Tables that are saved as one NetCDF file and read back: histories, basins and paired comparisons."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pandas as pd
import xarray as xr

from sharpness.errors import printable
from sharpness.results.netcdf import write_dataset
from sharpness.untrusted.plain_json import parse_json
from sharpness.untrusted.refused import Refused

#: Attribute of a file that names the kind of its table.
KIND = "sharpness_table"


class Content(NamedTuple):
    """A table, arrays with a row for each of its rows, and plain values."""

    rows: pd.DataFrame
    arrays: Mapping[str, np.ndarray]
    plain: Mapping[str, Any]


class KeptTable:
    """A table that is saved as one NetCDF file; :func:`~sharpness.load_result` reads it back.

    Attributes:
        TEXTS, NUMBERS: names of its columns.
        ARRAYS: names of its arrays, with their dimensions after that of the rows.
    """

    TEXTS: ClassVar[tuple[str, ...]] = ()
    NUMBERS: ClassVar[tuple[str, ...]] = ()
    ARRAYS: ClassVar[dict[str, tuple[str, ...]]] = {}
    KINDS: ClassVar[dict[str, type[KeptTable]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        KeptTable.KINDS[cls.__name__] = cls

    @abstractmethod
    def content(self) -> Content:
        """The rows, arrays and plain values of a file."""

    @classmethod
    @abstractmethod
    def of_content(cls, content: Content) -> Self:
        """The inverse of :meth:`content`.

        Raises:
            Refused: invalid plain values.
        """

    @abstractmethod
    def to_frame(self) -> pd.DataFrame:
        """All rows, for reading."""

    def save(self, path: str | Path) -> Path:
        """Write one NetCDF file, which xarray opens; read it back with :func:`~sharpness.load_result`."""
        rows, arrays, plain = self.content()
        data = {name: ("row", rows[name].to_numpy(float)) for name in self.NUMBERS}
        data |= {name: (("row", *self.ARRAYS[name]), value) for name, value in arrays.items()}  # type: ignore[misc]
        # As JSON, because a column of empty texts would have length 0 in NetCDF.
        texts = {name: ["" if pd.isna(one) else str(one) for one in rows[name]] for name in self.TEXTS}
        attributes = {KIND: type(self).__name__, "texts": json.dumps(texts), "plain": json.dumps(dict(plain))}
        return write_dataset(xr.Dataset(data, attrs=attributes), path)


def table_of_file(data: xr.Dataset) -> KeptTable:
    """The table that a file holds.

    Raises:
        Refused: an unknown kind, or columns that do not match it.
    """
    kind = KeptTable.KINDS.get(str(data.attrs[KIND])[:80])
    if kind is None:
        raise Refused("names no kind of table")
    texts, plain = (parse_json(str(data.attrs[name])) for name in ("texts", "plain"))
    length = data.sizes.get("row", 0)
    if not isinstance(texts, dict) or not isinstance(plain, dict) or set(texts) != set(kind.TEXTS):
        raise Refused("lacks texts or plain values: probe again")
    for name, column in texts.items():
        if not isinstance(column, list) or len(column) != length or not all(isinstance(one, str) for one in column):
            raise Refused(f"has an odd column {name}: probe again")
    wanted = dict.fromkeys(kind.NUMBERS, ("row",)) | {name: ("row", *dims) for name, dims in kind.ARRAYS.items()}
    for name, dims in wanted.items():
        found = data.variables.get(name)
        if found is None or found.dims != dims or found.dtype.kind not in "biuf":
            raise Refused(f"has no column {name} of a {kind.__name__}: probe again")
    rows = {name: data[name].values for name in kind.NUMBERS}
    rows |= {name: np.array(list(map(printable, column)), dtype=object) for name, column in texts.items()}
    return kind.of_content(Content(pd.DataFrame(rows), {name: data[name].values for name in kind.ARRAYS}, plain))
