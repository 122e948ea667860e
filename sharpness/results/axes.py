"""Labels of the axes of landscapes, with their units."""

from __future__ import annotations

from collections.abc import Sequence

#: Units of Gaussian directions, by normalisation.
GAUSSIAN = {"filter": "filter norms", "layer": "layer norms", None: "standard deviations"}
#: Names of directions of unit length.
UNIT = {"hessian": "Eigenvector", "gradient": "Gradient", "trajectory": "Component"}
LENGTH = "length of the step"


def radius_unit(normalization: str | None, distribution: str) -> str:
    """The unit of the radius of a random perturbation.

    >>> radius_unit("filter", "gaussian"), radius_unit(None, "sphere")
    ('in filter norms', 'length of the step')
    """
    return LENGTH if normalization is None and distribution == "sphere" else f"in {GAUSSIAN[normalization]}"


def line_label(directions: str, normalization: str | None) -> str:
    """The label of the axis of a line.

    >>> line_label("gaussian", "filter")
    'Distance along the direction (in filter norms)'
    >>> line_label("hessian", None)
    'Length of the step along the eigenvector'
    """
    if directions == "gaussian":
        return f"Distance along the direction (in {GAUSSIAN[normalization]})"
    if directions in UNIT:
        return f"Length of the step along the {UNIT[directions].lower()}"
    return "Fraction of the way to the other model" if directions == "models" else "Multiple of the direction"


def plane_label(directions: str, normalization: str | None, axis: int, explained: Sequence[float] | None = None) -> str:
    """The label of the first (0) or second (1) axis of a plane; ``directions`` may be two names joined by a plus.

    ``explained`` (2,) are the fractions of a trajectory along its components.

    >>> plane_label("gradient+gaussian", "layer", 0), plane_label("gradient+gaussian", "layer", 1)
    ('Gradient (length of the step)', 'Direction 2 (in layer norms)')
    """
    parts = directions.split("+")
    name = parts[min(axis, len(parts) - 1)]
    number = "" if len(parts) > 1 and name in UNIT else f" {axis + 1}"
    if name == "gaussian":
        return f"Direction{number} (in {GAUSSIAN[normalization]})"
    if name in UNIT:
        share = f", {explained[axis]:.0%}" if name == "trajectory" and explained else ""
        return f"{UNIT[name]}{number}{share} ({LENGTH})"
    return f"Direction {axis + 1} ({LENGTH})" if name == "models" else f"Direction {axis + 1}"


def plane_unit(directions: str, normalization: str | None, axis: int) -> str:
    """The unit of an axis of a plane, for a file."""
    label = plane_label(directions, normalization, axis)
    return label.partition("(")[2].rstrip(")").removeprefix("in ") or "1"
