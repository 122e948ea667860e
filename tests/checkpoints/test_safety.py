"""Files that anybody may have written: what is harmless is read as it was saved, all else gives one line and runs
nothing, and no file takes more memory than it has bytes."""

import argparse
import errno
import functools
import gzip
import importlib
import io
import json
import marshal
import operator
import os
import pickle
import pickletools
import re
import struct
import subprocess
import tarfile
import time
import timeit
import zipfile
from collections import Counter, OrderedDict, defaultdict
from datetime import date
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sharpness.checkpoints import read_safely
from sharpness.checkpoints.safety import LIMIT, PICKLE
from sharpness.errors import UserError
from sharpness.untrusted.machine import INSTRUCTIONS

SYS_INFO = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


class Call:
    """Pickled, it is a call of ``function``, perhaps of what another call returns."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments

    def __call__(self):
        raise AssertionError("only pickled")


def opens(canary):
    return f"open({str(canary)!r}, 'w').close()"


PAYLOADS = {
    "os.system": lambda c: Call(os.system, f"touch {c}"),
    "os.mkdir": lambda c: Call(os.mkdir, str(c)),
    "subprocess": lambda c: Call(subprocess.check_call, ["touch", str(c)]),
    "eval": lambda c: Call(eval, opens(c)),
    "exec": lambda c: Call(exec, opens(c)),
    "open": lambda c: Call(open, str(c), "w"),
    "getattr chain": lambda c: Call(Call(getattr, Call(__import__, "os"), "mkdir"), str(c)),
    "importlib": lambda c: Call(Call(getattr, Call(importlib.import_module, "os"), "mkdir"), str(c)),
    "functools.partial": lambda c: Call(functools.partial(os.mkdir, str(c))),
    "functools.reduce": lambda c: Call(functools.reduce, os.mkdir, [str(c), 0o700]),
    "operator": lambda c: Call(operator.methodcaller("touch"), Path(c)),
    "map": lambda c: Call(list, Call(map, os.mkdir, [str(c)])),
    "numpy.savetxt": lambda c: Call(np.savetxt, str(c), [1.0]),
    "numpy reduce": lambda c: Call(Call(getattr, Call(np.array, [1.0]), "tofile"), str(c)),
    "codecs": lambda c: Call(importlib.import_module("codecs").open, str(c), "w"),
    "torch.save": lambda c: Call(torch.save, 1, str(c)),
    "torch rebuild": lambda c: Call(torch._tensor._rebuild_from_type_v2, os.mkdir, torch.Tensor, (str(c),), {}),
    "timeit": lambda c: Call(timeit.timeit, opens(c), "pass", time.perf_counter, 1),
    "nested pickle": lambda c: Call(pickle.loads, pickle.dumps(Call(os.mkdir, str(c)))),
    "marshal": lambda c: Call(exec, Call(marshal.loads, marshal.dumps(code(c)))),
    "in a key": lambda c: {("a", Call(os.mkdir, str(c))): 1},
    "in metadata": lambda c: OrderedDict(weight=torch.Size([2]), state=[{"deep": (Call(os.mkdir, str(c)),)}]),
}


def code(canary):
    return compile(f"__import__('os').mkdir({str(canary)!r})", "hidden", "eval")


def archive(path, pickled, data=(), compression=zipfile.ZIP_STORED, **more):
    """A file as torch.save lays it out."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("a/data.pkl", pickled)
        file.writestr("a/byteorder", "little")
        for key, content in dict(data).items():
            file.writestr(f"a/data/{key}", content)
        for name, content in more.items():
            file.writestr(f"a/{name}", content)
        file.writestr("a/version", "3\n")


def legacy(path, pickled, keys=(), rest=b""):
    """A file as torch.save laid it out before 1.6."""
    magic = pickle.dumps(torch.serialization.MAGIC_NUMBER, 2) + pickle.dumps(1001, 2) + pickle.dumps(SYS_INFO, 2)
    path.write_bytes(magic + pickled + pickle.dumps(list(keys), 2) + rest)


