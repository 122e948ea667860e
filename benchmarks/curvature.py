"""What a Hessian-vector product and a largest eigenvalue cost, ours and those of other libraries, side by side.

    python benchmarks/curvature.py [--batch 128] [--repeats 11] [--samples-per-class 32] [--output FILE]

A product is measured in gradients: ResNet-32, float32, eval mode, random 32x32 images. Every contender has a process of
its own; these take turns within every repeat, each product right after a gradient (plain PyTorch, channels-last) in the
same process, and the median of the ratios is reported with its quartiles, so that a busy machine shows as spread and
not as bias. Every contender gets the memory layout that is faster for it, tried beforehand.

    product          one product, everything from the beginning
    further product  the mean of three in a run at the same weights, with what the library keeps from the first
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
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from contenders import Contender, Eigenpair, Ours, Plain, available, exact_quotient
from memory import GRADIENT, peak_memory
from products import faster_layout, product_seconds
from table import spread, table
from workloads import Problem, describe, digits, exact_product, in_layout, random_images, unit_vector

TOL = 1e-3
PRODUCT_COLUMNS = ("product", "further product", "error", "MiB", "MiB, run")
EIGENVALUE_COLUMNS = ("lambda_max, s", "products", "residual: median", "largest", "error of value")
Contenders = list[type[Contender]]


def main() -> None:
    args = arguments()
    contenders, missing = available()
    note("layouts")
    layouts = {c: faster_layout(c, args.model, args.batch) for c in contenders}
    products, unit = product_cells(layouts, args)
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


def product_cells(
    layouts: dict[type[Contender], str], args: argparse.Namespace
) -> tuple[dict[type[Contender], list[str]], str]:
    """The left half of the table, and a line about the unit."""
    note("products")
    ratios, unit = product_costs(layouts, args.batch, args)
    note("memory")
    floor = peak_memory(GRADIENT, "alone", "channels-last", args.model, args.batch)
    cells = {}
    for c, layout in layouts.items():
        error = product_error(c, random_images(args.model, args.batch, layout))
        memory = [peak_memory(c.name, kind, layout, args.model, args.batch) for kind in ("alone", "run")]
        cells[c] = [*map(spread, ratios[c]), f"{error:.1e}", *(f"{value:.0f}" for value in memory)]
    return cells, f"a gradient: {1e3 * unit:.0f} ms, {floor:.0f} MiB"


def own_row(images: int, layout: str, args: argparse.Namespace) -> list[str]:
    """Ours over so many images in one batch, in gradients over as many."""
    note(f"sharpness, {images} images")
    ratios, _ = product_costs({Ours: layout}, images, args)
    return [str(images), *map(spread, ratios[Ours])]


def product_costs(
    layouts: dict[type[Contender], str], images: int, args: argparse.Namespace
) -> tuple[dict[type[Contender], np.ndarray], float]:
    """Gradients per product, alone and further, (2, repeats) for every contender; and seconds per gradient."""
    seconds = product_seconds(layouts, args.model, images, args.repeats)
    ratios = {c: np.stack([t[:, 1] / t[:, 0], t[:, 3] / t[:, 2]]) for c, t in seconds.items()}
    return ratios, float(np.median([t[:, ::2] for t in seconds.values()]))


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


def settings(pairs: list[Eigenpair]) -> str:
    """With which settings the residual was met, and in how many classes."""
    counts = Counter(pair.setting for pair in pairs)
    return "".join(f"; {setting}: {count} classes" for setting, count in counts.items())


def note(text: str) -> None:
    print(f"... {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
