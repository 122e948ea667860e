"""Interactive surfaces: what plotly is given, and the file."""

import base64
import json
import re
import sys

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb

from sharpness.errors import UserError
from sharpness.plots import PlotOptions, interactive_surfaces, save_html, shared_levels


@pytest.fixture
def figure(bowl, torn):
    subsets = {
        "All classes": {"CE": bowl, "SAM": torn},
        "few": {"CE": bowl._replace(z=9 * bowl.z), "SAM": torn._replace(z=7 * torn.z)},
    }
    return interactive_surfaces(subsets)


def test_one_surface_for_every_subset_and_model_of_which_the_first_subset_shows(figure):
    assert [trace.scene for trace in figure.data] == ["scene", "scene2"] * 2
    assert [trace.visible for trace in figure.data] == [True, True, False, False]
    assert {trace.coloraxis for trace in figure.data} == {"coloraxis"}
    assert [a.text for a in figure.layout.annotations] == ["CE", "SAM"]


def test_heights_are_the_numbers_cut_off_at_the_last_level(figure, bowl, torn):
    levels = shared_levels([bowl.z, torn.z])
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (levels[0], levels[-1])
    expected = np.where(np.isfinite(torn.z), np.minimum(torn.z, levels[-1]), np.nan)
    np.testing.assert_allclose(figure.data[1].z, expected, rtol=1e-6)
    np.testing.assert_allclose(figure.data[1].x, torn.x, rtol=1e-6)
    np.testing.assert_allclose(figure.data[1].y, torn.y, rtol=1e-6)


def test_hovering_tells_the_value_before_it_was_cut_off(figure, bowl):
    j, i = np.unravel_index(bowl.z.argmax(), bowl.z.shape)
    assert figure.data[0].text[j][i] == f"Loss {bowl.z.max():.6g}"
    assert figure.data[0].hoverinfo == "x+y+text"


def test_the_menu_changes_surfaces_heights_and_colours_together(figure, bowl, torn):
    (menu,) = figure.layout.updatemenus
    assert [b.label for b in menu.buttons] == ["All classes", "few"]
    visible, change = menu.buttons[1].args
    assert visible == {"visible": [False, False, True, True]}
    levels = shared_levels([9 * bowl.z, 7 * torn.z])
    assert (change["coloraxis.cmin"], change["coloraxis.cmax"]) == (levels[0], levels[-1])
    for scene in ("scene", "scene2"):
        assert change[f"{scene}.zaxis.range"] == [levels[0], levels[-1]]


def test_a_single_subset_has_no_menu_and_a_logarithmic_scale_names_values(bowl):
    figure = interactive_surfaces(
        {"all": {"a": bowl._replace(z=10.0 ** np.linspace(0, 3, 24).reshape(4, 6))}}, scale="log"
    )
    assert not figure.layout.updatemenus
    np.testing.assert_allclose(figure.layout.scene.zaxis.range, [0, 3])
    assert figure.layout.scene.zaxis.ticktext[0] == "1" and figure.layout.scene.zaxis.ticktext[-1] == "1000"


def test_the_file_stands_alone(figure, torn, tmp_path):
    path = save_html(figure, tmp_path / "new" / "plane.html")
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"<script[^>]*\bsrc=", text)
    assert not re.search(r"<link[^>]*\bhref=", text)
    assert "gl3d" in text, "plotly itself is in the file"
    data = json.loads(re.search(r"Plotly\.newPlot\(\s*\"landscape\",\s*(\[.*?\}\]),\s*\{", text, re.S).group(1))
    assert len(data) == 4
    assert [len(row) for row in data[1]["text"]] == [6] * 4
    z = data[1]["z"]
    values = np.frombuffer(base64.b64decode(z["bdata"]), z["dtype"]).reshape([int(n) for n in z["shape"].split(",")])
    assert np.array_equal(np.isnan(values), ~np.isfinite(torn.z))
    assert [p.name for p in path.parent.iterdir()] == ["plane.html"]


def test_without_plotly_one_line_says_what_to_install(bowl, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(UserError, match=r"pip install 'sharpness\[interactive\]'") as error:
        interactive_surfaces({"all": {"a": bowl}})
    assert "\n" not in str(error.value)


def test_subsets_must_have_the_same_models(bowl):
    with pytest.raises(UserError, match="every subset needs"):
        interactive_surfaces({"all": {"a": bowl}, "few": {"b": bowl}})


def test_plotly_accepts_every_entry_of_the_menu(figure):
    for number, entry in enumerate(figure.layout.updatemenus[0].buttons):
        restyle, relayout = entry.args
        states = [{"visible": [shown]} for shown in restyle["visible"]]
        for trace, state in enumerate(states):
            figure.plotly_restyle(state, trace_indexes=[trace])
        figure.plotly_relayout(relayout)
        assert [trace.visible for trace in figure.data] == [n // 2 == number for n in range(4)]
        assert figure.layout.scene2.zaxis.range == (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax)
        assert figure.layout.scene.zaxis.ticktext == figure.layout.coloraxis.colorbar.ticktext


def test_colours_are_those_of_the_palette(bowl):
    with PlotOptions(palette="cividis").in_force():
        scale = interactive_surfaces({"all": {"a": bowl}}).layout.coloraxis.colorscale
    assert [scale[0], scale[-1]] == [(0.0, to_hex(colormaps["cividis"](0.0))), (1.0, to_hex(colormaps["cividis"](1.0)))]


def test_zero_is_the_middle_of_a_diverging_map_in_every_subset(bowl):
    subsets = {"all": {"a": bowl._replace(z=bowl.z - 0.5)}, "few": {"a": bowl._replace(z=9 * bowl.z - 1)}}
    figure = interactive_surfaces(subsets, colors="RdBu_r")
    first, few = figure.layout.coloraxis, figure.layout.updatemenus[0].buttons[1].args[1]
    for low, high, scale in (
        (first.cmin, first.cmax, first.colorscale),
        (few["coloraxis.cmin"], few["coloraxis.cmax"], few["coloraxis.colorscale"]),
    ):
        assert low < 0 < high
        at = -low / (high - low)
        _, nearest = min(scale, key=lambda step: abs(step[0] - at))
        assert min(to_rgb(nearest)) > 0.85 > min(min(to_rgb(scale[0][1])), min(to_rgb(scale[-1][1])))
