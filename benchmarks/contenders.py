"""One adapter a library: the product of the Hessian with a vector, alone and among many, and the largest eigenvalue.

Vectors are flat, in the order of ``named_parameters()``. A peer gets what its documentation shows: a mean cross-entropy
in float32 and all images as one batch, so that its averaging over batches has no part in this. ``product(v)`` starts
from nothing; ``run()`` gives a function for many products at the same weights, which may keep what does not depend on
the vector.
"""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from workloads import exact_product, flat, split, unit_vector

import sharpness

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Eigenpair:
    """A largest eigenvalue as found: ``seconds`` and ``products`` are those of the run that found it."""

    value: float
    vector: Tensor
    seconds: float
    products: int
    setting: str


class Contender:
    """A way to multiply with the Hessian of the mean cross-entropy of ``model`` over ``(x, y)``."""

    name: str
    distribution: str  # for the version
    module: str  # to import

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        self.model, self.x, self.y = model, x, y
        self.parameters = list(model.parameters())
        self.size = sum(p.numel() for p in self.parameters)

    def product(self, v: Tensor) -> Tensor:
        raise NotImplementedError

    @contextmanager
    def run(self) -> Iterator[Product]:
        yield self.product

    def largest_eigenvalue(self, tol: float) -> Eigenpair:
        """With ``|Hv - value v| <= tol |value|``, by the library's own routine."""
        raise NotImplementedError

    @classmethod
    def largest_eigenvalues(cls, model: nn.Module, x: Tensor, y: Tensor, tol: float) -> list[Eigenpair]:
        """Of every class, one after another."""
        return [cls(model, x[y == c], y[y == c]).largest_eigenvalue(tol) for c in range(10)]


class Ours(Contender):
    """``Objective.hvp``, ``Objective.operator`` and ``eigenvalues``. The objective is made beforehand."""

    name = distribution = module = "sharpness"

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
    def largest_eigenvalues(cls, model: nn.Module, x: Tensor, y: Tensor, tol: float) -> list[Eigenpair]:
        """Of all classes in one call; its time and products are shared evenly among them."""
        start = time.perf_counter()
        found = sharpness.eigenvalues(cls(model, x, y).objective, per_class=True, tol=tol)
        seconds = (time.perf_counter() - start) / 10
        return [
            Eigenpair(float(value), torch.from_numpy(vector), seconds, found.hvp_count / 10, f"tol={tol:g}")
            for value, vector in zip(found.values[:, 0], found.vectors[:, 0], strict=True)
        ]


class Plain(Contender):
    """Double backward as anyone would write it; a run keeps the graph of the gradient."""

    name, distribution, module = "plain double backward", "torch", "torch"

    def product(self, v: Tensor) -> Tensor:
        return flat(torch.autograd.grad(self._gradient(), self.parameters, split(v, self.parameters)))

    @contextmanager
    def run(self) -> Iterator[Product]:
        first = self._gradient()
        yield lambda v: flat(torch.autograd.grad(first, self.parameters, split(v, self.parameters), retain_graph=True))

    def _gradient(self) -> tuple[Tensor, ...]:
        loss = nn.functional.cross_entropy(self.model(self.x), self.y)
        return torch.autograd.grad(loss, self.parameters, create_graph=True)


