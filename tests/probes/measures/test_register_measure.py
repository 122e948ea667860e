"""A measure of one's own: the Fisher-Rao norm, registered in eight lines, against its closed form."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import sharpness
from sharpness import Objective, UserError, register_measure
from sharpness.cli import main
from sharpness.cli.names import UNUSUAL_MEASURES
from sharpness.probes import MEASURES
from sharpness.probes.measures.measure import Measure
from sharpness.probes.shared.column import Column

CALLS = []
EIGHT_LINES = """
import torch
def fisher_rao(objective):
    w = torch.cat([p.detach().flatten() for p in objective.parameters])
    squares = torch.stack([w @ objective.restrict([i]).hvp(w, kind="ggn") for i in range(len(objective.y))])
    weights = objective.weights / objective.weights.sum()
    norm = float(weights @ squares) ** 0.5
    return norm, float(squares.std()) / len(squares) ** 0.5 / (2 * norm)
"""


def fisher_rao(objective):
    """sqrt(w' F w), F being the Fisher matrix, which is the Gauss-Newton part of the Hessian of cross-entropy."""
    w = torch.cat([p.detach().flatten() for p in objective.parameters])
    return (w @ objective.hvp(w, kind="ggn")) ** 0.5


def closed_form(objective):
    """For logits f linear in the weights, w' F w is the mean over samples of the variance of f under softmax."""
    f = objective.model(objective.x).detach().double()
    p = f.softmax(1)
    return float(((p * f**2).sum(1) - (p * f).sum(1) ** 2).mean().sqrt())


def linear_model(counts=(6, 4, 2), bias=False):
    torch.manual_seed(0)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    x = torch.randn(len(labels), 3, dtype=torch.float64)
    model = nn.Linear(3, len(counts), bias=bias).double()
    return Objective(model, (x, labels), groups={"many": (0,), "few": (1, 2)})


@pytest.fixture(autouse=True)
def registry():
    """The measures as they were."""
    before = set(MEASURES.added())
    yield
    for name in set(MEASURES.added()) - before:
        with suppress(KeyError):  # offered by what is on the path, and not loaded
            del MEASURES[name]


@pytest.fixture
def registered():
    return register_measure("fisher_rao", fisher_rao, title="Fisher-Rao norm", lower_is_flatter=True)


def test_it_is_a_column_of_all_samples_every_class_and_every_group(registered):
    objective = linear_model()
    frame = sharpness.measure(objective, "accuracy,fisher_rao").to_frame().set_index("class")["fisher_rao"]
    assert frame["all"] == pytest.approx(closed_form(objective), rel=1e-6)
    classes = [closed_form(objective.restrict(c)) for c in range(3)]
    assert list(frame[["0", "1", "2"]]) == pytest.approx(classes, rel=1e-6)
    assert frame["few"] == pytest.approx(np.mean(classes[1:]), rel=1e-6)


def test_tables_for_which_no_measures_are_named_have_it_unless_it_is_unusual(registered):
    assert sharpness.measure(linear_model()).names[-1] == "fisher_rao"
    register_measure("fisher_rao", fisher_rao, usual=False)
    assert "fisher_rao" not in sharpness.measure(linear_model()).names


@pytest.mark.parametrize("over", ["images", "4 draws"])
def test_a_standard_error_becomes_intervals_and_errors_of_groups(over):
    register_measure("half", lambda o: (len(o.y) / 2, 0.1 * len(o.y)), over=over)
    frame = sharpness.measure(linear_model(), "half").to_frame().set_index("class")
    assert list(frame.half_se[["all", "0", "1", "2"]]) == pytest.approx([1.2, 0.6, 0.4, 0.2])
    joint = np.hypot(0.4, 0.2) / 2 if over == "images" else 0.3  # draws may be shared: no more than the mean
    assert frame.half_se["few"] == pytest.approx(joint)
    quantile = {"images": 2.5705818, "4 draws": 1.9599640}[over]  # of Student's law with 5 degrees, and the normal one
    assert frame.half_upper["0"] == pytest.approx(3 + quantile * 0.6)


def test_a_single_class_is_not_computed_twice():
    calls = []
    register_measure("counted", lambda o: calls.append(len(o.y)) or 7.0)
    table = sharpness.measure(linear_model((5, 0, 0)), "counted")
    assert calls == [5] and table.overall[0] == table.values[0, 0] == 7 and np.isnan(table.values[0, 1:]).all()


def test_eigenvalues_of_a_single_class_are_those_of_everything(monkeypatch):
    from sharpness.probes.curvature.row_eigenvalues import RowEigenvalues

    asked, solve = [], RowEigenvalues.__call__
    monkeypatch.setattr(RowEigenvalues, "__call__", lambda *a, **k: asked.append(a) or solve(*a, **k))
    table = sharpness.measure(linear_model((8, 0, 0)), "lambda_max,lambda_min")
    assert len(asked) == 1
    monkeypatch.undo()
    whole = sharpness.eigenvalues(linear_model((8, 0, 0)), which="both")
    np.testing.assert_array_equal(table.overall, whole.values)
    np.testing.assert_array_equal(table.values[:, 0], whole.values)


def test_a_picture_has_its_title_in_this_session_and_from_a_file(registered, tmp_path):
    table = sharpness.measure({"mine": linear_model()}, "loss,fisher_rao")["mine"]
    assert table.plot(measure="fisher_rao").get_ylabel() == "Fisher-Rao norm"
    assert [ax.get_ylabel() for ax in table.plot(measure="all")] == ["Loss", "Fisher-Rao norm"]
    kept = table.save(tmp_path / "table.nc")
    del MEASURES["fisher_rao"]
    loaded = sharpness.load_result(kept)
    assert loaded.description("fisher_rao").lower_is_flatter is True
    assert loaded.plot(measure="fisher_rao").get_ylabel() == "Fisher-Rao norm"


def test_unfinished_work_is_found_again_unless_the_function_has_changed(tmp_path):
    CALLS.clear()

    def measured(factor):
        register_measure("mine", lambda o: CALLS.append(1) or factor * 2.0)
        return sharpness.measure(linear_model(), "mine", resume=tmp_path).overall[0]

    assert measured(1.0) == measured(1.0) == 2 and len(CALLS) == 4
    assert measured(3.0) == 6 and len(CALLS) == 8, "what the function encloses is another value"


@pytest.mark.parametrize(
    ("read", "first", "second"),
    [
        (lambda o: float(o.train_counts.sum()), {"train_counts": [100, 10, 1]}, {"train_counts": [1, 2, 3]}),
        (lambda o: len(o.groups), {"groups": {"few": (0,)}}, {"groups": {"few": (0,), "many": (1, 2)}}),
        (lambda o: len(o.class_names[0]), {"class_names": ["a", "b", "c"]}, {"class_names": ["aa", "b", "c"]}),
    ],
    ids=["counts", "groups", "names"],
)
def test_unfinished_work_is_told_apart_by_what_a_function_may_read_of_the_classes(read, first, second, tmp_path):
    register_measure("mine", read)
    data = linear_model()

    def measured(options, resume):
        return sharpness.measure(data.model, (data.x, data.y), "mine", resume=resume, **options).values.tolist()

    assert measured(first, tmp_path) == measured(first, None) != measured(second, None)
    assert measured(second, tmp_path) == measured(second, None)


def weight_of_a_module(numbers):
    layer = torch.nn.Linear(len(numbers), 1, bias=False)
    layer.weight.data = torch.tensor([numbers])
    return layer


@pytest.mark.parametrize(
    ("made", "total"),
    [
        (torch.tensor, torch.sum),
        (np.array, np.sum),
        (lambda numbers: torch.tensor(numbers).to_sparse(), torch.sum),
        (lambda numbers: np.array(numbers, dtype=object), np.sum),
        (lambda numbers: pd.DataFrame({"a": numbers, "b": "text"}), lambda frame: frame["a"].sum()),
        (pd.Series, pd.Series.sum),
        (weight_of_a_module, lambda layer: layer.weight.detach().sum()),
    ],
    ids=["tensor", "array", "sparse", "objects", "frame", "series", "module"],
)
def test_unfinished_work_is_told_apart_by_numbers_that_texts_of_arrays_leave_out(made, total, tmp_path):
    def measured(number):
        numbers = made([0.0] * 1000 + [number] + [0.0] * 1000)
        register_measure("mine", lambda o: float(total(numbers)))
        return sharpness.measure(linear_model(), "mine", resume=tmp_path).overall[0]

    assert [measured(number) for number in (1.0, 2.0, 2.0)] == [1, 2, 2]


def test_the_same_contents_have_the_same_digest_in_every_process(tmp_path):
    """Addresses and the order of sets differ by process, and pandas may keep columns that were read."""
    code = (
        "import pandas as pd, torch\n"
        "from sharpness.probes.measures.custom import version_of\n"
        "frame, layer = pd.DataFrame({'a': [1.0, 2.0], 'b': ['x', 'y']}), torch.nn.Linear(1, 1)\n"
        "torch.nn.init.ones_(layer.weight), torch.nn.init.ones_(layer.bias)\n"
        "print(version_of((lambda: lambda o: (frame, layer))()))\n"
        "def made(frame, layer, helper=len): return lambda o: helper(frame) + layer\n"
        "print(version_of(made(frame, layer))); frame['a'].sum(), len(frame.columns.unique())\n"
        "print(version_of(made(frame, layer)), version_of(made(frame, layer, lambda o: 2)))"
    )
    told = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                       env={**os.environ, "PYTHONHASHSEED": str(seed)}).stdout.split()
        for seed in (1, 2)
    ]  # fmt: skip
    assert told[0] == told[1] and told[0][1] == told[0][2] != told[0][3]


