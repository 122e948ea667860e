"""Eigenvalues as a table, as pictures, and the saddle indicator."""

import dataclasses

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from sharpness import Objective, UserError, eigenvalues, load_result, spectral_density

#: From most to fewest samples.
ORDER = [1, 2, 0]
NAMES = ["cat", "dog", "owl"]


@pytest.fixture(scope="module")
def found(pair):
    return eigenvalues(pair, 2, "both", per_class=True, tol=1e-6, bootstrap=200)


@pytest.fixture
def ax():
    return Figure().subplots()


def curves(ax):
    return [line.get_ydata() for line in ax.lines if len(line.get_ydata()) == 3]


def bars(ax):
    return [p.vertices[:, 1].tolist() for c in ax.collections for p in c.get_paths()]


def test_the_frame_has_a_row_for_every_value_with_its_interval(found):
    frame = found.to_frame()
    assert len(frame) == 2 * 3 * 4
    assert list(frame.columns) == [
        "model", "class", "group", "samples", "end", "rank", "eigenvalue", "eigenvalue_se", "eigenvalue_lower",
        "eigenvalue_upper", "top_share", "residual", "converged", "products",
    ]  # fmt: skip
    row = frame[(frame.model == "b") & (frame["class"] == "dog") & (frame.end == "smallest") & (frame["rank"] == 1)]
    b = found["b"]
    assert row.eigenvalue.item() == b.values[2, 3] and row.eigenvalue_upper.item() == b.upper[2, 3]
    assert row.samples.item() == 4 and row.group.item() == "few" and row.products.item() == b.products[2]


def test_without_intervals_the_frame_has_no_columns_for_them(pair):
    frame = eigenvalues(pair["a"]).to_frame()
    assert not any(name.endswith(("_lower", "_upper", "_se")) for name in frame)
    assert frame["class"].tolist() == ["all"] and frame.samples.tolist() == [14]


@pytest.mark.parametrize(("kind", "told"), [("hessian", "Hessian "), ("ggn", "Gauss-Newton matrix ")])
def test_pictures_name_their_matrix(pair, kind, told):
    results = [
        eigenvalues(pair["a"], which="both", kind=kind), spectral_density(pair["a"], kind=kind, draws=2, steps=4),
        eigenvalues(pair["a"], per_layer=True, per_class=True, kind=kind),
    ]  # fmt: skip
    for result in results:
        texts = [text.get_text() for text in result.plot(Figure().subplots()).figure.findobj(Text)]
        assert sum("Hessian" in text or "Gauss-Newton" in text for text in texts) == 1
        assert any(text.startswith(told) for text in texts)


@pytest.mark.parametrize(("end", "column"), [("largest", 0), ("smallest", -1)])
def test_one_end_is_drawn_from_most_to_fewest_samples_with_its_interval(found, ax, end, column):
    found.plot(ax, end=end)
    assert [t.get_text() for t in ax.get_xticklabels()] == NAMES
    for label, drawn in zip("ab", curves(ax), strict=True):
        np.testing.assert_array_equal(drawn, found[label].values[ORDER, column])
        for c in ORDER:
            assert [found[label].lower[c, column], found[label].upper[c, column]] in bars(ax)
    assert r"\mathrm{max}" in ax.get_ylabel() if end == "largest" else r"\mathrm{min}" in ax.get_ylabel()


def test_both_ends_are_drawn_unless_another_picture_is_asked_for(found, ax):
    found.plot(ax)
    expected = [found[label].values[ORDER, column] for label in "ab" for column in (0, -1)]
    np.testing.assert_array_equal(curves(ax), expected)
    assert [found["a"].values[1, -1], found["a"].values[1, 0]] in bars(ax)


def test_the_saddle_picture_holds_the_indicator(found, ax):
    found.plot(ax, end="saddle")
    np.testing.assert_array_equal(curves(ax), [found[label].saddle[ORDER] for label in "ab"])