class PyHessian(Contender):
    """Keeps the graph of the gradient of its one batch, in the parameters' ``.grad``: cleared before and after.

    Its power iteration finds the eigenvalue largest in magnitude and stops when two values in a row agree to a
    tolerance, which says nothing of the residual; the value is the quotient of the vector before the last. The
    tolerance is tightened by tens from its default of 1e-3 until the residual, checked in float64, is met; only the
    run that met it counts.
    """

    name = distribution = "PyHessian"
    module = "pyhessian"
    tolerances = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
    longest = 1000

    def product(self, v: Tensor) -> Tensor:
        with self.run() as product:
            return product(v)

    @contextmanager
    def run(self) -> Iterator[Product]:
        with self._hessian() as hessian:
            multiply = importlib.import_module("pyhessian.hessian").hessian_vector_product
            yield lambda v: flat(multiply(hessian.gradsH, hessian.params, split(v, self.parameters)))

    def largest_eigenvalue(self, tol: float) -> Eigenpair:
        exact = exact_product((self.model, self.x, self.y))
        for tolerance in self.tolerances:
            pair = self._power_iteration(tolerance)
            if exact_quotient(exact, pair)[1] <= tol:
                break
        return pair

    def _power_iteration(self, tolerance: float) -> Eigenpair:
        torch.manual_seed(0)
        library = importlib.import_module("pyhessian.hessian")
        with patch.object(library, "hessian_vector_product", wraps=library.hessian_vector_product) as products:
            start = time.perf_counter()
            with self._hessian() as hessian:
                values, vectors = hessian.eigenvalues(maxIter=self.longest, tol=tolerance)
            seconds = time.perf_counter() - start
        return Eigenpair(values[0], flat(vectors[0]), seconds, products.call_count, f"tol={tolerance:g}")

    @contextmanager
    def _hessian(self) -> Iterator[object]:
        from pyhessian import hessian

        self.model.zero_grad(set_to_none=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Using backward\\(\\) with create_graph=True")
            yield hessian(self.model, nn.CrossEntropyLoss(), data=(self.x, self.y), cuda=False)
        self.model.zero_grad(set_to_none=True)


class Curvlinops(Contender):
    """``HessianLinearOperator`` without its check for determinism, and ARPACK, as its documentation proposes.

    ARPACK's tolerance is the relative residual. Its default basis of 20 vectors costs at least 21 products, so that
    smaller ones are tried as well, and only the quickest run counts.
    """

    name = "curvlinops"
    distribution = "curvlinops-for-pytorch"
    module = "curvlinops"
    bases = (5, 7, 10, 20)

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        from curvlinops import HessianLinearOperator

        super().__init__(model, x, y)
        data = [(x, y)]
        self.operator = HessianLinearOperator(
            model, nn.CrossEntropyLoss(), self.parameters, data, check_deterministic=False
        )

    def product(self, v: Tensor) -> Tensor:
        return self.operator @ v

    def largest_eigenvalue(self, tol: float) -> Eigenpair:
        return min((self._arpack(tol, basis) for basis in self.bases), key=lambda pair: pair.seconds)

    def _arpack(self, tol: float, basis: int) -> Eigenpair:
        inner, products = self.operator.to_scipy(), 0

        def counted(v: np.ndarray) -> np.ndarray:
            nonlocal products
            products += 1
            return inner.matvec(v)

        start = time.perf_counter()
        outer = LinearOperator(inner.shape, matvec=counted, dtype=inner.dtype)
        values, vectors = eigsh(outer, k=1, which="LA", ncv=basis, tol=tol, v0=unit_vector(self.size).numpy())
        seconds = time.perf_counter() - start
        return Eigenpair(float(values[0]), torch.from_numpy(vectors[:, 0]), seconds, products, f"ncv={basis}")


class Eigenthings(Contender):
    """``HessianOperator`` with its default, exact method, and ``lanczos`` with re-orthogonalisation.

    Its Lanczos runs for a number of steps fixed beforehand and says afterwards whether the residual is met. Lengths are
    tried until it is, and only the run that met it counts, as if its length had been known.
    """

    name = distribution = "hessian-eigenthings"
    module = "hessian_eigenthings"
    lengths = (5, 7, 10, 15, 20, 30, 40, 60, 80, 120, 200)

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        from hessian_eigenthings import HessianOperator, supervised_loss

        super().__init__(model, x, y)
        self.operator = HessianOperator(model, [(x, y)], supervised_loss(nn.CrossEntropyLoss()))

    def product(self, v: Tensor) -> Tensor:
        return self.operator.matvec(v)

    def largest_eigenvalue(self, tol: float) -> Eigenpair:
        from hessian_eigenthings import lanczos

        for length in self.lengths:
            start = time.perf_counter()
            found = lanczos(self.operator, k=1, max_iter=length, tol=tol, which="LA", reorthogonalize=True, seed=0)
            seconds = time.perf_counter() - start
            if bool(found.converged[0]):
                break
        value, vector = float(found.eigenvalues[0]), found.eigenvectors[0]
        return Eigenpair(value, vector, seconds, found.iterations, f"max_iter={length}")


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


def exact_quotient(exact: Product, pair: Eigenpair) -> tuple[float, float]:
    """From a product in float64: the vector's Rayleigh quotient, and ``|Hv - value v| / |value|`` at ``|v| = 1``."""
    v = pair.vector.double()
    v = v / v.norm()
    product = exact(v)
    return float(v @ product), float((product - pair.value * v).norm()) / abs(pair.value)
