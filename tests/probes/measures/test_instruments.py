"""Measures beside sharpness, against formulas written out: confidence, scale-free ones, soft rank, saturation."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpness import Objective, UserError, measure
from sharpness.models.heads import CosineHead, LearnableWeightScaling, linear_map
from sharpness.models.scaled_head import ScaledHead


def data():
    generator = torch.Generator().manual_seed(2)
    return torch.randn(40, 4, generator=generator).double(), torch.tensor([0] * 24 + [1] * 12 + [2] * 4)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()


@pytest.fixture(scope="module")
def objective(network):
    return Objective(network, data(), groups={"tail": (1, 2)}, weights=torch.linspace(0.5, 2, 40))


def of_classes(values, objective):
    """Weighted means of every class and of all samples, and their column by hand."""
    a, y = objective.weights.double().numpy(), objective.y.numpy()
    rows = [y == c for c in range(3)] + [np.ones(len(y), bool)]
    return np.array([np.average(values[r], weights=a[r]) for r in rows])


def column(table, name):
    m = table.names.index(name)
    return np.append(table.values[m], table.overall[m])


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_margins_and_calibration_errors_are_those_of_the_logits_that_the_loss_takes(objective, temperature):
    data, weights = (objective.x, objective.y), objective.weights
    objective = Objective(objective.model, data, weights=weights, logits=temperature)
    found = measure(objective, "ece,margin")
    u = objective.model(objective.x).detach() / temperature
    y = objective.y
    margins = [float(v[c] - max(v[k] for k in range(3) if k != c)) for v, c in zip(u, y, strict=True)]
    np.testing.assert_allclose(column(found, "margin"), of_classes(np.array(margins), objective))
    p = F.softmax(u, 1)
    a, expected = objective.weights.double().numpy(), []
    for chosen in [y == 0, y == 1, y == 2, y >= 0]:
        total = 0.0
        for b in range(15):
            top = p.amax(1)
            inside = (chosen & (top > b / 15) & (top <= (b + 1) / 15)).numpy()
            if inside.any():
                right = (p.argmax(1) == y).numpy()[inside]
                total += abs((a[inside] * (top.numpy()[inside] - right)).sum())
        expected.append(total / a[chosen.numpy()].sum())
    np.testing.assert_allclose(column(found, "ece"), expected, atol=1e-12)
    assert (found.standard_errors[0] > 0).all()


def test_confidence_and_answers_have_the_same_recalibrated_statistics():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)).double().eval()
    objective = Objective(model, data(), batchnorm="recalibrate")
    found = measure(objective, "accuracy,ece,margin")
    with objective.at(torch.zeros(objective.num_parameters)):
        u, y = model(objective.x).detach(), objective.y
    p, right = F.softmax(u, 1).amax(1).numpy(), (u.argmax(1) == y).numpy()
    margins = [float(v[c] - max(v[k] for k in range(3) if k != c)) for v, c in zip(u, y, strict=True)]
    np.testing.assert_allclose(column(found, "margin"), of_classes(np.array(margins), objective))
    np.testing.assert_allclose(column(found, "accuracy"), of_classes(right, objective))
    bins = np.ceil(15 * p).astype(int)
    expected = sum(abs((p - right)[bins == b].sum()) for b in range(1, 16)) / 40
    assert found["ece"].overall == pytest.approx(expected, abs=1e-12)


def test_a_calibrated_model_has_no_calibration_error():
    """Logits of constant confidence 3/4, right in three of four images."""
    logits = torch.tensor([[0.75, 0.25]], dtype=torch.float64).log().repeat(8, 1)
    model = nn.Linear(2, 2, bias=False).double()
    nn.init.eye_(model.weight)
    objective = Objective(model, (logits, torch.tensor([0, 0, 0, 1] * 2)), classes=[0] * 8)
    assert measure(objective, "ece").overall[0] == pytest.approx(0, abs=1e-12)


def kappa(weight, features, u, y, a):
    """The definition by Petzka et al., from the Hessian by the weight of the layer."""

    def loss(w):
        return (a * F.cross_entropy(u - features @ weight.T + features @ w.T, y, reduction="none")).sum() / a.sum()

    hessian = torch.func.hessian(loss)(weight)
    traces = torch.einsum("sktk->st", hessian)
    return float((weight @ weight.T * traces).sum())


def test_relative_flatness_is_that_of_the_definition_and_keeps_under_rescaling(objective, network):
    found = column(measure(objective, "relative_flatness"), "relative_flatness")
    features = network[:2](objective.x).detach()
    weight, a = network[2].weight.detach(), objective.weights.double()
    expected = [
        kappa(weight, features[r], network(objective.x).detach()[r], objective.y[r], a[r])
        for r in (objective.y == 0, objective.y == 1, objective.y == 2, objective.y >= 0)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    other = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        other[0].weight *= 7
        other[0].bias *= 7
        other[2].weight /= 7
    rescaled = Objective(other, data(), weights=objective.weights)
    np.testing.assert_allclose(column(measure(rescaled, "relative_flatness"), "relative_flatness"), found, rtol=1e-9)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_relative_flatness_of_a_loss_that_holds_weights_of_classes_is_its_closed_form(network, dtype, rtol):
    """The Hessian of weighted cross-entropy by the logits is the weight of the label times diag(p) - p p'."""
    model = copy.deepcopy(network).to(dtype)
    (x, y), of_class = data(), torch.tensor([1.0, 2.0, 5.0], dtype=dtype)
    weighted = Objective(model, (x.to(dtype), y), nn.CrossEntropyLoss(weight=of_class, reduction="none"), num_classes=3)
    z, w = model[:2](x.to(dtype)).detach().double(), model[2].weight.detach().double()
    p = model(x.to(dtype)).detach().double().softmax(1)
    traces = p @ w.square().sum(1) - (p @ w).square().sum(1)
    values = (of_class.double()[y] * z.square().sum(1) * traces).numpy()
    found = column(measure(weighted, "relative_flatness"), "relative_flatness")
    np.testing.assert_allclose(found, of_classes(values, weighted), rtol=rtol)


