"""What users see of a probe: signature, docstring, and keywords that it does not have."""

import dataclasses
import inspect
import re
from fractions import Fraction
from typing import get_type_hints

import numpy as np
import pytest
import torch
from torch import nn

import sharpness
from sharpness import Objective
from sharpness.data import LongTail, load_digits_lt
from sharpness.errors import UserError
from sharpness.objective.description import Description, SampleOptions
from sharpness.probes import MEASURES
from sharpness.probes.shared.options import MeasureOptions, ObjectiveOptions, Options
from sharpness.steps import Context

PROBES = (
    "characteristic_radius", "eigenvalues", "interpolate", "line", "plane", "plane_through", "random_perturbation",
    "spectral_density", "trace", "trajectory_plane", "worst_case",
)  # fmt: skip
DATA = (torch.eye(2), torch.tensor([0, 1]))


@pytest.mark.parametrize("name", PROBES)
def test_data_and_options_are_in_signature_and_docstring(name):
    probe = getattr(sharpness, name)
    parameters = inspect.signature(probe).parameters
    assert list(parameters)[0] == "objective" and list(parameters)[-2:] == ["data", "options"]
    assert all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    documented = inspect.getdoc(probe)
    for parameter in ("data", "options"):
        assert f"\n    {parameter}: " in documented, parameter
    assert "given:" not in documented


@pytest.mark.parametrize("name", PROBES)
def test_a_misspelt_keyword_is_no_option_of_anything(name):
    others = [1, 1] if name == "plane_through" else [1]
    with pytest.raises(TypeError, match=rf"{name}\(\): got an unexpected keyword argument 'per_clas'"):
        getattr(sharpness, name)(Objective(nn.Linear(2, 2), DATA), *others, per_clas=True)


def test_data_may_follow_a_model_or_be_named():
    model = nn.Linear(2, 2)
    expected = sharpness.eigenvalues(Objective(model, DATA, parameters="weight"), 2)
    for found in (
        sharpness.eigenvalues(model, DATA, 2, options={"parameters": "weight"}),
        sharpness.eigenvalues(objective=model, data=DATA, k=2, options={"parameters": "weight"}),
        sharpness.eigenvalues({"a": model}, DATA, k=2, options={"parameters": "weight"})["a"],
    ):
        assert found.values.tolist() == expected.values.tolist()


def test_numbers_may_be_numpys_and_what_is_no_number_is_told():
    objective = Objective(nn.Linear(2, 2), DATA)
    expected = sharpness.trace(objective, draws=3, seed=3).to_frame()
    for seed in (np.int64(3), torch.tensor(3)):
        assert sharpness.trace(objective, draws=np.int32(3), seed=seed).to_frame().equals(expected)
    plain, numpys = (sharpness.measure(objective, "lambda_max", seed=seed) for seed in (3, np.int64(3)))
    assert plain.to_frame().equals(numpys.to_frame())
    for probe, options, message in [
        ("eigenvalues", {"k": 1.5}, "k=1.5: give an integer"),
        ("eigenvalues", {"tol": "1e-3"}, "tol='1e-3': give a number"),
        ("eigenvalues", {"bootstrap": "200"}, "bootstrap='200': give an integer"),
        ("trace", {"seed": 2**70}, "below 2"),
        ("eigenvalues", {"seed": -1, "match_samples": 1}, "seed=-1: give an integer, at least 0"),
        ("measure", {"seed": 2**70}, "below 2"),
        ("worst_case", {"rho": None}, "rho=None: give a number"),
        ("line", {"directions": nn.Linear(2, 2)}, "a direction is a Linear: .*sharpness.interpolate"),
    ]:
        with pytest.raises(UserError, match=message):
            getattr(sharpness, probe)(objective, **options)


@pytest.mark.parametrize("made", [np.float32, np.longdouble, np.array, torch.tensor, Fraction])
def test_numbers_of_any_kind_are_saved_and_resumed_like_pythons(made, tmp_path):
    """Halves and quarters, which every kind of number holds exactly."""
    objective, whole = Objective(nn.Linear(2, 2), DATA), made if made in (np.array, torch.tensor) else np.int64
    settings = {"radius": 0.5, "draws": 2, "rho": 0.25, "trace_draws": 3, "damping": 0.5, "tol": 0.25}
    others = {name: (whole if isinstance(value, int) else made)(value) for name, value in settings.items()}
    measures = "random_rise,worst_rise,trace,displacement,lambda_max"
    expected = sharpness.measure(objective, measures, **settings)
    expected = sharpness.load_result(expected.save(tmp_path / "expected.nc"))
    for resume in (None, tmp_path / "work"):
        found = sharpness.measure(objective, measures, resume=resume, **others)
        assert sharpness.load_result(found.save(tmp_path / "a.nc")).provenance == expected.provenance
        assert found.to_frame().equals(expected.to_frame())
    ascent = sharpness.worst_case(objective, made(0.25), adaptive=np.True_, m=whole(1))
    told = sharpness.load_result(ascent.save(tmp_path / "b.nc")).provenance
    assert (told["rho"], told["adaptive"], told["m"]) == (0.25, True, 1)


