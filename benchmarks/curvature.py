"""What a Hessian-vector product and a largest eigenvalue cost, ours and those of other libraries, side by side.

    python benchmarks/curvature.py [--batch 128] [--repeats 11] [--samples-per-class 32] [--output FILE]

A product is measured in gradients: ResNet-32, float32, eval mode, random 32x32 images. The contenders take turns within
every repeat, each right after a gradient of its own (plain PyTorch, channels-last), and the median of the ratios is
reported with its quartiles, so that a busy machine shows as spread and not as bias. Every contender gets the memory
layout that is faster for it, tried beforehand.

    product          one product, everything from the beginning
    further product  the second of a run at the same weights, with what the library keeps from the first
    error            |Hv - exact| / |exact| in a run, exact by plain double backward in float64
    MiB              peak memory above model and images, of one product and of a run: see memory.py
    lambda_max, s    seconds for the largest eigenvalues of the Hessians of ten classes at relative residual 1e-3, by
                     the library's own routine, and its products: see contenders.py. The network is trained briefly on
                     the embedded long tail of digits and probed on some test images of every class
    residual         the relative residuals reached, median and largest of the classes, from products in float64
    error of value   the largest of |value - exact| / exact, exact being the largest Rayleigh quotient in float64 of the
                     vectors that the contenders found for the class
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from contenders import Contender, Eigenpair, Ours, Plain, available, exact_quotient
from memory import GRADIENT, peak_memory
from torch import Tensor
from workloads import LAYOUTS, Problem, describe, digits, exact_product, gradient, in_layout, random_images, unit_vector

TOL = 1e-3
PRODUCT_COLUMNS = ("product", "further product", "error", "MiB", "MiB, run")
EIGENVALUE_COLUMNS = ("lambda_max, s", "products", "residual: median", "largest", "error of value")
Contenders = list[type[Contender]]


def main() -> None:
    args = arguments()
    contenders, missing = available()
    problem = random_images(args.model, args.batch)
    layouts = {c: faster_layout(c, problem) for c in contenders}
    products, unit = product_cells(contenders, layouts, problem, args)
    own = [own_row(images, layouts[Ours], args) for images in args.sizes]
    eigenvalues, pairs = eigenvalue_cells([c for c in contenders if c is not Plain], layouts, args)
    rows = [[c.name, *products[c], *eigenvalues.get(c, [""] * len(EIGENVALUE_COLUMNS))] for c in contenders]
    lines = [
        f"{args.model}, float32: products over {args.batch} images of 3x32x32, {args.repeats} repeats;",
        f"lambda_max over {args.samples_per_class} digits of each class, 1x{args.image_size}x{args.image_size}",
        *describe([c.distribution for c in contenders if c is not Plain]),
        *missing,
        unit,
        "",
        *table(["", *PRODUCT_COLUMNS, *EIGENVALUE_COLUMNS], rows),
        "",
        *table(["sharpness, images", "product", "further product"], own),
        "",
        *(f"{c.name}: {layouts[c]}{settings(pairs.get(c, []))}" for c in contenders),
        "lambda_max by class: " + ", ".join(f"{pair.value:.4g}" for pair in pairs[Ours]),
    ]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if args.output:
        args.output.write_text(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet32")
    parser.add_argument("--batch", type=int, default=128, help="random images for the products")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--sizes", type=int, nargs="*", default=[128, 512], help="images of the table of ours alone")
    parser.add_argument("--samples-per-class", type=int, default=32, help="digits of each class, at most 50")
    parser.add_argument("--image-size", type=int, default=16, help="digits are upsampled to this")
    parser.add_argument("--epochs", type=int, default=20, help="of training on the digits")
    parser.add_argument("--output", type=Path, help="keep the tables in this file, too")
    return parser.parse_args()


def faster_layout(contender: type[Contender], problem: Problem) -> str:
    """The memory layout with the fastest of two products, after one to warm up."""
    seconds = {}
    for layout in LAYOUTS:
        instance = contender(*in_layout(problem, layout))
        v = unit_vector(instance.size)
        seconds[layout] = min([timed(instance.product, v) for _ in range(3)][1:])
    return min(LAYOUTS, key=seconds.__getitem__)


def product_cells(
    contenders: Contenders, layouts: dict[type[Contender], str], problem: Problem, args: argparse.Namespace
) -> tuple[dict[type[Contender], list[str]], str]:
    """The left half of the table, and a line about the unit."""
    note("products")
    ratios, unit = product_costs(contenders, layouts, problem, args.repeats)
    note("memory")
    floor = peak_memory(GRADIENT, "alone", "channels-last", args.model, args.batch)
    cells = {}
    for c in contenders:
        error = product_error(c, in_layout(problem, layouts[c]))
        memory = [peak_memory(c.name, kind, layouts[c], args.model, args.batch) for kind in ("alone", "run")]
        cells[c] = [*map(spread, ratios[c]), f"{error:.1e}", *(f"{value:.0f}" for value in memory)]
    return cells, f"a gradient: {1e3 * unit:.0f} ms, {floor:.0f} MiB"


def own_row(images: int, layout: str, args: argparse.Namespace) -> list[str]:
    """Ours over so many images in one batch, in gradients over as many."""
    note(f"sharpness, {images} images")
    ratios, _ = product_costs([Ours], {Ours: layout}, random_images(args.model, images), args.repeats)
    return [str(images), *map(spread, ratios[Ours])]


def product_costs(
    contenders: Contenders, layouts: dict[type[Contender], str], problem: Problem, repeats: int
) -> tuple[dict[type[Contender], np.ndarray], float]:
    """Gradients per product, alone and further, (2, repeats) for every contender; and seconds per gradient."""
    instances = {c: c(*in_layout(problem, layouts[c])) for c in contenders}
    ratios: dict[type[Contender], list[tuple[float, float]]] = {c: [] for c in contenders}
    units = []
    gradient(problem)
    for _ in range(repeats):
        for contender, instance in instances.items():
            v = unit_vector(instance.size)
            units.append(timed(gradient, problem))
            alone = timed(instance.product, v)
            ratios[contender].append((alone / units[-1], further_product(instance, v) / units[-1]))
    return {c: np.array(pairs).T for c, pairs in ratios.items()}, float(np.median(units))


def further_product(instance: Contender, v: Tensor) -> float:
    """Seconds of the second product of a run."""
    with instance.run() as product:
        product(v)
        return timed(product, v)


def product_error(contender: type[Contender], problem: Problem) -> float:
    """Of a product in a run, relative to plain double backward in float64."""
    instance = contender(*problem)
    v = unit_vector(instance.size)
    exact = exact_product(problem)(v)
    with instance.run() as product:
        product(v)
        return float((product(v).double() - exact).norm() / exact.norm())


def eigenvalue_cells(
    contenders: Contenders, layouts: dict[type[Contender], str], args: argparse.Namespace
) -> tuple[dict[type[Contender], list[str]], dict[type[Contender], list[Eigenpair]]]:
    """The right half of the table, and the eigenvalues of every class themselves."""
    note("training")
    model, x, y = digits(args.model, args.samples_per_class, args.image_size, args.epochs)
    pairs = {}
    for c in contenders:
        note(f"largest eigenvalues, {c.name}")
        pairs[c] = c.largest_eigenvalues(*in_layout((model, x, y), layouts[c]), TOL)
    note("residuals")
    oracles = [exact_product((model, x[y == c], y[y == c])) for c in range(10)]
    checks = np.array([[exact_quotient(o, p) for o, p in zip(oracles, pairs[c], strict=True)] for c in contenders])
    best = checks[:, :, 0].max(axis=0)
    cells = {}
    for c, residuals in zip(contenders, checks[:, :, 1], strict=True):
        errors = abs(np.array([pair.value for pair in pairs[c]]) - best) / abs(best)
        cells[c] = [f"{sum(p.seconds for p in pairs[c]):.1f}", f"{sum(p.products for p in pairs[c]):.0f}"]
        cells[c] += [f"{value:.1e}" for value in (np.median(residuals), residuals.max(), errors.max())]
    return cells, pairs


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    marks = ["---", *["---:"] * (len(header) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in (header, marks, *rows)]


def spread(values: np.ndarray) -> str:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def settings(pairs: list[Eigenpair]) -> str:
    """With which settings the residual was met, and in how many classes."""
    counts = Counter(pair.setting for pair in pairs)
    return "".join(f"; {setting}: {count} classes" for setting, count in counts.items())


def timed(function: Callable[..., object], *arguments: object) -> float:
    gc.collect()
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def note(text: str) -> None:
    print(f"... {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
