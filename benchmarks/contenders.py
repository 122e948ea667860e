"""One adapter a library: the product of the Hessian with a vector, alone and among many, eigenvalues, and the trace.

Vectors are flat, in the order of ``named_parameters()``. A peer gets what its documentation shows: a mean cross-entropy
in float32 and all images as one batch, so that its averaging over batches has no part in this. ``product(v)`` starts
from nothing; ``run()`` gives a function for many products at the same weights, which may keep what does not depend on
the vector.
"""

from __future__ import annotations

import importlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from workloads import exact_product, flat, like_filters, split, unit_vector

import sharpness

Product = Callable[[Tensor], Tensor]


def now() -> np.ndarray:
    """Seconds by the clock, and those of all threads of this process, which a busy machine changes little."""
    return np.array([time.perf_counter(), time.process_time()])


@dataclass(frozen=True)
class Found:
    """Eigenvalues of one class with their vectors, or a trace: with the time and products of the run that found it."""

    values: list[float]
    vectors: list[Tensor]
    seconds: np.ndarray  # (2,) by the clock, and of all threads
    products: float
    setting: str


_DID_IT: dict[tuple[object, ...], Any] = {}


def left_to_try(key: tuple[object, ...], settings: Sequence[Any]) -> Sequence[Any]:
    """The setting that answered the same question before in this process, or all of them."""
    return [_DID_IT[key]] if key in _DID_IT else settings


def draws_that_meet(error: float, key: tuple[object, ...], run: Callable[[int], tuple[float, float, Found]]) -> Found:
    """The answer of the first run whose standard error is at most ``error`` of the value; only it counts.

    Args:
        run: number of draws to value, standard error and answer.
    """
    draws = left_to_try(key, [FIRST_DRAWS])[0]
    while True:
        value, its, found = run(draws)
        short = its / (error * abs(value))
        if short <= 1 or draws >= MOST_DRAWS:
            _DID_IT[key] = draws
            return found
        draws = min(MOST_DRAWS, math.ceil(draws * min(max(1.1 * short**2, 1.2), 5)))


#: Random vectors, or products of Hutch++, of a first try at a trace, and of the last one.
FIRST_DRAWS, MOST_DRAWS = 12, 600


class Contender:
    """A way to multiply with the Hessian of the mean cross-entropy of ``model`` over ``(x, y)``."""

    name: str
    distribution: str  # for the version
    module: str  # to import

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        self.model, self.x, self.y = model, x, y
        self.parameters = list(model.parameters())
        self.size = sum(p.numel() for p in self.parameters)
        self.about = (type(self), len(y), int(y[0]))

    def product(self, v: Tensor) -> Tensor:
        raise NotImplementedError

    @contextmanager
    def run(self) -> Iterator[Product]:
        yield self.product

    def eigenvalues(self, which: str, tol: float) -> Found:
        """The largest (``"LA"``) or both ends, with ``|Hv - value v| <= tol |value|``, by the library's own routine.

        Of both ends the smaller in magnitude needs 5 tol, which is within 0.5 % of an eigenvalue at 1e-3.
        """
        raise NotImplementedError

    def trace(self, error: float) -> Found:
        """With a standard error of at most ``error`` of it, by the library's own routine."""
        raise NotImplementedError

    @classmethod
    def all_eigenvalues(cls, model: nn.Module, x: Tensor, y: Tensor, which: str, tol: float) -> list[Found]:
        """Of every class among y, one after another."""
        return [cls(model, x[y == c], y[y == c]).eigenvalues(which, tol) for c in y.unique()]

    @classmethod
    def all_traces(cls, model: nn.Module, x: Tensor, y: Tensor, error: float) -> list[Found]:
        """Of every class among y, one after another."""
        return [cls(model, x[y == c], y[y == c]).trace(error) for c in y.unique()]

    def table(self, tol: float) -> Found:
        """What ``measure`` tells of a class: both ends, and the rest by plain PyTorch."""
        ends, seconds = self.eigenvalues("both", tol), self._rest_of_table()
        return Found(ends.values, ends.vectors, ends.seconds + seconds, ends.products, ends.setting)

    @classmethod
    def all_tables(cls, model: nn.Module, x: Tensor, y: Tensor, tol: float) -> list[Found]:
        """Of every class among y, one after another, and of all samples, whose time the classes share evenly."""
        whole = cls(model, x, y).table(tol)
        found = [cls(model, x[y == c], y[y == c]).table(tol) for c in y.unique()]
        return [replace(one, seconds=one.seconds + whole.seconds / len(found)) for one in found]

    def _rest_of_table(self, radius: float = 0.1, draws: int = 5, rho: float = 0.05) -> np.ndarray:
        """Seconds of accuracy and loss, of the rises in five random directions, and of the one after an ascent step."""
        start = now()
        value = nn.functional.cross_entropy(outputs := self.model(self.x), self.y)
        (outputs.detach().argmax(1) == self.y).double().mean()
        gradient = torch.autograd.grad(value, self.parameters)
        length = float(flat(gradient).norm())
        with torch.no_grad():
            for i in range(draws + 1):
                if i == draws:
                    moves = [rho / length * g for g in gradient]
                else:
                    moves = [radius * like_filters(p) for p in self.parameters]
                for p, d in zip(self.parameters, moves, strict=True):
                    p.add_(d)
                float(nn.functional.cross_entropy(self.model(self.x), self.y))
                for p, d in zip(self.parameters, moves, strict=True):
                    p.sub_(d)
        return now() - start


