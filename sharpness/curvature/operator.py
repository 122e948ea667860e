"""Symmetric linear operators, given by their product with a vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypedDict

import torch
from torch import Tensor

from sharpness.keywords import Default

Product = Callable[[Tensor], Tensor]


class RunOptions(TypedDict, total=False):
    """Keywords of algorithms that make random vectors and products.

    Attributes:
        generator: of the random vectors; a CPU generator seeded with 0 unless given.
        dtype: of vectors.
        device: of vectors.
        callback: called with 1 after every product.
    """

    generator: torch.Generator | None
    dtype: Annotated[torch.dtype, Default(torch.float64)]
    device: Annotated[torch.device | str, Default("cpu")]
    callback: Callable[[int], object] | None


class StartOptions(RunOptions, total=False):
    """Keywords of Lanczos iterations.

    Attributes:
        start: (n,) near the wanted eigenvectors. As much in a random direction is added, so that eigenvectors
            orthogonal to it are found as well. Unused where an interrupted run is continued.
    """

    start: Tensor | None


class Operator:
    """An operator that counts its products, reports each, and refuses one that is not finite; with random vectors.

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
            product: v (n,) to A v (n,).
            callback: called with 1 after every product.
            generator: of random vectors; a CPU generator seeded with 0 unless given.
            dtype: of vectors.
            device: of vectors.
        """
        self.product, self.callback, self.dtype, self.device = product, callback, dtype, device
        self.generator = generator or torch.Generator().manual_seed(0)
        self.products = 0

    def signs(self, size: int) -> Tensor:
        """A vector (size,) of random signs, see :func:`random_signs`."""
        return random_signs(size, self.generator, self.dtype, self.device)

    def __call__(self, v: Tensor) -> Tensor:
        """Multiply: v (n,) to A v (n,).

        Raises:
            FloatingPointError: an entry is not finite.
        """
        image = self.product(v).detach()
        # A sum is one pass, and finite unless an entry is not, or the sum itself overflows.
        if not bool(torch.isfinite(image.sum())) and not bool(torch.isfinite(image).all()):
            raise FloatingPointError(
                f"product {self.products + 1} with the operator is not finite: the loss overflows here"
            )
        self.products += 1
        if self.callback is not None:
            self.callback(1)
        return image


def random_signs(size: int, generator: torch.Generator, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """A vector (size,) of independent signs, drawn on the CPU: the same on every device and in every precision."""
    return torch.randint(0, 2, (size,), generator=generator).mul_(2).sub_(1).to(device=device, dtype=dtype)