def test_the_fisher_rao_norm_is_that_of_gradients_of_every_sample(objective):
    found = measure(objective, "fisher_rao_norm")
    w = torch.cat([p.detach().reshape(-1) for p in objective.parameters])
    squares = []
    for i in range(40):
        gradient = objective.restrict([i]).gradient()
        squares.append(float(gradient @ w) ** 2)
    np.testing.assert_allclose(
        column(found, "fisher_rao_norm"), np.sqrt(of_classes(np.array(squares), objective)), rtol=1e-9
    )
    assert (found.lower < found.values).all() and (found.values < found.upper).all()


def test_the_soft_rank_is_the_trace_over_the_largest_eigenvalue(objective):
    found = measure(objective, "lambda_max,trace,soft_rank", trace_draws=3, tol=1e-2)
    top, trace, rank = (column(found, name) for name in ("lambda_max", "trace", "soft_rank"))
    np.testing.assert_allclose(rank, trace / top)
    alone = measure(objective, "soft_rank", trace_draws=3, tol=1e-2)
    np.testing.assert_array_equal(column(alone, "soft_rank"), rank)
    assert found["soft_rank"].of("tail") == pytest.approx(rank[1:3].mean())


@pytest.mark.parametrize(
    "head",
    [
        nn.Linear(3, 4), CosineHead(3, 4, 5.0), LearnableWeightScaling(CosineHead(3, 4, 5.0), 4),
        *(ScaledHead(3, 4, unit, 2.0) for unit in ("none", "features", "weights", "both")),
    ],
    ids=lambda head: type(head).__name__,
)  # fmt: skip
def test_heads_are_linear_maps_of_what_they_take(head):
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    weight, features = linear_map(head, z)
    bias = getattr(head, "bias", None)
    torch.testing.assert_close(features @ weight.T + (0 if bias is None else bias), head(z))


def test_a_network_without_a_last_linear_layer_has_no_relative_flatness(caplog):
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).double()
    table = measure(Objective(model, data()), "relative_flatness")
    assert np.isnan(table.values).all() and "no relative flatness" in caplog.text


def test_saturated_classes_are_named(objective):
    assert not [note for note in measure(objective, "loss").notes if "saturation" in note]
    model = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(20 * torch.eye(2))
    x = torch.eye(2).double()[[0, 0, 0, 1, 1]] * torch.tensor([1, 1, 0.1, 1, 0.1]).double()[:, None]
    table = measure(Objective(model, (x, torch.tensor([0, 0, 0, 1, 1])), class_names=("cat", "owl")), "loss")
    assert [note for note in table.notes if note.startswith("flat by saturation") and note.endswith(": cat")]


def test_all_measures_are_all_there_are_that_the_model_has(objective):
    from sharpness.probes import MEASURES
    from sharpness.probes.measures.registry import chosen_measures

    assert [m.name for m in chosen_measures("all")] == [m.name for m in MEASURES.loaded]
    with pytest.raises(UserError, match="that is none of all,"):
        from sharpness import register_measure

        register_measure("all", lambda o: 1.0)


@pytest.mark.parametrize("behind", ["unused", "used", "attention"])
def test_relative_flatness_finds_the_layer_that_gives_the_outputs(network, behind):
    """Behind it are a projector of the training, one that the forward pass uses otherwise, or an attention."""

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.fc = network[:2], network[2]
            self.late = nn.Linear(5, 3).double() if behind != "attention" else nn.MultiheadAttention(5, 1).double()

        def forward(self, x):
            z = self.body(x)
            if behind == "used":
                self.late(z)
            return self.fc(z)

    expected = column(measure(Objective(network, data()), "relative_flatness"), "relative_flatness")
    found = column(measure(Objective(Whole(), data()), "relative_flatness"), "relative_flatness")
    np.testing.assert_allclose(found, expected, rtol=1e-12)
