"""Files of weights: archives, old pickles and safetensors, with headers that lie."""

import io
import json
import pickle
import struct
import zipfile

from programs import doubled, program, text, value


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
