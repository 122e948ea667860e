"""No plot leaves a trace: settings, random numbers and pyplot stay as they were."""

import importlib

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from sharpness import plots

V, GRID = {"a": np.array([1.0, 2.0])}, np.linspace(-1, 1, 5)
PLANE = (GRID, GRID[:4], np.add.outer(GRID[:4] ** 2, GRID**2))
DRAW = {
    "lines": lambda: plots.plot_lines({"a": (GRID, GRID**2)}, log=True),
    "line_panels": lambda: plots.plot_line_panels({"a": {"all": (GRID, GRID**2)}, "b": {"all": (GRID, GRID)}})[0],
    **{
        kind: lambda kind=kind: plots.plot_plane_grid({"all": {"a": PLANE}, "few": {"a": PLANE}}, kind=kind)[0]
        for kind in ("filled", "contour", "heatmap", "surface")
    },
    "class_values": lambda: plots.plot_class_values(V, ["x", "y"]),
    "density": lambda: plots.plot_density({"a": (GRID, 1 - GRID**2, GRID**2 / 2, 2 - GRID**2)}, linthresh=0.1),
    "layer_class": lambda: plots.plot_layer_class(np.eye(2), ["u", "v"], ["x", "y"]),
    "layer_class_grid": lambda: plots.plot_layer_class_grid({"a": np.eye(2)}, ["u", "v"], ["x", "y"]),
    "spectrum_ends": lambda: plots.plot_spectrum_ends(V, V, ["x", "y"]),
    "saddle_indicator": lambda: plots.plot_saddle_indicator(V, ["x", "y"]),
}


def test_pdfs_hold_fonts_that_journals_take(settings_of_pictures, monkeypatch, tmp_path):
    """TrueType, not drawings of letters (Type 3)."""
    monkeypatch.setattr(importlib.import_module("sharpness.plots.style"), "settings", settings_of_pictures)
    path, _ = plots.save_figure(DRAW["lines"]().figure, tmp_path / "picture")
    assert b"/FontFile2" in path.read_bytes() and b"/Type3" not in path.read_bytes()


@pytest.mark.every(3)
@pytest.mark.parametrize("name", DRAW)
def test_drawing_on_a_new_figure_changes_nothing_global(name, tmp_path):
    before, state = dict(matplotlib.rcParams), np.random.get_state()[1].copy()
    drawn = DRAW[name]()
    files = plots.save_figure(drawn if hasattr(drawn, "savefig") else drawn.figure, tmp_path / "picture")
    assert [path.read_bytes()[:4] for path in files] == [b"%PDF", b"\x89PNG"]
    assert dict(matplotlib.rcParams) == before
    assert np.array_equal(np.random.get_state()[1], state)
    assert not plt.get_fignums()