def test_an_iterator_is_read_once_for_all_models():
    models = {label: nn.Linear(2, 2) for label in "ab"}
    found = sharpness.random_perturbation(models, DATA, radii=(r for r in (0.1, 0.2)), draws=2)
    assert [one.radii.tolist() for one in found.values()] == [[0.1, 0.2]] * 2


def test_eigenvalues_and_traces_per_layer_take_data_too():
    model = nn.Linear(2, 2)
    for probe in (sharpness.eigenvalues, sharpness.trace):
        found = probe(model, DATA, per_layer=True)
        assert found.values.tolist() == probe(Objective(model, DATA), per_layer=True).values.tolist()


@pytest.mark.parametrize("probe, old", [("trace", "probes"), ("spectral_density", "runs")])
def test_old_names_of_draws_warn(probe, old):
    function, objective = getattr(sharpness, probe), Objective(nn.Linear(2, 2), DATA)
    with pytest.warns(FutureWarning, match=rf"{probe}\({old}=\) is now {probe}\(draws=\)"):
        found = function(objective, **{old: 3})
    assert found.to_frame().equals(function(objective, draws=3).to_frame())
    with pytest.raises(UserError, match="both name the same argument"):
        function(objective, draws=3, **{old: 3})


def test_old_names_of_training_images_and_of_the_vectors_of_a_table_warn():
    objective = Objective(nn.Linear(2, 2), DATA)
    with pytest.warns(FutureWarning, match=r"characteristic_radius\(train_counts=\)"):
        sharpness.characteristic_radius(objective, class_counts=[5, 3], lambda_max=False)
    with pytest.warns(FutureWarning, match=r"measure\(trace_draws=\)"):
        found = sharpness.measure(objective, "trace", probes=3)
    assert found.values.tolist() == sharpness.measure(objective, "trace", trace_draws=3).values.tolist()
    with pytest.warns(FutureWarning, match=r"read_images\(train_counts=\)"):
        assert sharpness.data.read_images(DATA, class_counts=[5, 3]).train_counts == (5, 3)


def test_the_old_names_of_the_counts_of_training_images_warn():
    tail = LongTail("toy", ("a", "b"), "exp", 3, "first_n", (6, 2), "oltr")
    assert tail.to_dict()["class_counts"] == [6, 2] and LongTail.from_dict(tail.to_dict()) == tail
    with pytest.warns(FutureWarning, match=r"LongTail\(class_counts=\) is now LongTail\(train_counts=\)"):
        assert LongTail("toy", ("a", "b"), "exp", 3, "first_n", class_counts=(6, 2), group_convention="oltr") == tail
    context, images = Context(torch.tensor([6, 2]), 1, 1), load_digits_lt().train
    for owner, new in [(tail, "train_counts"), (context, "train_counts"), (images, "class_samples")]:
        with pytest.warns(FutureWarning, match=rf"{type(owner).__name__}\.class_counts is now .*\.{new}"):
            assert owner.class_counts is not None
    with pytest.warns(FutureWarning, match="sharpness.data.class_counts is now sharpness.data.profile_counts"):
        assert sharpness.data.class_counts is sharpness.data.profile_counts


def test_the_typed_options_are_those_of_objectives_and_checkpoints():
    taken = [set(inspect.signature(f).parameters) for f in (Objective, sharpness.checkpoint_objective)]
    assert set(get_type_hints(SampleOptions)) == {field.name for field in dataclasses.fields(Description)}
    known = set.union(*taken) - {"model", "data", "checkpoint", "given"}
    assert set(get_type_hints(Options)) == known
    assert set(get_type_hints(MeasureOptions)) == known - {"train_counts"}
    assert set(get_type_hints(ObjectiveOptions)) == taken[0] - {"model", "data", "loss", "mean", "std"}


def test_the_table_in_the_help_of_measure_is_that_of_the_registry():
    table = inspect.getdoc(sharpness.measure).split("==\n")[2]
    assert re.findall(r"(?m)^(\w+)", table) == [*MEASURES.built_in()]
