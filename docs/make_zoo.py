"""Make the zoo from finished runs, for maintainers: weights and cards, with accuracies measured again in float32.

    python docs/make_zoo.py runs/cifar10-lt [--seed 0]

Training tests in its own precision. A card states the accuracy on the whole test set in float32, which users can
measure (``$SHARPNESS_DATA`` is the folder of the CIFAR files); it differs by a few images of 10,000.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import sharpness
from sharpness.checkpoints import save_checkpoint
from sharpness.checkpoints.zoo import FOLDER
from sharpness.training.epoch import accuracy_row

NOTE = "accuracies are of the weights in float32; the training, in {precision}, ended at {before:.2%}"
HEADER = "| zoo: | test accuracy, % | many | medium | few | trained |\n| --- | ---: | ---: | ---: | ---: | --- |\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rows = []
    for run in sorted(given.runs.glob(f"*/seed-{given.seed}/last.pt")):
        checkpoint = sharpness.load_checkpoint(run)
        objective = sharpness.checkpoint_objective(checkpoint, split="test")
        row = accuracy_row(objective.evaluate(), checkpoint.load_data(split="test"))
        manifest, trained = checkpoint.manifest, checkpoint.manifest.training
        note = NOTE.format(precision=trained["precision"], before=manifest.accuracy["accuracy"])
        recorded = {k: v for k, v in row.items() if k.startswith("accuracy")}
        manifest = replace(manifest, accuracy=recorded, notes=[*manifest.notes, note])
        save_checkpoint(FOLDER / f"{manifest.method}.safetensors", checkpoint.model, manifest)
        numbers = " | ".join(f"{100 * row[f'accuracy{group}']:.2f}" for group in ("", "_many", "_medium", "_few"))
        epochs = " + ".join(map(str, trained["epochs"]))
        rows.append(f"| {manifest.method} | {numbers} | {epochs} epochs, seed {trained['seed']}, "
                    f"{trained['precision']}, {trained['device']}, torch {trained['torch']} |\n")  # fmt: skip
        print(rows[-1], end="", flush=True)
    if not rows:
        raise SystemExit(f"no METHOD/seed-{given.seed}/last.pt in {given.runs}: give a folder of finished runs")
    print(HEADER + "".join(rows))


if __name__ == "__main__":
    main()
