"""Sets of directions with their parameters and marked points, and their files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.errors import UserError
from sharpness.files import write_arrays
from sharpness.objective import Objective

FORMAT = "sharpness-directions"
ARRAYS = ("vectors", "marks", "explained")


@dataclass(frozen=True, eq=False, repr=False)
class Directions:
    """The directions that span a line or a plane.

    Attributes:
        vectors: (d, k).
        shapes: shapes of the parameters in scope (k numbers in all), by name, in order.
        name: ``"gaussian"``, ``"hessian"``, ``"gradient"``, ``"given"``, ``"models"``, ``"trajectory"``, or two of
            them joined by a plus.
        normalization: normalisation of Gaussian directions.
        seed: seed of Gaussian directions.
        marks: (m, d) coordinates of other models, or of the steps of a trajectory; or None.
        mark_names: names of the marks; may be empty.
        explained: (d,) share of a trajectory's squared distances from its end that lies along each axis; or None.
    """

    vectors: Tensor
    shapes: dict[str, tuple[int, ...]]
    name: str = "given"
    normalization: str | None = None
    seed: int = 0
    marks: np.ndarray | None = None
    mark_names: tuple[str, ...] = ()
    explained: np.ndarray | None = None

    @classmethod
    def of(cls, objective: Objective, vectors: Sequence[Tensor], name: str, **fields: Any) -> Directions:
        """Make directions of flat vectors (k,) for an objective."""
        return cls(torch.stack(list(vectors)), parameter_shapes(objective), name, **fields)

    def fit(self, objective: Objective, number: int) -> Directions:
        """Select the first ``number`` directions, on the device and in the dtype of an objective.

        Returns:
            Directions with vectors (number, k).

        Raises:
            UserError: there are fewer, or they are for other parameters; the message names the first that differs.
        """
        if len(self.vectors) < number:
            raise UserError(f"{len(self.vectors)} direction was given: a plane needs two")
        require_shapes(self.shapes, parameter_shapes(objective), f"the {self.name} directions are")
        return replace(
            self,
            vectors=self.vectors[:number].to(objective.device, objective.dtype),
            marks=None if self.marks is None else self.marks[:, :number],
            explained=None if self.explained is None else self.explained[:number],
        )

    def ranges(self, margin: float, points: int) -> list[tuple[float, float, int]]:
        """The range of every axis that covers the marks, extended on both sides by ``margin`` times its length.

        Returns:
            From, to and number of points of every axis.

        Raises:
            UserError: a negative margin, or no marks to cover.
        """
        if not (np.isfinite(margin) and margin >= 0):
            raise UserError(f"margin={margin!r}: give a part of the range that is at least 0, such as 0.2")
        if self.marks is None:
            raise UserError(f"{self.name} directions mark no points: give x and y")
        low, high = self.marks.min(axis=0), self.marks.max(axis=0)
        extra = margin * (high - low)
        return [(float(a), float(b), points) for a, b in zip(low - extra, high + extra, strict=True)]

    def save(self, path: str | Path) -> Path:
        """Write one NumPy archive, without pickled objects; read it back with :func:`load_directions`."""
        path = Path(path)
        vectors = self.vectors.detach().cpu()
        arrays = {
            "vectors": (vectors.float() if vectors.dtype in (torch.bfloat16, torch.float16) else vectors).numpy(),
            "marks": self.marks,
            "explained": self.explained,
        }
        plain = {k: v for k, v in asdict(replace(self, vectors=vectors[:0])).items() if k not in ARRAYS}
        header = json.dumps({"format": FORMAT, **plain})
        present: dict[str, Any] = {k: v for k, v in arrays.items() if v is not None}

        write_arrays(path, {"header": np.array(header), **present})
        return path

    def __repr__(self) -> str:
        marks = "" if self.marks is None else f", {len(self.marks)} marks"
        return f"Directions({self.name}: {len(self.vectors)} x {self.vectors.shape[1]}{marks})"


def load_directions(path: str | Path) -> Directions:
    """Read directions saved by :meth:`Directions.save`; nothing in the file is executed.

    Args:
        path: path of the archive (``.npz``).

    Returns:
        The directions, as they were saved.

    Raises:
        UserError: no such file, or a file of another kind.

    >>> import tempfile
    >>> found = Directions(torch.eye(2), {"weight": (1, 2)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load_directions(found.save(f"{folder}/axes.npz"))
    Directions(given: 2 x 2)
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no directions at {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            plain = json.loads(str(file["header"]))
            arrays: dict[str, Any] = {name: file[name] for name in ARRAYS if name in file.files}
        if plain.pop("format") != FORMAT:
            raise UserError("another format")
        plain["shapes"] = {name: tuple(shape) for name, shape in plain["shapes"].items()}
        plain["mark_names"] = tuple(plain["mark_names"])
        arrays["vectors"] = torch.from_numpy(arrays["vectors"])
        return Directions(**plain, **arrays)
    except Exception as error:
        raise UserError(f"{path} holds no directions that sharpness has saved ({type(error).__name__})") from None


def parameter_shapes(objective: Objective) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters in scope, by name, in order."""
    return {n: tuple(p.shape) for n, p in zip(objective.names, objective.parameters, strict=True)}


def require_shapes(theirs: dict[str, tuple[int, ...]], ours: dict[str, tuple[int, ...]], what: str) -> None:
    """Refuse directions or weights for other parameters.

    Raises:
        UserError: parameters differ; the message names the first.
    """
    for name in [*ours, *theirs]:
        a, b = theirs.get(name), ours.get(name)
        if a != b:
            raise UserError(
                f"{what} for other parameters: {name!r} is {_shape(a)} there and {_shape(b)} in this objective: take "
                "a model of the same architecture and the same scope"
            )
    if list(theirs) != list(ours):
        raise UserError(f"{what} for the same parameters in another order: take a model of the same architecture")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else f"of shape {shape}"
