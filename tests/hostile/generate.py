"""Hostile files, one for every seed: what a mind without mercy, or a bad disk, makes of the files that are read here.

Each kind starts from what a good file holds and changes it where a reader has to decide something. Nothing here knows
what the readers check.
"""

import random
from pathlib import Path

from archives import archives, checkpoint, safetensors
from data_files import cifar, counts, listing, npz, picture
from results import result

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
