"""Hostile files, one for every seed: what a mind without mercy, or a bad disk, makes of the files that are read here.

Each kind starts from what a good file holds and changes it where a reader has to decide something. Nothing here knows
what the readers check.
"""

import gzip
import io
import json
import os
import pickle
import random
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

CANARY = "canary"
"""What a payload makes in the working directory, if it runs."""


def text(value):
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(n):
    return pickle.dumps(n, 2)[2:-1]


# Pickles ---------------------------------------------------------------------------------------------------------------

GLOBALS = (
    b"cos\nmkdir\n", b"cposix\nsystem\n", b"cbuiltins\neval\n", b"c__builtin__\nexec\n", b"cbuiltins\ngetattr\n",
    b"ccollections\nOrderedDict\n", b"ccollections\nCounter\n", b"cbuiltins\nset\n", b"cbuiltins\nbytearray\n",
    b"cbuiltins\ncomplex\n", b"c_codecs\nencode\n", b"ctorch\nSize\n", b"ctorch\ndevice\n", b"ctorch\nFloatStorage\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n", b"ctorch\nfloat32\n",
    b"ctorch._tensor\n_rebuild_from_type_v2\n", b"ctorch\nTensor\n", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n",
    b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy._core.multiarray\nscalar\n", b"cargparse\nNamespace\n",
)  # fmt: skip
INSTRUCTIONS = tuple(bytes([c]) for c in b"(.0123NQRbde})]lorstu2\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94a")
TEXTS = ("latin1", "_metadata", "storage", "0", "cpu", CANARY, "__class__", "keys", "f8", "i4", "O", "\x1b[2J\u202e")
NUMBERS = (0, 1, -1, 2, 4, 255, 2**31 - 1, -(2**31), 2**62, 2**63, -(2**70), 10**100)


def doubled(rng):
    """A tuple that holds another twice, that holds another twice, and so on."""
    levels = rng.choice((3, 30, 60))
    return b"K\x01q\xc8" + b"".join(
        b"h" + bytes([200 + i % 50]) + b"h" + bytes([200 + i % 50]) + b"\x86q" + bytes([200 + (i + 1) % 50])
        for i in range(levels)
    )


def snippet(rng):
    """A few instructions."""
    kind = rng.randrange(12)
    if kind == 0:
        return rng.choice(GLOBALS)
    if kind == 1:
        return rng.choice(GLOBALS) + text(CANARY) + b"\x85R"
    if kind == 2:
        return text(rng.choice(TEXTS))
    if kind == 3:
        return number(rng.choice(NUMBERS))
    if kind == 4:
        return rng.choice((b"q", b"h")) + bytes([rng.randrange(4)])
    if kind == 5:
        return rng.choice((b"r", b"j")) + struct.pack("<I", rng.choice((0, 1, 2**20, 2**32 - 1)))
    if kind == 6:
        return doubled(rng)
    if kind == 7:
        return reference(rng) + b"Q"
    if kind == 8:
        return rng.choice((b"X", b"T", b"B", b"\x8b")) + struct.pack("<I", rng.choice((4, 2**20, 2**31 - 1))) + b"abcd"
    if kind == 9:
        return (
            rng.choice((b"\x8d", b"\x8e", b"\x96", b"\x95")) + struct.pack("<Q", rng.choice((3, 2**40, 2**63))) + b"abc"
        )
    if kind == 10:
        return rng.choice(GLOBALS[5:]) + b"(" + b"".join(value(rng) for _ in range(rng.randrange(4))) + b"tR"
    return rng.choice(INSTRUCTIONS)


def value(rng, depth=0):
    kind = rng.randrange(6 if depth < 3 else 3)
    if kind == 0:
        return number(rng.choice(NUMBERS))
    if kind == 1:
        return text(rng.choice(TEXTS))
    if kind == 2:
        return b"N"
    inside = b"".join(value(rng, depth + 1) for _ in range(2 * rng.randrange(3)))
    return (b"(" + inside + b"t", b"](" + inside + b"e", b"}(" + inside + b"u")[kind - 3]


def reference(rng):
    kind = rng.choice((b"Float", b"Half", b"Byte", b"Untyped", b"Odd"))
    return (
        b"(" + text("storage") + b"ctorch\n" + kind + b"Storage\n" + text(rng.choice("0019")) + text("cpu")
        + number(rng.choice((0, 1, 4, 5, *NUMBERS))) + b"t"
    )  # fmt: skip


