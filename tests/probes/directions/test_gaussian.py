"""Directions: the same noise everywhere, normalised exactly as stated."""

import numpy as np
import pytest
import torch
from torch import nn

from sharpness import Objective, UserError, eigenvalues
from sharpness.engine.scope import filter_axes
from sharpness.models import build_model
from sharpness.probes.directions import gaussian, gaussian_pair, normalize
from sharpness.probes.landscapes.named_directions import named_directions

X, Y = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])


def network(head="linear", dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    model = build_model("resnet8", 10, 1, head).eval().to(dtype)
    return Objective(model, (X.to(dtype), Y))


def pieces(objective, flat):
    sizes = [p.numel() for p in objective.parameters]
    return {
        n: v.view(p.shape) for n, p, v in zip(objective.names, objective.parameters, flat.split(sizes), strict=True)
    }


def test_every_filter_of_the_direction_has_the_norm_of_the_models_filter():
    objective = network()
    for name, d in pieces(objective, gaussian(objective, 0)).items():
        p = dict(objective.model.named_parameters())[name].detach()
        if p.ndim > 1:
            torch.testing.assert_close(d.flatten(1).norm(dim=1), p.flatten(1).norm(dim=1), rtol=1e-5, atol=1e-6)
        else:
            assert not d.any()


def test_the_filters_of_a_cosine_head_are_its_columns():
    objective = network("cosine")
    d = pieces(objective, gaussian(objective, 0))["head.weight"]
    weight = objective.model.head.weight.detach()
    torch.testing.assert_close(d.norm(dim=0), weight.norm(dim=0), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(d.norm(dim=1), weight.norm(dim=1), rtol=1e-2)


def test_layer_normalisation_gives_every_layer_its_norm_and_not_every_filter():
    objective = network()
    d = pieces(objective, gaussian(objective, 0, normalization="layer"))["backbone.layer1.0.conv1.weight"]
    p = objective.model.get_parameter("backbone.layer1.0.conv1.weight").detach()
    assert float(d.norm()) == pytest.approx(float(p.norm()), rel=1e-5)
    assert not torch.allclose(d.flatten(1).norm(dim=1), p.flatten(1).norm(dim=1), rtol=1e-2)


def test_without_normalisation_all_entries_are_standard_normal():
    flat = gaussian(network(), 0, normalization=None)
    k = len(flat)
    assert abs(float(flat.mean())) < 4 / k**0.5
    assert abs(float(flat.var()) - 1) < 4 * (2 / k) ** 0.5
    assert abs(float((flat < 0).double().mean()) - 0.5) < 2 / k**0.5


def test_the_same_seed_draws_the_same_noise_for_other_weights_heads_and_precision():
    plain = pieces(network(), gaussian(network(), 3, seed=5, normalization=None))
    for other in (network(seed=1), network("linear+lws"), network(dtype=torch.float64), network("cosine")):
        drawn = pieces(other, gaussian(other, 3, seed=5, normalization=None))
        for name in ("backbone.conv1.weight", "backbone.layer3.0.conv2.weight", "backbone.bn1.bias"):
            torch.testing.assert_close(drawn[name].float(), plain[name], rtol=0, atol=1e-6)
        head = next(v for n, v in drawn.items() if n.startswith("head") and v.ndim == 2).float()
        head = head.T if head.shape[0] == 64 else head
        torch.testing.assert_close(head, plain["head.weight"], rtol=0, atol=1e-6)


def test_draws_and_seeds_differ():
    objective = network()
    first = gaussian(objective, 0, normalization=None)
    for other in (gaussian(objective, 1, normalization=None), gaussian(objective, 0, seed=1, normalization=None)):
        cosine = float(first @ other / first.norm() / other.norm())
        assert abs(cosine) < 5 / len(first) ** 0.5


@pytest.mark.parametrize("normalization", ["filter", "layer", None])
def test_the_pair_is_orthogonal_and_keeps_its_norms(normalization):
    objective = network(dtype=torch.float64)
    one, two = gaussian_pair(objective, normalization=normalization)
    plane = named_directions(objective, None, 2, 0, normalization).vectors
    assert torch.equal(torch.stack([one, two]), torch.as_tensor(plane))
    assert abs(float(one @ two / one.norm() / two.norm())) < 1e-12
    if normalization:
        for d in (one, two):
            torch.testing.assert_close(normalize(objective, d, normalization), d, rtol=1e-9, atol=1e-12)
    if normalization == "filter":
        a, b = pieces(objective, one), pieces(objective, two)
        for name in a:
            if a[name].ndim > 1:
                inner = (a[name].flatten(1) * b[name].flatten(1)).sum(1)
                np.testing.assert_allclose(inner.numpy(), 0, atol=1e-10)


def test_the_global_generators_are_left_alone():
    objective = network()
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    gaussian_pair(objective)
    assert torch.equal(state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(UserError, match="normalization"):
        gaussian(network(), 0, normalization="weight")


def test_a_scalar_parameter_is_no_filter():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.scale = nn.Linear(3, 2), nn.Parameter(torch.tensor(2.0))

        def forward(self, x):
            return self.scale * self.linear(x)

    objective = Objective(Scaled(), (torch.randn(4, 3), torch.tensor([0, 1, 0, 1])))
    named = pieces(objective, gaussian(objective, 0))
    assert named["scale"] == 0
    assert named["linear.weight"].any()


class Renamed(nn.Module):
    """The layers of another network in the same order under other names."""

    def __init__(self, *layers):
        super().__init__()
        for i, layer in enumerate(layers):
            self.add_module(f"part{i}", layer)

    def forward(self, x):
        for part in self.children():
            x = part(x)
        return x


def layers():
    torch.manual_seed(3)
    return [nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.Flatten(),
            nn.Linear(24, 10)]  # fmt: skip


def conv_objective(model=None, **options):
    return Objective((nn.Sequential(*layers()) if model is None else model).eval(), (X, Y), **options)


@pytest.mark.parametrize("normalization", ["filter", "layer", None])
def test_the_scope_does_not_change_the_noise(normalization):
    whole = conv_objective()
    everything = pieces(whole, gaussian(whole, 2, 1, normalization))
    for scope in ("classifier", "backbone", "4.*", "*.weight"):
        part = conv_objective(parameters=scope)
        drawn = pieces(part, gaussian(part, 2, 1, normalization))
        assert 0 < len(drawn) < len(everything)
        for name, d in drawn.items():
            assert torch.equal(d, everything[name]), (scope, name)


def test_frozen_parameters_do_not_change_the_noise_of_the_others():
    whole = conv_objective()
    everything = pieces(whole, gaussian(whole, 0))
    whole.model[0].requires_grad_(False)
    part = conv_objective(whole.model)
    drawn = pieces(part, gaussian(part, 0))
    assert "0.weight" not in drawn
    assert all(torch.equal(d, everything[name]) for name, d in drawn.items())


def test_names_and_memory_layout_do_not_change_the_noise():
    plain = gaussian(conv_objective(), 0)
    assert torch.equal(gaussian(conv_objective(Renamed(*layers())), 0), plain)
    strided = conv_objective(nn.Sequential(*layers()).to(memory_format=torch.channels_last))
    assert not strided.parameters[2].is_contiguous()
    assert torch.equal(gaussian(strided, 0), plain)


def test_layers_of_one_shape_get_different_noise():
    objective = conv_objective()
    drawn = pieces(objective, gaussian(objective, 0, normalization=None))
    a, b = drawn["2.weight"].flatten(), drawn["4.weight"].flatten()
    assert abs(float(a @ b / a.norm() / b.norm())) < 5 / len(a) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_another_precision_the_noise_is_rounded_once(dtype):
    """To that of the objective, which measures a network in half precision in float32."""
    exact = gaussian(network(dtype=torch.float64), 1, normalization=None)
    model = network().model.to(dtype)
    objective = Objective(model, (X.to(dtype), Y))
    assert torch.equal(gaussian(objective, 1, normalization=None), exact.to(torch.float32))


@pytest.mark.parametrize("normalization", ["filter", "layer"])
@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_a_normalised_pair_is_orthogonal_in_every_block_and_as_a_whole(normalization, head):
    objective = network(head, torch.float64)
    one, two = (pieces(objective, d) for d in gaussian_pair(objective, 3, normalization))
    for name, a in one.items():
        axis = objective.filter_axes[name]
        rows = [d.movedim(axis, 0).flatten(1) if d.ndim > 1 else d[None] for d in (a, two[name])]
        inner = (rows[0] * rows[1]).sum(1) if normalization == "filter" else (rows[0] * rows[1]).sum()
        assert float(inner.abs().max()) < 1e-12 * max(1.0, float(a.norm() * two[name].norm())), name
    assert objective.filter_axes["head.weight"] == (1 if head == "cosine" else 0)


def test_a_pair_in_float32_is_orthogonal_to_rounding():
    one, two = gaussian_pair(network())
    assert abs(float(one.double() @ two.double() / one.double().norm() / two.double().norm())) < 1e-7


@pytest.mark.parametrize("normalization", ["filter", "layer"])
def test_a_filter_that_is_zero_stays_zero(normalization):
    objective = conv_objective()
    with torch.no_grad():
        objective.model[2].weight[1] = 0
        objective.model[4].weight.zero_()
    for d in gaussian_pair(objective, normalization=normalization):
        named = pieces(objective, d)
        assert bool(torch.isfinite(d).all())
        assert not named["4.weight"].any()
        assert bool(named["2.weight"][0].any())
        assert bool(named["2.weight"][1].any()) == (normalization == "layer")
    assert not normalize(objective, torch.zeros(objective.num_parameters), normalization).any()


def test_a_scale_for_every_channel_is_no_filter_whatever_its_shape():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.scale = nn.Conv2d(1, 4, 3), nn.Parameter(torch.rand(4, 1, 1))

        def forward(self, x):
            return (self.scale * self.conv(x)).mean((2, 3))

    objective = conv_objective(Scaled())
    one, two = gaussian_pair(objective)
    assert not pieces(objective, one)["scale"].any()
    assert abs(float(one @ two / one.norm() / two.norm())) < 1e-6


def rescaled(factor):
    """Convolutions before BatchNorm, scaled with its statistics: the same function for every factor."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4),
    ).double()  # fmt: skip
    x = torch.randn(12, 1, 8, 8, dtype=torch.float64)
    model(x)
    with torch.no_grad():
        for conv, bn in ((model[0], model[1]), (model[3], model[4])):
            alpha = torch.linspace(1, factor, len(bn.weight), dtype=torch.float64)
            conv.weight.mul_(alpha.view(-1, 1, 1, 1))
            bn.running_mean.mul_(alpha)
            bn.running_var.mul_(alpha**2)
            bn.eps = 0.0
    return Objective(model.eval(), (x, torch.arange(12) % 4))


@pytest.mark.parametrize("factor", [0.01, 30.0])
def test_a_filter_normalised_line_does_not_see_the_scale_of_filters_before_batchnorm(factor):
    losses = {}
    for alpha in (1.0, factor):
        for normalization in ("filter", None):
            objective = rescaled(alpha)
            d = gaussian(objective, 0, normalization=normalization)
            for t in (-1.0, 0.5, 2.0):
                with objective.at(t * d):
                    losses[alpha, normalization, t] = objective.loss()
    for t in (-1.0, 0.5, 2.0):
        assert losses[factor, "filter", t] == pytest.approx(losses[1.0, "filter", t], rel=1e-10)
        assert losses[factor, None, t] != pytest.approx(losses[1.0, None, t], rel=1e-3)


@pytest.mark.parametrize("normalization", ["filter", "layer"])
def test_a_scope_of_vectors_alone_has_no_normalised_direction(normalization, caplog):
    assert not gaussian(conv_objective(parameters="*.bias"), 0, normalization=normalization).any()
    assert "take normalization=None" in caplog.messages[-1]
    assert gaussian(conv_objective(parameters="*.bias"), 0, normalization=None).any()


def test_one_parameter_has_no_pair():
    objective = Objective(nn.Linear(1, 1, bias=False), (torch.ones(2, 1), torch.tensor([0, 0])))
    with pytest.raises(UserError, match="no two orthogonal directions"):
        gaussian_pair(objective, normalization=None)


def test_the_model_is_left_as_it_was():
    objective = network("cosine")
    before = objective.model_sha256()
    gaussian_pair(objective)
    assert objective.model_sha256() == before
    assert all(p.grad is None for p in objective.model.parameters())


@pytest.mark.parametrize("layer", [nn.LayerNorm((3, 6, 6)), nn.RMSNorm((3, 6, 6))], ids=["LayerNorm", "RMSNorm"])
def test_a_normalisation_of_several_axes_has_no_filters(layer):
    """It is what a normalisation of flattened inputs is, and no layer of its own."""
    shape = type(layer)(108)
    for p, q in zip(layer.parameters(), shape.parameters(), strict=True):
        nn.init.normal_(p)
        q.data = p.detach().flatten()
    torch.manual_seed(0)
    conv, head = nn.Conv2d(1, 3, 3), nn.Linear(108, 3)
    of_images = Objective(nn.Sequential(conv, layer, nn.Flatten(), head).double(), (X.double(), Y % 3))
    of_rows = Objective(nn.Sequential(conv, nn.Flatten(), shape, head).double(), (X.double(), Y % 3))
    assert of_images.loss() == pytest.approx(of_rows.loss())
    for normalization in ("filter", "layer"):
        a, b = (gaussian(o, 0, normalization=normalization) for o in (of_images, of_rows))
        torch.testing.assert_close(a, b)
        assert not any(v.any() for name, v in pieces(of_images, a).items() if name.startswith("1."))
    a, b = (o.in_coordinates("filter").gradient() for o in (of_images, of_rows))
    torch.testing.assert_close(a, b)
    found, expected = (eigenvalues(o, per_layer=True) for o in (of_images, of_rows))
    assert found.layers == ("0", "3") and expected.layers == ("0", "3")
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-6)


@pytest.mark.parametrize("kind", ["plain", "spectral", "weight", "old"])
@pytest.mark.parametrize(("groups", "axis"), [(1, 1), (4, 0)])
def test_filters_of_a_transposed_convolution_are_those_of_its_outputs(kind, groups, axis):
    """Also of a parametrized one, and of a depthwise one, whose inputs are its outputs."""
    norms = {
        "plain": lambda m: m,
        "spectral": nn.utils.parametrizations.spectral_norm,
        "weight": nn.utils.parametrizations.weight_norm,
        "old": nn.utils.spectral_norm,
    }
    axes = filter_axes(nn.Sequential(norms[kind](nn.ConvTranspose2d(4, 4, 3, groups=groups))))
    names = {
        "plain": "0.weight", "spectral": "0.parametrizations.weight.original",
        "weight": "0.parametrizations.weight.original1", "old": "0.weight_orig",
    }  # fmt: skip
    assert axes[names[kind]] == axis
