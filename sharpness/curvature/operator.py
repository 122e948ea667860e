"""Symmetric linear operators, given by their products with vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypedDict

import torch
from torch import Tensor

from sharpness.keywords import Default

Product = Callable[[Tensor], Tensor]


class RunOptions(TypedDict, total=False):
    """Keywords of algorithms that draw random vectors and make products.

    Attributes:
        generator: generator of the random vectors; by default a CPU generator seeded with 0.
        dtype: dtype of all vectors.
        device: device of all vectors.
        callback: called with 1 after every product.
    """

    generator: torch.Generator | None
    dtype: Annotated[torch.dtype, Default(torch.float64)]
    device: Annotated[torch.device | str, Default("cpu")]
    callback: Callable[[int], object] | None


class StartOptions(RunOptions, total=False):
    """Keywords of Lanczos iterations.

    Attributes:
        start: vector (n,) near the wanted eigenvectors. A random vector of equal length is added, so that eigenvectors
            orthogonal to ``start`` are found as well. Not used when an interrupted run is continued.
    """

    start: Tensor | None


class Operator:
    """An operator that counts its products, reports each, refuses those that are not finite, and draws random vectors.

    >>> double = Operator(lambda v: 2 * v)
    >>> double(torch.ones(2)).tolist(), double.products
    ([2.0, 2.0], 1)
    """

    def __init__(
        self,
        product: Product,
        callback: Callable[[int], object] | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            product: function from v (n,) to A v (n,).
            callback: called with 1 after every product.
            generator: generator of the random vectors; by default a CPU generator seeded with 0.
            dtype: dtype of all vectors.
            device: device of all vectors.
        """
        self.product, self.callback, self.dtype, self.device = product, callback, dtype, device
        self.generator = generator or torch.Generator().manual_seed(0)
        self.products = 0

    def signs(self, size: int) -> Tensor:
        """Draw a vector (size,) of random signs, see :func:`random_signs`."""
        return random_signs(size, self.generator, self.dtype, self.device)

    def __call__(self, v: Tensor) -> Tensor:
        """Return A v (n,) for v (n,).

        Raises:
            FloatingPointError: an entry is not finite.
        """
        image = self.product(v).detach()
        # The sum takes a single pass; it is finite unless an entry is not or the sum itself overflows.
        if not bool(torch.isfinite(image.sum())) and not bool(torch.isfinite(image).all()):
            raise FloatingPointError(
                f"product {self.products + 1} with the operator is not finite: the loss overflows here"
            )
        self.products += 1
        if self.callback is not None:
            self.callback(1)
        return image


def random_signs(size: int, generator: torch.Generator, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Draw a vector (size,) of independent signs on the CPU: the same on every device and in every precision."""
    return torch.randint(0, 2, (size,), generator=generator).mul_(2).sub_(1).to(device=device, dtype=dtype)
