"""Reads hostile files, one after the other, in a process that is started once; prints a line of JSON for each.

Usage: worker.py FOLDER FIRST LAST STEP
"""

import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from data_files import png
from generate import generate
from programs import CANARY

import sharpness
from sharpness.checkpoints import load_checkpoint, read_safely
from sharpness.data import read_images
from sharpness.data.cifar import load_cifar_lt
from sharpness.errors import UserError

SECONDS = 10
MEGABYTES = 512

#: What no reader does; a find_class is that of the C unpickler, which nobody here uses.
FORBIDDEN = (
    "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.mkdir",
    "os.remove", "os.rename", "os.chmod", "shutil.rmtree", "socket.connect", "pickle.find_class", "ctypes.dlopen",
)  # fmt: skip


class Acted(BaseException):
    """Something of the file ran."""


class Slow(BaseException):
    """A file took too long."""


class Guard:
    """Watches what Python does while it is on."""

    on = False

    def __call__(self, event, arguments):
        written = (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        )
        if self.on and (event in FORBIDDEN or written):
            self.on = False
            raise Acted(event)


def stop(number, frame):
    raise Slow


def read(kind, path):
    """Read a file as a user would, and look at what was read."""
    if kind in ("checkpoint", "archive", "safetensors"):
        with contextlib.suppress(UserError):
            read_safely(path)
        read_safely(path, foreign=True)
        load_checkpoint(path)
    elif kind == "cifar":
        repr(load_cifar_lt("cifar10", path))
    elif kind == "counts":
        read_images((torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])), train_counts=path)
    elif kind == "result":
        found = sharpness.load_result(path)
        found.to_frame()
        repr(found)
        assert "<script" not in found._repr_html_()
    else:
        size = None if path.suffix == ".npz" else 8
        repr(read_images(path, size=size, mean=(0,) * 3, std=(1,) * 3))


def good_results(folder):
    """Results to start from, of every kind that is quick."""
    torch.manual_seed(0)
    x, y = torch.randn(12, 3), torch.tensor([0] * 6 + [1] * 4 + [2] * 2)
    objective = sharpness.Objective(
        nn.Linear(3, 3), (x, y), groups={"many": (0,), "few": (1, 2)}, class_names=("cat", "dog", "ox")
    )
    made = {
        "line": sharpness.line(objective, (-1, 1, 5)),
        "plane": sharpness.plane(objective, (-1, 1, 3), (-1, 1, 4)),
        "measure": sharpness.measure(objective, ["loss", "random_rise"]),
        "eigenvalues": sharpness.eigenvalues(objective, 1, "both", per_class=True),
        "layers": sharpness.eigenvalues(objective, per_layer=True, per_class=True),
        "density": sharpness.spectral_density(objective, draws=2, steps=4),
        "perturbation": sharpness.random_perturbation(objective, (0.1, 0.2), 3),
        "radius": sharpness.characteristic_radius(objective, (30, 9, 1), steps=2),
    }
    return [result.save(folder / f"{name}.nc") for name, result in made.items()]


def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main(folder, *numbers):
    folder, (first, last, step) = Path(folder), map(int, numbers)
    saved = good_results(folder / "saved")
    # What is imported or made at the first use of a reader is no file's doing.
    torch.save({"weight": torch.ones(1)}, folder / "w.pt")
    read_safely(folder / "w.pt")
    (folder / "warm" / "a").mkdir(parents=True)
    (folder / "warm" / "a" / "x.png").write_bytes(png(9, 9, colour=2))
    read("picture", folder / "warm")
    for result in saved:
        read("result", result)
    guard = Guard()
    sys.addaudithook(guard)
    signal.signal(signal.SIGALRM, stop)
    os.chdir(folder)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2 * MEGABYTES * 2**20, resource.RLIM_INFINITY))
    for seed in range(first, last, step):
        kind, path = generate(seed, folder / "files", saved)
        told, before, started = "", memory(), time.process_time()
        signal.alarm(6 * SECONDS)
        guard.on = True
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(kind, path)
            end = "read"
        except UserError as error:
            end, told = "told", str(error)
        except (Exception, Acted, Slow) as error:
            where = error.__traceback__
            while where.tb_next is not None:
                where = where.tb_next
            end, told = type(error).__name__, f"{error!s:.200} at {where.tb_frame.f_code.co_filename}:{where.tb_lineno}"
        guard.on = False
        signal.alarm(0)
        print(json.dumps({
            "seed": seed, "kind": kind, "end": end, "told": told.replace(str(path), "FILE").replace(str(folder), ""),
            "seconds": round(time.process_time() - started, 2), "megabytes": memory() - before,
            "ran": CANARY if Path(CANARY).exists() or (path.parent / CANARY).exists() else "",
        }), flush=True)  # fmt: skip
        shutil.rmtree(folder / "files" / f"{seed}", ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:5])
