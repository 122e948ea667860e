"""Speed of landscapes in image-points per second, compared with other implementations.

    python benchmarks/landscape.py [--model resnet32] [--images 512] [--points 4] [--repeats 7] [--output FILE]

A point is one set of weights; an image-point is one image at one point. ResNet-32, random 32x32 images, eval mode,
points on a line through the weights. Every contender has its own process. The processes take turns within every repeat,
and ratios refer to the plain loop of the same repeat (medians and quartiles).

    plain loop          weights written in place, forward passes of 128 images under no_grad, contiguous, float32
    loss-landscapes     its linear_interpolation over the same images, in one batch as its documentation shows
    sharpness, float32  Objective.evaluation, per class, exact: BatchNorm folded, ReLU and sums fused
    sharpness, bfloat16 the same in reduced precision
    matrix product      the best that the hardware can reach; convolutions are nearly all of a forward pass
    error               |loss - exact| / exact one step along the line; exact is the module in float64

A second table has the limits of every stage of the network, see ``stages``.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from table import report, spread, table
from torch import Tensor
from torch.nn import functional as F
from turns import process, timed
from workloads import Problem, describe, random_images

import sharpness
from sharpness.engine.evaluation import Evaluation
from sharpness.engine.flops import forward_flops

BATCH = 128
SQUARE = 2048
STEP = 0.01
Losses = Callable[[int], list[float]]

_losses: Losses  # of a contender's process, set by _prepare


def plain_loop(problem: Problem) -> Losses:
    model, x, y = problem
    start = [p.detach().clone() for p in model.parameters()]
    direction = _direction(problem)

    @torch.no_grad()
    def losses(points: int) -> list[float]:
        found = []
        for i in range(points):
            for p, w, d in zip(model.parameters(), start, direction, strict=True):
                p.copy_(w + STEP * (i + 1) * d)
            parts = zip(x.split(BATCH), y.split(BATCH), strict=True)
            found.append(sum(float(F.cross_entropy(model(a), b, reduction="sum")) for a, b in parts) / len(y))
        return found

    return losses


def loss_landscapes(problem: Problem) -> Losses:
    import loss_landscapes
    from loss_landscapes.metrics import Loss

    model, x, y = problem
    metric = Loss(torch.nn.CrossEntropyLoss(), x, y)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p, d in zip(other.parameters(), _direction(problem), strict=True):
            p.add_(STEP * d)
    return lambda points: [float(v) for v in loss_landscapes.linear_interpolation(model, other, metric, points)]


def ours(problem: Problem, precision: str) -> Losses:
    model, x, y = problem
    objective = sharpness.Objective(model, (x, y), num_classes=10)
    direction = torch.cat([d.reshape(-1) for d in _direction(problem)])
    evaluation = objective.evaluation(precision)
    return lambda points: [evaluation(STEP * (i + 1) * direction).mean for i in range(points)]


CONTENDERS: dict[str, Callable[[Problem], Losses]] = {
    "plain loop": plain_loop,
    "loss-landscapes": loss_landscapes,
    "sharpness, float32": lambda problem: ours(problem, "float32"),
    "sharpness, bfloat16": lambda problem: ours(problem, "bfloat16"),
}


def main() -> None:
    args = arguments()
    names = [n for n in CONTENDERS if n != "loss-landscapes" or importlib.util.find_spec("loss_landscapes")]
    with ExitStack() as stack:
        processes = {n: stack.enter_context(process(_prepare, n, args.model, args.images)) for n in names}
        errors = {n: p.submit(_error, args.model, args.images).result() for n, p in processes.items()}
        turns = [[p.submit(_seconds, args.points).result() for p in processes.values()] for _ in range(args.repeats)]
    rates = args.images * args.points / np.array(turns)  # (repeats, contenders)
    ratios = rates / rates[:, [names.index("plain loop")]]
    rows = [[n, f"{np.median(rates[:, i]):.0f}", spread(ratios[:, i]), f"{errors[n]:.1e}"] for i, n in enumerate(names)]
    lines = [
        f"{args.model}, {args.images} images of 3x32x32, {args.points} points a turn, {args.repeats} repeats",
        *describe(["sharpness", *(["loss-landscapes"] if "loss-landscapes" in names else [])]),
        *(bound(args.model, dtype) for dtype in (torch.float32, torch.bfloat16)),
        "",
        *table(["", "image-points a second", "of the plain loop", "error"], rows),
    ]
    lines += ["", *table(["stage", "dtype", "GFlop/s", "of its matrix product", "of a large one"], stages())]
    report(lines, args.output)


def stages() -> list[list[str]]:
    """Compare the convolution of every stage of a CIFAR ResNet with two matrix products.

    The first computes the same sums, ``(images x pixels, 9 channels) @ (9 channels, channels)``; its operand would have
    to be copied from the image nine times. The second is large and square and keeps all units busy. If the first is far
    slower than the second, 16 channels are too few to fill a unit, which no layout or fusion can change.
    """
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        square = torch.randn(SQUARE, SQUARE).to(dtype)
        best = 2 * SQUARE**3 / fastest(torch.mm, square, square)
        for channels, size in ((16, 32), (32, 16), (64, 8)):
            x = torch.randn(BATCH, channels, size, size)
            conv = torch.nn.Sequential(torch.nn.Conv2d(channels, channels, 3, padding=1), torch.nn.ReLU())
            objective = sharpness.Objective(conv, (x, torch.zeros(BATCH)), lambda u, y: u[:, 0, 0, 0])
            evaluation = objective.evaluation(str(dtype).removeprefix("torch."))
            assert isinstance(evaluation, Evaluation)
            run = evaluation.inference.at(evaluation.sources)
            given = x.to(dtype).contiguous(memory_format=torch.channels_last)
            flops = 2 * BATCH * size**2 * 9 * channels**2
            columns, weights = torch.randn(BATCH * size**2, 9 * channels), torch.randn(9 * channels, channels)
            rate = flops / fastest(run, given)
            same = flops / fastest(torch.mm, columns.to(dtype), weights.to(dtype))
            shares = [f"{rate / other:.0%}" for other in (same, best)]
            rows.append([f"{channels} channels, {size}x{size}", str(dtype), f"{rate / 1e9:.0f}", *shares])
    return rows


def fastest(function: Callable[..., object], *operands: Tensor) -> float:
    """Return the seconds of the fastest of eight calls."""
    return min(timed(function, *operands) for _ in range(8))


def bound(model: str, dtype: torch.dtype) -> str:
    """Describe the speed of the network if it ran at the speed of a matrix product on all threads."""
    network, x, _ = random_images(model, 1)
    flops = forward_flops(network, x)
    a = torch.randn(SQUARE, SQUARE).to(dtype)
    rate = 2 * SQUARE**3 / min(timed(torch.mm, a, a) for _ in range(20))
    return (
        f"matrix product in {dtype}: {rate / 1e9:.0f} GFlop/s, at which {flops / 1e6:.0f} MFlop an image-point are "
        f"{rate / flops:.0f} a second"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet32")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--points", type=int, default=4, help="of every turn")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, help="keep the table in this file, too")
    return parser.parse_args()


def _direction(problem: Problem) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(p.shape, generator=generator) * p.detach().std().nan_to_num(0) for p in problem[0].parameters()]


def _prepare(name: str, model: str, images: int) -> None:
    global _losses
    _losses = CONTENDERS[name](random_images(model, images, "contiguous"))
    _losses(2)


def _seconds(points: int) -> float:
    return timed(_losses, points)


def _error(model: str, images: int) -> float:
    """Return the error one step along the line, relative to the module in float64.

    Two points are evaluated, because contenders differ in where their line begins; the closer one counts.
    """
    network, x, y = random_images(model, images, "contiguous")
    direction = _direction((network, x, y))
    network.double()
    with torch.no_grad():
        for p, d in zip(network.parameters(), direction, strict=True):
            p.add_(STEP * d)
        parts = zip(x.double().split(BATCH), y.split(BATCH), strict=True)
        exact = sum(float(F.cross_entropy(network(a), b, reduction="sum")) for a, b in parts) / len(y)
    found = _losses(2)
    return min(abs(value - exact) for value in found) / exact


if __name__ == "__main__":
    main()