def test_results_without_intervals_are_drawn_beside_those_with(found, pair):
    mixed = {"a": found["a"], "b": eigenvalues(pair["b"], 2, "both", per_class=True, tol=1e-6)}
    for end in ("largest", "both"):
        axes = Figure().subplots()
        type(found["a"]).compare(mixed, ax=axes, end=end)
        intervals = [[found["a"].lower[c, 0], found["a"].upper[c, 0]] for c in ORDER]
        assert all(interval in bars(axes) for interval in intervals)


def test_values_that_have_not_converged_are_drawn_open(found, ax):
    flags = found["a"].converged.copy()
    flags[0, 0] = False
    dataclasses.replace(found["a"], converged=flags).plot(ax, end="largest")
    (opened,) = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert opened.get_ydata().tolist() == [found["a"].values[0, 0]]


def test_the_saddle_indicator_is_the_ratio_of_both_ends(found):
    values = np.array([[4.0, -1.0], [2.0, 0.5], [1.0, -3.0], [-1.0, -2.0], [np.nan, np.nan], [0.0, 0.0]])
    result = dataclasses.replace(found["a"], values=values, k=1)
    np.testing.assert_array_equal(result.saddle, [0.25, 0, 3, np.inf, np.nan, np.nan])
    assert dataclasses.replace(found["a"], values=values[0], k=1).saddle == 0.25


@pytest.mark.parametrize("which", ["LA", "SA"])
def test_one_end_has_neither_a_saddle_indicator_nor_pictures_of_the_other(pair, which, ax):
    result = eigenvalues(pair["a"], which=which, per_class=True)
    with pytest.raises(UserError, match="needs 'both'"):
        result.saddle  # noqa: B018
    for end in {"LA": ("smallest", "both", "saddle"), "SA": ("largest", "both", "saddle")}[which]:
        with pytest.raises(UserError):
            result.plot(ax, end=end)


def test_a_class_without_samples_is_left_out_of_a_picture(found, ax):
    values = found["a"].values.copy()
    values[1] = np.nan
    result = dataclasses.replace(found["a"], values=values, converged=np.isfinite(values))
    result.plot(ax, end="largest")
    assert np.isnan(curves(ax)[0][0]) and np.isfinite(curves(ax)[0][1:]).all()


def test_the_summary_says_how_many_have_not_converged(found):
    assert "all converged" in repr(found["a"])
    none = np.zeros_like(found["a"].converged)
    assert "12 not converged" in repr(dataclasses.replace(found["a"], converged=none))


def test_other_ends_and_other_rows_are_not_drawn_beside_each_other(found, pair):
    whole, largest = eigenvalues(pair["b"], 2, "both"), eigenvalues(pair["b"], 4, "LA", per_class=True)
    for name, other in (("per_class", whole), ("which", largest)):
        with pytest.raises(UserError, match=f"{name} is"):
            type(found["a"]).compare({"a": found["a"], "b": other}, end="largest")


@pytest.mark.parametrize(("k", "ends", "ranks"), [
    (2, ["largest", "largest", "smallest"], [1, 2, 1]), (3, ["largest"] * 3, [1, 2, 3]),
])  # fmt: skip
def test_both_ends_may_share_all_eigenvalues_of_a_small_model(k, ends, ranks, tmp_path):
    torch.manual_seed(0)
    x, y = torch.randn(9, 2, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    objective = Objective(torch.nn.Linear(2, 1).double(), (x, y), loss=lambda u, t: (u[:, 0] - t) ** 2)
    z = np.c_[x.numpy(), np.ones(9)]
    expected = np.linalg.eigvalsh(2 * z.T @ z / 9)[::-1]
    found = load_result(eigenvalues(objective, k=k, which="both").save(tmp_path / "e.nc"))
    np.testing.assert_allclose(found.values, expected, rtol=1e-9)
    frame = found.to_frame()
    assert frame["end"].tolist() == ends and frame["rank"].tolist() == ranks
    named = zip(frame["end"], frame["rank"], strict=True)
    assert found.ranks == [f"lambda_{e.replace('largest', 'max').replace('smallest', 'min')} {r}".removesuffix(" 1")
                           for e, r in named]  # fmt: skip
