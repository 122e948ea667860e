"""Result files: good ones with other fields, shapes, types or bytes."""

import gzip
import json

import numpy as np
from archives import damaged

ODD = (
    None,
    -1,
    0,
    2**70,
    1.5,
    float("nan"),
    "",
    "\x1b[2J<script>alert(1)</script>",
    [],
    {},
    [[]],
    {"a": []},
    [None],
    True,
)


def changed(rng, plain):
    """Plain values with one of them, at any depth, replaced, left out or wrapped."""
    at = plain
    for _ in range(rng.randrange(4)):
        keys = list(at) if isinstance(at, dict) else range(len(at)) if isinstance(at, list) else ()
        if not keys:
            break
        key = rng.choice(list(keys))
        if isinstance(at[key], dict | list) and at[key] and rng.random() < 0.6:
            at = at[key]
            continue
        if rng.random() < 0.2 and isinstance(at, dict):
            del at[key]
        else:
            at[key] = rng.choice(ODD)
        break
    return plain


def result(rng, folder, saved):
    """A result with other fields, other shapes, other types, or other bytes."""
    import xarray as xr

    path = folder / "r.nc"
    source = rng.choice(saved)
    kind = rng.randrange(6)
    if kind == 0:
        path.write_bytes(damaged(rng, source.read_bytes()))
        return path
    if kind == 1:
        content = source.read_bytes()
        others = (b"CDF\1" + bytes(64), gzip.compress(content), b"\x89HDF\r\n\x1a\n", b"")
        path.write_bytes(rng.choice((content[: rng.randrange(len(content))], *others)))
        return path
    with xr.open_dataset(source, engine="scipy") as opened:
        data = opened.load()
    del data.attrs["sha256"]  # else nothing but the checksum would be tried
    try:
        altered(rng, data, kind).to_netcdf(path, engine="scipy")
    except Exception:
        # Not everything can be written.
        path.write_bytes(b"CDF\1" + bytes(rng.randrange(100)))
    return path


def altered(rng, data, kind):
    """A data set with other fields (2, 3), arrays (4) or attributes (5)."""
    names = [str(name) for name in data.data_vars]
    name = rng.choice(names)
    if kind == 2:
        data.attrs["fields"] = json.dumps(changed(rng, json.loads(data.attrs["fields"])))
    elif kind == 3:
        data.attrs["fields"] = rng.choice(("[" * 10**5, "{}", "[]", "null", "9" * 10**5, "", '{"a":' * 10**4, "\x00"))
    elif kind == 4 and rng.random() < 0.3:
        return data.drop_vars(name)
    elif kind == 4:
        array = data[name]
        sizes = [rng.choice((1, n, n + 1)) for n in array.shape] + [2] * rng.choice((0, 0, 1))
        odd = np.zeros(sizes, rng.choice(("f8", "i4", "f4", "S1")))
        if rng.random() < 0.5:
            odd = array.values.astype(rng.choice(("f8", "i4", "f4"))) * rng.choice((-1, float("nan"), 1))
        dims = [array.dims[i] if i < array.ndim and rng.random() < 0.7 else f"d{i}" for i in range(odd.ndim)]
        return data.drop_vars(name if rng.random() < 0.8 else names).assign({name: (dims, odd)})
    elif rng.random() < 0.5:
        del data.attrs[rng.choice(("sharpness_result", "fields"))]
    else:
        odd = rng.choice((1, [1.0, 2.0], "MeasureResult", "LineResult", "PlaneResult", "\x1b[2J", "a" * 10**5))
        data.attrs[rng.choice(("sharpness_result", "fields", "trainings"))] = odd
        mark, value = rng.choice(
            (("scale_factor", 0.0), ("_FillValue", 1e300), ("units", "days since 1"), ("dtype", "bool"))
        )
        data[name].attrs[mark] = value
    return data