CONTAINERS = {
    "archive": archive,
    "legacy": legacy,
    "plain pickle": lambda path, pickled: path.write_bytes(pickled),
}


def told(path, **options):
    """The one line in which a file is refused."""
    with pytest.raises(UserError) as caught:
        read_safely(path, **options)
    line = str(caught.value)
    assert line.startswith(f"cannot read {path}: ") and line.isprintable() and len(line) < len(str(path)) + 500
    return line


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_payload_runs(tmp_path, payload, container):
    path, canary = tmp_path / "evil.pt", tmp_path / "canary"
    CONTAINERS[container](path, pickle.dumps(PAYLOADS[payload](canary), 2))
    assert "nothing in it was run" in told(path) or payload == "torch rebuild"
    assert not canary.exists()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_every_payload_works_where_it_is_trusted(tmp_path, payload):
    canary = tmp_path / "canary"
    try:
        pickle.loads(pickle.dumps(PAYLOADS[payload](canary), 2))
    except Exception as error:
        assert not isinstance(error, pickle.UnpicklingError)
    assert canary.exists()


RAW = {
    "protocol 0 INST": lambda c: b"(S'" + str(c).encode() + b"'\nios\nmkdir\n.",
    "OBJ": lambda c: b"(cos\nmkdir\nX" + struct.pack("<I", len(str(c))) + str(c).encode() + b"o.",
    "names of Python 2": lambda c: b"\x80\x02c__builtin__\neval\nX" + text(opens(c)) + b"\x85R.",
    "protocol 4": lambda c: pickle.dumps(Call(os.mkdir, str(c)), 4),
    "protocol 5": lambda c: pickle.dumps({"a": [Call(os.mkdir, str(c))]}, 5),
    "name from the memo": lambda c: (
        b"\x80\x04\x8c\x02os\x94\x8c\x05mkdir\x94h\x00h\x01\x93X" + text(str(c)) + b"\x85R."
    ),
}


def text(value):
    return struct.pack("<I", len(value.encode())) + value.encode()


@pytest.mark.parametrize("name", RAW)
def test_no_spelling_of_a_call_runs(tmp_path, name):
    canary = tmp_path / "canary"
    archive(tmp_path / "evil.pt", RAW[name](canary))
    told(tmp_path / "evil.pt")
    assert not canary.exists()
    pickle.loads(RAW[name](canary))
    assert canary.exists()


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (eval, r"builtins\.eval \(can run any code\)"),
        (os.system, r"posix\.system \(can run any command\)"),
        (open, r"(io|_io)\.open \(can change any file\)"),
        (getattr, r"builtins\.getattr \(can reach any code\)"),
        (json.loads, r"json\.loads \(runs code of the module json\)"),
        (torch.nn.Linear, r"torch\.nn\.modules\.linear\.Linear \(builds a whole model"),
    ],
    ids=lambda f: getattr(f, "__name__", ""),
)
def test_a_refusal_names_the_global_and_what_it_could_do(tmp_path, function, names):
    archive(tmp_path / "evil.pt", pickle.dumps({"state": Call(function, 1)}, 2))
    with pytest.raises(UserError, match=names):
        read_safely(tmp_path / "evil.pt")


@pytest.mark.parametrize("kept", [slice(1), int, range(3), defaultdict(list), PurePosixPath("a"), date(2020, 1, 1)])
def test_harmless_things_are_not_called_dangerous(tmp_path, kept):
    archive(tmp_path / "odd.pt", pickle.dumps({"kept": kept}, 2))
    assert "is harmless, but no weights need it" in told(tmp_path / "odd.pt")


