"""Separate and saved results are drawn together only where their numbers mean the same."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from sharpness import Objective, UserError, line, load_result, plane, random_perturbation


def make_objective(seed=0, width=5, data_seed=9, **options):
    torch.manual_seed(data_seed)
    data = torch.randn(9, 4), torch.arange(9) % 3
    torch.manual_seed(seed)
    return Objective(nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3)), data, **options)


PROBES = {
    "line": lambda o: line(o, (-1, 1, 5)),
    "plane": lambda o: plane(o, (-1, 1, 5), (-1, 1, 5)),
    "perturbation": lambda o: random_perturbation(o, [0.1, 0.2], 2),
}


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_the_same_result_twice_and_other_models_go_together(probe, tmp_path):
    a = probe(make_objective())
    saved = load_result(a.save(tmp_path / "a.nc"))
    others = {"again": a, "saved": saved, "other": probe(make_objective(1)), "wide": probe(make_objective(2, width=7))}
    drawn = type(a).compare({"a": a, **others})
    assert np.size(drawn) in (1, 5)


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ("plane", lambda o: plane(o, (-3, 3, 5), (-1, 1, 5)), "x is -1 to 1 in 5 points and -3 to 3 in 5 points"),
        ("plane", lambda o: plane(o, (-1, 1, 5), (-1, 1, 3)), "y is -1 to 1 in 5 points and -1 to 1 in 3 points"),
        ("plane", lambda o: plane(o, (-1, 1, 5), (-1, 1, 5), "hessian"), "directions is gaussian and hessian"),
        ("plane", lambda o: plane(o, (-1, 1, 5), (-1, 1, 5), None, "layer"), "normalization is filter and layer"),
        ("plane", lambda o: plane(o, (-1, 1, 5), (-1, 1, 5), seed=1), "seed is 0 and 1"),
        ("line", lambda o: line(o, (0, 1, 5)), "x is -1 to 1 in 5 points and 0 to 1 in 5 points"),
        ("line", lambda o: line(o, (-1, 1, 5), "gradient"), "directions is gaussian and gradient"),
        ("line", lambda o: line(o, (-1, 1, 5), seed=4), "seed is 0 and 4"),
        ("perturbation", lambda o: random_perturbation(o, [0.1], 2), "radii is 0.1 to 0.2 in 2 points and [0.1]"),
        ("perturbation", lambda o: random_perturbation(o, [0.1, 0.2], 2, "layer"), "normalization is filter and layer"),
        ("perturbation", lambda o: random_perturbation(o, [0.1, 0.2], 2, seed=1), "seed is 0 and 1"),
        (
            "perturbation",
            lambda o: random_perturbation(o, [0.1, 0.2], 2, distribution="uniform"),
            "distribution is gaussian and uniform",
        ),
    ],
)
def test_other_settings_are_refused_by_name(first, second, told):
    a, b = PROBES[first](make_objective()), second(make_objective())
    with pytest.raises(UserError) as caught:
        type(a).compare({"a": a, "b": b})
    assert str(caught.value) == f"'a' and 'b' cannot be compared: {told}, and must be the same"


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("9 of 9 images differ ", {"data_seed": 1}),
        ("scope is ", {"parameters": "classifier"}),
        ("batchnorm is ", {"batchnorm": "recalibrate"}),
        ("loss is ", {"loss": lambda u, t: u.square().sum(1)}),
        ("class_names is ", {"class_names": "abc"}),
        ("groups is ", {"groups": {"few": (1, 2)}}),
    ],
)
def test_other_objectives_are_refused_by_name(probe, field, options):
    a, b = probe(make_objective()), probe(make_objective(**options))
    with pytest.raises(UserError, match=f"'a' and 'b' cannot be compared: {field}"):
        type(a).compare({"a": a, "b": b})


def test_the_seed_counts_for_noise_alone():
    o = make_objective()
    line_of = {seed: line(o, (-1, 1, 3), "gradient", seed=seed) for seed in (0, 1)}
    assert len(type(line_of[0]).compare({"a": line_of[0], "b": line_of[1]}).get_legend_handles_labels()[1]) == 2


def test_a_line_and_a_plane_are_no_comparison():
    o = make_objective()
    a, b = PROBES["line"](o), PROBES["plane"](o)
    with pytest.raises(UserError, match="LineResult and PlaneResult cannot be compared"):
        type(a).compare({"a": a, "b": b})


def test_what_a_file_does_not_tell_is_not_compared():
    a = PROBES["line"](make_objective())
    bare = dataclasses.replace(a, provenance={})
    type(a).compare({"a": a, "b": bare})