class Ours(Contender):
    """``Objective.hvp``, ``Objective.operator`` and ``eigenvalues``. The objective is made beforehand."""

    name = distribution = "sharpness"
    module = "sharpness.probes"

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        super().__init__(model, x, y)
        self.objective = sharpness.Objective(model, (x, y), num_classes=10)

    def product(self, v: Tensor) -> Tensor:
        return self.objective.hvp(v)

    @contextmanager
    def run(self) -> Iterator[Product]:
        with self.objective.operator() as operator:
            yield operator

    @classmethod
    def all_eigenvalues(cls, model: nn.Module, x: Tensor, y: Tensor, which: str, tol: float) -> list[Found]:
        """Of all classes in one call; its time is shared evenly among them."""
        start = now()
        found = sharpness.eigenvalues(cls(model, x, y).objective, which=which, per_class=True, tol=tol)
        seconds = now() - start
        classes = y.unique().tolist()
        return [
            Found(
                found.values[c].tolist(),
                list(torch.from_numpy(found.vectors[c])),
                seconds / len(classes),
                float(found.products[c]),
                f"tol={tol:g}",
            )
            for c in classes
        ]

    @classmethod
    def all_tables(cls, model: nn.Module, x: Tensor, y: Tensor, tol: float) -> list[Found]:
        """Of all classes in one call of ``measure`` with its defaults; its time is shared evenly among them."""
        start = now()
        found = sharpness.measure(cls(model, x, y).objective, tol=tol)
        classes = y.unique().tolist()
        seconds = (now() - start) / len(classes)
        columns = [found[name].values for name in ("lambda_max", "lambda_min")]
        return [Found([float(c[i]) for c in columns], [], seconds, math.nan, f"tol={tol:g}") for i in classes]

    @classmethod
    def all_traces(cls, model: nn.Module, x: Tensor, y: Tensor, error: float) -> list[Found]:
        """Of all classes in one call, exactly, whatever error is asked for."""
        start, classes = now(), y.unique().tolist()
        found = sharpness.trace(cls(model, x, y).objective, per_class=True, estimator="exact")["trace"]
        seconds = (now() - start) / len(classes)
        return [Found([float(v)], [], seconds, math.nan, "exact") for v in found.values[classes]]


