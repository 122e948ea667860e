"""Speed of gradients, Hessian-vector products, eigenvalues, planes and training on a GPU.

    python benchmarks/gpu.py [--device cuda] [--small] [--tests SECONDS] [--budget SECONDS] [--only STEP ...]
                             [--checkpoint FILE] [--output FILE]

First, the tests marked ``cuda`` run in their own process for at most ``--tests`` seconds (0: no tests). Then every step
below is measured as the median of several synchronised calls after a warm-up. If a step fails, its error is reported
and the next one runs. The table is rewritten after every step, by default to ``benchmarks/gpu-CARD.txt``.

    ceilings     bytes per second of a copy, operations per second of matrix products: these bound the rest
    gradient     of a ResNet-32 at several batch sizes: plain torch, and ours, which uses full float32
    products     one of many Hessian-vector products, in gradients over the same data in the same precision
    eigenvalues  the largest of every class from the first call, including tracing and verification
    plane        image-points per second, compared with the limit from memory traffic and operations of convolutions
    training     images per second of an epoch, CE and CC-SAM
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer

import torch
from device import bandwidth, card, matrix_rate, seconds, settle, slug, tf32
from table import note, table
from torch import Tensor, nn
from torch.nn import functional as F
from workloads import digits, random_images

from sharpness import Objective, eigenvalues, load_checkpoint, plane, train
from sharpness.data import ImageSet, LongTailData
from sharpness.engine.flops import forward_flops

ROOT = Path(__file__).parent.parent
#: Numbers of points and images for which the time of a plane is stated.
GRID, IMAGES = 51 * 51, 10_000


@dataclass
class Bench:
    """Shared state of the steps: device, sizes, network, and measured rates."""

    device: torch.device
    small: bool
    checkpoint: Path | None
    rates: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._trained: tuple[nn.Module, Tensor, Tensor] | None = None

    @property
    def batches(self) -> tuple[int, ...]:
        return (20, 40) if self.small else (200, 1000, 10_000)

    @property
    def model_name(self) -> str:
        return "resnet8" if self.small else "resnet32"

    def random(self, images: int) -> tuple[nn.Module, Tensor, Tensor]:
        """Return the network, random images and labels on the device, in channels-last."""
        model, x, y = random_images(self.model_name, images)
        if self.checkpoint:
            model = load_checkpoint(self.checkpoint).model
        model = model.to(self.device, memory_format=torch.channels_last)
        return model, x.to(self.device, memory_format=torch.channels_last), y.to(self.device)

    def trained(self) -> tuple[nn.Module, Tensor, Tensor]:
        """Return a network trained on upsampled digits and 100 images per class, for curvature as after training."""
        if self._trained is None:
            per_class, size, epochs = (2, 16, 1) if self.small else (100, 32, 5)
            self._trained = digits(self.model_name, per_class, size, epochs, self.device, "train")
        return self._trained


Rows = Iterator[list[str]]


def ceilings(bench: Bench) -> Rows:
    rates, device, small = bench.rates, bench.device, bench.small
    rates["bytes"] = bandwidth(device, small)
    yield ["copy, read and written", f"{rates['bytes'] / 1e9:,.0f} GB/s"]
    for name, dtype, reduced in (
        ("float32", torch.float32, False), ("TF32", torch.float32, True), ("bfloat16", torch.bfloat16, False),
        ("float64", torch.float64, False),
    ):  # fmt: skip
        rates[name] = matrix_rate(device, dtype, small, reduced)
        yield [f"matrix product, {name}", f"{rates[name] / 1e12:,.1f} TFLOP/s"]


def gradient(bench: Bench) -> Rows:
    for images in bench.batches:
        model, x, y = bench.random(images)
        parameters = list(model.parameters())

        def plain(model: nn.Module = model, x: Tensor = x, y: Tensor = y, p: list[nn.Parameter] = parameters) -> None:
            torch.autograd.grad(F.cross_entropy(model(x), y), p)

        for name, reduced in (("float32", False), ("TF32", True)):
            with tf32(reduced):
                yield [f"plain torch, {images} images, {name}", _told(seconds(plain, bench.device), images)]
        objective = Objective(model, (x, y))
        yield [f"ours, {images} images, float32", _told(seconds(objective.gradient, bench.device), images)]


def products(bench: Bench) -> Rows:
    for dtype in (torch.float32, torch.float64):
        for images in bench.batches[: 3 if dtype is torch.float32 else 2]:
            model, x, y = bench.random(images)
            model, x = model.to(dtype), x.to(dtype)
            parameters = list(model.parameters())
            with tf32(False):
                unit = seconds(
                    lambda m=model, x=x, y=y, p=parameters: torch.autograd.grad(F.cross_entropy(m(x), y), p),
                    bench.device,
                )
            objective = Objective(model, (x, y))
            v = torch.randn(objective.num_parameters, device=bench.device, dtype=dtype)
            with objective.operator() as operator:
                one = seconds(lambda o=operator, v=v: o(v), bench.device)
                kept = operator.kept_bytes
            yield [
                f"{images} images, {str(dtype).removeprefix('torch.')}",
                f"{one / unit:.2f} gradients ({1e3 * one:.1f} ms; a gradient by plain torch {1e3 * unit:.1f} ms; "
                f"{kept / 2**30:.1f} GiB kept)",
            ]


def largest(bench: Bench) -> Rows:
    model, x, y = bench.trained()
    for name, dtype in (("float32", torch.float32), ("float32, again", torch.float32), ("float64", torch.float64)):
        settle(bench.device)
        start = time.perf_counter()
        found = eigenvalues(Objective(model.to(dtype), (x.to(dtype), y)), per_class=True)
        wall = time.perf_counter() - start
        values = ", ".join(f"{v:.5g}" for v in found.values[:, 0])
        yield [
            f"all {len(found.values)} classes of {len(y) // len(found.values)} images, {name}",
            f"{wall:.2f} s ({found.hvp_count} products, {int(found.converged.sum())} converged: {values})",
        ]
    model.float()


def planes(bench: Bench) -> Rows:
    images = 40 if bench.small else IMAGES
    model, x, y = bench.random(images)
    objective = Objective(model, (x.cpu(), y.cpu()))
    flops, numbers = _work(model, x[:1])
    v = 1e-3 * torch.randn(objective.num_parameters, device=bench.device)
    for precision, size in (("float32", 4), ("bfloat16", 2)):
        evaluate = objective.evaluation(precision)
        one = seconds(lambda e=evaluate: e(v), bench.device, repeats=5)
        rate = images / one
        floors = {}
        if "bytes" in bench.rates:
            floors["bytes"] = bench.rates["bytes"] / (numbers * size)
            floors["operations"] = bench.rates[precision] / flops
        bound = min(floors, key=floors.__getitem__, default="")
        told = ", ".join(f"{floor:,.0f} by {name}" for name, floor in floors.items())
        yield [
            f"image-points a second, {images} images, {precision}",
            f"{rate:,.0f}" + (f" ({rate / floors[bound]:.0%} of the floor: {told})" if bound else ""),
        ]
        yield [
            f"51² x {IMAGES:,} in {precision}, computed from that rate",
            f"{GRID * IMAGES / rate:,.0f} s" + (f" (floor {GRID * IMAGES / floors[bound]:,.0f} s)" if bound else ""),
        ]
    side = 3 if bench.small else 9
    start = time.perf_counter()
    plane(objective, (-1, 1, side), (-1, 1, side), precision="bfloat16")
    wall = time.perf_counter() - start
    yield [
        f"a whole call, {side}² x {images:,} in bfloat16",
        f"{wall:.2f} s, {side * side * images / wall:,.0f} a second",
    ]


def training(bench: Bench) -> Rows:
    data = _images(300 if bench.small else 2000, 100 if bench.small else 1000)
    ways = (("ce", {}, "auto"), ("cc-sam", {"stage2": False}, "auto"), ("ce", {}, "float32"))
    with tempfile.TemporaryDirectory() as folder:
        for i, (method, options, precision) in enumerate(ways):
            walls = []
            for epochs in (1, 3):
                settle(bench.device)
                start = time.perf_counter()
                train(
                    method, data, Path(folder) / f"{i}-{epochs}", epochs=epochs, device=bench.device,
                    model=bench.model_name, precision=precision, **options,
                )  # fmt: skip
                walls.append(time.perf_counter() - start)
            one = (walls[1] - walls[0]) / 2
            yield [
                f"{method}, {precision}, {len(data.train)} images an epoch",
                f"{len(data.train) / one:,.0f} images a second ({one:.2f} s an epoch, with a test of {len(data.test)})",
            ]


STEPS: dict[str, Callable[[Bench], Rows]] = {
    "ceilings": ceilings,
    "gradient": gradient,
    "products": products,
    "eigenvalues": largest,
    "plane": planes,
    "training": training,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="sizes that a CPU ends in a minute")
    parser.add_argument("--tests", type=float, default=150, help="seconds for the tests marked cuda")
    parser.add_argument("--workers", type=int, default=6, help="processes of the tests")
    parser.add_argument("--budget", type=float, default=120, help="seconds after which no further step begins")
    parser.add_argument("--only", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--checkpoint", type=Path, help="weights of the network over random images")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    device = torch.device(args.device)
    output = args.output or ROOT / "benchmarks" / f"gpu-{slug(device)}.txt"
    bench = Bench(device, args.small, args.checkpoint)
    lines = ["# A GPU", "", *card(device), ""]
    lines.append(
        f"{bench.model_name}, 10 classes, {'random' if not args.checkpoint else args.checkpoint.name} weights."
    )
    lines.append("")
    if args.tests and device.type == "cuda":
        lines += tested(args.tests, args.workers)
    _keep(output, lines)
    begin = time.perf_counter()
    for name in args.only:
        start = time.perf_counter()
        lines += ["", f"## {name}", ""]
        if start - begin > args.budget:
            lines.append(f"Not measured: the budget of {args.budget:g} s was used up.")
            _keep(output, lines)
            continue
        rows: list[list[str]] = []
        failure: list[str] = []
        try:
            for row in STEPS[name](bench):
                print(f"{time.perf_counter() - begin:7.1f} s  {' | '.join(row)}", flush=True)
                rows.append(row)
                _keep(output, lines + table(["what", "measured"], rows))
        except Exception:
            failure = ["", "Failed:", "", *(f"    {line}" for line in traceback.format_exc().splitlines()[-14:])]
            print("\n".join(failure), flush=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        lines += [*table(["what", "measured"], rows), *failure, "", f"({time.perf_counter() - start:.1f} s)"]
        _keep(output, lines)
    note(f"table in {output}")


def tested(limit: float, workers: int) -> list[str]:
    """Run the tests marked ``cuda``, print their output, and return its last lines."""
    command = [sys.executable, "-m", "pytest", "tests/cuda", "-m", "cuda", "-W", "default", "--tb=short"]
    command += ["--durations=8", "-p", "no:cacheprovider", "-n", str(workers)]
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    clock = Timer(limit, lambda: os.killpg(process.pid, signal.SIGKILL))
    clock.start()
    said = []
    for line in process.stdout:  # type: ignore[union-attr]
        print(line, end="", flush=True)
        said.append(line.rstrip())
    code = process.wait()
    clock.cancel()
    wall = time.perf_counter() - start
    end = {0: "passed", -signal.SIGKILL: f"cut short after {limit:g} s"}.get(code, f"ended with {code}")
    shown = said[-1:] if code == 0 else said[-150:]
    return [f"Tests marked cuda: {end}, {wall:.0f} s.", "", *(f"    {line}" for line in shown)]


def _told(wall: float, images: int) -> str:
    return f"{1e3 * wall:.1f} ms, {images / wall:,.0f} images a second"


@torch.no_grad()
def _work(model: nn.Module, x: Tensor) -> tuple[int, int]:
    """Return the operations of a forward pass of one image, and the values that it reads and writes.

    Convolutions are assumed to be fused with the operations that follow; each residual block reads its input once more.
    """
    moved: list[int] = []

    def note_sizes(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            moved.append(inputs[0].numel() + output.numel())
        elif hasattr(module, "bn2"):
            moved.append(output.numel())

    hooks = [m.register_forward_hook(note_sizes) for m in model.modules()]
    model(x)
    for hook in hooks:
        hook.remove()
    return forward_flops(model, x), sum(moved)


def _images(number: int, tests: int) -> LongTailData:
    """Random images of the shape of CIFAR-10's, in an exponential long tail of about 2.5 ``number``."""
    generator = torch.Generator().manual_seed(0)

    def drawn(labels: Tensor) -> ImageSet:
        pixels = torch.randint(0, 256, (len(labels), 3, 32, 32), dtype=torch.uint8, generator=generator)
        return ImageSet(pixels, labels, (0.5,) * 3, (0.25,) * 3)

    every = torch.arange(10)
    return LongTailData.from_pool(
        "cifar10-lt", drawn(every.repeat_interleave(number)), drawn(every.repeat(tests // 10)),
        class_names=tuple(map(str, range(10))), profile="exp", imbalance=100.0, subset="first_n", groups="oltr",
        n_max=number, augmentation="crop-flip", padding=4, default_model="resnet32",
    )  # fmt: skip


def _keep(output: Path, lines: list[str]) -> None:
    output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
