"""A network in half precision is measured in float32, at the same weights, and left as it is."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

import sharpness
from sharpness import Objective, UserError

X, Y = torch.randn(24, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3


class Tied(nn.Module):
    """A weight in two places, a buffer in half precision, and a norm that may be kept in float32."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.one, self.two, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.two.weight = self.one.weight
        self.register_buffer("shift", torch.full((4,), 0.1))

    def forward(self, x):
        h = self.norm(self.conv(x).to(self.norm.weight.dtype)).mean((2, 3)).to(self.one.weight.dtype)
        return self.head(torch.tanh(self.two(torch.tanh(self.one(h + self.shift)))))


def networks(dtype, mixed=False):
    """The network in half precision, and one made anew in float32 with the same numbers."""
    torch.manual_seed(1)
    model = Tied().eval().to(dtype)
    if mixed:
        model.norm.float()
    twin = Tied().eval()
    twin.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in model.state_dict().items()})
    return model, twin


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_numbers_are_those_of_the_same_network_in_float32(dtype, mixed, caplog):
    model, twin = networks(dtype, mixed)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with caplog.at_level(logging.WARNING, "sharpness"):
        ours = Objective(model, (X.to(dtype), Y))
    theirs = Objective(twin, (X.to(dtype).float(), Y))
    assert caplog.text.count(f"the model is in {str(dtype)[6:]}: measured in float32") == 1
    assert ours.precision == "float32" and ours.num_parameters == theirs.num_parameters
    for probe in (
        lambda o: sharpness.eigenvalues(o, which="both").values,
        lambda o: sharpness.line(o, (-1, 1, 5)).losses,
        lambda o: sharpness.measure(o).values,
        lambda o: o.gradient().numpy(),
    ):
        np.testing.assert_array_equal(probe(ours), probe(theirs))
    now = model.state_dict()
    assert all(t.dtype == now[n].dtype and torch.equal(t, now[n]) for n, t in before.items())
    assert all(p.grad is None for p in model.parameters()) and model.two.weight is model.one.weight


def test_a_network_in_float32_or_float64_is_not_copied():
    for model in (Tied().eval(), Tied().eval().double()):
        assert Objective(model, (X, Y)).model is model


def test_one_that_cannot_be_copied_is_told():
    model, _ = networks(torch.float16)
    model.lock = (i for i in ())
    with pytest.raises(UserError, match=r"cannot be copied \(TypeError: .*give model.float\(\)"):
        Objective(model, (X, Y))
    Objective(model.float(), (X, Y))  # the remedy


class Lowered(nn.Module):
    """A network in float32 that computes a part of its forward pass in half precision."""

    def __init__(self, how):
        super().__init__()
        self.how, self.inner, self.head = how, nn.Linear(36, 5), nn.Linear(5, 3)

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.how == "autocast"):
            h = torch.tanh(self.inner(x.flatten(1)))
        if self.how == "mask":  # of no number of the model
            h = h * torch.ones(5, dtype=torch.bfloat16).bool()
        return self.head(h.bfloat16().float() if self.how == "cast" else h.float())


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("autocast", "bfloat16 in layer 'inner' (Linear)"),
        ("cast", "bfloat16 in the forward pass of the model (Lowered) itself"),
        ("mask", None),
        ("none", None),
    ],
)
def test_half_precision_inside_a_network_is_told_and_measured(how, told, caplog, tmp_path):
    torch.manual_seed(3)
    with caplog.at_level(logging.WARNING, "sharpness"):
        objective = Objective(Lowered(how).eval(), (X, Y), batch_size=5)
    assert [f"the model computes in {told}:" in message for message in caplog.messages] == ([True] if told else [])
    notes = [f"reduced precision: the model computes in {told}"] if told else []
    table = sharpness.measure(objective, "loss,worst_rise,lambda_max")
    for found in (
        table,
        sharpness.load_result(table.save(tmp_path / "table.nc")),
        sharpness.line(objective, (-1, 1, 3)),
    ):
        assert [note for note in found.notes if "precision" in note] == notes
    assert np.isfinite(table.overall).all()
