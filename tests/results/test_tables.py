"""Tables to be read: digits by hand-written cases of the rule, alignment, one schema, the long form, and LaTeX."""

import functools
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.mathtext import MathTextParser
from torch import nn

import sharpness
from sharpness import Objective, UserError
from sharpness.cli.output import as_text
from sharpness.results import Comparison, Runs, with_errors
from sharpness.results.latex import as_latex
from sharpness.results.rounding import aligned, described, rounded, with_error

NAN = float("nan")
LONG = ["model", "seed", "class", "group", "samples", "measure", "value", "se", "low", "high"]


# By hand: an error has one significant digit, or two if its first digit is 1, and the value ends where the error ends.
@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.4567, 0.0321, "0.46 ± 0.03"),
        (0.4567, 0.0123, "0.457 ± 0.012"),
        (0.4567, 0.00991, "0.457 ± 0.010"),
        (0.4567, 0.199, "0.46 ± 0.20"),
        (0.4567, 0.2, "0.5 ± 0.2"),
        (0.4567, 3.0, "0 ± 3"),
        (-0.04, 0.3, "0.0 ± 0.3"),
        (-0.46, 0.3, "-0.5 ± 0.3"),
        (1234.567, 26.0, "1230 ± 30"),
        (1234.567, 14.0, "1235 ± 14"),
        (98765.0, 1500.0, "98800 ± 1500"),
        (0.001234, 0.00005, "0.00123 ± 0.00005"),
        (1.2345e-9, 3e-11, "1.23e-09 ± 3e-11"),
        (6.02214e23, 1.5e20, "6.0221e+23 ± 1.5e+20"),
        (0.0, 0.05, "0.00 ± 0.05"),
        (5.0, 0.0, "5 ± 0"),
        (123.456, NAN, "123.5"),
        (NAN, 1.0, "-"),
        (np.inf, 1.0, "-"),
    ],
)
def test_a_number_has_the_digits_that_its_error_allows(value, error, text):
    assert with_error(value, error) == text
    assert rounded(value, error) == text.partition(" ")[0]
    assert described(value, error, NAN, NAN, NAN) == text


@pytest.mark.parametrize(
    ("numbers", "spreads", "text"),
    [
        ((0.951, 0.021, NAN, 0.9012, 0.9789), False, "0.95 [0.90, 0.98]"),
        ((1.0, 0.03, NAN, 0.72, 1.0), False, "1.00 [0.72, 1.00]"),
        ((0.0, 0.08, NAN, 0.0, 0.43), False, "0.00 [0.00, 0.43]"),
        ((-3.2, 0.6, NAN, -4.4, -2.04), False, "-3.2 [-4.4, -2.0]"),
        ((0.52, 0.6, NAN, 0.0031, 94.2), False, "0.5 [0.003, 94]"),
        ((0.52, NAN, NAN, 0.4, 0.64), False, "0.52 [0.40, 0.64]"),
        ((0.52, 0.04, 0.13, 0.4, 0.64), True, "0.52 ± 0.13 [0.40, 0.64]"),
        ((0.52, 0.04, 0.13, NAN, NAN), True, "0.52 ± 0.13 (0.04)"),
        ((0.52, 0.04, NAN, NAN, NAN), True, "0.52 (0.04)"),
        ((0.52, NAN, 0.13, NAN, NAN), True, "0.52 ± 0.13"),
    ],
)
def test_intervals_and_spreads_end_where_the_value_ends(numbers, spreads, text):
    assert described(*numbers, in_spreads=spreads) == text


def test_numbers_are_aligned_at_the_decimal_point_and_behind():
    cells = ["0.51 ± 0.03", "12.3", "-", "-100 ± 20", "1.2e-09 ± 1e-10"]
    lines = aligned(cells)
    assert len({len(line) for line in lines}) == 1 and [line.split() for line in lines] == [c.split() for c in cells]
    assert len({line.index(".") for line in (lines[0], lines[1], lines[4])}) == 1
    assert lines[3].index("0 ") + 1 == lines[0].index("."), "a number without decimals ends where the point would be"
    assert len({line.index("±") for line in (lines[0], lines[3], lines[4])}) == 1
    assert aligned([]) == [] and aligned(["-", "-"]) == ["-", "-"]


