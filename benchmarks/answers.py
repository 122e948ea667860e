"""What people wait for: the same questions of a trained network, put to every library in turn.

    python benchmarks/answers.py [--size quick | usual | full] [--questions NAME ...] [--images N ...] [--output FILE]

The network is the zoo's ResNet-32 of plain training on a long tail, over test images of CIFAR-10 where they are on this
machine (``SHARPNESS_DATA``), else one trained here on the digits, upsampled. Every contender has a process of its own,
whose model and images are ready; in every repeat they take turns, on the same classes. Contenders other than ours get
their best settings, see contenders.py, and only the run with these counts. A busy machine changes seconds of CPU less
than those by the clock. A full run takes two hours: its file grows section by section, and the same command goes on.

    seconds          a class, median over repeats; CPU: of all threads, which others on the machine change little
    times ours       seconds over ours of the same repeat: median (and quartiles of several); CPU: of the median
    products         a class
    residual         the largest |Hv - value v| / |value| of all values found, from a product in float64
    error of value   the largest |value - exact| / |exact|, exact being the most extreme Rayleigh quotient in float64 of
                     the vectors that the contenders found
"""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from contenders import Both, Contender, Eigenthings, Found, Ours, Plain, PyHessian, quotient
from growth import GROWTH, growth
from planes import PLANES, planes
from table import Sections, spread, table
from turns import process
from workloads import Problem, describe, digits, exact_product

import sharpness

TOL = 1e-3
COLUMNS = ("seconds", "CPU", "times ours", "CPU", "products", "residual", "error of value")


@dataclass(frozen=True)
class Question:
    """What is asked, and of which contenders: in a full run of all, else of the usual ones.

    The title and ``ask`` take the relative error of a trace, ``error``.
    """

    title: str
    contenders: tuple[type[Contender], ...]
    usual: tuple[type[Contender], ...]
    ask: Callable[[type[Contender], Problem, float], list[Found]]


QUESTIONS = {
    "largest": Question(
        f"largest eigenvalue, to a residual of {TOL:g}",
        (Ours, PyHessian, Plain, Eigenthings),
        (Ours, PyHessian, Plain, Eigenthings),
        lambda contender, problem, _: contender.all_eigenvalues(*problem, "LA", TOL),
    ),
    "ends": Question(
        f"both ends of the spectrum, to residuals of {TOL:g} of the largest and {5 * TOL:g} of the value",
        (Ours, Plain, Eigenthings),
        (Ours, Plain),
        lambda contender, problem, _: contender.all_eigenvalues(*problem, "both", TOL),
    ),
    "trace": Question(
        "trace, to a standard error of {error:.0%}",
        (Ours, PyHessian, Plain, Eigenthings),
        (Ours, PyHessian),
        lambda contender, problem, error: contender.all_traces(*problem, error),
    ),
    "table": Question(
        "default table of measure, of all samples and every class: accuracy, loss, both ends, random and worst rise; "
        "of others without standard errors",
        (Ours, Plain, Both),
        (Ours, Plain),
        lambda contender, problem, _: contender.all_tables(*problem, TOL),
    ),
}


@dataclass(frozen=True)
class Size:
    """Images a class, classes, repeats, the relative error of a trace, side of a plane: all stated in the tables."""

    images: int
    classes: tuple[int, ...]
    repeats: int = 1
    error: float = 0.05
    side: int = 51


#: Classes of what would take a day for ten, and the one of what would take hours for three.
TEN, THREE, ONE = tuple(range(10)), (1, 3, 9), (3,)
SIZES: dict[str, Callable[[str], tuple[Size, ...]]] = {
    "quick": lambda _: (Size(8, (1, 9), 1, 0.2, 15),),
    "usual": lambda _: (Size(20, THREE, 1, 0.1, 25),),
    "full": lambda question: {
        "largest": (Size(20, TEN, 3), Size(100, THREE)),
        "ends": (Size(20, TEN), Size(100, ONE)),
        "table": (Size(20, THREE), Size(100, ONE)),
        "plane": (Size(20, THREE), Size(100, ONE)),
        "trace": (Size(20, THREE), Size(100, ONE)),
    }[question],
}
#: Of a plane, what all but a full run leave out.
SLOW = ("sharpness, every point, float32", "plain loop")


def main() -> None:
    args = arguments()
    full = args.size == "full"
    sections = Sections(describe(["sharpness", *libraries()]), args.output)
    for question in args.questions:
        sizes = SIZES[args.size](question)
        if args.images:
            sizes = tuple(next((s for s in sizes if s.images == n), replace(sizes[-1], images=n)) for n in args.images)
        for size in sizes:
            name, problem = trained(size.images, size.classes)
            of = f"{name}; {len(size.classes)} classes, {size.repeats} repeats"
            with tempfile.TemporaryDirectory() as folder:
                torch.save(problem, path := Path(folder) / "problem.pt")
                if question == "plane":
                    title, make = PLANES, partial(planes, problem, path, size.side, size.repeats, () if full else SLOW)
                else:
                    title, make = QUESTIONS[question].title, partial(answers, question, problem, path, size, full)
                sections.add(title.format(error=size.error, side=size.side), of, make)
    if args.size != "quick" and len(args.questions) > len(QUESTIONS):
        sections.add(*GROWTH, partial(growth, full=full))
    print("\n".join(sections.lines))