def test_a_module_names_it_for_the_command_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "mymeasures.py").write_text(EIGHT_LINES)
    monkeypatch.chdir(tmp_path)
    assert main(["measure", "zoo:ce", "--measures", "accuracy,mymeasures:nothing"]) == 2
    assert "mymeasures has no 'nothing', it has fisher_rao" in capsys.readouterr().err
    monkeypatch.delitem(sys.modules, "mymeasures")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package that offers measures by entry points; it cannot be imported by accident."""
    (tmp_path / "theirmeasures.py").write_text(EIGHT_LINES)
    folder = tmp_path / "theirmeasures-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: theirmeasures\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[sharpness.measures]\nfisher_rao = theirmeasures:fisher_rao\nbroken = theirmeasures:absent\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("theirmeasures", None)


def test_an_entry_point_is_loaded_when_it_is_named_alone(installed):
    assert "fisher_rao" not in sharpness.measure(linear_model(), "loss").names and "theirmeasures" not in sys.modules
    objective = linear_model()
    table = sharpness.measure(objective, "loss,fisher_rao")
    norm = table["fisher_rao"]
    assert norm.overall == pytest.approx(closed_form(objective), rel=1e-6) and norm.standard_error() > 0
    assert "fisher_rao" not in sharpness.measure(objective).names, "and does not change tables that do not name it"
    with pytest.raises(UserError, match="measure 'broken' of theirmeasures: importing theirmeasures:absent raised"):
        sharpness.measure(objective, "broken")


def test_an_entry_point_is_on_the_command_line_in_its_help_and_in_the_picture(installed, capsys):
    assert main(["measure", "--help"]) == 0
    assert "Installed: broken, fisher_rao." in " ".join(capsys.readouterr().out.split())
    sharpness.train("ce", sharpness.load_data("digits-lt"), installed / "run", epochs=1)
    small = ("--limit-per-class", "2", "--json")
    out = ("-o", str(installed / "table.csv"), "--plot", str(installed / "picture"))
    assert main(["measure", str(installed / "run"), "--measures", "accuracy,fisher_rao", *small, *out]) == 0
    rows = json.loads(capsys.readouterr().out)
    written = pd.read_csv(installed / "table.csv").set_index("class")
    objective = sharpness.checkpoint_objective(installed / "run", limit_per_class=2)
    w = torch.cat([p.detach().flatten() for p in objective.parameters])
    norm = float(w @ objective.hvp(w, kind="ggn")) ** 0.5
    assert written.fisher_rao["all"] == pytest.approx(norm, rel=1e-3)
    assert {"accuracy", "fisher_rao", "fisher_rao_se"} <= set(rows[0])
    assert (installed / "picture.png").stat().st_size > 1000


def test_a_package_may_offer_a_whole_measure(installed):
    (installed / "theirmeasures.py").write_text(
        "import sharpness\nfisher_rao = sharpness.register_measure('fisher_rao', lambda o: 2.0, title='Two')\n"
    )
    table = sharpness.measure(linear_model(), "fisher_rao")
    assert table.overall[0] == 2 and table.description("fisher_rao").title == "Two"
    assert "fisher_rao" not in sharpness.measure(linear_model()).names


def test_a_function_without_a_name_is_refused_with_the_way_to_name_it():
    for measures in ([lambda o: 1.0], lambda o: 1.0):
        with pytest.raises(UserError, match=r"sharpness.register_measure\('mine', function\)") as said:
            sharpness.measure(linear_model(), measures=measures)
        assert "\n" not in str(said.value)
    with pytest.raises(UserError, match="register_measure"):
        sharpness.measure(linear_model(), [lambda o: 1.0])


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("loss", {}, "measure 'loss' comes with sharpness: register yours under another name"),
        ("a,b", {}, "measure 'a,b': take a Python identifier"),
        ("class", {}, "measure 'class': take a Python identifier that is none of"),
        ("loss_se", {}, "does not end in _se"),
        ("mine", {"compute": 3}, "measure 'mine': compute=3: give a function of an objective"),
        ("mine", {"symbol": "$\\nothing{$"}, "is not what matplotlib draws"),
        ("mine", {"title": 3}, "title=3"),
        ("mine", {"bounds": (1, 0)}, r"bounds=\(1, 0\): give the least and the largest value"),
        ("mine", {"lower_is_flatter": "yes"}, "lower_is_flatter='yes': give True, False or None"),
    ],
)
def test_what_cannot_be_registered_is_refused(name, given, message):
    before = list(MEASURES)
    with pytest.raises(UserError, match=message):
        register_measure(name, **{"compute": fisher_rao, **given})
    assert list(MEASURES) == before


@pytest.mark.parametrize("found", ["one", None, (1.0, 2.0, 3.0), (1.0, -0.5), torch.ones(2), {}])
def test_a_function_must_give_a_number_or_two(found):
    register_measure("mine", lambda o: found)
    with pytest.raises(UserError, match=r"measure 'mine': compute returned .*: return a number, or \(number, standard"):
        sharpness.measure(linear_model(), "mine")


def test_a_function_finds_gradients_switched_on_and_leaves_the_model_as_it_was():
    objective = linear_model()

    def gradient_norm(o):
        loss = nn.functional.cross_entropy(o.model(o.x), o.y)
        loss.backward()
        return sum((p.grad**2).sum() for p in o.parameters) ** 0.5

    register_measure("gradient_norm", gradient_norm)
    with torch.no_grad():
        found = sharpness.measure(objective, "gradient_norm")
    assert found.overall[0] == pytest.approx(float(objective.gradient().norm()), rel=1e-6)
    assert all(p.grad is None for p in objective.model.parameters())
    register_measure("careless", lambda o: o.model.weight.data.add_(1).sum())
    with pytest.raises(UserError, match="measure 'careless': compute changed the model"):
        sharpness.measure(objective, "careless")


def test_the_help_of_the_command_line_names_the_measures_that_are_left_out():
    assert tuple(name for name, measure in MEASURES.items() if not measure.usual) == UNUSUAL_MEASURES


@pytest.mark.parametrize("name", list(MEASURES.built_in()))
def test_every_measure_is_told_in_words_with_its_settings(name):
    measure = MEASURES[name]
    told = measure.in_words({})
    assert measure.explained and "{" not in told and measure.title == MEASURES.label(name)


def test_a_setting_that_is_false_is_not_its_default():
    @dataclass(frozen=True)
    class Settings:
        centred: bool = True

    def is_centred(subject, settings):
        found = np.full(4, float(settings.centred))
        return {"is_centred": Column.of_images(subject.objective, found, found, np.stack([found, found]))}

    MEASURES.register("is_centred", Measure(name="is_centred", compute=is_centred, settings=Settings, title="Centred"))
    objective = linear_model()
    for given, expected in (({}, 1), ({"centred": False}, 0), ({"centred": True}, 1)):
        assert sharpness.measure(objective, "is_centred", **given).values.ravel()[0] == expected
