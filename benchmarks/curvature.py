"""Cost of a Hessian-vector product, compared with other libraries.

    python benchmarks/curvature.py [--batch 128] [--repeats 11] [--output FILE]

A product is measured in gradients: ResNet-32, float32, eval mode, random 32x32 images. Every contender has its own
process. The processes take turns within every repeat, and each product directly follows a gradient (plain PyTorch,
channels-last) in the same process. Medians and quartiles of the ratios are reported, so a busy machine adds spread and
not bias. Every contender gets the memory layout that was faster for it in a trial.

    product          one product from scratch
    further product  mean of three more products at the same weights, with whatever the library keeps from the first
    error            |Hv - exact| / |exact| of a further product; exact is plain double backward in float64
    MiB              peak memory beyond model and images, of one product and of a run of products, see memory.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from contenders import Contender, Ours, Plain, available
from memory import GRADIENT, peak_memory
from products import faster_layout, product_seconds
from table import note, report, spread, table
from workloads import Problem, describe, exact_product, random_images, unit_vector

COLUMNS = ("product", "further product", "error", "MiB", "MiB, run")


def main() -> None:
    args = arguments()
    contenders, missing = available()
    note("layouts")
    layouts = {c: faster_layout(c, args.model, args.batch) for c in contenders}
    products, unit = product_cells(layouts, args)
    own = [own_row(images, layouts[Ours], args) for images in args.sizes]
    lines = [
        f"{args.model}, float32: products over {args.batch} images of 3x32x32, {args.repeats} repeats",
        *describe([c.distribution for c in contenders if c is not Plain]),
        *missing,
        unit,
        "",
        *table(["", *COLUMNS], [[c.name, *products[c]] for c in contenders]),
        "",
        *table(["sharpness, images", "product", "further product"], own),
        "",
        *(f"{c.name}: {layout}" for c, layout in layouts.items()),
    ]
    report(lines, args.output)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet32")
    parser.add_argument("--batch", type=int, default=128, help="random images for the products")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--sizes", type=int, nargs="*", default=[128, 512], help="images of the table of ours alone")
    parser.add_argument("--output", type=Path, help="keep the tables in this file, too")
    return parser.parse_args()


def product_cells(
    layouts: dict[type[Contender], str], args: argparse.Namespace
) -> tuple[dict[type[Contender], list[str]], str]:
    """Return the cells of the table for every contender, and a line about the unit."""
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
    """Return the row for our products over ``images`` images in one batch, in gradients over the same images."""
    note(f"sharpness, {images} images")
    ratios, _ = product_costs({Ours: layout}, images, args)
    return [str(images), *map(spread, ratios[Ours])]


def product_costs(
    layouts: dict[type[Contender], str], images: int, args: argparse.Namespace
) -> tuple[dict[type[Contender], np.ndarray], float]:
    """Return gradients per product, single and further, (2, repeats) for every contender; and seconds per gradient."""
    seconds = product_seconds(layouts, args.model, images, args.repeats)
    ratios = {c: np.stack([t[:, 1] / t[:, 0], t[:, 3] / t[:, 2]]) for c, t in seconds.items()}
    return ratios, float(np.median([t[:, ::2] for t in seconds.values()]))


def product_error(contender: type[Contender], problem: Problem) -> float:
    """Return the error of a further product, relative to plain double backward in float64."""
    instance = contender(*problem)
    v = unit_vector(instance.size)
    exact = exact_product(problem)(v)
    with instance.run() as product:
        product(v)
        return float((product(v).double() - exact).norm() / exact.norm())


if __name__ == "__main__":
    main()
