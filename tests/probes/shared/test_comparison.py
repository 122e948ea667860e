"""Models side by side: the same directions, data and settings, or a refusal that names what differs."""

from dataclasses import replace
from functools import partial
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpness import (
    Objective,
    UserError,
    compare,
    eigenvalues,
    line,
    load_checkpoint,
    load_data,
    load_result,
    measure,
    plane,
    random_perturbation,
    train,
    worst_case,
)
from sharpness.models import build_model
from sharpness.probes.directions.gaussian import gaussian
from sharpness.probes.shared.comparison import side_by_side

#: Nothing here hangs on the width of a network.
pytestmark = pytest.mark.usefixtures("shallow_resnet8")

RANGE = (-1, 1, 3)


def model(seed=0, scale=1.0, width=5, classes=3):
    torch.manual_seed(seed)
    found = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, classes))
    with torch.no_grad():
        for p in found.parameters():
            p.mul_(scale)
    return found


@pytest.fixture
def data():
    torch.manual_seed(9)
    return torch.randn(12, 4), torch.arange(12) % 3


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    longtail = load_data("digits-lt")
    for method in ("ce", "ldam-drw"):
        train(method, longtail, out=folder / method, epochs=1)
    return [folder / m / "last.pt" for m in ("ce", "ldam-drw")]


PROBES = {
    "line": lambda what, **options: line(what, RANGE, **options),
    "plane": lambda what, **options: plane(what, RANGE, RANGE, **options),
    "perturbation": lambda what, **options: random_perturbation(what, [0.1], 2, **options),
}


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_models_over_the_same_data_are_probed_as_each_alone(probe, data, tmp_path):
    models = {"a": model(0), "b": model(1)}
    found = probe(models, data=data, options={"class_names": ["x", "y", "z"]}, resume=tmp_path)
    assert list(found) == ["a", "b"]
    for label, one in models.items():
        alone = probe(Objective(one, data, class_names=["x", "y", "z"]))
        np.testing.assert_array_equal(found[label].losses, alone.losses)
        assert found[label].provenance["label"] == found[label].label == label
        assert {**alone.provenance, "label": label} == found[label].provenance
    again = probe(models, data=data, options={"class_names": ["x", "y", "z"]}, resume=tmp_path)
    swapped = probe(dict(reversed(models.items())), data=data, resume=tmp_path)
    for label in models:
        np.testing.assert_array_equal(again[label].losses, found[label].losses)
        np.testing.assert_array_equal(swapped[label].losses, found[label].losses)
    assert len(list(tmp_path.iterdir())) == 2


def test_models_of_an_architecture_meet_the_same_noise(data):
    """Without normalisation the displacements themselves are equal, whatever the weights."""
    one, other = Objective(model(0), data), Objective(model(1, scale=3.0), data)
    assert torch.equal(gaussian(one, 0, 5, None), gaussian(other, 0, 5, None))
    relative = [gaussian(o, 0, 5, "filter")[:20].view(5, 4) for o in (one, other)]
    np.testing.assert_allclose(*(d / d.norm(dim=1, keepdim=True) for d in relative), rtol=1e-5)


def test_tables_and_pictures_hold_every_model(data):
    found = line({"a": model(0), "b": model(1)}, RANGE, data=data)
    table = found.to_frame()
    assert table.columns[0] == "model"
    assert table[table["class"] == "all"].groupby("model").size().to_dict() == {"a": 3, "b": 3}
    pd.testing.assert_frame_equal(
        table[table.model == "b"].drop(columns="model").reset_index(drop=True), found["b"].to_frame()
    )
    assert len(found.plot().get_legend_handles_labels()[1]) == 2


