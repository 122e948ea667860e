"""Activation checkpointing, ``no_grad`` and ``inference_mode``: right numbers, or one line with what helps."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import sharpness
from sharpness import Objective, UserError

X, Y = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)).double(), torch.arange(20) % 3


class Saved(nn.Module):
    """A network of which a part is computed again in the backward pass: its first layers, or those in the middle."""

    def __init__(self, reentrant, where):
        super().__init__()
        self.reentrant, self.where = reentrant, where
        self.first, self.middle = nn.Linear(5, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        if self.where == "all":
            return checkpoint(self.whole, x, use_reentrant=self.reentrant)
        if self.where == "first":
            return self.head(self.middle(checkpoint(self.first, x, use_reentrant=self.reentrant)))
        return self.head(checkpoint(self.middle, self.first(x), use_reentrant=self.reentrant))

    def whole(self, x):
        return self.head(self.middle(self.first(x)))


def saved(reentrant, where):
    torch.manual_seed(1)
    model = Saved(reentrant, where).double().eval()
    return model, nn.Sequential(model.first, model.middle, model.head)


PROBES = {
    "eigenvalues": lambda o: sharpness.eigenvalues(o, which="both").values,
    "trace": lambda o: sharpness.trace(o, draws=3).values,
    "density": lambda o: sharpness.spectral_density(o, draws=2, steps=8).to_frame().select_dtypes("number"),
    "measure": lambda o: sharpness.measure(o).values,
    "line": lambda o: sharpness.line(o, (-1, 1, 3)).losses,
    "towards the gradient": lambda o: sharpness.line(o, (-1, 1, 3), "gradient").losses,
    "plane": lambda o: sharpness.plane(o, (-1, 1, 3), (-1, 1, 3), "hessian", adaptive=None).losses,
    "random": lambda o: sharpness.random_perturbation(o, radii=[0.1], draws=2).to_frame().select_dtypes("number"),
    "worst case": lambda o: sharpness.worst_case(o, rho=0.1, steps=3).to_frame().select_dtypes("number"),
    "interpolate": lambda o: sharpness.interpolate(o, moved(o, 1), (0, 1, 3)).losses,
    "through three": lambda o: sharpness.plane_through(o, moved(o, 1), moved(o, 2), points=3).losses,
    "trajectory": lambda o: sharpness.trajectory_plane(o, [moved(o, 1), moved(o, 2)], points=3).losses,
    "gradient": lambda o: o.gradient(),
    "product": lambda o: o.hvp(torch.ones(o.num_parameters)),
    "quadratic forms": lambda o: o.quadratic_forms(torch.ones(o.num_parameters)),
    "characteristic_radius": lambda o: sharpness.characteristic_radius(o, (6, 5, 4), steps=2).values,
    "barrier": lambda o: sharpness.barrier(sharpness.interpolate(o, moved(o, 1), (0, 1, 5))).select_dtypes("number"),
}


def moved(objective, seed):
    g = torch.Generator().manual_seed(seed)
    state = objective.model.state_dict()
    own = dict(objective.model.named_parameters())
    return {n: t + 0.1 * torch.randn(t.shape, generator=g, dtype=t.dtype) if n in own else t for n, t in state.items()}


@pytest.mark.every(3)
@pytest.mark.parametrize("where", ["first", "middle", "all"])
@pytest.mark.parametrize("probe", ["eigenvalues", "measure", "worst case", "plane", "quadratic forms"])
def test_checkpointing_that_is_not_reentrant_changes_nothing(probe, where):
    model, plain = saved(False, where)
    ours, theirs = (np.asarray(PROBES[probe](Objective(m, (X, Y)))) for m in (model, plain))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("where", ["first", "middle", "all"])
def test_reentrant_checkpointing_is_refused_with_the_remedy_that_works(where):
    model, plain = saved(True, where)
    with pytest.raises(UserError, match="activation checkpointing .*: give torch.utils.checkpoint use_reentrant=False"):
        Objective(model, (X, Y))
    model.reentrant = False
    assert Objective(model, (X, Y)).num_parameters == Objective(plain, (X, Y)).num_parameters


@pytest.mark.filterwarnings("ignore:None of the inputs:UserWarning")
def test_frozen_parts_may_be_checkpointed_either_way():
    model, plain = saved(True, "first")
    model.first.requires_grad_(False)
    assert Objective(model, (X, Y)).loss() == pytest.approx(Objective(plain, (X, Y)).loss(), rel=1e-12)


def test_warnings_of_the_network_come_as_ever():
    class Warns(nn.Linear):
        def forward(self, x):
            warnings.warn("mind the gap", stacklevel=2)
            return super().forward(x)

    with pytest.warns(UserWarning, match="mind the gap"):
        Objective(Warns(5, 3).double(), (X, Y))


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double().eval()


@pytest.mark.every(2)
@pytest.mark.parametrize("probe", PROBES)
def test_a_mode_of_the_caller_changes_nothing(probe):
    expected = np.asarray(PROBES[probe](Objective(network(), (X, Y)))).astype(float)
    for mode in (torch.no_grad, torch.inference_mode):
        outside, model = Objective(network(), (X, Y)), network()
        with mode():
            found = [PROBES[probe](outside), PROBES[probe](Objective(model, (X.clone(), Y.clone())))]
        for values in found:
            np.testing.assert_array_equal(np.asarray(values).astype(float), expected, err_msg=mode.__name__)


def test_weights_made_under_inference_mode_are_told():
    with torch.inference_mode():
        model = network()
    with pytest.raises(UserError, match=r"made under torch.inference_mode\(\).*give copy.deepcopy\(model\)"):
        Objective(model, (X, Y))
    assert Objective(copy.deepcopy(model), (X, Y)).loss() == Objective(network(), (X, Y)).loss()


class Seeing(nn.Sequential):
    """Remembers the default device that it runs under, on which a forward pass may make tensors."""

    def forward(self, x):
        self.seen = str(torch.get_default_device())
        return super().forward(x)


@pytest.mark.parametrize("probe", ["plane", "random", "characteristic_radius", "quadratic forms"])
def test_a_default_device_of_the_caller_is_for_the_model_alone(probe):
    probe = (
        PROBES[probe]
        if probe != "quadratic forms"
        else lambda o: o.quadratic_forms(Y.new_ones(o.num_parameters).double())
    )
    expected = np.asarray(probe(Objective(network(), (X, Y)))).astype(float)
    model = Seeing(*network()).eval()
    with torch.device("meta"):
        found = np.asarray(probe(Objective(model, (X, Y)))).astype(float)
    np.testing.assert_array_equal(found, expected)
    assert model.seen == "meta"


@pytest.mark.filterwarnings("error")
def test_no_warning_of_ours_becomes_an_error_where_warnings_are():
    objective = Objective(network(), (X, Y))
    assert objective.quadratic_forms(torch.ones(objective.num_parameters)).shape == (20,)
    assert sharpness.eigenvalues(objective).converged.all()
