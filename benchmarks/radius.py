"""Sweep over CC-SAM's factor, cap and mixup: accuracy on held-out training images, and flatness.

python benchmarks/radius.py [--factors 0.01,0.1] [--caps 0.02,none] [--mixup 1,0] [--seeds 0] [--output FILE]
python benchmarks/radius.py --checkpoints RUN ...

Every setting trains CC-SAM for 40 epochs, both stages, and adds one row to the file. Existing rows are not computed
again, so the same command resumes after an interruption. ``plain`` is mode=plain, without perturbation. Use ``--data
cifar10-lt --epochs 30`` for CIFAR-10-LT; ``--checkpoints`` measures existing runs and prints their folders.

held_*      mean accuracy over classes on the images of the training pool outside the long-tailed subset (digits: 917, 4
            of them of the most frequent class; CIFAR-10: none of that class); settings are selected by it
test_*      the same on the test set; only reported
rise        largest rise of the training loss within an l2 ball of radius 0.1 around all weights, found by five steps of
            ascent: mean over the rare classes (the group few)
lambda_max  largest eigenvalue of the Hessian: mean over the rare classes
*_equal     both at equal confidence: logits are divided by the temperature that fits the held-out images best
bound       share of labelled training rows whose step is at its limit; 1 is a fixed length relative to the weights
head_norm   norm of the classifier's weights
collapsed   held-out accuracy more than 10 points below that of plain with the same mixup and seed
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

import sharpness
from sharpness.checkpoints import Checkpoint
from sharpness.data import ImageSet, LongTailData, load_data, select_indices
from sharpness.data.digits import digit_pools
from sharpness.flattening.class_radius import Perturbation, longest_step
from sharpness.methods.cc_sam_head import weights_of
from sharpness.steps import joint_norm

RADIUS, STEPS = 0.1, 5
KEY = ["factor", "cap", "mixup", "seed"]


def main() -> None:
    args = arguments()
    data = sharpness.load_data(args.data, **{"data_root": args.data_root} if args.data_root else {})
    held = left_out(data, args.data_root)
    for path in args.checkpoints:
        print(path, measured(sharpness.load_checkpoint(path), held, data), flush=True)
    if args.checkpoints:
        return
    grid = [("plain", "none"), *itertools.product(args.factors.split(","), args.caps.split(","))]
    for seed, mixup, (factor, cap) in itertools.product(args.seeds.split(","), args.mixup.split(","), grid):
        key = dict(zip(KEY, (factor, cap, mixup, seed), strict=True))
        rows = pd.read_csv(args.output, dtype=str, keep_default_na=False) if args.output.exists() else pd.DataFrame()
        if len(rows) and (rows[KEY] == pd.Series(key)).all(axis=1).any():
            continue
        row = key | trained(data, held, factor, cap, float(mixup), int(seed), args.epochs)
        plain = rows[(rows.factor == "plain") & (rows.mixup == mixup) & (rows.seed == seed)] if len(rows) else rows
        best = float(plain.held_accuracy.iloc[0]) if len(plain) else row["held_accuracy"]
        row["collapsed"] = row["held_accuracy"] < best - 0.1
        columns = list(rows.columns) or list(row)
        pd.DataFrame([row])[columns].to_csv(args.output, mode="a", header=not args.output.exists(), index=False)
        print(pd.DataFrame([row]).to_string(index=False, header=False), flush=True)


def left_out(data: LongTailData, data_root: str | None = None) -> ImageSet:
    """Return the training images of a data set that are not in its long-tailed subset."""
    name, tail = data.longtail.dataset, data.longtail
    pool = digit_pools()[0] if name == "digits-lt" else load_data(name.removesuffix("-lt"), data_root=data_root).train
    kept = select_indices(pool.labels, tail.train_counts, tail.subset)
    return replace(pool.subset(np.setdiff1d(np.arange(len(pool)), kept)), mean=data.train.mean, std=data.train.std)


def trained(
    data: LongTailData, held: ImageSet, factor: str, cap: str, mixup: float, seed: int, epochs: int
) -> dict[str, float]:
    """Train with one setting, and measure the model."""
    options = {"mode": "plain"} if factor == "plain" else {"rho_scale": float(factor)}
    options |= {"cap": None if cap == "none" else float(cap), "mixup": mixup}
    with tempfile.TemporaryDirectory() as folder, limits() as bound:
        last = sharpness.train("cc-sam", data, folder, epochs=epochs, seed=seed, **options).iloc[-1]
        found = measured(sharpness.load_checkpoint(folder), held, data)
    tests = {f"test_{name}": round(last[name], 4) for name in ("accuracy", "accuracy_few")}
    return found | tests | {"bound": round(float(np.mean(bound)), 4) if bound else 0.0}


def measured(checkpoint: Checkpoint, held: ImageSet, data: LongTailData) -> dict[str, float]:
    """Measure the accuracy on the held-out images, and the sharpness of the rare classes."""
    few, found = list(data.groups["few"]), {}
    batches = (held.normalize(images) for images in held.images.split(500))
    with torch.no_grad():
        logits, labels = torch.cat([checkpoint.model.eval()(x) for x in batches]), held.labels
    right = (logits.argmax(1) == labels).double()
    counts = held.class_samples(data.num_classes)
    of_class = (torch.zeros(data.num_classes).double().index_add_(0, labels, right) / counts).numpy()
    found["held_accuracy"] = np.nanmean(of_class)
    found |= {f"held_{group}": np.nanmean(of_class[list(classes)]) for group, classes in data.groups.items()}
    found["temperature"] = temperature(logits, labels)
    for name, divisor in (("", 1.0), ("_equal", found["temperature"])):
        loss = partial(cross_entropy, divisor=divisor)
        objective = sharpness.checkpoint_objective(checkpoint, data=data, loss=loss)
        parts = [objective.restrict(c) for c in few]
        rises = [sharpness.worst_case(part, rho=RADIUS, steps=STEPS) for part in parts]
        ends = [sharpness.eigenvalues(part, keep_vectors=False).values[0] for part in parts]
        found[f"rise{name}"] = np.mean([r.of("worst_rise") for r in rises])
        found[f"lambda_max{name}"] = float(np.mean(ends))
    found["head_norm"] = float(joint_norm(p.detach() for p in weights_of(checkpoint.model.head)))
    return {name: round(float(value), 4) for name, value in found.items()}


def cross_entropy(logits: Tensor, labels: Tensor, divisor: float) -> Tensor:
    return F.cross_entropy(logits / divisor, labels, reduction="none")


def temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the divisor of the logits with the smallest cross-entropy (mean over classes), to one per cent."""
    weight = 1 / labels.bincount(minlength=logits.shape[1]).clamp_min(1).float()
    grid = np.exp(np.arange(-2, 4, 0.01))
    return float(min(grid, key=lambda t: float(F.cross_entropy(logits / float(t), labels, weight))))


@contextmanager
def limits() -> Iterator[list[float]]:
    """Record the share of rows at their limit for every training step inside the context."""
    bound, length = [], Perturbation.length

    def watched(self: Perturbation, w: Tensor, g: Tensor, k: int, counts: Tensor, rarest: Tensor) -> Tensor:
        found = length(self, w, g, k, counts, rarest)
        if self.cap is not None:
            bound.append(float((found == longest_step(self.cap, w, counts, rarest)).float().mean()))
        return found

    Perturbation.length = watched  # type: ignore[method-assign]
    try:
        yield bound
    finally:
        Perturbation.length = length  # type: ignore[method-assign]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--factors", default="0.01,0.03,0.1,0.3,1")
    parser.add_argument("--caps", default="none,0.02,0.05,0.1")
    parser.add_argument("--mixup", default="1,0")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--data", default="digits-lt")
    parser.add_argument("--data-root")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--checkpoints", type=Path, nargs="*", default=[])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
