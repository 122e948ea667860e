"""Checkpoints of unfinished Lanczos runs, as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sharpness.curvature.krylov import BLOCK, Krylov
from sharpness.errors import UserError

_FORMAT = "lanczos 1"


@dataclass(frozen=True)
class LanczosState:
    """The state of ``lanczos`` right after a product: everything that the next product depends on.

    The state shares its vectors with the run. Its arrays contain all of them: ``size`` numbers for every product of the
    current run and for every pair found so far.

    >>> from sharpness.curvature.lanczos import lanczos
    >>> operator = lambda v: torch.arange(9, dtype=v.dtype) * v
    >>> states = []
    >>> whole = lanczos(operator, 9, checkpoint=states.append)
    >>> state = LanczosState.of(states[2].arrays())
    >>> rest = lanczos(operator, 9, state=state)
    >>> state.products, rest.products == whole.products, torch.equal(rest.vectors, whole.vectors)
    (3, True, True)
    """

    settings: dict[str, object]  # of the call; a run is only continued with the same settings
    space: Krylov  # of the current run, orthogonal to the vectors of the pairs found so far
    values: np.ndarray  # (h,) of the pairs found so far, descending
    residuals: np.ndarray  # (h,)
    lowest: float  # smallest Ritz value of all runs
    highest: float  # largest Ritz value of all runs
    runs: int  # finished runs
    products: int
    generator: np.ndarray  # uint8

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the whole state as plain arrays by name, on the CPU."""
        space = self.space
        arrays: dict[str, np.ndarray] = {
            "format": np.array(_FORMAT),
            "values": self.values,
            "residuals": self.residuals,
            "extent": np.array([self.lowest, self.highest, space.norm]),
            "counts": np.array([self.runs, self.products, space.rows]),
            "coefficients": space.coefficients(),
            "beta": np.array(space.beta),
            "generator": self.generator,
            "vectors": space.locked.cpu().numpy(),
        }
        arrays |= {f"setting_{name}": np.array(value) for name, value in self.settings.items()}
        for i, block in enumerate(space.blocks):
            arrays[f"basis_{i}"] = block[: space.rows - i * BLOCK].cpu().numpy()
        return arrays

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray], device: torch.device | str = "cpu") -> LanczosState:
        """Make a state from its arrays; vectors are removed from the dict, so that memory holds them only once.

        Raises:
            ValueError: the arrays are of another version.
        """
        if str(arrays["format"]) != _FORMAT:
            raise ValueError(f"it says {arrays['format']}")

        def tensor(name: str) -> Tensor:
            # A copy, because the last bits of a matrix product may depend on the alignment of memory.
            return torch.from_numpy(arrays.pop(name)).clone().to(device)

        runs, products, rows = (int(count) for count in arrays["counts"])
        lowest, highest, norm = (float(end) for end in arrays["extent"])
        vectors, coefficients = tensor("vectors"), arrays["coefficients"]
        blocks = []
        for i in range(-(-rows // BLOCK)):
            filled = tensor(f"basis_{i}")
            block = vectors.new_empty(BLOCK, vectors.shape[1])
            block[: len(filled)] = filled
            blocks.append(block)
        columns = [coefficients[: len(vectors) + j + 1, j].copy() for j in range(coefficients.shape[1])]
        space = Krylov(vectors, norm, blocks, rows, columns, arrays["beta"].tolist())
        prefix = "setting_"
        settings = {name.removeprefix(prefix): arrays[name].item() for name in arrays if name.startswith(prefix)}
        pairs = arrays["values"], arrays["residuals"]
        return cls(settings, space, *pairs, lowest, highest, runs, products, arrays["generator"])

    def check(self, settings: dict[str, object], device: torch.device | str) -> None:
        """Refuse to continue a run with other settings or on another device than that of its vectors.

        Raises:
            UserError: names the first setting that differs.
        """
        if self.space.locked.device.type != torch.device(device).type:
            raise UserError(f"the Lanczos state is on {self.space.locked.device}: make it with device={str(device)!r}")
        for name, value in settings.items():
            if self.settings.get(name) != value:
                raise UserError(
                    f"the Lanczos state was made with {name}={self.settings.get(name)}, not {value}: "
                    "repeat that call, or start without a state"
                )