def tensor(rng):
    """A tensor of sizes, strides and an offset that need not fit its storage."""
    sizes = [rng.choice((0, 1, 2, 4, *NUMBERS)) for _ in range(rng.choice((0, 1, 1, 2, 3, 70)))]
    strides = [rng.choice((0, 1, 2, -1, 2**62)) for _ in sizes[: rng.choice((None, None, None, 1))]]
    size, stride = (b"(" + b"".join(map(number, n)) + b"t" for n in (sizes, strides))
    made = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference(rng) + b"Q" + number(rng.choice((0, 0, 1, *NUMBERS))) + size
        + stride + b"\x89NtR"
    )  # fmt: skip
    return b"\x80\x02}" + text("weight") + made + b"s."


def program(rng):
    kind = rng.randrange(4)
    if kind == 0:
        return b"\x80\x02" + b"".join(snippet(rng) for _ in range(rng.randrange(1, 30))) + b"."
    if kind == 1:
        return b"\x80\x02" + value(rng) + b"."
    if kind == 2:
        repeated = (
            b"h\x00" * rng.choice((10, 10**4)) if rng.random() < 0.5 else b"cbuiltins\nbytearray\nh\x00\x85R" * 2000
        )
        big = b"B" + struct.pack("<I", 10**6) + bytes(10**6)
        return (
            b"\x80\x02" + rng.choice((big, text("a" * 10**6), doubled(rng), value(rng))) + b"q\x00](" + repeated + b"e."
        )
    return tensor(rng)


# Archives --------------------------------------------------------------------------------------------------------------


def archive(pickled, compression=zipfile.ZIP_STORED, folder="a"):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as written:
        for name, content in {
            "data.pkl": pickled,
            "byteorder": b"little",
            "data/0": bytes(16),
            "version": b"3\n",
        }.items():
            written.writestr(f"{folder}/{name}", content)
    return file.getvalue()


def legacy(rng, pickled):
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    start = b"".join(pickle.dumps(p, 2) for p in (0x1950A86A20F9469CFC6C, 1001, system))
    keys = rng.choice((b"\x80\x02](" + text("0") + b"e.", b"\x80\x02](" + doubled(rng) + b"e.", b"\x80\x02N."))
    return start + pickled + keys + rng.choice((b"", struct.pack("<q", 4) + bytes(16)))