class Plain(Contender):
    """Double backward as anyone would write it; a run keeps the graph of the gradient."""

    name, distribution, module = "plain double backward", "torch", "torch"

    def product(self, v: Tensor) -> Tensor:
        return flat(torch.autograd.grad(self._gradient(), self.parameters, split(v, self.parameters)))

    @contextmanager
    def run(self) -> Iterator[Product]:
        first = self._gradient()
        yield lambda v: flat(torch.autograd.grad(first, self.parameters, split(v, self.parameters), retain_graph=True))

    def eigenvalues(self, which: str, tol: float) -> Found:
        """ARPACK on the kept graph, both ends in one run.

        ARPACK's tolerance is the relative residual of each value, 5 tol for both ends. Its default basis of 20 vectors
        costs at least 21 products; one of 5 was quicker than those of 10 and 20 wherever all were tried for one end.
        """
        basis, tol = (5, tol) if which == "LA" else (20, 5 * tol)
        products = 0
        start = now()
        with self.run() as product:

            def counted(v: np.ndarray) -> np.ndarray:
                nonlocal products
                products += 1
                return product(torch.from_numpy(np.array(v, dtype=np.float32).reshape(-1))).numpy()

            operator = LinearOperator((self.size, self.size), matvec=counted, dtype=np.float32)
            end = {"k": 1, "which": "LA"} if which == "LA" else {"k": 2, "which": "BE"}
            values, vectors = eigsh(operator, ncv=basis, tol=tol, v0=unit_vector(self.size).numpy(), **end)
        seconds = now() - start
        columns = [torch.from_numpy(v.copy()) for v in vectors.T[::-1]]
        return Found(values[::-1].tolist(), columns, seconds, products, f"ncv={basis}")

    def trace(self, error: float) -> Found:
        """Hutchinson's estimator, until its standard error is met."""
        generator, samples = torch.Generator().manual_seed(0), []
        start = now()
        with self.run() as product:
            while len(samples) < FIRST_DRAWS or standard_error(samples) > error * abs(float(np.mean(samples))):
                z = torch.randint(0, 2, (self.size,), generator=generator) * 2.0 - 1
                samples.append(float(z @ product(z)))
        return Found([float(np.mean(samples))], [], now() - start, len(samples), f"{len(samples)} draws")

    def _gradient(self) -> tuple[Tensor, ...]:
        loss = nn.functional.cross_entropy(self.model(self.x), self.y)
        return torch.autograd.grad(loss, self.parameters, create_graph=True)