def test_checkpoints_paths_and_objectives_mix(runs):
    first, second = runs
    given = {"path": first, "text": str(second), "checkpoint": load_checkpoint(second)}
    options = {"split": "test", "limit_per_class": 3}
    found = line(given, RANGE, options=options)
    np.testing.assert_array_equal(found["text"].losses, found["checkpoint"].losses)
    assert not np.array_equal(found["path"].losses, found["text"].losses)
    assert len({r.provenance["data_sha256"] for r in found.values()}) == 1
    kept = load_checkpoint(first).load_data()
    objective = Objective(load_checkpoint(first).model, kept.train, class_names=kept.class_names, groups=kept.groups)
    mixed = line({"path": first, "objective": objective}, RANGE)
    np.testing.assert_array_equal(mixed["path"].losses, mixed["objective"].losses)


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("12 of 12 images differ", lambda x, y: Objective(model(1), (x + 1, y))),
        ("labels of 8 of 12 images differ", lambda x, y: Objective(model(1), (x, y.flip(0)))),
        ("weights of 12 of 12 images differ", lambda x, y: Objective(model(1), (x, y), weights=1 + torch.arange(12.0))),
        ("scope", lambda x, y: Objective(model(1), (x, y), parameters="classifier")),
        ("batchnorm", lambda x, y: Objective(model(1), (x, y), batchnorm="recalibrate")),
        ("dtype is float32 and float64", lambda x, y: Objective(model(1).double(), (x, y))),
        ("loss is ce and <lambda>", lambda x, y: Objective(model(1), (x, y), loss=lambda u, t: u[:, 0])),
        ("class_names", lambda x, y: Objective(model(1), (x, y), class_names="abc")),
        ("class_names", lambda x, y: Objective(model(1, classes=4), (x, y))),
        ("groups is {} and {'few'", lambda x, y: Objective(model(1), (x, y), groups={"few": (2,)})),
    ],
)
@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_what_differs_is_named_before_anything_is_evaluated(probe, field, other, data, monkeypatch):
    objectives = {"a": Objective(model(0), data), "b": other(*data)}
    monkeypatch.setattr(Objective, "evaluation", lambda self, precision=None: pytest.fail("evaluated"))
    with pytest.raises(UserError, match=f"'a' and 'b' cannot be compared: {field}"):
        probe(objectives)


def power(exponent):
    return lambda u, t: u[:, 0] ** exponent


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (lambda u, t: u[:, 0] ** 2, lambda u, v: u[:, 0] ** 2, lambda u, t: u[:, 0]),
        (power(2), power(2), power(1)),
        (partial(F.cross_entropy, reduction="none"), partial(F.cross_entropy, reduction="none"), None),
        (*(nn.CrossEntropyLoss(reduction="none", label_smoothing=s) for s in (0.1, 0.1, 0.5)),),
    ],
)
def test_losses_of_one_name_are_told_apart_by_what_they_compute(one, same, other, data, tmp_path):
    a, b = (Objective(model(seed), data, loss) for seed, loss in ((0, one), (1, same)))
    assert list(line({"a": a, "b": b}, RANGE)) == ["a", "b"] and " at 0x" not in a.loss_name
    if other is not None:
        c = Objective(model(1), data, other)
        assert c.loss_name == a.loss_name
        with pytest.raises(UserError, match=r"loss_function is \S+ \w{16} and \S+ \w{16}, and must be the same"):
            line({"a": a, "b": c}, RANGE)
        stored = [load_result(measure(o, "loss").save(tmp_path / f"{i}.nc")) for i, o in enumerate((a, b, c))]
        assert list(compare({"a": stored[0], "b": stored[1]})) == ["a", "b"]
        with pytest.raises(UserError, match="loss_function is"):
            compare({"a": stored[0], "c": stored[2]})
        # Of another version of Python, whose bytecode is another, and of files of before, names are all there is.
        for change in ({"python": "3.1.0"}, {"loss_function": None}):
            odd = replace(stored[2], provenance=stored[2].provenance | change)
            assert list(compare({"a": stored[0], "c": odd})) == ["a", "c"]


class Config:
    alpha = 0.5


class Derived(Config):
    pass


config, derived, settings = Config, Derived(), ModuleType("settings")
settings.nested = ModuleType("settings.nested")
settings.alpha = settings.nested.alpha = 0.5


def bent(u, alpha):
    """Squares whose Hessian depends on alpha, unlike their value, by which saved work is told apart as well."""
    return u[:, 0] ** 2 + alpha * (u[:, 0] - u[:, 0].detach()) ** 2