def test_every_number_of_a_table_is_rounded_and_names_are_left_alone():
    frame = pd.DataFrame({
        "class": ["cat  1.0000001", "dog"], "n": [10, 2], "odd": [True, False], "x": [1.23456789, 100.0],
        "y": [0.123456, np.nan], "y_se": [0.01, np.nan],
    })  # fmt: skip
    table = with_errors(frame)
    assert list(table) == ["class", "n", "odd", "x", "y"]
    assert table["class"].tolist() == frame["class"].tolist() and table.n.tolist() == [10, 2]
    assert [c.strip() for c in table.x] == ["1.235", "100"] and [c.strip() for c in table.y] == ["0.123 ± 0.010", "-"]
    printed = as_text(frame).splitlines()
    assert printed[1].index("1.235") == printed[2].index("100") + 2 and not any(p.endswith(" ") for p in printed)


@pytest.fixture(scope="module")
def objectives():
    torch.manual_seed(2)
    x, y = torch.randn(14, 4), torch.tensor([0] * 2 + [1] * 8 + [2] * 4)

    def build():
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        return Objective(model, (x, y), groups={"many": (1,), "few": (0, 2)}, class_names=("owl_1", "50%", "dog"))

    return [build() for _ in range(3)]


PROBES = {
    "measure": (lambda o: sharpness.measure(o, "accuracy,loss,trace"), ["accuracy", "loss", "trace"]),
    "eigenvalues": (lambda o: sharpness.eigenvalues(o, 2, "both", per_class=True), ["lambda_max", "lambda_min"]),
    "groups": (lambda o: sharpness.eigenvalues(o, per_group=True), ["lambda_max"]),
    "layers": (lambda o: sharpness.trace(o, per_layer=True, per_class=True, draws=4), ["trace"]),
    "density": (lambda o: sharpness.spectral_density(o, per_class=True, draws=3, steps=4), None),
    "perturbation": (lambda o: sharpness.random_perturbation(o, (0.1, 0.2), 3), ["rise", "loss", "accuracy"]),
    "line": (lambda o: sharpness.line(o, (-1, 1, 5)), ["loss", "accuracy"]),
    "plane": (lambda o: sharpness.plane(o, (-1, 1, 3), (-1, 1, 4)), ["loss", "accuracy"]),
    "radius": (lambda o: sharpness.characteristic_radius(o, steps=3), None),
}
GROUP_OF = {"all": "", "many": "many", "few": "few", "owl_1": "few", "50%": "many", "dog": "few"}
SAMPLES = {"all": 14, "many": 8, "few": 6, "owl_1": 2, "50%": 8, "dog": 4}


@pytest.fixture(scope="module", params=PROBES)
def several(request, objectives):
    probe, measures = PROBES[request.param]
    return [probe(objective) for objective in objectives], measures


def test_all_tables_have_one_schema(several):
    (result, *_), _ = several
    frame = result.to_frame()
    assert list(frame.columns[:3]) == ["class", "group", "samples"]
    assert all(GROUP_OF[c] == g for c, g in zip(frame["class"], frame["group"], strict=True))
    assert all(SAMPLES[c] == n for c, n in zip(frame["class"], frame["samples"], strict=True))
    for name in frame:
        for end in ("_se", "_lower", "_upper"):
            assert not str(name).endswith(end) or str(name).removesuffix(end) in frame, f"{name} has no value"
    assert not {"value", "se", "error", "lower", "upper", "kind", "subset"} & set(frame)


def test_the_long_form_has_every_number_with_its_error(several):
    results, measures = several
    frame, long = results[0].to_frame(), results[0].to_frame(long=True)
    assert [c for c in long if c in LONG] == LONG
    assert long.model.unique().tolist() == ["model"] and long.seed.isna().all()
    assert measures is None or sorted(set(long.measure)) == sorted(measures)
    for name, rows in long.groupby("measure"):
        wide = frame
        if "eigenvalue" in frame:
            wide = frame[frame.end == ("largest" if name == "lambda_max" else "smallest")]
            name = "eigenvalue"
        for column, end in {"value": "", "se": "_se", "low": "_lower", "high": "_upper"}.items():
            expected = wide.get(f"{name}{end}", pd.Series(np.nan, wide.index)).to_numpy(dtype=float)
            np.testing.assert_array_equal(rows[column].to_numpy(dtype=float), expected)
    axes = [c for c in long if c not in LONG]
    assert not long.duplicated(["class", "measure", *axes]).any(), "the axes tell numbers apart"


def test_trainings_and_comparisons_have_the_same_long_form(several):
    (a, b, c), _ = several
    both = Comparison({"x": Runs([a, b], ["seed 3", "seed 5"]), "y": c})
    long = both.to_frame(long=True)
    assert list(long) == list(a.to_frame(long=True))
    assert long.seed.dropna().unique().tolist() == [3, 5] and long[long.model == "y"].seed.isna().all()
    alone = [r.to_frame(long=True).drop(columns=["model", "seed"]) for r in (a, b, c)]
    assert long.drop(columns=["model", "seed"]).equals(pd.concat(alone, ignore_index=True))
    named = Runs([a, b], ["first", "second"]).to_frame(long=True)
    assert named.seed.unique().tolist() == ["first", "second"]


