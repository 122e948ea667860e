"""Pickles that are programs: calls of what could do harm, numbers that take memory, values that unfold without end."""

import pickle
import struct

CANARY = "canary"
"""What a payload makes in the working directory, if it runs."""


def text(value):
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(n):
    return pickle.dumps(n, 2)[2:-1]


GLOBALS = (
    b"cos\nmkdir\n", b"cposix\nsystem\n", b"cbuiltins\neval\n", b"c__builtin__\nexec\n", b"cbuiltins\ngetattr\n",
    b"ccollections\nOrderedDict\n", b"ccollections\nCounter\n", b"cbuiltins\nset\n", b"cbuiltins\nbytearray\n",
    b"cbuiltins\ncomplex\n", b"c_codecs\nencode\n", b"ctorch\nSize\n", b"ctorch\ndevice\n", b"ctorch\nFloatStorage\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n", b"ctorch\nfloat32\n",
    b"ctorch._tensor\n_rebuild_from_type_v2\n", b"ctorch\nTensor\n", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n",
    b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy._core.multiarray\nscalar\n", b"cargparse\nNamespace\n",
    b"cmine\nConfig\n", b"cmine\nConfig\n", b"cpathlib\nPosixPath\n", b"cfunctools\npartial\n", b"c__main__\nNet\n",
    b"ctorch.nn.modules.linear\nLinear\n",
)  # fmt: skip
INSTRUCTIONS = tuple(bytes([c]) for c in b"(.0123NQRbde})]lorstu2\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94a")
TEXTS = ("latin1", "_metadata", "storage", "0", "cpu", CANARY, "__class__", "keys", "f8", "i4", "O", "\x1b[2J\u202e",
         "_parameters", "_buffers", "_modules")  # fmt: skip
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