@pytest.mark.parametrize(
    ("owner", "loss"),
    [
        (Config, lambda u, t: bent(u, config.alpha)),
        (Config, lambda u, t: bent(u, derived.alpha)),
        (settings, lambda u, t: bent(u, settings.alpha)),
        (settings.nested, lambda u, t: [bent(v, settings.nested.alpha) for v in (u,)][0]),
    ],
)
def test_saved_work_is_that_of_a_loss_with_the_numbers_that_it_reads(owner, loss, tmp_path, monkeypatch):
    torch.manual_seed(0)
    network, data = nn.Linear(3, 1), (torch.randn(8, 3), torch.zeros(8))
    first = eigenvalues(Objective(network, data, loss), resume=tmp_path)
    monkeypatch.setattr(settings, "unread", 1, raising=False)
    assert eigenvalues(Objective(network, data, loss), resume=tmp_path).values == first.values
    assert len(list(tmp_path.rglob("row-*"))) == 1
    monkeypatch.setattr(owner, "alpha", 1.5)
    again = eigenvalues(Objective(network, data, loss), resume=tmp_path)
    np.testing.assert_allclose(again.values, first.values * 2.5 / 1.5, rtol=1e-4)


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_models_of_several_architectures_are_compared_with_one_warning(probe, data, caplog):
    found = probe({"a": model(0), "b": model(1), "wide": model(2, width=7)}, data=data)
    assert list(found) == ["a", "b", "wide"]
    (warning,) = caplog.messages
    assert "the noise is not the same: 100 % of the weights of 'wide' have shapes that 'a' has not" in warning
    caplog.clear()
    probe({"a": model(0), "b": model(1)}, data=data)
    assert not caplog.messages


def test_heads_of_other_kinds_meet_the_same_noise_without_a_warning(caplog):
    """A cosine head is stored with its filters last, and has no bias."""
    torch.manual_seed(0)
    data = torch.randn(6, 1, 8, 8), torch.arange(6) % 3
    found = line({h: build_model("resnet8", 3, 1, h).eval() for h in ("linear", "cosine")}, RANGE, data=data)
    assert list(found) == ["linear", "cosine"] and not caplog.messages


def test_without_noise_there_is_nothing_to_warn_of(data, caplog):
    line({"a": model(0), "wide": model(2, width=7)}, RANGE, "gradient", data=data)
    assert not caplog.messages


def test_two_models_need_two_labels(data):
    with pytest.raises(UserError, match="labels 1, 1"):
        line({1: model(0), "1": model(1)}, RANGE, data=data)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda data: line({}, RANGE), "empty mapping"),
        (lambda data: line({"a": model()}, RANGE), "model without data: pass data="),
        (lambda data: line(Objective(model(), data), RANGE, data=data), "data= is for models: Objective has its own"),
        (lambda data: line({"a": Objective(model(), data)}, RANGE, data=data), "Objective has its own"),
        (lambda data: line(Objective(model(), data), RANGE, options={"loss": "ce"}), "loss: an Objective has its own"),
        (lambda data: line({"a": 3}, RANGE), "a int cannot be probed"),
        (lambda data: line([model(), model()], RANGE, data=data), "a list cannot be probed.*{label: model}"),
    ],
)
def test_mistakes_are_told(act, message, data):
    with pytest.raises(UserError, match=message):
        act(data)


@pytest.mark.parametrize("first", ["balanced", "long tail"])
def test_a_model_of_balanced_classes_is_compared_in_the_groups_of_the_long_tail(first, caplog):
    x, y = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    seen = {"balanced": {"many": (0, 1, 2), "few": ()}, "long tail": {"many": (0,), "few": (1, 2)}}
    order = [first, *(set(seen) - {first})]
    objectives = {label: Objective(nn.Linear(3, 3), (x, y), groups=seen[label]) for label in order}
    found = worst_case(objectives)
    assert all(objectives[label].groups == seen[label] for label in order)
    assert all(found[label].groups == seen["long tail"] for label in order)
    assert "balanced was trained on balanced classes: groups are those of long tail" in caplog.messages
    compared = side_by_side(objectives, lambda one: one)
    assert [one.subject.restrict("few").num_samples for one in compared] == [4, 4]