class PyHessian(Contender):
    """Keeps the graph of the gradient of its one batch, in the parameters' ``.grad``: cleared before and after.

    Its power iteration finds the eigenvalue largest in magnitude and stops when two values in a row agree to a
    tolerance, which says nothing of the residual; the value is the quotient of the vector before the last. The
    tolerance is tightened by tens until the residual, checked in float64, is met; only the run that met it counts. Its
    default of 1e-3 never met it.
    """

    name = distribution = "PyHessian"
    module = "pyhessian"
    tolerances = (1e-4, 1e-5, 1e-6, 1e-7)
    longest = 1000

    def product(self, v: Tensor) -> Tensor:
        with self.run() as product:
            return product(v)

    @contextmanager
    def run(self) -> Iterator[Product]:
        with self._hessian() as hessian:
            multiply = importlib.import_module("pyhessian.hessian").hessian_vector_product
            yield lambda v: flat(multiply(hessian.gradsH, hessian.params, split(v, self.parameters)))

    def eigenvalues(self, which: str, tol: float) -> Found:
        if which != "LA":
            raise NotImplementedError
        exact = exact_product((self.model, self.x, self.y))
        for tolerance in left_to_try(self.about, self.tolerances):
            found = self._power_iteration(tolerance)
            if quotient(exact, found.values[0], found.vectors[0])[1] <= tol:
                break
        _DID_IT[self.about] = tolerance
        return found

    def trace(self, error: float) -> Found:
        """As many draws as its samples need: it stops by the change of the mean, which says little."""

        def run(draws: int) -> tuple[float, float, Found]:
            torch.manual_seed(0)
            start = now()
            with self._hessian() as hessian:
                samples = hessian.trace(maxIter=draws, tol=-math.inf)
            seconds, value = now() - start, float(np.mean(samples))
            return value, standard_error(samples), Found([value], [], seconds, len(samples), f"{draws} draws")

        return draws_that_meet(error, (*self.about, "trace"), run)

    def _power_iteration(self, tolerance: float) -> Found:
        torch.manual_seed(0)
        library = importlib.import_module("pyhessian.hessian")
        with patch.object(library, "hessian_vector_product", wraps=library.hessian_vector_product) as products:
            start = now()
            with self._hessian() as hessian:
                values, vectors = hessian.eigenvalues(maxIter=self.longest, tol=tolerance)
            seconds = now() - start
        return Found([float(values[0])], [flat(vectors[0])], seconds, products.call_count, f"tol={tolerance:g}")

    @contextmanager
    def _hessian(self) -> Iterator[object]:
        from pyhessian import hessian

        self.model.zero_grad(set_to_none=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Using backward\\(\\) with create_graph=True")
            yield hessian(self.model, nn.CrossEntropyLoss(), data=(self.x, self.y), cuda=False)
        self.model.zero_grad(set_to_none=True)


class Curvlinops(Contender):
    """``HessianLinearOperator`` without its check for determinism.

    Its documentation proposes ARPACK for eigenvalues, which is measured on cheaper products, those of :class:`Plain`.
    """

    name = "curvlinops"
    distribution = "curvlinops-for-pytorch"
    module = "curvlinops"

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        from curvlinops import HessianLinearOperator

        super().__init__(model, x, y)
        data = [(x, y)]
        self.operator = HessianLinearOperator(
            model, nn.CrossEntropyLoss(), self.parameters, data, check_deterministic=False
        )

    def product(self, v: Tensor) -> Tensor:
        return self.operator @ v


class Eigenthings(Contender):
    """``HessianOperator`` with its default, exact method, and ``lanczos`` with re-orthogonalisation.

    Its Lanczos runs for a number of steps fixed beforehand and says afterwards whether the residual is met. Lengths are
    tried until it is, and only the run that met it counts, as if its length had been known.
    """

    name = distribution = "hessian-eigenthings"
    module = "hessian_eigenthings"
    lengths = (7, 10, 15, 20, 30, 40, 60, 80, 120, 200)

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        from hessian_eigenthings import HessianOperator, supervised_loss

        super().__init__(model, x, y)
        self.operator = HessianOperator(model, [(x, y)], supervised_loss(nn.CrossEntropyLoss()))

    def product(self, v: Tensor) -> Tensor:
        return self.operator.matvec(v)

    def eigenvalues(self, which: str, tol: float) -> Found:
        ends = [self.end("LA", tol)] + ([self.end("SA", 5 * tol)] if which != "LA" else [])
        return Found(
            [value for end in ends for value in end.values],
            [vector for end in ends for vector in end.vectors],
            np.sum([end.seconds for end in ends], axis=0),
            sum(end.products for end in ends),
            ", ".join(end.setting for end in ends),
        )

    def end(self, which: str, tol: float) -> Found:
        """One end of the spectrum."""
        from hessian_eigenthings import lanczos

        key = (*self.about, which)
        for length in left_to_try(key, self.lengths if which == "LA" else self.lengths[2:]):
            start = now()
            found = lanczos(self.operator, k=1, max_iter=length, tol=tol, which=which, reorthogonalize=True, seed=0)
            seconds = now() - start
            if bool(found.converged[0]):
                break
        _DID_IT[key] = length
        value, vector = float(found.eigenvalues[0]), found.eigenvectors[0]
        return Found([value], [vector], seconds, found.iterations, f"max_iter={length}")

    def trace(self, error: float) -> Found:
        """Hutch++, its default, with as many products as it needs."""
        from hessian_eigenthings import trace

        def run(draws: int) -> tuple[float, float, Found]:
            start = now()
            found = trace(self.operator, num_matvecs=draws, seed=0)
            answer = Found([found.estimate], [], now() - start, draws, f"{draws} products")
            return found.estimate, found.stderr, answer

        return draws_that_meet(error, (*self.about, "trace"), run)


class Both(PyHessian):
    """The largest eigenvalue by PyHessian, the smallest by hessian-eigenthings: what there is for each."""

    name = "PyHessian, and hessian-eigenthings for the smallest"

    def eigenvalues(self, which: str, tol: float) -> Found:
        largest = super().eigenvalues("LA", tol)
        smallest = Eigenthings(self.model, self.x, self.y).end("SA", 5 * tol)
        return Found(
            largest.values + smallest.values,
            largest.vectors + smallest.vectors,
            largest.seconds + smallest.seconds,
            largest.products + smallest.products,
            f"{largest.setting}, {smallest.setting}",
        )


CONTENDERS: tuple[type[Contender], ...] = (Ours, Plain, PyHessian, Curvlinops, Eigenthings)


def available() -> tuple[list[type[Contender]], list[str]]:
    """The contenders whose library can be imported, and one line for each of the others."""
    present, missing = [], []
    for contender in CONTENDERS:
        try:
            importlib.import_module(contender.module)
            present.append(contender)
        except ImportError as error:
            missing.append(f"{contender.name} is missing here: {error}")
    return present, missing


def standard_error(samples: list[float]) -> float:
    return float(np.std(samples, ddof=1)) / len(samples) ** 0.5


def quotient(exact: Product, value: float, vector: Tensor) -> tuple[float, float]:
    """From a product in float64: the vector's Rayleigh quotient, and ``|Hv - value v| / |value|`` at ``|v| = 1``."""
    v = vector.double()
    v = v / v.norm()
    product = exact(v)
    return float(v @ product), float((product - value * v).norm()) / abs(value)
