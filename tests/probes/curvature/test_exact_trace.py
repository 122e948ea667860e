"""Exact traces against the diagonals of dense Hessians, and where there are none."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

from sharpness import Objective, UserError, trace
from sharpness.models import build_model
from sharpness.models.heads import CosineHead, LearnableWeightScaling
from sharpness.objective.coordinates import scales_of
from sharpness.probes.curvature.exact_trace import ExactTrace
from sharpness.probes.shared.work import Work


class Residual(nn.Module):
    """A block with BatchNorm after and before convolutions, biases, a stride, groups and a shortcut of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=3), nn.BatchNorm2d(6, affine=False)
        self.before, self.short = nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1, stride=2, bias=False)

    def forward(self, x):
        z = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.leaky_relu(0.5 * z + self.short(torch.relu(self.before(x))) - 0.1)


class Padded(nn.Module):
    """Shortcuts without parameters, as in the ResNets of CIFAR: every second pixel, and channels of zeros."""

    def forward(self, x):
        return torch.cat([F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)), F.max_pool2d(x, 2)], dim=1)


class Pooled(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)).view(x.size(0), -1)


class Tokens(nn.Module):
    """A linear layer that is applied to every position."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return F.linear(x.flatten(2).transpose(1, 2), self.linear.weight, self.linear.bias).sum(1)


HEADS = {"linear": nn.Linear(6, 3), "cosine": CosineHead(6, 3, scale=4.0)}
BODIES = {
    "residual": lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
                                      Residual(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "padded": lambda: nn.Sequential(nn.Conv2d(2, 2, 3), nn.Hardtanh(), Padded(), Pooled()),
    "tokens": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU6(), Tokens(), nn.Linear(3, 6), nn.Dropout()),
    "volumes": lambda: nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Conv3d(1, 6, (2, 3, 3)), nn.AvgPool3d((1, 6, 6)),
                                     nn.Flatten()),
    "sequences": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(2, 6, 3, stride=2), nn.BatchNorm1d(6), nn.ReLU(),
                                       nn.AdaptiveMaxPool1d(1), nn.Flatten()),
}  # fmt: skip


def images(n=9):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 2, 8, 8, generator=generator, dtype=torch.float64), torch.arange(n) % 3


def network(body, head="linear"):
    torch.manual_seed(0)
    model = nn.Sequential(BODIES[body](), HEADS[head]).double()
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(1.3 * torch.randn(12, 2, 8, 8, dtype=torch.float64) + 0.2)
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return model.eval()


def dense_diagonal(objective):
    """The diagonal of the Hessian by torch's double backward, all columns at once, in the objective's coordinates."""
    a = objective.weights.double()
    losses = objective.loss_function(objective.model(objective.x), objective.y)
    slope = torch.autograd.grad((a * losses).sum() / a.sum(), objective.parameters, create_graph=True)
    flat = torch.cat([s.reshape(-1) for s in slope])
    columns = torch.autograd.grad(
        flat, objective.parameters, torch.eye(len(flat), dtype=torch.float64), is_grads_batched=True, allow_unused=True,
        materialize_grads=True,
    )  # fmt: skip
    found = torch.cat([c.flatten(1) for c in columns], dim=1).diagonal()
    scales = scales_of(objective, objective.coordinates)
    return (found if scales is None else found * scales.double() ** 2).detach().numpy()


def diagonal(objective):
    return float(dense_diagonal(objective).sum())


@pytest.mark.parametrize("coordinates", ["plain", "filter"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("body", BODIES)
def test_traces_are_those_of_the_dense_hessian(body, head, coordinates):
    objective = Objective(network(body, head), images(), groups={"many": (0,), "few": (1, 2)})
    result = trace(objective, per_class=True, estimator="exact", coordinates=coordinates)
    moved = objective.in_coordinates(coordinates)
    expected = [diagonal(moved.restrict(c)) for c in range(3)]
    np.testing.assert_allclose(result.values[0], expected, rtol=1e-9)
    np.testing.assert_allclose(result.overall, diagonal(moved), rtol=1e-9)
    alone = ExactTrace.of(moved, "hessian").traces(Work(None, {}))
    errors = [alone[objective.y.numpy() == c].std(ddof=1) / 3**0.5 for c in range(3)]
    np.testing.assert_allclose(result.standard_errors[0], errors, rtol=1e-9)
    assert result.over == ("images",) and result.provenance["estimator"] == "exact"


@pytest.mark.parametrize("scope", ["*conv1*", "*norm*", "classifier", "0.*"])
def test_traces_of_a_part_of_the_network_are_those_of_its_block(scope):
    for head in HEADS:
        objective = Objective(network("residual", head), images(), parameters=scope)
        assert trace(objective, estimator="exact").overall[0] == pytest.approx(diagonal(objective), rel=1e-9)


def test_weights_soft_labels_temperatures_and_other_losses_count():
    model, (x, y) = network("residual"), images()
    soft = torch.rand(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for objective in (
        Objective(model, (x, y), weights=torch.linspace(0.5, 2, 9, dtype=torch.float64)),
        Objective(model, (x, soft / soft.sum(1, keepdim=True)), classes=y),
        Objective(model, (x, y), logits=2.5),
        Objective(network("residual", "cosine"), (x, y), logits=2.5),
        Objective(model, (x, y), lambda u, t: u[:, 0] ** 3 + u[:, 1] * u[:, 2] * t),
        Objective(model, (x, y), lambda u, t: u.abs().sum(1)),
    ):
        found = trace(objective, per_class=True, estimator="exact")
        assert found.overall[0] == pytest.approx(diagonal(objective), rel=1e-9, abs=1e-12)


def test_parameters_before_a_smooth_function_are_traced_through_it():
    """With one hidden layer, what is before tanh is affine, and the layer after it has a closed form."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    objective = Objective(model, images())
    assert trace(objective, estimator="exact").overall[0] == pytest.approx(diagonal(objective), rel=1e-9)
    gauss_newton = "kind='hessian'"
    with pytest.raises(UserError, match=gauss_newton):
        trace(objective, estimator="exact", kind="ggn")


