"""Files of data: arrays, CIFAR's pickles, images, lists of them, and counts."""

import gzip
import io
import os
import pickle
import struct
import zipfile
import zlib

import numpy as np
from archives import damaged, two_directories
from programs import GLOBALS, doubled, number, program, text, value


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
        odd = (
            b"x.png -1", b"x.png " + b"9" * 5000, b"\xff\xfe", b"/etc/passwd 0", b"pipe 1", b"zero 1", b"folder 1",
            b"x.png \xc2\xb2", b"a\0b 1", b"\x1b[2J\xe2\x80\xae", b"y\x1b[2J.png 1", b"x.png", b"0 x.png 1.5",
        )  # fmt: skip
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
    odd = (
        "[" * 10**5, '{"a":' * 10**5, "[1e400, 2]", "[" + "9" * 10**6 + "]", "[" + "9" * 400 + "]", "[NaN]", "{}", "[]",
        '"a"', "[1, true]", '{"\\u001b[2J": 1}', "[1, 2", "[-1]", "[1.5]", "[" + "1," * 10**6 + "1]", "[5, 2]",
    )  # fmt: skip
    path.write_text(rng.choice(odd))
    return path
