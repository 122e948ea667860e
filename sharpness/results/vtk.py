"""Planes as VTK files, which ParaView opens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import numpy as np

from sharpness.files import write_atomically


def write_vtk(path: Path, x: np.ndarray, y: np.ndarray, arrays: Mapping[str, np.ndarray], title: str = "") -> None:
    """Write a structured grid of points ``(x[i], y[j], 0)`` with scalars (ny, nx) at each, atomically.

    The format is legacy VTK 3.0, binary (big-endian), which keeps numbers exact, including NaN and infinities, whose
    text form depends on the reader. x runs fastest. Special characters in names are percent-encoded, which VTK decodes.
    Flags become unsigned bytes, everything else doubles. ParaView shows the first array first.

    Source: "VTK File Formats", docs.vtk.org.
    """
    grid_x, grid_y = np.meshgrid(x, y)
    points = np.stack([grid_x.ravel(), grid_y.ravel(), np.zeros(grid_x.size)], axis=1)
    head = [
        "# vtk DataFile Version 3.0",
        " ".join(title.encode("ascii", "replace").decode().split())[:255],
        "BINARY",
        "DATASET STRUCTURED_GRID",
        f"DIMENSIONS {len(x)} {len(y)} 1",
        f"POINTS {len(points)} double",
    ]
    pieces = ["\n".join(head).encode(), b"\n", points.astype(">f8").tobytes(), f"\nPOINT_DATA {len(points)}\n".encode()]
    for name, values in arrays.items():
        flags = values.dtype == bool
        kind = "unsigned_char" if flags else "double"
        pieces.append(f"SCALARS {quote(name, safe='')} {kind} 1\nLOOKUP_TABLE default\n".encode())
        pieces += [np.ascontiguousarray(values, "u1" if flags else ">f8").tobytes(), b"\n"]
    write_atomically(path, lambda partial: partial.write_bytes(b"".join(pieces)))
