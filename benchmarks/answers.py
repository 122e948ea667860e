"""What people wait for: the same questions of a trained network, put to every library in turn.

    python benchmarks/answers.py [--size quick | usual | full] [--questions NAME ...] [--output FILE]

The network is the zoo's ResNet-32 of plain training on a long tail, over test images of CIFAR-10 where they are on this
machine (``SHARPNESS_DATA``), else one trained here on the digits, upsampled. Every contender has a process of its own,
whose model and images are ready; in every repeat they take turns, on the same classes. Contenders other than ours get
their best settings, see contenders.py, and only the run with these counts.

    seconds          a class, median over repeats
    times ours       seconds over ours of the same repeat: median (and quartiles)
    products         a class
    residual         the largest |Hv - value v| / |value| of all values found, from a product in float64
    error of value   the largest |value - exact| / |exact|, exact by ARPACK in float64 from the vectors found
"""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from contenders import Contender, Eigenthings, Found, Ours, Plain, PyHessian, quotient
from growth import growth
from scipy.sparse.linalg import LinearOperator, eigsh
from table import note, report, spread, table
from turns import process
from workloads import Problem, describe, digits, exact_product

import sharpness

TOL = 1e-3
TRACE_ERROR = 0.05


@dataclass(frozen=True)
class Question:
    """What is asked, of which contenders, and with how many values for a class."""

    title: str
    contenders: tuple[type[Contender], ...]
    ask: Callable[[type[Contender], Problem], list[Found]]


QUESTIONS = {
    "largest": Question(
        f"largest eigenvalue, to a residual of {TOL:g}",
        (Ours, PyHessian, Plain, Eigenthings),
        lambda contender, problem: contender.all_eigenvalues(*problem, "LA", TOL),
    ),
    "ends": Question(
        f"both ends of the spectrum, to residuals of {TOL:g} of the largest and {5 * TOL:g} of the value",
        (Ours, Plain, Eigenthings),
        lambda contender, problem: contender.all_eigenvalues(*problem, "both", TOL),
    ),
    "trace": Question(
        f"trace, to a standard error of {TRACE_ERROR:.0%}",
        (Ours, PyHessian, Plain, Eigenthings),
        lambda contender, problem: contender.all_traces(*problem, TRACE_ERROR),
    ),
}


@dataclass(frozen=True)
class Size:
    """Images a class, classes and repeats: all stated in the tables."""

    images: tuple[int, ...]
    classes: tuple[int, ...]
    repeats: int


SIZES = {
    "quick": Size((8,), (1, 9), 2),
    "usual": Size((20,), (1, 3, 6, 9), 3),
    "full": Size((20, 100), tuple(range(10)), 3),
}


def main() -> None:
    args = arguments()
    size = SIZES[args.size]
    lines = [*describe(["sharpness", *libraries()]), ""]
    for images in size.images:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "problem.pt"
            name, problem = trained(images, size.classes)
            torch.save(problem, path)
            for question in args.questions:
                note(f"{question}, {images} images a class")
                lines += answers(QUESTIONS[question], name, problem, path, size)
    if args.size != "quick":
        note("growth")
        lines += growth(full=args.size == "full")
    report(lines, args.output)


def answers(question: Question, name: str, problem: Problem, path: Path, size: Size) -> list[str]:
    """The table of one question."""
    contenders = [c for c in question.contenders if present(c)]
    with ExitStack() as stack:
        processes = {c: stack.enter_context(process(_prepare, path)) for c in contenders}
        turns = [
            {c: processes[c].submit(_ask, question.title, c).result() for c in contenders} for _ in range(size.repeats)
        ]
    seconds = {c: np.array([sum(f.seconds for f in turn[c]) for turn in turns]) for c in contenders}
    checks = check(problem, turns[0]) if turns[0][Ours][0].vectors else dict.fromkeys(contenders, ("–", "–"))
    classes = len(size.classes)
    rows = [
        [
            c.name,
            f"{np.median(seconds[c]) / classes:.2f}",
            spread(seconds[c] / seconds[Ours]),
            f"{np.mean([f.products for f in turns[0][c]]):.1f}",
            *checks[c],
        ]
        for c in contenders
    ]
    settings = [f"{c.name}: {'; '.join(sorted({f.setting for f in turns[0][c]}))}" for c in contenders]
    values = ["; ".join(", ".join(f"{v:.4g}" for v in f.values) for f in turns[0][Ours])]
    return [
        f"## {question.title}",
        "",
        f"{name}; {classes} classes, {size.repeats} repeats",
        "",
        *table(["", "seconds", "times ours", "products", "residual", "error of value"], rows),
        "",
        *settings,
        f"ours by class: {values[0]}",
        "",
    ]


def check(problem: Problem, found: dict[type[Contender], list[Found]]) -> dict[type[Contender], tuple[str, str]]:
    """The largest residual and error of every contender, against float64."""
    model, x, y = problem
    residuals: dict[type[Contender], list[float]] = {c: [] for c in found}
    errors: dict[type[Contender], list[float]] = {c: [] for c in found}
    for i, c in enumerate(y.unique()):
        product = exact_product((model, x[y == c], y[y == c]))
        for end, which in enumerate(("LA", "SA")[: len(found[Ours][i].values)]):
            exact = exact_value(product, found[Ours][i].vectors[end], which)
            for contender, all_found in found.items():
                value, vector = all_found[i].values[end], all_found[i].vectors[end]
                residuals[contender].append(quotient(product, value, vector)[1])
                errors[contender].append(abs(value - exact) / abs(exact))
    return {c: (f"{max(residuals[c]):.1e}", f"{max(errors[c]):.1e}") for c in found}


def exact_value(product: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, which: str) -> float:
    """By ARPACK in float64, whose start has as much of every other direction as of the vector that was found."""
    start = start.double() / start.double().norm()
    start = start + torch.randn(len(start), generator=torch.Generator().manual_seed(2)).double() / len(start) ** 0.5
    matvec = lambda v: product(torch.from_numpy(v.reshape(-1).copy())).numpy()  # noqa: E731
    operator = LinearOperator((len(start), len(start)), matvec=matvec, dtype=np.float64)
    return float(eigsh(operator, k=1, which=which, tol=1e-4, v0=start.numpy(), return_eigenvectors=False)[0])


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


def _prepare(path: Path) -> None:
    global _problem
    _problem = torch.load(path, weights_only=False)


def _ask(title: str, contender: type[Contender]) -> list[Found]:
    question = next(q for q in QUESTIONS.values() if q.title == title)
    return question.ask(contender, _problem)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="usual")
    parser.add_argument("--questions", nargs="+", choices=list(QUESTIONS), default=list(QUESTIONS))
    parser.add_argument("--output", type=Path, help="keep the tables in this file, too")
    return parser.parse_args()


if __name__ == "__main__":
    os.environ.setdefault("TQDM_DISABLE", "1")
    main()