def test_the_gauss_newton_trace_is_that_of_the_hessian_where_outputs_are_piecewise_linear():
    objective = Objective(network("tokens"), images())
    hessian, ggn = (trace(objective, per_class=True, kind=kind, estimator="exact") for kind in ("hessian", "ggn"))
    np.testing.assert_array_equal(hessian.values, ggn.values)
    dense = sum(objective.hvp(e, kind="ggn") @ e for e in torch.eye(objective.num_parameters, dtype=torch.float64))
    assert ggn.overall[0] == pytest.approx(float(dense), rel=1e-9)
    assert (ggn.lower >= 0).all()


class Twice(nn.Module):
    """The same weight twice on a path, so that activations are quadratic in it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(torch.relu(self.linear(torch.relu(self.linear(x)))))


class Gated(Twice):
    """The product of two branches of the same weights."""

    def forward(self, x):
        z = self.linear(x)
        return self.last(z * torch.relu(z))


class Squared(Twice):
    def forward(self, x):
        z = self.linear(x)
        return self.last(z * z)


class Named(Twice):
    def forward(self, x):
        z = self.linear(x)
        return self.last(torch.mul(z, other=z))


class Attending(Twice):
    """An activation in place of the weight of a linear function."""

    def forward(self, x):
        z = self.linear(x)
        return self.last(torch.vmap(lambda a: F.linear(a[None], a.outer(a))[0])(z))


class Outer(Twice):
    def forward(self, x):
        z = self.linear(x)
        return self.last(z.sub(1.0).div(z.square() + 1))


class Divided(Twice):
    def forward(self, x):
        return self.last(1.0 / (2 + torch.relu(self.linear(x))))


class Tied(Twice):
    def forward(self, x):
        return F.linear(torch.relu(self.linear(x)), self.linear.weight)[:, :3]


class Scaled(Twice):
    """A parameter that multiplies activations."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.last(torch.relu(self.gain * self.linear(x)))


def normed():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 3))
    return model.double()


@pytest.mark.parametrize("model", [Twice, Gated, Squared, Named, Attending, Outer, Divided, Tied, Scaled, normed,
                                   lambda: nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4), nn.Linear(4, 3)),
                                   lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 3)),
                                   lambda: LearnableWeightScaling(nn.Linear(4, 3), 3)])  # fmt: skip
def test_other_networks_are_refused_or_right(model):
    """Whatever is taken for piecewise linear has the trace of the dense Hessian; random vectors remain for the rest."""
    torch.manual_seed(0)
    objective = Objective(model().double().eval(), (torch.randn(8, 4, dtype=torch.float64), torch.arange(8) % 3))
    with pytest.raises(UserError, match=r"no exact form: .*: take estimator='hutchinson'"):
        trace(objective, estimator="exact")
    found = trace(objective, draws=200)
    assert found.provenance["estimator"] == "hutchinson"
    assert abs(found.overall[0] - diagonal(objective)) < 5 * found.overall_standard_errors[0]


def test_by_default_a_trace_is_exact_where_it_takes_few_passes():
    few = Objective(network("residual"), images())
    assert trace(few, draws=2).provenance["estimator"] == "exact"
    deep = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 40)).double()
    many = Objective(deep, (torch.randn(6, 2).double(), torch.arange(6)))
    assert trace(many, draws=4).provenance["estimator"] == "hutchinson"
    assert trace(many, draws=5).provenance["estimator"] == "exact"
    wide = Objective(deep, many.samples, parameters="classifier")
    assert trace(wide, draws=2).provenance["estimator"] == "exact"  # a closed form takes no passes
    assert trace(few, draws=2, bootstrap=100).provenance["estimator"] == "hutchinson"


