"""Surfaces in three dimensions."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from sharpness.plots import Marks, plot_planes


@pytest.fixture
def ax():
    return Figure().add_subplot(projection="3d")


def heights(ax, gid=None):
    (surface,) = [c for c in ax.collections if isinstance(c, Poly3DCollection) and c.get_gid() == gid]
    return np.asarray(surface._faces if hasattr(surface, "_faces") else surface._vec[2])[..., -1]


def test_surfaces_share_heights_and_are_cut_off_at_the_last_level(bowl):
    axes = Figure().subplots(1, 2, subplot_kw={"projection": "3d"})
    levels = np.array([0.0, 0.5, 1.0])
    plot_planes({"a": bowl, "b": bowl._replace(z=100 * bowl.z)}, axes, kind="surface", levels=levels)
    for ax in axes:
        assert ax.get_zlim() == pytest.approx((0, 1))
        assert heights(ax).max() == pytest.approx(1)


def test_a_logarithmic_surface_stands_on_the_logarithm(ax, bowl):
    z = 10.0 ** np.add.outer(bowl.y, 2 * bowl.x)
    plot_planes({"a": bowl._replace(z=z)}, ax, kind="surface", scale="log")
    assert ax.get_zlim() == pytest.approx((-2.5, 3.0))
    assert "$10^{2}$" in [t.get_text() for t in ax.get_zticklabels()]
    found = heights(ax)
    assert (found.min(), found.max()) == pytest.approx((-2.5, 3.0))


def test_cells_that_are_not_finite_lie_on_the_floor_and_draw(ax, torn):
    plot_planes({"a": torn}, ax, kind="surface")
    assert (heights(ax, "not finite") == ax.get_zlim()[0]).all()
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["not finite"]
    ax.figure.canvas.draw()


def test_the_centre_and_marks_lie_on_the_surface(ax, bowl):
    plane = bowl._replace(z=np.add.outer(3 * bowl.y, bowl.x), marks=Marks(np.array([[0.1, 0.2], [5, 5]]), ("m",)))
    plot_planes({"a": plane}, ax, kind="surface", clip=1.0)
    drawn = {line.get_gid(): np.ravel(line.get_data_3d()) for line in ax.lines}
    np.testing.assert_allclose(drawn["center"], [0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(drawn["marks"], [0.1, 0.2, 0.7], atol=1e-12)