def test_names_in_the_memo_are_told_as_they_are(tmp_path):
    """Protocol 4 writes a module once and then refers to it."""
    archive(tmp_path / "a.pt", pickle.dumps([Call(os.mkdir, "x"), Call(os.rmdir, "x")], 4))
    assert "posix.mkdir" in (line := told(tmp_path / "a.pt")) and "posix.rmdir" in line
    torch.save({"a": np.float64(2), "b": np.arange(3)}, tmp_path / "a.pt", pickle_protocol=4)
    assert "which torch.save does not with its usual pickle_protocol, 2" in told(tmp_path / "a.pt")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_torchscript_is_told_as_such(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "a.pt")
    assert "is a TorchScript archive" in told(tmp_path / "a.pt")


@pytest.mark.parametrize("new", [True, False], ids=["archive", "legacy"])
def test_parsed_arguments_are_read_as_dicts(tmp_path, new):
    inner = argparse.Namespace(sizes=[1, 2], mean=np.float64(0.5))
    both = argparse.Namespace(lr=0.1, inner=inner, again=(inner, None), weight=torch.ones(2))
    torch.save({"args": both}, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    args = read_safely(tmp_path / "a.pt")["args"]
    assert type(args) is dict and torch.equal(args.pop("weight"), torch.ones(2))
    assert args == {"lr": 0.1, "inner": vars(inner), "again": (vars(inner), None)}


ODD_ARGUMENTS = {
    "called": b"cargparse\nNamespace\nK\x01\x85R.",
    "made with arguments": b"cargparse\nNamespace\nK\x01\x85\x81.",
    "filled with a list": b"cargparse\nNamespace\n)\x81]b.",
    "filled by number": b"cargparse\nNamespace\n)\x81}K\x01K\x02sb.",
    "another class": b"ccollections\nOrderedDict\n)\x81.",
}


@pytest.mark.parametrize("name", ODD_ARGUMENTS)
def test_odd_arguments_are_told(tmp_path, name):
    archive(tmp_path / "a.pt", b"\x80\x02" + ODD_ARGUMENTS[name])
    told(tmp_path / "a.pt")


def test_arguments_that_hold_themselves_are_read(tmp_path):
    args = argparse.Namespace()
    args.self = args
    torch.save({"args": args}, tmp_path / "a.pt")
    read = read_safely(tmp_path / "a.pt")["args"]
    assert read["self"] is read


def doubled(levels=60):
    """Tuples, each of which holds the one before it twice, one after the other."""
    steps = (b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(levels - 1))
    return b"K\x01q\0" + b"".join(steps)


KEYS = {
    "keys of a dict": b"}(" + doubled() + b"u.",
    "a key of a dict": b"(" + doubled() + b"t}h\x3bK\x01s.",
    "set": b"cbuiltins\nset\n](" + doubled() + b"e\x85R.",
    "counter": b"ccollections\nCounter\n](" + doubled() + b"e\x85R.",
    "ordered dict": b"(" + doubled() + b"tccollections\nOrderedDict\n]]h\x3baK\x01aa\x85R.",
}


@pytest.mark.parametrize("new", [True, False], ids=["archive", "legacy"])
@pytest.mark.parametrize("name", KEYS)
def test_keys_whose_hash_takes_for_ever_are_not_hashed(tmp_path, name, new):
    (archive if new else legacy)(tmp_path / "a.pt", b"\x80\x02" + KEYS[name])
    assert "uses tuples of tuples as keys" in told(tmp_path / "a.pt")


@pytest.mark.parametrize("new", [True, False], ids=["archive", "legacy"])
def test_values_that_unfold_without_end_are_told(tmp_path, new):
    """They could be read, but whatever prints or walks through them would not come back."""
    (archive if new else legacy)(tmp_path / "a.pt", b"\x80\x02]((" + doubled() + b"te.")
    assert "unfolds into far more than it holds" in told(tmp_path / "a.pt")
    (archive if new else legacy)(tmp_path / "a.pt", b"\x80\x02]((" + doubled(16) + b"te.")
    assert len(read_safely(tmp_path / "a.pt")[0]) == 16


def test_many_globals_are_counted(tmp_path):
    functions = [os.mkdir, os.rmdir, os.remove, os.chdir, os.link, os.stat]
    archive(tmp_path / "evil.pt", pickle.dumps([Call(f, "x") for f in functions], 2))
    assert "posix.mkdir" in (line := told(tmp_path / "evil.pt")) and "and 2 more" in line


def storage(kind, key, count):
    """Pickle of a reference to a storage."""
    return (
        b"(X" + text("storage") + b"ctorch\n" + kind.encode() + b"Storage\nX" + text(key) + b"X" + text("cpu")
        + pickle.dumps(count, 2)[2:-1] + b"t"
    )  # fmt: skip


def tensor(count, size, stride, offset=0, kind="Float", view=False):
    """Pickle of one tensor of a storage of ``count`` numbers."""
    reference = storage(kind, "0", count)
    reference = reference[:-1] + b"Nt" if view else reference
    size, stride = (b"(" + b"".join(pickle.dumps(n, 2)[2:-1] for n in t) + b"t" for t in (size, stride))
    at = pickle.dumps(offset, 2)[2:-1]
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + reference + b"Q" + at + size + stride + b"\x89NtR."


FOUR = {"0": struct.pack("<4f", 1, 2, 3, 4)}
HUGE = {
    "storage larger than its entry": lambda p: archive(p, tensor(10**10, (10**10,), (1,)), FOUR),
    "storage larger by one": lambda p: archive(p, tensor(5, (5,), (1,)), FOUR),
    "tensor outside its storage": lambda p: archive(p, tensor(4, (4,), (1,), offset=1), FOUR),
    "tensor expanded by strides": lambda p: archive(p, tensor(4, (10**6, 10**6), (0, 0)), FOUR),
    "empty tensor with a huge side": lambda p: archive(p, tensor(4, (0, 10**12), (0, 1)), FOUR),
    "negative size": lambda p: archive(p, tensor(4, (-4,), (1,)), FOUR),
    "negative stride": lambda p: archive(p, tensor(4, (4,), (-1,)), FOUR),
    "negative offset": lambda p: archive(p, tensor(4, (1,), (1,), offset=-2), FOUR),
    "size beyond 64 bits": lambda p: archive(p, tensor(2**70, (2**70,), (1,)), FOUR),
    "legacy storage larger than the file": lambda p: legacy(p, tensor(10**11, (4,), (1,), view=True), ["0"]),
    "legacy numbers missing": lambda p: legacy(p, tensor(4, (4,), (1,), view=True), ["0"], struct.pack("<q", 4)),
    "bytearray": lambda p: archive(p, pickle.dumps(Call(bytearray, 10**12), 2)),
    "bytearray of a gigabyte": lambda p: archive(p, pickle.dumps(Call(bytearray, 2**30), 2)),
    "torch.Tensor of a size": lambda p: archive(p, pickle.dumps(Call(torch.Tensor, 10**11), 2)),
    "FloatTensor of a size": lambda p: archive(p, b"\x80\x02ctorch\nFloatTensor\nJ\xff\xff\xff\x7f\x85R."),
    "UntypedStorage of a size": lambda p: archive(
        p, b"\x80\x02ctorch.storage\nUntypedStorage\nJ\xff\xff\xff\x7f\x85R."
    ),
    "ndarray of a shape": lambda p: archive(p, b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7ft\x85R."),
    "array larger than its bytes": lambda p: archive(p, big_array()),
    "text of 4 GB announced": lambda p: archive(p, b"\x80\x02X\xff\xff\xff\xff."),
    "bytearray of 2**60 announced": lambda p: archive(p, b"\x80\x05\x96" + struct.pack("<Q", 2**60) + b"."),
    "meta tensor": lambda p: archive(p, b"\x80\x02ctorch._utils\n_rebuild_meta_tensor_no_storage\n)R."),
    "compressed entries": lambda p: archive(p, pickle.dumps({}, 2), {"0": bytes(2**27)}, zipfile.ZIP_DEFLATED),
    "compressed pickle": lambda p: archive(p, pickle.dumps("a" * 2**27, 2), (), zipfile.ZIP_DEFLATED),
    "entries that overlap": lambda p: overlapping(p),
    "safetensors header of 2**40": lambda p: p.write_bytes(struct.pack("<Q", 2**40) + b"{" + bytes(100)),
    "safetensors tensor of 2**40": lambda p: safetensors(p, [2**40], [0, 2**42]),
    "millions of lists": lambda p: archive(p, b"\x80\x02" + b"]" * (PICKLE - 3) + b"."),
    "legacy millions of lists": lambda p: p.write_bytes(b"\x80\x02" + b"]" * (PICKLE - 3) + b"."),
    "long pickle": lambda p: archive(p, b"\x80\x02X" + text("a" * PICKLE) + b"."),
    "legacy long pickle": lambda p: p.write_bytes(b"\x80\x02X" + text("a" * PICKLE) + b"."),
    "name without end": lambda p: p.write_bytes(b"\x80\x02c" + b"a" * PICKLE),
    "nested lists": lambda p: archive(p, b"\x80\x02" + b"(" * 10**5 + b"l" * 10**5 + b"."),
}


@pytest.mark.parametrize("name", [name for name in HUGE if "millions" in name or "long pickle" in name])
def test_a_long_pickle_is_told_with_its_limit(tmp_path, name):
    HUGE[name](tmp_path / "huge.pt")
    assert re.search(r"holds a pickle of more than [\d,]+ (bytes|instructions)", told(tmp_path / "huge.pt"))


def test_the_state_of_an_optimizer_is_far_from_the_limits(tmp_path):
    """Adam's for a ResNet-152 with its 467 parameters takes under a tenth of either."""
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in range(467)]
    adam = torch.optim.AdamW(weights)
    sum(weights).backward()
    adam.step()
    torch.save({"model": dict(enumerate(weights)), "optimizer": adam.state_dict()}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as file:
        pickled = file.read("a/data.pkl")
    assert len(pickled) < PICKLE / 10 and sum(1 for _ in pickletools.genops(pickled)) < INSTRUCTIONS / 10
    assert read_safely(tmp_path / "a.pt").keys() == {"model", "optimizer"}


def big_array():
    array = pickle.dumps(np.arange(4), 2)
    return array.replace(b"K\x04\x85", b"J\xff\xff\xff\x7f\x85")


def overlapping(path):
    archive(path, pickle.dumps({}, 2), {"0": bytes(2**16)})
    with zipfile.ZipFile(path, "a") as file:
        whole = file.getinfo("a/data/0")
        for i in range(1000):
            again = zipfile.ZipInfo(f"a/data/{i + 1}")
            for name in ("header_offset", "compress_size", "file_size", "CRC", "external_attr"):
                setattr(again, name, getattr(whole, name))
            file.filelist.append(again)
            file.NameToInfo[again.filename] = again
        file._didModify = True


def safetensors(path, shape, offsets, kind="F32", more=b"\0\0\0\0"):
    header = json.dumps({"weight": {"dtype": kind, "shape": shape, "data_offsets": offsets}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + more)


@pytest.mark.parametrize("name", HUGE)
def test_what_claims_more_than_it_holds_is_told(tmp_path, name):
    HUGE[name](tmp_path / "huge.pt")
    told(tmp_path / "huge.pt")


READER = """
import resource, sys
from pathlib import Path
from sharpness.checkpoints import read_safely
from sharpness.errors import UserError
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read_safely(path)
        print("read", path.name)
    except UserError as error:
        print("told", path.name)
print("grown", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_no_file_takes_memory(forked, tmp_path):
    (folder := tmp_path / "files").mkdir()
    for name, write in HUGE.items():
        write(folder / name)
    archive(folder / "memo index", b"\x80\x02K\x01r\xff\xff\xff\xff.")
    *lines, grown = forked(READER, folder).end(timeout=120).splitlines()
    assert sorted(lines) == sorted([*(f"told {name}" for name in HUGE), "read memo index"])
    assert int(grown.split()[1]) < 120 * 1024, "kilobytes"


def whole(path):
    torch.save({"state_dict": {"weight": torch.arange(1000.0)}}, path)
    return path.read_bytes()


def truncated(share, old=False):
    def write(path):
        torch.save({"a": torch.arange(1000.0)}, path, _use_new_zipfile_serialization=not old)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])

    return write


def tar(path):
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as file:
        for name in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = 4
            file.addfile(member, io.BytesIO(b"\x80\x02N."))


def loop(path):
    path.symlink_to(path.with_name("other"))
    path.with_name("other").symlink_to(path)


def twice(path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive(path, pickle.dumps({}, 2), (), **{"data.pkl": pickle.dumps({}, 2)})


def objects(path):
    torch.save({"a": np.array([{}], dtype=object)}, path)


def set_again():
    """A tensor of four numbers that is then given others, as before PyTorch 0.4."""
    return tensor(4, (4,), (1,))[:-1] + b"(" + storage("Float", "0", 4) + b"QK\0J\xff\xff\xff\x7f\x85K\1\x85tb."


def another_method(path, kind=torch.Tensor):
    changed = kind(torch.ones(2))
    changed.clone = "no method"
    torch.save(changed, path)


BROKEN = {
    "missing": (lambda p: None, "no such file"),
    "folder": (lambda p: p.mkdir(), "is a folder"),
    "empty": (lambda p: p.touch(), "is empty"),
    "symlink loop": (loop, os.strerror(errno.ELOOP)),
    "dangling symlink": (lambda p: p.symlink_to("nowhere"), "no such file"),
    "fifo": (lambda p: os.mkfifo(p), "no regular file"),
    "text": (lambda p: p.write_text("epoch 1 accuracy 0.5\n"), "is no checkpoint: it starts like text"),
    "noise": (lambda p: p.write_bytes(b"\xfe" * 1000), "is no checkpoint"),
    "web page": (lambda p: p.write_text("\n<!DOCTYPE html><html>"), "is a web page"),
    "lfs pointer": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "gzip": (lambda p: p.write_bytes(gzip.compress(b"a" * 100)), "gzip"),
    "hdf5": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)), "HDF5"),
    "npy": (lambda p: p.write_bytes(b"\x93NUMPY\1\0" + bytes(100)), "is a NumPy array"),
    "tar": (tar, "tar format"),
    "zip of something else": (lambda p: np.savez(p.open("wb"), a=1), "is an archive, and not one of torch.save"),
    "TorchScript": (lambda p: archive(p, pickle.dumps({}, 2), **{"constants.pkl": b"x"}), "TorchScript"),
    "two pickles": (twice, "two entries of one name"),
    "plain pickle": (lambda p: p.write_bytes(pickle.dumps({"a": 1}, 2)), "is a pickle, but not of torch.save"),
    "only a zip signature": (lambda p: p.write_bytes(b"PK\3\4"), "is it whole"),
    "storage missing": (lambda p: archive(p, tensor(4, (4,), (1,))), "lacks the numbers of storage 0"),
    "unknown reference": (lambda p: archive(p, b"\x80\x02X" + text("module") + b"\x85Q."), "unknown reference"),
    "unknown opcode": (lambda p: archive(p, b"\x80\x02\xff."), "is it whole"),
    "stack underflow": (lambda p: archive(p, b"\x80\x02R."), "is it whole"),
    "memo of nothing": (lambda p: archive(p, b"\x80\x02h\x07."), "is it whole"),
    "extension registry": (lambda p: archive(p, b"\x80\x02\x82\x01."), "extension registry"),
    "array of objects": (objects, "arrays of"),
    "tensor set to other numbers": (lambda p: archive(p, set_again(), FOUR), "fills in a Rebuilt"),
    "parameter with another method": (lambda p: another_method(p, torch.nn.Parameter), "tensor's own attributes"),
    "tensor with another method": (another_method, "tensor's own attributes"),
    "whole model": (lambda p: torch.save(torch.nn.Linear(2, 2), p), "builds a whole model"),
    "terminal codes": (lambda p: archive(p, b"\x80\x02c\x1b[2J\nx\n."), "runs code of the module"),
    "state of a class": (lambda p: archive(p, b"\x80\x02cnumpy\ndtype\n}b."), "is it whole|fills in"),
    **{f"truncated to {s:.0%}": (truncated(s), "is it whole") for s in (0.02, 0.3, 0.6, 0.9, 0.999)},
    **{f"legacy truncated to {s:.0%}": (truncated(s, True), "is it whole") for s in (0.001, 0.01, 0.05, 0.5, 0.99)},
    "safetensors cut": (lambda p: safetensors(p, [1], [0, 4], more=b"\0"), "is it whole"),
    "safetensors overlong": (lambda p: safetensors(p, [1], [0, 4], more=bytes(99)), "is it whole"),
    "safetensors shape": (lambda p: safetensors(p, [3], [0, 4]), "is it whole"),
    "safetensors dtype": (lambda p: safetensors(p, [1], [0, 4], "X9"), "is it whole"),
    "safetensors no JSON": (lambda p: p.write_bytes(struct.pack("<Q", 5) + b"{abc}"), "is it whole"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_told(tmp_path, name):
    write, message = BROKEN[name]
    write(tmp_path / "broken.pt")
    with pytest.raises(UserError, match=message):
        read_safely(tmp_path / "broken.pt")
    told(tmp_path / "broken.pt")


def test_permission_is_told(tmp_path, monkeypatch):
    whole(path := tmp_path / "a.pt")
    path.chmod(0)
    if os.access(path, os.R_OK):

        def denied(*args):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

        monkeypatch.setattr("os.open", denied)
    assert os.strerror(errno.EACCES) in told(path)


def test_the_size_limit_is_stated(tmp_path):
    content = whole(path := tmp_path / "a.pt")
    assert f"{len(content):,} bytes and the limit is {len(content) - 1:,}" in told(path, limit=len(content) - 1)
    assert read_safely(path, limit=len(content)).keys() == {"state_dict"}
    assert f"the limit is {LIMIT:,}" in told(sparse(tmp_path / "sparse.pt"))


def sparse(path):
    with path.open("wb") as file:
        file.truncate(LIMIT + 1)
    return path


PLAIN = {
    "numbers": [1, -2, 2.5, 1j, 2**80, None, True, "text", ("a", {}), set(), {1}],
    "ordered": OrderedDict(a=1),
    "milestones": Counter({30: 1}),
    "bytes": b"\xff\x00a",
    "size": torch.Size([2, 3]),
    "device": torch.device("cpu"),
    "dtype": torch.bfloat16,
}
TENSORS = {
    "float": torch.arange(6.0).view(2, 3),
    "transposed": torch.arange(6.0).view(2, 3).T,
    "half": torch.ones(3, dtype=torch.half),
    "bfloat16": torch.ones(3, dtype=torch.bfloat16),
    "double": torch.rand(2, dtype=torch.double),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(3),
    "empty": torch.zeros(0, 3),
    "slice": torch.arange(10)[3:7],
    "expanded": torch.tensor([2.0]).expand(4, 5),
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "marked": torch.ones(2),
}
TENSORS["parameter"].no_weight_decay = TENSORS["marked"].no_weight_decay = True


@pytest.mark.parametrize("new", [True, False], ids=["archive", "legacy"])
def test_what_is_harmless_is_read_as_it_was_saved(tmp_path, new):
    torch.save({"plain": PLAIN, **TENSORS}, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    read = read_safely(tmp_path / "a.pt")
    assert read.pop("plain") == PLAIN
    assert read.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert read[name].dtype == value.dtype and type(read[name]) is type(value) and torch.equal(read[name], value)


@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("new", [True, False], ids=["archive", "legacy"])
def test_numpy_values_are_read_under_both_names(tmp_path, module, new):
    values = {
        "float64": np.float64(0.25), "float32": np.float32(1.5), "int": np.int64(-3), "bool": np.bool_(True),
        "text": np.str_("name"), "array": np.arange(6).reshape(2, 3), "fortran": np.asfortranarray(np.eye(3)[:2]),
        "big endian": np.arange(3, dtype=">i4"), "names": np.array(["a", "long"]), "empty": np.zeros((0, 2)),
    }  # fmt: skip
    kept = pickle.dumps(values, 2)
    renamed = kept.replace(b"numpy._core.multiarray", f"{module}.multiarray".encode())
    (archive if new else legacy)(tmp_path / "a.pt", renamed)
    read = read_safely(tmp_path / "a.pt")
    assert read.keys() == values.keys()
    for name, value in values.items():
        assert np.array_equal(read[name], value) and np.shape(read[name]) == np.shape(value)
        assert isinstance(read[name], np.ndarray) == isinstance(value, np.ndarray)


def test_nothing_is_allowed_beyond_the_call(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    torch.save({"its_ece": np.float64(0.1)}, tmp_path / "a.pt")
    assert read_safely(tmp_path / "a.pt") == {"its_ece": 0.1}
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_large_archive_is_mapped_and_reads_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("sharpness.checkpoints.safety.MAPPED", 0)
    torch.save(TENSORS, tmp_path / "a.pt")
    read = read_safely(tmp_path / "a.pt")
    assert all(torch.equal(read[name], value) for name, value in TENSORS.items())


def test_safetensors_are_a_flat_dict_with_metadata(tmp_path):
    tensors = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2, dtype=torch.bfloat16)}
    for metadata in ({"epoch": "3"}, None):
        save_file(tensors, path := tmp_path / "model.safetensors", metadata)
        read = read_safely(path)
        assert isinstance(read, dict) and read.metadata == (metadata or {})
        assert read.keys() == tensors.keys() and all(torch.equal(read[k], tensors[k]) for k in tensors)


def test_one_altered_bit_of_the_numbers_is_noticed_by_the_checksum(tmp_path):
    weights = {"a": torch.arange(50.0), "b": torch.ones(7)}
    torch.save(weights, tmp_path / "a.pt")
    content = bytearray((tmp_path / "a.pt").read_bytes())
    content[content.find(weights["a"].numpy().tobytes()) + 83] ^= 64
    (tmp_path / "altered.pt").write_bytes(content)
    with pytest.raises(UserError, match="is damaged: .*data/0 has another checksum than it was written with"):
        read_safely(tmp_path / "altered.pt")
    if hasattr(torch.serialization, "set_crc32_options"):
        torch.serialization.set_crc32_options(False)
        try:
            torch.save(weights, tmp_path / "unsummed.pt")
        finally:
            torch.serialization.set_crc32_options(True)
        assert torch.equal(read_safely(tmp_path / "unsummed.pt")["a"], weights["a"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda p: p.write_text('{"weight_map": {}}'),
            "is JSON, .*: .* or their index, a file NAME.json",
        ),
        (lambda p: torch.save({"a": 1}, p, pickle_protocol=4), r"save it again, torch\.save\(content, PATH\)"),
        (lambda p: zipfile.ZipFile(p, "w").writestr("in/model.pt", b"x"), "archive of checkpoints: unpack it first"),
        (lambda p: np.savez(p.open("wb"), w=np.ones(2)), "not one of torch.save: save the weights alone"),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_what_to_do(tmp_path, make, message):
    make(tmp_path / "a.pt")
    with pytest.raises(UserError, match=message):
        read_safely(tmp_path / "a.pt")