def test_intervals_over_resampled_images_and_the_check_against_noise():
    objective = Objective(network("residual"), images(30))
    plain, resampled = (trace(objective, per_class=True, estimator="exact", bootstrap=b) for b in (0, 2000))
    np.testing.assert_array_equal(plain.values, resampled.values)
    assert resampled.over == ("images (2000 resamples)",)
    half = 1.96 * plain.standard_errors[0]  # of ten images; a percentile interval is a little shorter
    np.testing.assert_allclose((resampled.upper - resampled.lower)[0] / 2, half, rtol=0.25)
    smooth = Objective(network("volumes"), images())  # kinks within the noise would count
    checked = trace(smooth, per_class=True, estimator="exact", verify=True)
    assert list(checked.checks["class"]) == ["0", "1", "2"]
    table = checked.checks
    assert (abs(table["measured"] - table["expected"]) <= 4 * table["measured_se"]).all()


def test_a_saved_trace_is_not_computed_again(tmp_path, monkeypatch):
    objective = Objective(network("residual"), images())
    first = trace(objective, per_class=True, estimator="exact", resume=tmp_path)

    def never(*_):
        raise AssertionError

    monkeypatch.setattr("sharpness.probes.curvature.exact_trace._passed", never)
    again = trace(objective, per_class=True, estimator="exact", resume=tmp_path)
    np.testing.assert_array_equal(first.values, again.values)


def test_a_network_of_images_in_float32_agrees_with_its_double():
    torch.manual_seed(0)
    model = build_model("resnet20", num_classes=3, in_channels=3).eval()
    x, y = torch.randn(3, 3, 16, 16), torch.arange(3)
    single = trace(Objective(model, (x, y)), per_class=True, estimator="exact")
    double = trace(Objective(model.double(), (x.double(), y)), per_class=True, estimator="exact")
    np.testing.assert_allclose(single.values, double.values, rtol=1e-4)


@pytest.mark.parametrize("coordinates", ["plain", "filter"])
@pytest.mark.parametrize("head", HEADS)
def test_traces_per_layer_are_those_of_the_blocks(head, coordinates):
    objective = Objective(network("residual", head), images()).in_coordinates(coordinates)
    result = trace(objective, per_layer=True, per_class=True, estimator="exact")
    starts = np.cumsum([0, *(p.numel() for p in objective.parameters)])
    for c in range(3):
        dense = dense_diagonal(objective.restrict(c))
        blocks = dict.fromkeys(result.layers, 0.0)
        for name, start, end in zip(objective.names, starts, starts[1:], strict=False):
            if (layer := name.rpartition(".")[0]) in blocks:
                blocks[layer] += dense[start:end].sum()
        np.testing.assert_allclose(result.values[:, c], list(blocks.values()), rtol=1e-9, atol=1e-12)
    whole = trace(objective, per_layer=True)
    assert whole.provenance["estimator"] == "exact"
    np.testing.assert_allclose(whole.values[:, 0], result.values.mean(axis=1), rtol=1e-9)
    assert "over images" in " ".join(result.notes_on(result.to_frame()))


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_intervals_of_traces_of_one_sign_are_symmetric_on_a_logarithmic_scale(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3)).double()
    x, y = images()
    objective = Objective(model, (x * torch.tensor([0.3, 1, 3]).repeat_interleave(3)[:, None, None, None], y))
    result = trace(objective, per_layer=True, per_class=True, kind=kind, estimator="exact")
    whole = trace(objective, per_class=True, kind=kind, estimator="exact")
    starts = np.cumsum([0, *(p.numel() for p in objective.parameters)])
    layer_of = [name.rpartition(".")[0] for name in objective.names]
    below = 0
    for c in range(3):
        every = [dense_diagonal(objective.restrict([i])) for i in range(c, 9, 3)]
        parts = np.array([[d[i:j].sum() for i, j in zip(starts, starts[1:], strict=False)] for d in every])
        blocks = np.array([parts[:, [one == name for one in layer_of]].sum(axis=1) for name in result.layers])
        mean, t = blocks.mean(axis=1), stats.t.ppf(0.975, 2) * stats.sem(blocks, axis=1)
        below += (t > mean).sum()
        np.testing.assert_allclose(result.lower[:, c], mean * np.exp(-t / mean), rtol=1e-9)
        np.testing.assert_allclose(result.upper[:, c], mean * np.exp(t / mean), rtol=1e-9)
        sums = parts.sum(axis=1)
        t = stats.t.ppf(0.975, 2) * stats.sem(sums)
        assert whole.upper[0, c] == pytest.approx(sums.mean() * np.exp(t / sums.mean()), rel=1e-9)
    assert below, "an interval that is symmetric itself would reach below zero"


def test_estimates_of_layers_are_not_taken_for_positive_unless_they_are():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    objective = Objective(model, (torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3))
    found = trace(objective, per_layer=True, per_class=True, kind="ggn", draws=3, estimator="hutchinson")
    half = stats.t.ppf(0.975, 2) * found.standard_errors
    assert (half > found.values).any()
    positive = found.values > 0
    expected = np.where(positive, found.values * np.exp(-half / np.abs(found.values)), found.values - half)
    np.testing.assert_allclose(found.lower, expected, rtol=1e-9)