def answers(asked: str, problem: Problem, path: Path, size: Size, full: bool) -> list[str]:
    """The table of one question."""
    question = QUESTIONS[asked]
    contenders = [c for c in (question.contenders if full else question.usual) if present(c)]
    with ExitStack() as stack:
        processes = {c: stack.enter_context(process(_prepare, path, c.module)) for c in contenders}
        turns = [
            {c: processes[c].submit(_ask, asked, c, size.error).result() for c in contenders}
            for _ in range(size.repeats)
        ]
    seconds = {c: np.array([np.sum([f.seconds for f in turn[c]], axis=0) for turn in turns]) for c in contenders}
    middle = {c: np.median(seconds[c], axis=0) for c in contenders}
    checks = check(problem, turns[0])
    classes = len(size.classes)
    rows = [
        [
            c.name,
            *(f"{value / classes:.2f}" for value in middle[c]),
            spread(seconds[c][:, 0] / seconds[Ours][:, 0])
            if size.repeats > 1
            else f"{middle[c][0] / middle[Ours][0]:.1f}",
            f"{middle[c][1] / middle[Ours][1]:.1f}",
            f"{np.mean([f.products for f in turns[0][c]]):.1f}".replace("nan", "–"),
            *checks[c],
        ]
        for c in contenders
    ]
    settings = [f"{c.name}: {'; '.join(sorted({f.setting for f in turns[0][c]}))}" for c in contenders]
    values = ["; ".join(", ".join(f"{v:.4g}" for v in f.values) for f in turns[0][Ours])]
    return [*table(["", *COLUMNS], rows), "", *settings, f"ours by class: {values[0]}"]


def check(problem: Problem, found: dict[type[Contender], list[Found]]) -> dict[type[Contender], tuple[str, str]]:
    """The largest residual and error of every contender, against float64; – where there are no vectors."""
    if not any(answer.vectors for contender in found.values() for answer in contender):
        return dict.fromkeys(found, ("–", "–"))
    model, x, y = problem
    residuals: dict[type[Contender], list[float]] = {c: [] for c in found}
    errors: dict[type[Contender], list[float]] = {c: [] for c in found}
    for i, c in enumerate(y.unique()):
        product = exact_product((model, x[y == c], y[y == c]))
        for end, extreme in enumerate((max, min)[: len(found[Ours][i].values)]):
            kept = {k: f[i] for k, f in found.items() if f[i].vectors}
            checked = {k: quotient(product, f.values[end], f.vectors[end]) for k, f in kept.items()}
            exact = extreme(value for value, _ in checked.values())
            for contender, (_, residual) in checked.items():
                residuals[contender].append(residual)
            for contender, answer in found.items():
                errors[contender].append(abs(answer[i].values[end] - exact) / abs(exact))
    return {c: (f"{max(residuals[c]):.1e}" if residuals[c] else "–", f"{max(errors[c]):.1e}") for c in found}


def trained(images: int, classes: tuple[int, ...]) -> tuple[str, Problem]:
    """A trained ResNet-32 and so many images of each class, in channels-last; and what to call it."""
    try:
        found = sharpness.checkpoint_objective("zoo:ce", split="test", limit_per_class=images)
        model, x, y, name = found.model, found.x, found.y, f"zoo:ce, {images} images of CIFAR-10 a class"
    except sharpness.UserError:
        model, x, y = digits("resnet32", images, 32, 20, part="train")
        name = f"ResNet-32, {images} digits a class, upsampled to 32x32"
    chosen = torch.isin(y, torch.tensor(classes))
    return name, (
        model.to(memory_format=torch.channels_last),
        x[chosen].contiguous(memory_format=torch.channels_last),
        y[chosen],
    )


def present(contender: type[Contender]) -> bool:
    try:
        importlib.import_module(contender.module)
    except ImportError:
        return False
    return True


def libraries() -> list[str]:
    return [c.distribution for c in (PyHessian, Eigenthings) if present(c)]


_problem: Problem


def _prepare(path: Path, module: str) -> None:
    global _problem
    importlib.import_module(module)
    _problem = torch.load(path, weights_only=False)


def _ask(asked: str, contender: type[Contender], error: float) -> list[Found]:
    return QUESTIONS[asked].ask(contender, _problem, error)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="usual")
    every = [*QUESTIONS, "plane"]
    parser.add_argument("--questions", nargs="+", choices=every, default=every)
    parser.add_argument("--images", type=int, nargs="+", help="of each class; those of the size unless given")
    parser.add_argument("--output", type=Path, help="write the tables into this file, and make none that it has")
    return parser.parse_args()


if __name__ == "__main__":
    os.environ.setdefault("TQDM_DISABLE", "1")
    main()
