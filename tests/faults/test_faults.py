"""Kills, refusals of the system and damaged files at every write of every long command: each ends with the bytes of a
command that nobody disturbed, or in one line.

A command runs in a fork of this process, which has loaded everything, and dies there for real: nothing is tidied up.
``FAULTS`` says how many faults are tried on each command.
"""

import errno
import importlib
import os
import random
import shutil
import sys
from pathlib import Path

import pytest

import sharpness
from sharpness.cli import main
from sharpness.data import load_data
from sharpness.probes.shared import work

FAULTS = int(os.environ.get("FAULTS", "3"))
KINDS = ("killed before", "killed after", "full", "read-only", "truncated", "altered")
QUICK = ("--limit-per-class", "2")
COMMANDS = {
    "train": ("train", "--method", "mislas", "--data", "digits-lt", "--epochs", "2", "--snapshots", "1", "--resume",
              "--out", "out"),
    "landscape": ("landscape", "run", *QUICK, "--plane", "3", "--line", "3", "--adaptive", "0", "--out", "out"),
    "spectrum": ("spectrum", "run", *QUICK, "--per-group", "--parameters", "classifier", "-o", "out.nc"),
    "measure": ("measure", "run", *QUICK, "--parameters", "classifier", "-o", "out.csv"),
    "figures": ("figures", "--data", "digits-lt", "--methods", "ce", "--seeds", "0", "--epochs", "1", *QUICK, "--plane",
                "3", "--jobs", "1", "--out", "out", "--runs", "runs"),
    "flattening": ("figures", "--study", "flattening", "--data", "digits-lt", "--methods", "ce", "--operations",
                   "none,swa", "--seeds", "0", "--epochs", "1", *QUICK, "--jobs", "1", "--out", "out",
                   "--runs", "runs"),
    "microbenchmark": ("figures", "--study", "microbenchmark", "--data", "digits-lt", "--seeds", "0", "--epochs", "1",
                       *QUICK, "--jobs", "1", "--out", "out", "--runs", "runs"),
}  # fmt: skip


#: Faults of writing do not hang on the size of a network, nor on what is in a picture.
pytestmark = pytest.mark.usefixtures("shallow_resnet8", "blank_pictures")


@pytest.fixture(scope="module")
def run(tmp_path_factory, shallow_resnet8):
    for loaded in ("sharpness.plots", "sharpness.probes", "sharpness.studies", "scipy.stats"):
        importlib.import_module(loaded)  # each fork would do it again
    out = tmp_path_factory.mktemp("trained") / "run"
    sharpness.train("ce", load_data("digits-lt"), out, epochs=1)
    return out


def child(folder, arguments, fault=None, at=0):
    """The exit code of a command in a fork, and what it said; ``fault`` happens at write number ``at``."""
    process = os.fork()
    if process == 0:
        try:
            os.chdir(folder)
            for stream, name in ((1, "stdout"), (2, "stderr")):
                os.dup2(os.open(folder.parent / f"{folder.name}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
            sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
            work.INTERVAL = 0
            replace, calls = os.replace, []

            def faulty(source, target):
                calls.append(1)
                if len(calls) == at and fault in ("full", "read-only"):
                    number = errno.ENOSPC if fault == "full" else errno.EROFS
                    raise OSError(number, os.strerror(number))
                if len(calls) == at and fault == "killed before":
                    os._exit(9)
                replace(source, target)
                if len(calls) == at and fault:
                    os._exit(9)

            os.replace = faulty
            code = main(list(arguments))
            (folder.parent / f"{folder.name}.writes").write_text(str(len(calls)))
            os._exit(code)
        except BaseException:
            import traceback

            os.write(2, traceback.format_exc().encode())
            os._exit(70)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), (folder.parent / f"{folder.name}.stderr").read_text()


def outcome(folder):
    """All files that a command leaves, but pictures, which are made of the numbers in them."""
    files = (
        p
        for p in folder.rglob("*")
        if p.is_file() and p.suffix not in (".pdf", ".png") and folder / "run" not in p.parents
    )
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def begin(folder, run):
    folder.mkdir()
    shutil.copytree(run, folder / "run")
    return folder


def damage(folder, kind, draw):
    """Cut or alter one of the files that the killed command has left; its name."""
    left = sorted(p for p in folder.rglob("*") if p.is_file() and folder / "run" not in p.parents and p.stat().st_size)
    if not left:
        return None
    path = draw.choice(left)
    content = bytearray(path.read_bytes())
    at = draw.randrange(len(content))
    if kind == "truncated":
        content = content[:at]
    else:
        content[at] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    return str(path.relative_to(folder))


def required(code, told, arguments):
    assert code in (0, 2), told
    assert "Traceback" not in told, told
    if code == 2:
        assert told.splitlines()[-1].startswith("sharpness: "), told


@pytest.mark.parametrize("command", COMMANDS)
def test_every_accident_ends_as_if_nothing_had_been_or_in_one_line(command, run, tmp_path):
    study = COMMANDS[command][0] == "figures"
    if study and FAULTS < 100:
        pytest.skip("a study takes its time: make test-faults")
    arguments = COMMANDS[command]
    whole = begin(tmp_path / "whole", run)
    code, told = child(whole, arguments)
    assert code == 0, told
    expected, writes = outcome(whole), int(Path(tmp_path / "whole.writes").read_text())
    draw = random.Random(command)
    for trial in range(-(-FAULTS // 3) if study else FAULTS):
        kind = KINDS[trial % len(KINDS)] if len(KINDS) <= FAULTS else draw.choice(KINDS)
        at = draw.randint(1, writes)
        where = f"{command}, trial {trial}: {kind} at write {at} of {writes}"
        folder = begin(tmp_path / f"trial{trial}", run)
        code, told = child(folder, arguments, kind, at)
        if kind in ("full", "read-only"):
            required(code, told, arguments)
            assert not list(folder.rglob("*.part")), where
        else:
            assert code == 9, (where, told)
        damaged = damage(folder, kind, draw) if kind in ("truncated", "altered") else None
        code, told = child(folder, arguments)
        required(code, told, arguments)
        assert code == 0 or damaged, (where, told)
        if code == 0:
            found = outcome(folder)
            # Work whose mark was damaged is not known to be ours, and stays.
            assert found.keys() >= expected.keys(), where
            assert all(damaged and ".partial/" in name for name in found.keys() - expected.keys()), where
            different = [name for name in expected if found[name] != expected[name]]
            # What was finished is not made again; whoever reads a damaged file is told. Nothing else differs.
            assert set(different) <= {damaged}, (where, damaged, different)
        shutil.rmtree(folder)
