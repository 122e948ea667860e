"""Images per second of a training shared by several processes, compared with one single-threaded process.

Both train the same recipe on the same shards, one after the other, with one thread per process:

    python benchmarks/processes.py --processes 2

Times are wall-clock times from the second epoch on. If other work uses the cores, the CPU times, which are also
printed, are more meaningful: their sum over processes should hardly grow.
"""

from __future__ import annotations

import argparse
import os
import socket
import tempfile
import time

import torch
import torch.multiprocessing as multiprocessing

import sharpness
from sharpness.engine import distributed
from sharpness.training import loop


def measured(rank: int, processes: int, port: int, given: argparse.Namespace, folder: str) -> None:
    """Train in one of the processes, and store the seconds of its epochs."""
    torch.set_num_threads(1)
    if processes > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
                       "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    original, seconds = loop.run_epoch, []

    def timed(*arguments):
        begin = time.perf_counter(), time.process_time()
        value = original(*arguments)
        seconds.append([time.perf_counter() - begin[0], time.process_time() - begin[1]])
        return value

    loop.run_epoch = timed
    data = sharpness.load_data(given.data)
    sharpness.train(
        given.method, data, f"{folder}/run-{processes}", epochs=given.epochs + 1, model=given.model, device="cpu",
        precision="float32", batch_size=given.batch_size, shards=given.shards or given.processes, test_every=10**6,
    )  # fmt: skip
    torch.save(torch.tensor(seconds[1:]), f"{folder}/{processes}-{rank}.pt")
    distributed.stop()


def main() -> None:
    """Print a line for one process and one for several, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--method", default="ce")
    parser.add_argument("--data", default="digits-lt")
    parser.add_argument("--model", default="resnet32")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--shards", type=int)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    images = given.epochs * len(sharpness.load_data(given.data).train)
    rates: dict[int, list[float]] = {1: [], given.processes: []}
    for _ in range(given.rounds):
        for processes, found in rates.items():
            with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
                free.close()
                multiprocessing.spawn(measured, (processes, port, given, folder), nprocs=processes)
                ranks = torch.stack([torch.load(f"{folder}/{processes}-{rank}.pt") for rank in range(processes)])
            clock, processor = ranks[:, :, 0].max(0).values.sum(), ranks[:, :, 1].sum()
            found.append(float(images / clock))
            print(f"{processes} process{'es' * (processes > 1)}: {found[-1]:8.1f} images/s, "
                  f"{1e3 * processor / images:.3f} s of processors for 1,000 images")  # fmt: skip
    best = {processes: max(found) for processes, found in rates.items()}
    print(f"{given.model} on {given.data}, batches of {given.batch_size} in {given.shards or given.processes} shards: "
          f"{given.processes} processes are {best[given.processes] / best[1]:.2f} times as fast as one")  # fmt: skip


if __name__ == "__main__":
    main()