def test_a_pivot_has_a_row_for_every_class_and_a_column_for_every_model(several):
    (a, b, c), _ = several
    both = Comparison({"x": Runs([a, b]), "y": c})
    name = a.to_frame(long=True).measure.iloc[0]
    found = both.pivot(name)
    frames = [r.to_frame(long=True) for r in (a, b, c)]
    values = [frame[frame.measure == name].value.to_numpy(dtype=float) for frame in frames]
    np.testing.assert_allclose(found["x"], (values[0] + values[1]) / 2)
    np.testing.assert_array_equal(found["y"], values[2])
    first = found.index.get_level_values("class")
    assert first.tolist() == frames[0][frames[0].measure == name]["class"].tolist()
    with pytest.raises(UserError, match="unknown measure 'area': choose one of"):
        both.pivot("area")


@functools.cache
def readable(formula):
    """Whether it can be read does not hang on its digits."""
    MathTextParser("path").parse(f"${formula}$")


def parsed(text):
    """The cells of a ``tabular``, after its structure and every formula have been checked."""
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    columns = re.fullmatch(r"\\begin\{tabular\}\{([lr]+)\}", lines[0])[1]
    assert [lines[1], lines[3], lines[-2], lines[-1]] == [r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}"]
    rows = []
    for line in [lines[2], *lines[4:-2]]:
        assert line.endswith(r" \\") and not line.startswith(("[", "*"))
        cells = re.split(r"(?<!\\)&", line.removesuffix(r" \\"))
        assert len(cells) == len(columns)
        for cell in cells:
            plain = re.sub(r"\\[&%$#_{}\\]", "", cell)
            assert plain.count("$") % 2 == 0 and plain.count("{") == plain.count("}")
            outside = "".join(plain.split("$")[::2])
            assert not re.search(r"[&%#_^~±°<>]", outside), cell
            assert not rows or not re.search(r"-\d", outside), f"{cell} has a hyphen for a minus"
            for formula in plain.split("$")[1::2]:
                readable(re.sub(r"\d+", "0", formula))
        rows.append([cell.strip() for cell in cells])
    return columns, rows


def test_latex_has_every_cell_and_nothing_that_latex_misreads(several, tmp_path):
    results, _ = several
    for shown in (results[0], Runs(results), Comparison({"a_b & c": results[0], "[x]": Runs(results[1:])})):
        text, table = shown.to_latex(), shown.to_table()
        columns, rows = parsed(text)
        assert len(rows) == len(table) + 1 and len(columns) == table.shape[1]
        assert text.count("% ") >= len(shown.notes)
        if shutil.which("pdflatex"):
            page = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{text}\end{{document}}"
            (tmp_path / "t.tex").write_text(page, encoding="utf-8")
            subprocess.run(["pdflatex", "-interaction=batchmode", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True)


def test_latex_of_names_that_latex_would_read_as_commands():
    names = ["50% of_it", "a&b", "#1", "$x$", "{y}", r"\input{z}", "a~b", "a^b", "[unk]", "*", "<s>", "a\nb"]
    table = pd.DataFrame({"class": names, "loss": ["-1 ± 2", "1e-09", "-", "0.5 [-0.2, 1.2] °", *["0"] * 8]})
    columns, (_, *rows) = parsed(as_latex(table))
    assert columns == "lr" and [cell for _, cell in rows[:4]] == [
        r"$-1$ $\pm$ $2$", r"$1 \cdot 10^{-9}$", "--", r"$0.5$ [$-0.2$, $1.2$] $^\circ$",
    ]  # fmt: skip
    assert [name for name, _ in rows][:6] == [
        r"50\% of\_it", r"a\&b", r"\#1", r"\$x\$", r"\{y\}", r"\textbackslash{}input\{z\}",
    ]  # fmt: skip
    assert rows[8][0] == "{}[unk]" and rows[11][0] == "a b"


def test_a_result_of_an_earlier_version_with_several_eigenvalues_names_those_of_one_image():
    result = sharpness.load_result(Path(__file__).parent / "fixtures" / "eigenvalues.nc")
    (line,) = [note for note in result.notes if note.startswith("one image")]
    assert "cat (largest 2: 52 %)" in line
