"""Which radius of CC-SAM? Its factor, its cap and mixup, by accuracy on images that training leaves out and flatness.

python benchmarks/radius.py [--factors 0.01,0.1] [--caps 0.02,none] [--mixup 1,0] [--seeds 0] [--output FILE]

Every setting trains CC-SAM on digits-lt for 40 epochs, both stages, and adds one row to the file; rows that are there
are not made again, so that the same command goes on after an interruption. ``plain`` is mode=plain: no perturbation.

held_*      mean accuracy over classes, on the images of the training pool that the long tail leaves out (917; of the
            most frequent class 4): what a setting is chosen by
test_*      the same on the test set: reported only
rise        of the training loss of the rare classes (the group few), their mean: the largest within an l2 ball of
            radius 0.1 around all weights, by five steps of ascent
lambda_max  their Hessians' largest eigenvalue, likewise
*_equal     both at equal confidence: logits are divided by the temperature that is best on the images left out
bound       share of labelled rows in training whose step is at its limit; 1 is a fixed length relative to the weights
head_norm   of the classifier's weights
collapsed   held-out accuracy more than 10 points below that of plain of the same mixup and seed
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

import sharpness
from sharpness.data import ImageSet, LongTailData, select_indices
from sharpness.data.digits import digit_pools
from sharpness.flattening import joint_norm
from sharpness.flattening.class_radius import Perturbation, longest_step
from sharpness.methods.cc_sam_head import weights_of

EPOCHS, RADIUS, STEPS = 40, 0.1, 5
KEY = ["factor", "cap", "mixup", "seed"]


def main() -> None:
    args = arguments()
    data, held = sharpness.load_data("digits-lt"), left_out()
    grid = [("plain", "none"), *itertools.product(args.factors.split(","), args.caps.split(","))]
    for seed, mixup, (factor, cap) in itertools.product(args.seeds.split(","), args.mixup.split(","), grid):
        key = dict(zip(KEY, (factor, cap, mixup, seed), strict=True))
        rows = pd.read_csv(args.output, dtype=str) if args.output.exists() else pd.DataFrame(columns=KEY)
        if (rows[KEY] == pd.Series(key)).all(axis=1).any():
            continue
        row = key | numbers(data, held, factor, cap, float(mixup), int(seed))
        plain = rows[(rows.factor == "plain") & (rows.mixup == mixup) & (rows.seed == seed)]
        best = float(plain.held_accuracy.iloc[0]) if len(plain) else row["held_accuracy"]
        row["collapsed"] = row["held_accuracy"] < best - 0.1
        pd.DataFrame([row]).to_csv(args.output, mode="a", header=not args.output.exists(), index=False)
        print(pd.DataFrame([row]).to_string(index=False, header=False), flush=True)


def left_out() -> ImageSet:
    """The training images of the digits that are not in the long tail."""
    pool, longtail = digit_pools()[0], sharpness.load_data("digits-lt").longtail
    kept = select_indices(pool.labels, longtail.class_counts, longtail.subset)
    return pool.subset(np.setdiff1d(np.arange(len(pool)), kept))


def numbers(data: LongTailData, held: ImageSet, factor: str, cap: str, mixup: float, seed: int) -> dict[str, float]:
    """Train one setting, and measure it."""
    options = {"mode": "plain"} if factor == "plain" else {"rho_scale": float(factor)}
    options |= {"cap": None if cap == "none" else float(cap), "mixup": mixup}
    few, found = list(data.groups["few"]), {}
    with tempfile.TemporaryDirectory() as folder, limits() as bound:
        last = sharpness.train("cc-sam", data, folder, epochs=EPOCHS, seed=seed, **options).iloc[-1]
        checkpoint = sharpness.load_checkpoint(folder)
    with torch.no_grad():
        logits, labels = checkpoint.model.eval()(held.tensors[0]), held.labels
    right = (logits.argmax(1) == labels).numpy()
    of_class = np.array([right[labels.numpy() == c].mean() for c in range(data.num_classes)])
    found["held_accuracy"] = of_class.mean()
    found |= {f"held_{group}": of_class[list(classes)].mean() for group, classes in data.groups.items()}
    found |= {f"test_{name}": last[name] for name in ("accuracy", "accuracy_few")}
    found["temperature"] = temperature(logits, labels)
    for name, divisor in (("", 1.0), ("_equal", found["temperature"])):
        objective = sharpness.checkpoint_objective(checkpoint, loss=partial(cross_entropy, divisor=divisor))
        worst = sharpness.worst_case(objective, rho=RADIUS, steps=STEPS)
        ends = [sharpness.eigenvalues(objective.restrict(c), keep_vectors=False).values[0] for c in few]
        found[f"rise{name}"] = worst.values[worst.names.index("worst_rise")][few].mean()
        found[f"lambda_max{name}"] = float(np.mean(ends))
    found["bound"] = float(np.mean(bound)) if bound else 0.0
    found["head_norm"] = float(joint_norm(p.detach() for p in weights_of(checkpoint.model.head)))
    return {name: round(float(value), 4) for name, value in found.items()}


def cross_entropy(logits: Tensor, labels: Tensor, divisor: float) -> Tensor:
    return F.cross_entropy(logits / divisor, labels, reduction="none")


def temperature(logits: Tensor, labels: Tensor) -> float:
    """What to divide logits by for the smallest cross-entropy, mean over classes, to a percent."""
    weight = 1 / labels.bincount().float()
    grid = np.exp(np.arange(-2, 4, 0.01))
    return float(min(grid, key=lambda t: float(F.cross_entropy(logits / float(t), labels, weight))))


@contextmanager
def limits() -> Iterator[list[float]]:
    """Shares of rows at their limit, step by step, while training goes on inside."""
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
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
