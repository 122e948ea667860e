"""What a training step costs, in steps of plain cross-entropy on the same network and batch.

    python benchmarks/step_cost.py [--images 128] [--repeats 15] [--precision float32|bfloat16]

A gradient is the unit. CC-SAM on the classifier adds, to one forward and backward pass, products of (m, m), (m, d) and
(m, C) arrays, m = 2 * images with mixup: with d = 64 and m = 256 that is 10 million multiplications, against 69 million
per image for the network's forward pass alone. So the floor is 1.00.

A gradient is one forward pass and a backward pass of about twice its cost. The floors of the rules in gradients: 2 for
SAM, ASAM, GP and rwSAM, two weights at which one gradient is taken each (rwSAM reads its two losses off one forward
pass and differentiates one of them). MP takes M gradients, 2 here, and evaluates nothing else. ImbSAM and Focal-SAM
step with a combination of three gradients, of two parts of the loss at w and of one of them at w + eps: that is two
forward passes, the parts sharing one, and three backward passes, 8/3, where three gradients are published. With
BatchNorm no backward pass can be left out, because the statistics of a batch mix its images; ImbSAM takes a plain step
where a batch has no tail image.

The methods take turns within every repeat, and the median of the ratios is reported with its quartiles, so that a busy
machine shows as spread and not as bias.
"""

from __future__ import annotations

import argparse
import platform
import time

import numpy as np
import torch

from sharpness.flattening import LABELS, OPERATIONS, Batch, ClassConditionalStep, Context, PlainStep
from sharpness.methods.cc_sam_head import ClassConditionalHead
from sharpness.methods.cross_entropy import CrossEntropy
from sharpness.models import build_model
from sharpness.training.precision import autocast

COUNTS = torch.tensor([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50])
RULES = {
    "CE": PlainStep(),
    "CC-SAM, linear head": ClassConditionalHead(),
    "CC-SAM, cosine head": ClassConditionalHead(),
    **{LABELS[name]: OPERATIONS[name]() for name in ("sam", "asam", "gp", "mp", "imbsam", "focal-sam", "rwsam")},
    "CC-SAM, last block": ClassConditionalStep("last_block"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    args = parser.parse_args()
    torch.manual_seed(0)
    x = torch.randn(args.images, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    shares = COUNTS / COUNTS.sum()
    first, second = (torch.multinomial(shares, args.images, replacement=True) for _ in range(2))
    batch = Batch(x, first, second, 0.6)
    context = Context(COUNTS, 1, 1, autocast=autocast(args.precision, torch.device("cpu")))
    seconds: dict[str, list[float]] = {name: [] for name in RULES}
    models = {}
    for name in RULES:
        head = "cosine" if "cosine" in name else "linear"
        models[name] = build_model("resnet32", 10, head=head).to(memory_format=torch.channels_last).train()
    for repeat in range(-2, args.repeats):
        for name, rule in RULES.items():
            model = models[name]
            optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
            start = time.perf_counter()
            rule.backward(model, batch, CrossEntropy(), context)
            optimizer.step()
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - start)
    plain = np.array(seconds["CE"])
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
    print(f"ResNet-32, {args.images} images, mixup, {args.precision}, {machine}")
    print(f"torch {torch.__version__}, {args.repeats} repeats; CE: {1e3 * np.median(plain):.0f} ms a step\n")
    print("| step | times CE | quartiles |\n| --- | ---: | ---: |")
    for name, values in seconds.items():
        ratios = np.array(values) / plain
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        print(f"| {name} | {middle:.2f} | {low:.2f} to {high:.2f} |")


if __name__ == "__main__":
    main()
