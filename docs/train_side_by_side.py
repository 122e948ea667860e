"""Train methods with several seeds in parallel, until all runs are done or the time is up.

python docs/train_side_by_side.py --runs runs/cifar10-lt [--methods ce,...] [--seeds 0,1,2] [--jobs 6]
                                  [--seconds 540] [-- OPTIONS OF sharpness train]

Every run is a process of ``sharpness train --resume`` in RUNS/METHOD/seed-N, where ``sharpness figures --runs RUNS``
looks for it. All methods are trained with the first seed, then with the second, so that finished runs can be compared.
A run that is cut short resumes from its last epoch in the next call. On a GPU, parallel runs only overlap if the
driver's multi-process service is on (``nvidia-cuda-mps-control -d``); without it they take turns.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

#: The longest trainings first, because the last one to end determines the total time.
METHODS = "m2m,gcl,cc-sam,mislas,ldam-drw,ce"


def start(method: str, seed: int, folder: Path, options: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a training in its own process, with its output in a file next to its folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "sharpness", "train", "--method", method, "--seed", str(seed)]
    with open(folder.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            [*command, "--out", str(folder), "--resume", *options], stdout=log, stderr=subprocess.STDOUT
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/cifar10-lt"))
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trainings at a time")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="then what runs is ended")
    parser.add_argument("options", nargs="*", help="of sharpness train, after --")
    given = parser.parse_args()
    begin = time.monotonic()
    waiting = [(m, int(s)) for s in given.seeds.split(",") for m in given.methods.split(",")]
    running: dict[tuple[str, int], tuple[subprocess.Popen[bytes], float]] = {}
    failed = 0
    while waiting or running:
        now = time.monotonic() - begin
        for run, (process, started) in list(running.items()):
            if (code := process.poll()) is not None:
                del running[run]
                failed += code != 0
                print(f"{now:6.1f} s  {run[0]} seed {run[1]}: {'done' if code == 0 else f'failed ({code})'} "
                      f"after {now - started:.1f} s", flush=True)  # fmt: skip
        if now > given.seconds:
            for run, (process, _) in running.items():
                process.terminate()
                print(f"{now:6.1f} s  {run[0]} seed {run[1]}: cut short", flush=True)
            return 1
        while waiting and len(running) < given.jobs:
            method, seed = run = waiting.pop(0)
            folder = given.runs / method / f"seed-{seed}"
            running[run] = start(method, seed, folder, given.options), now
        time.sleep(0.2)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
