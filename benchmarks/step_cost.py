"""Cost of a training step, relative to plain cross-entropy on the same network and batch.

    python benchmarks/step_cost.py [--images 128] [--repeats 15] [--precision float32|bfloat16] [--output FILE]

The unit is a gradient: one forward pass, and a backward pass of about twice its cost. The column "floor" is the minimum
cost of a step in gradients:

    CC-SAM on the classifier: 1. It adds to one gradient products of (m, m), (m, d) and (m, C) arrays, m = 2 * images
    with mixup: with d = 64 and m = 256 that is 10 million multiplications, against 69 million per image for the
    network's forward pass alone.

    SAM, ASAM, GP and rwSAM: 2, one gradient at each of two points (rwSAM computes its two losses from one forward pass
    and differentiates one of them).

    MP: M, the number of draws.

    ImbSAM and Focal-SAM: 8/3. A step combines three gradients: of two parts of the loss at w, and of one of them at
    w + eps. This takes two forward passes, because the parts share one, and three backward passes, instead of the three
    gradients of the published code. With BatchNorm no backward pass can be omitted, because the statistics of a batch
    mix its images. ImbSAM takes a plain step if a batch has no tail image.

    FS-DGPM: 3, the gradients of two halves of the batch, and two of the whole batch.

    PoF: 4/3, a gradient of the backbone, and a forward pass of another batch for the shift of the classifier.

    SN: 1. A power iteration is two matrix-vector products per weight, as much as a fully connected layer would cost for
    two images.

    CC-SAM on the last block takes as many passes of that block as there are classes in the batch; below it, one
    gradient.

Work done once per epoch is listed separately, also in steps: SWA averages k weights, and FS-DGPM takes a forward pass
of 300 images and an eigendecomposition per layer. At the end of a stage, SWA makes one more forward pass over the
training images, which is 1/3 of an epoch's gradients.

The translations of a batch for M2m (from epoch 161 on, in addition to the step): 10 * 2 * 2/3 gradients for each
translated image, ten forward and backward passes of two networks, without derivatives by weights. In a batch of
balanced classes, about 60 % of the images are translated.

The contenders take turns within every repeat. Medians and quartiles of the ratios are reported, so a busy machine adds
spread and not bias.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from table import report, spread, table
from torch.optim.swa_utils import AveragedModel
from turns import timed

from sharpness.data import ImageSet
from sharpness.flattening import FSDGPM, OPERATIONS, ClassConditionalStep
from sharpness.flattening.model_perturbation import ModelPerturbation
from sharpness.flattening.pof import PoF
from sharpness.flattening.spectral_normalization import SpectralNormalization, normalized_layers, power_iteration
from sharpness.methods.cc_sam_head import ClassConditionalHead
from sharpness.methods.cross_entropy import CrossEntropy
from sharpness.methods.m2m import MajorToMinor
from sharpness.models import Classifier, Frozen, build_model
from sharpness.steps import Batch, Context, EpochRule, PlainStep
from sharpness.training.precision import autocast

COUNTS = torch.tensor([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50])
WARM_UP = 2
#: By name: a rule, and the minimum cost of its step in gradients.
STEPS: dict[str, tuple[Any, str]] = {
    "CE": (PlainStep(), "1"),
    "CC-SAM, linear head": (ClassConditionalHead(), "1"),
    "CC-SAM, cosine head": (ClassConditionalHead(), "1"),
    "CC-SAM, last block": (ClassConditionalStep("last_block"), "–"),
    **{OPERATIONS.label(name): (OPERATIONS[name](), "2") for name in ("sam", "asam", "gp", "rwsam")},
    **{f"MP, M = {draws}": (ModelPerturbation(draws=draws), str(draws)) for draws in (1, 2)},
    **{OPERATIONS.label(name): (OPERATIONS[name](), "8/3") for name in ("imbsam", "focal-sam")},
    OPERATIONS.label("fs-dgpm"): (FSDGPM(), "3"),
    OPERATIONS.label("pof"): (PoF(), "4/3"),
    OPERATIONS.label("sn"): (PlainStep(), "1"),
}


def main() -> None:
    args = arguments()
    torch.manual_seed(0)
    batch = random_batch(args.images)
    context = Context(COUNTS, 1, 1, autocast=autocast(args.precision, torch.device("cpu")))
    steps = {name: prepared(name, rule, batch, context) for name, (rule, _) in STEPS.items()}
    translated, translations = translated_batch(args.images, context)
    seconds = turns({**steps, **once_an_epoch(batch, context), **translations}, args.repeats)
    plain = seconds["CE"]
    rows = [[name, floor, spread(seconds[name] / plain)] for name, (_, floor) in STEPS.items()]
    epochs, batches = (
        [[name, spread(values / plain)] for name, values in seconds.items() if name not in STEPS and chosen(name)]
        for chosen in (lambda name: name not in translations, translations.__contains__)
    )
    lines = [
        f"ResNet-32, {args.images} images, mixup, {args.precision}, {platform.machine()}, "
        f"{torch.get_num_threads()} threads",
        f"torch {torch.__version__}, {args.repeats} repeats; CE: {1e3 * np.median(plain):.0f} ms a step",
        "",
        *table(["step", "floor", "times CE"], rows),
        "",
        *table(["once an epoch", "steps of CE"], epochs),
        "",
        *table(
            [f"M2m, {translated} translations, floor {translated * 40 / 3 / args.images:.1f}", "steps of CE"], batches
        ),
    ]
    report(lines, args.output)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--output", type=Path, help="keep the tables in this file, too")
    return parser.parse_args()


def random_batch(images: int) -> Batch:
    x = torch.randn(images, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    shares = COUNTS / COUNTS.sum()
    first, second = (torch.multinomial(shares, images, replacement=True) for _ in range(2))
    return Batch(x, first, second, 0.6)


def network(name: str) -> Classifier:
    """Return a ResNet-32 with the head, normalisation and trained parameters of a contender."""
    model = build_model("resnet32", 10, head="cosine" if "cosine" in name else "linear")
    if name == OPERATIONS.label("sn"):
        SpectralNormalization().apply(model)
    model.head.requires_grad_(name != OPERATIONS.label("pof"))
    return model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]


def prepared(name: str, rule: Any, batch: Batch, context: Context) -> Callable[[], None]:
    """Return a function that takes one step as the training loop does."""
    model = network(name)
    normalized = normalized_layers(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-3, momentum=0.9)
    if isinstance(rule, EpochRule):
        rule = rule.for_epoch(model, repeat(batch), context)

    def step() -> None:
        power_iteration(normalized)
        optimizer.zero_grad(set_to_none=True)
        rule.backward(model, batch, CrossEntropy(), context)
        optimizer.step()

    return step


def once_an_epoch(batch: Batch, context: Context) -> dict[str, Callable[[], object]]:
    """Return the work that SWA and FS-DGPM do once per epoch in addition to their steps."""
    model = network("CE")
    average = AveragedModel(model)
    average.update_parameters(model)
    return {
        "SWA, one averaging": lambda: average.update_parameters(model),
        "FS-DGPM, its memory": lambda: FSDGPM().for_epoch(model, repeat(batch), context),
    }


def translated_batch(images: int, context: Context) -> tuple[int, dict[str, Callable[[], object]]]:
    """Return the number of images of a balanced batch that M2m translates, and the ways to translate them."""
    model = network("M2m")
    model.auxiliary = Frozen(network("helper"))
    pixels = torch.randint(256, (images, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(images) % len(COUNTS)
    data = ImageSet(pixels, labels, (0.5,) * 3, (0.25,) * 3)
    batch = Batch(data.normalize(pixels).contiguous(memory_format=torch.channels_last), labels)
    plain = MajorToMinor()
    ways = {"folded networks": plain.for_epoch(model, data, context), "the modules themselves": plain}

    def run(way: MajorToMinor) -> None:
        way(model, batch, data, replace(context, generator=torch.Generator().manual_seed(0)))

    slots, _ = plain.draw(labels, replace(context, generator=torch.Generator().manual_seed(0)))
    return len(slots), {name: partial(run, way) for name, way in ways.items()}


def turns(contenders: dict[str, Callable[[], object]], repeats: int) -> dict[str, np.ndarray]:
    """Return the seconds (repeats,) of every contender; they take turns."""
    seconds = [[timed(run) for run in contenders.values()] for _ in range(WARM_UP + repeats)]
    return dict(zip(contenders, np.array(seconds[WARM_UP:]).T, strict=True))


if __name__ == "__main__":
    main()