def damaged(rng, content):
    """Bytes changed, cut, doubled or added, near signatures more often than elsewhere."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if not content:
            break
        marks = [i for mark in (b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6") for i in [content.find(mark)] if i >= 0]
        at = rng.choice(marks) + rng.randrange(46) if marks and rng.random() < 0.7 else rng.randrange(len(content))
        at = min(at, len(content) - 1)
        kind = rng.randrange(6)
        if kind < 3:
            content[at] = rng.choice((0, 1, 0x7F, 0xFF, content[at] ^ 1 << rng.randrange(8)))
        elif kind == 3:
            content[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 2**31, 2**32 - 1)))
        elif kind == 4:
            del content[at : at + rng.choice((1, 4, len(content)))]
        else:
            content[at:at] = rng.choice((bytes(1), bytes(64), content[at : at + 200]))
    return bytes(content)


def two_directories(rng, content):
    """A file with the directory of another before it, after it, or in its comment."""
    other = archive(b"\x80\x02}" + text("a") + b"K\x01s.", folder=rng.choice("ab"))
    kind = rng.randrange(5)
    if kind == 0:
        return content + other
    if kind == 1:
        return other[: other.find(b"PK\1\2")] + content
    if kind == 2:
        return content[:-2] + struct.pack("<H", min(len(other), 65535)) + other[:65535]
    if kind == 3:
        return rng.choice((b"#!/bin/sh\n", b"PK\3\4")) + content
    # The directory that the last bytes point to is not the one before them.
    end = other.find(b"PK\1\2")
    return other[:end] + content[content.find(b"PK\1\2") : content.find(b"PK\5\6")] + other[end:]


def checkpoint(rng, folder):
    path = folder / rng.choice(("a.pt", "a.pth.tar", "a.safetensors"))
    content = (archive if rng.random() < 0.7 else lambda p: legacy(rng, p))(program(rng))
    path.write_bytes(content)
    return path


def archives(rng, folder):
    good = archive(
        b"\x80\x02}" + text("w") + value(rng) + b"s.", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    )
    path = folder / "a.pt"
    path.write_bytes(two_directories(rng, good) if rng.random() < 0.4 else damaged(rng, good))
    return path


def safetensors(rng, folder):
    header = {"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}, "__metadata__": {"a": "b"}}
    odd = (None, -1, 2**70, [], {}, "F32", [2**40], [0, 2**50], [16, 0], {"a": 1}, "\x1b[2J", 1.5, [[1]])
    for _ in range(rng.randrange(3)):
        entry = rng.choice(list(header))
        if rng.random() < 0.3:
            header[entry] = rng.choice(odd)
        elif isinstance(header[entry], dict) and header[entry]:
            header[entry][rng.choice(list(header[entry]))] = rng.choice(odd)
    written = json.dumps(header).encode()
    if rng.random() < 0.2:
        written = rng.choice((b"{" * 10**5, b'{"a":' * 10**5, b"[" * 10**6, b"{" + b" " * 10**6 + b"}", b"{}"))
    length = rng.choice((len(written), len(written), len(written), 0, 2**40, 2**63, len(written) + 1))
    content = struct.pack("<Q", length) + written + bytes(16)
    path = folder / "a.safetensors"
    path.write_bytes(damaged(rng, content) if rng.random() < 0.3 else content)
    return path


# Data ------------------------------------------------------------------------------------------------------------------


def npz(rng, folder):
    path, n = folder / "a.npz", rng.choice((0, 3, 4))
    arrays = {
        "x": rng.choice(
            (np.zeros((n, 4, 4), np.uint8), np.zeros((n, 2)), np.zeros((n, 4, 4, 3), np.uint8), np.zeros(0))
        ),
        "y": rng.choice((np.arange(n), np.full(n, 10**9), np.full(n, -1), np.zeros(n), np.array(["a"] * n))),
    }
    if rng.random() < 0.2:
        arrays["x"] = rng.choice(
            (np.array([{}] * n), np.zeros(n, "V8"), np.zeros(n, "c16"), np.zeros(n, [("a", "f4")]))
        )
    (np.savez if rng.random() < 0.5 else np.savez_compressed)(path, **arrays)
    kind = rng.randrange(4)
    if kind == 0:
        path.write_bytes(damaged(rng, path.read_bytes()))
    elif kind == 1:
        path.write_bytes(two_directories(rng, path.read_bytes()))
    elif kind == 2:
        path.write_bytes(npz_of(rng))
    return path


def npz_of(rng):
    """Arrays whose headers claim other things than they hold."""
    shape = rng.choice(
        ("(2,)", "(10000000000,)", "(1,)*70", "(2,2", "(-1,)", "(0,4611686018427387904)", "(1e3,)", "(" * 5000)
    )
    descr = rng.choice(("'|u1'", "'|O'", "'<f8'", "[('a','<f4')]", "'<U2'", "'|V1000000000'", "'" + "a" * 5000 + "'"))
    header = f"{{'descr': {descr}, 'fortran_order': {rng.choice(('False', '3'))}, 'shape': {shape}, }}".encode()
    length = rng.choice((len(header), len(header), 65535))
    good = b"\x93NUMPY\1\0\x3e\0" + b"{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }".ljust(62)
    content = b"\x93NUMPY\1\0" + struct.pack("<H", min(length, 65535)) + header + bytes(rng.choice((2, 16, 10**8)))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as written:
        written.writestr("x.npy", content)
        written.writestr("y.npy", good + bytes(16))
    return file.getvalue()


def cifar(rng, folder):
    """Folders of CIFAR-10 whose files are programs."""
    inside = folder / "cifar-10-batches-py"
    inside.mkdir(exist_ok=True)
    rows = pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1], b"batch_label": b"a"}, 2)
    names = pickle.dumps({b"label_names": [b"a"] * 10}, 2)
    for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
        (inside / name).write_bytes(rows)
    (inside / "batches.meta").write_bytes(names)
    target = inside / rng.choice(("data_batch_1", "batches.meta"))
    kind = rng.randrange(4)
    content = program(rng) if kind < 2 else damaged(rng, target.read_bytes())
    if kind == 3:
        odd = (number(2**60), value(rng), doubled(rng), b"\x80\x04K\x01r\xff\xff\xff\xff", rng.choice(GLOBALS))
        content = b"\x80\x02}(" + text("data") + rng.choice(odd) + text("labels") + rng.choice(odd) + b"u."
    target.write_bytes(content)
    return folder


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


def png(width, height, depth=8, colour=0, rows=None):
    """A PNG that claims a size; without ``rows``, of so many black ones."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    each = 1 + (width * depth * (1, 0, 3, 1, 2, 0, 4)[colour] + 7) // 8
    packed = zlib.compress(bytes(each * (height if rows is None else rows)))
    head = struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(6)) if colour == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def picture(rng, folder):
    from PIL import Image

    inside = folder / rng.choice(("images/a", "images/\x1b[2Jb", "images/<script>"))
    inside.mkdir(parents=True, exist_ok=True)
    kind = rng.randrange(8)
    path = inside / rng.choice(("x.png", "x.jpg", "x\n.gif", "x\x1b[31m.webp", "x.tif"))
    if kind == 0:
        path.write_bytes(
            rng.choice((POSTSCRIPT, b"SIMPLE  =                    T", b"%PDF-1.4\n", b"\x00\x00\x01\xba", b""))
        )
    elif kind == 1:
        path.write_bytes(png(*rng.choice(((1, 20000), (30000, 30000), (2**20, 2**20), (9000, 9000), (0, 5))), rows=1))
    elif kind == 2:
        size = rng.choice(((1, 20000), (20000, 2), (3000, 3000), (7000, 6000)))
        path.write_bytes(png(*size, depth=rng.choice((8, 16)), colour=rng.choice((0, 2, 4, 6))))
    else:
        mode = rng.choice(("L", "RGB", "RGBA", "P", "1", "LA", "CMYK", "I;16", "F"))
        size = rng.choice(((4, 4), (40, 3), (300, 200)))
        image = Image.new(mode, size)
        forms = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "EPS", "PCX", "ICO")
        file = io.BytesIO()
        for form in rng.sample(forms, len(forms)):
            try:
                more = {"save_all": True, "append_images": [image]} if form in ("GIF", "TIFF") else {}
                image.save(file, form, **more)
                break
            except (OSError, ValueError, KeyError):
                file = io.BytesIO()
        content = file.getvalue()
        path.write_bytes(content if kind < 5 else damaged(rng, content) if kind < 7 else content[: len(content) // 2])
    return folder / "images"


def listing(rng, folder):
    path = folder / rng.choice(("list.txt", "list.txt.gz"))
    (folder / "x.png").write_bytes(png(4, 4, colour=2))
    kind = rng.randrange(8)
    lines = [b"x.png 0\n"] * rng.choice((1, 3))
    if kind == 0:
        odd = (b"x.png -1", b"x.png " + b"9" * 5000, b"\xff\xfe", b"/etc/passwd 0", b"pipe 1", b"zero 1", b"folder 1",
               b"x.png \xc2\xb2", b"a\0b 1", b"\x1b[2J\xe2\x80\xae", b"y\x1b[2J.png 1", b"x.png", b"0 x.png 1.5")  # fmt: skip
        lines.append(rng.choice(odd) + b"\n")
    content = b"".join(lines)
    for name, make in (("pipe", os.mkfifo), ("folder", os.mkdir), ("zero", lambda p: os.symlink("/dev/zero", p))):
        if not os.path.lexists(folder / name):
            make(folder / name)
    if kind == 1:
        return folder / rng.choice(("pipe", "folder", "zero"))
    if kind == 2:
        content = rng.choice((b"x.png 0\n", b"a" * 100, b"\n")) * 1000
    if kind == 3:
        content = rng.choice((b"x.png 0\n", b"a" * 100, b"\n", b"\0")) * 10**7 if path.suffix == ".gz" else b"x.png 0\n"
    if kind == 4:
        content = damaged(rng, content)
    packed = gzip.compress(content, 1) if path.suffix == ".gz" else content
    path.write_bytes(damaged(rng, packed) if kind == 5 else packed)
    return path


def counts(rng, folder):
    path = folder / "counts.json"
    odd = ("[" * 10**5, '{"a":' * 10**5, "[1e400, 2]", "[" + "9" * 10**6 + "]", "[" + "9" * 400 + "]", "[NaN]", "{}", "[]",
           '"a"', "[1, true]", '{"\\u001b[2J": 1}', "[1, 2", "[-1]", "[1.5]", "[" + "1," * 10**6 + "1]")  # fmt: skip
    path.write_text(rng.choice(odd))
    return path


# Results ---------------------------------------------------------------------------------------------------------------

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


KINDS = {
    "checkpoint": checkpoint, "archive": archives, "safetensors": safetensors, "npz": npz, "cifar": cifar,
    "picture": picture, "listing": listing, "counts": counts, "result": result,
}  # fmt: skip


def generate(seed, folder, saved):
    """The kind and the path of one hostile file, made below ``folder``; ``saved`` are good results to start from."""
    rng = random.Random(seed)
    kind = list(KINDS)[seed % len(KINDS)]
    folder = Path(folder) / f"{seed}"
    folder.mkdir(parents=True)
    more = (saved,) if kind == "result" else ()
    return kind, KINDS[kind](rng, folder, *more)
