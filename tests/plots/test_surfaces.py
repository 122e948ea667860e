"""Surfaces in three dimensions."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d import proj3d
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from sharpness.plots import Marks, Panel, plot_planes
from sharpness.plots.surfaces import eye_of


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


def test_a_surface_without_a_finite_value_is_a_floor_beside_another(bowl):
    axes = Figure().subplots(1, 2, subplot_kw={"projection": "3d"})
    marks = Marks(np.array([[0.1, 0.2], [0.3, 0.1]]), ("a", "b"))
    plot_planes({"a": bowl, "b": bowl._replace(z=np.full_like(bowl.z, np.nan), marks=marks)}, axes, kind="surface")
    floor = heights(axes[1], "not finite")
    assert len(floor) == bowl.z.size and (floor == axes[1].get_zlim()[0]).all()
    assert axes[0].get_zlim() == axes[1].get_zlim()
    axes[1].figure.canvas.draw()


def test_the_centre_and_marks_lie_on_the_surface(ax, bowl):
    plane = bowl._replace(z=np.add.outer(3 * bowl.y, bowl.x), marks=Marks(np.array([[0.1, 0.2], [5, 5]]), ("m",)))
    plot_planes({"a": plane}, ax, kind="surface", clip=1.0)
    drawn = {line.get_gid(): np.ravel(line.get_data_3d()) for line in ax.lines}
    np.testing.assert_allclose(drawn["center"], [0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(drawn["marks"], [0.1, 0.2, 0.7], atol=1e-12)


@pytest.mark.parametrize("hidden", [True, False])
def test_a_mark_behind_a_wall_is_hollow(hidden):
    """A wall between the centre and the eye, which is at an azimuth of -60 degrees, or beyond the centre."""
    x = np.linspace(-1, 1, 21)
    toward_eye = np.add.outer(np.sin(np.radians(-60)) * x, np.cos(np.radians(-60)) * x)
    wall = toward_eye > 0.3 if hidden else toward_eye < -0.3
    ax = plot_planes({"a": Panel(x, x, wall.astype(float))}, kind="surface", clip=1.0)[0]
    drawn = {line.get_gid() for line in ax.lines}
    assert ("hidden center" in drawn) == hidden and ("center" in drawn) == (not hidden)
    keys = [t.get_text() for legend in ax.figure.legends for t in legend.get_texts()]
    assert keys == (["hollow: behind the surface"] if hidden else [])


@pytest.mark.parametrize("height", [-1.0, 1.0])
def test_the_eye_is_where_the_projection_has_no_place(ax, bowl, height):
    """Points on a ray from the eye have one place in the picture."""
    plot_planes({"a": bowl}, ax, kind="surface", clip=1.0)
    eye = eye_of(ax)
    point = np.array([0.3, 0.1, height])
    way = eye[:3] - eye[3] * point
    places = [proj3d.proj_transform(*(point + t * way), ax.get_proj())[:2] for t in (0.0, 0.1, 0.7)]
    np.testing.assert_allclose(places[1:], [places[0]] * 2, atol=1e-9)


def test_a_trajectory_lies_on_the_surface_between_its_steps_too(ax):
    x = np.linspace(-1, 1, 41)
    path = np.array([[-0.9, 0.9], [0.0, -0.5], [0.8, 0.7]])
    dome = Panel(x, x, 2 - np.add.outer(x**2, x**2), Marks(path, (), connected=True))
    plot_planes({"a": dome}, ax, kind="surface", clip=1.0)
    lines = {line.get_gid(): np.array(line.get_data_3d()) for line in ax.lines}
    both = np.concatenate([lines["trajectory"], lines["hidden trajectory"]], axis=1)
    px, py, pz = both[:, np.isfinite(both).all(axis=0)]
    assert len(px) > 50
    np.testing.assert_allclose(pz, 2 - px**2 - py**2, atol=2 * 0.05**2)
    assert {"start", "end"} <= {gid.removeprefix("hidden ") for gid in lines if gid}
