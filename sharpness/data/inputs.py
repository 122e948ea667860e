"""Several inputs of a network, by position or by name, packed into one tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sharpness.data.rows import Rows
from sharpness.errors import UserError

Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """Shapes and dtypes of the inputs in the columns of a packed tensor.

    Attributes:
        names: names of the arguments; None for positional arguments.
        shapes: shape of one sample of each input.
        dtypes: dtype of each integer or bool input, which :meth:`unpack` restores; None for real inputs, which keep
            the precision of the packed tensor.
    """

    names: tuple[str, ...] | None
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype | None, ...]

    def unpack(self, x: Tensor) -> list[Tensor]:
        """Split a packed tensor (n, columns) into the inputs (n, ...)."""
        found, start = [], 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            size = math.prod(shape)
            part = x[:, start : start + size].reshape(-1, *shape)
            found.append(part if dtype is None else part.to(dtype))
            start += size
        return found

    def call(self, model: Any, x: Tensor) -> Any:
        """Run the model on a packed tensor."""
        inputs = self.unpack(x)
        return model(*inputs) if self.names is None else model(**dict(zip(self.names, inputs, strict=True)))

    def as_given(self, x: Tensor) -> Inputs:
        """Split a packed tensor into the inputs, as a tuple or a dict like the original."""
        inputs = self.unpack(x)
        return tuple(inputs) if self.names is None else dict(zip(self.names, inputs, strict=True))


def pack(inputs: Inputs, dtype: torch.dtype) -> tuple[Tensor, Layout | None]:
    """Pack several inputs into one tensor (n, columns), and return its layout; a single input is returned with None.

    Args:
        inputs: inputs (n, ...).
        dtype: dtype of the model; if there are real inputs, it must represent all integer inputs exactly.

    Raises:
        UserError: different numbers of samples, complex inputs, or integers too large for the model's precision.

    >>> x, layout = pack((torch.zeros(2, 3), torch.tensor([[5], [7]])), torch.float32)
    >>> x.shape, [t.dtype for t in layout.unpack(x.float())]
    (torch.Size([2, 4]), [torch.float32, torch.int64])
    """
    if isinstance(inputs, Tensor | Rows):
        return inputs, None
    named = isinstance(inputs, Mapping)
    names = tuple(map(str, inputs)) if isinstance(inputs, Mapping) else tuple(f"number {i}" for i in range(len(inputs)))
    parts = list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs)
    if any(not part.ndim or len(part) != len(parts[0]) for part in parts):
        shapes = " and ".join(str(tuple(part.shape)) for part in parts)
        raise UserError(f"inputs of shapes {shapes}: give as many samples of each, along the first axis")
    if any(part.is_complex() for part in parts):
        raise UserError("an input has complex numbers, beside other inputs: give real and imaginary part as two")
    real = [part.is_floating_point() for part in parts]
    packed_in = torch.float64 if any(real) else torch.int64
    # The packed tensor is converted to the model's dtype, which holds integers of 53 or 24 bits exactly.
    if any(real):
        largest = 2 ** (53 if dtype is torch.float64 else 24)
        for name, part, is_real in zip(names, parts, real, strict=True):
            if not is_real and part.numel() and int(part.long().abs().max()) > largest:
                raise UserError(
                    f"input {name} has integers above {largest:,}, beside real numbers: give the model in float64, "
                    "model.double()"
                )
    columns = [part.detach().cpu().reshape(len(part), -1).to(packed_in) for part in parts]
    layout = Layout(
        names if named else None,
        tuple(tuple(part.shape[1:]) for part in parts),
        tuple(None if is_real else part.dtype for is_real, part in zip(real, parts, strict=True)),
    )
    return torch.cat(columns, dim=1), layout
