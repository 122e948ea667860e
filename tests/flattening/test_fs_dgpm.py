"""FS-DGPM's step: projectors by their definition, inputs by loops, the ascent written out again."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpness.flattening import FSDGPM
from sharpness.flattening.fs_dgpm import (
    ProjectedAscent,
    input_moments,
    input_rows,
    projected,
    projector,
)
from sharpness.models import build_model
from sharpness.steps import PlainStep


@pytest.mark.parametrize("threshold", [0.3, 0.9, 0.99, 0.999999])
def test_a_projector_is_one_and_holds_just_enough_energy(threshold):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 12, dtype=torch.float64, generator=generator) * torch.logspace(0, -3, 12, dtype=torch.float64)
    (p,) = projector((x.T @ x)[None], threshold)
    assert torch.allclose(p, p.T, atol=1e-12)
    assert torch.allclose(p @ p, p, atol=1e-12)
    rank = round(float(p.trace()))
    energy = torch.linalg.svdvals(x) ** 2
    assert energy[:rank].sum() >= threshold * energy.sum()
    assert energy[: rank - 1].sum() < threshold * energy.sum()
    assert float((x @ p).square().sum()) == pytest.approx(float(energy[:rank].sum()), rel=1e-10)


def test_all_of_the_energy_is_the_identity_and_none_is_no_error():
    moments = torch.ones(2, 3, 3, dtype=torch.float64)
    assert torch.equal(projector(moments, 1.0), torch.eye(3, dtype=torch.float64).expand(2, 3, 3))
    assert projector(torch.zeros(1, 3, 3), 0.9).isfinite().all()


def test_a_projector_is_the_same_where_the_usual_algorithm_gives_up(monkeypatch):
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)  # of low rank
    moments = torch.stack([x.T @ x, 2 * x.T @ x])
    expected = projector(moments, 0.9)

    def gives_up(moment):
        raise torch.linalg.LinAlgError("the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", gives_up)
    torch.testing.assert_close(projector(moments, 0.9), expected)
    with pytest.raises(FloatingPointError, match="diverged"):
        projector(moments * torch.nan, 0.9)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(4, 6, (1, 3), dilation=2, groups=2, bias=False),
        nn.Conv2d(4, 6, (3, 2), padding="same", dilation=2, bias=False),
        nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="reflect", bias=False),
        nn.Linear(4, 6),
    ],
)
def test_rows_are_what_a_layer_multiplies_its_weight_with(layer):
    generator = torch.Generator().manual_seed(2)
    shape = (5, 4, 7, 8) if isinstance(layer, nn.Conv2d) else (5, 4)
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    layer = layer.double()
    rows = input_rows(layer, x)
    weight = layer.weight.reshape(rows.shape[0], -1, rows.shape[1])
    products = (weight @ rows).flatten(0, 1).detach()
    expected = (layer(x) if layer.bias is None else layer(x) - layer.bias).detach()
    if expected.ndim == 4:
        expected = expected.permute(1, 0, 2, 3).flatten(1)
        products = products.reshape(expected.shape)
        assert torch.allclose(products, expected)
    else:
        assert torch.allclose(products.T, expected)


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_gradients_of_a_batch_lie_in_the_space_of_its_inputs(problem, head):
    """A property of gradients: whatever the loss, rows of a weight's gradient are combinations of inputs."""
    model = build_model("resnet8", 4, 1, head).double().train()
    problem.model = model
    _, gradients = problem.run(PlainStep())
    names = {p: n for n, p in model.named_parameters()}
    moments = input_moments(model, [problem.batch.x], problem.context)
    assert {names[p] for p in moments} == {n for n, p in model.named_parameters() if p.ndim > 1}
    for p, (moment, transposed) in moments.items():
        if names[p] == "head.weight" and head == "cosine":
            continue  # whose columns are normalised, which takes their own direction out
        gradient = gradients[names[p]]
        inside = projected(gradient, projector(moment, 1 - 1e-14), transposed)
        assert torch.allclose(inside, gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max())), names[p]


def test_moments_are_sums_over_images_and_leave_the_network_alone(problem):
    model, x = problem.model, problem.batch.x
    before = copy.deepcopy(model.state_dict())
    model.eval()
    whole = input_moments(model, [x], problem.context)
    parts = input_moments(model, [x[:4], x[4:]], problem.context)
    for p in whole:
        assert torch.allclose(whole[p][0], parts[p][0])
    patches = F.unfold(x, 3, padding=1).permute(0, 2, 1).reshape(-1, 9)
    assert torch.allclose(whole[model.backbone.conv1.weight][0][0], patches.T @ patches)
    features = model.backbone(x).detach()
    assert torch.allclose(whole[model.head.weight][0][0], features.T @ features)
    model.train()
    input_moments(model, [x], problem.context)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_frozen_layers_have_no_moments(problem):
    problem.model.backbone.requires_grad_(False)
    (p,) = input_moments(problem.model, [problem.batch.x], problem.context)
    assert p is problem.model.head.weight


def ascent_restated(model, batch, eta, project=lambda name, g: g, clamp=2.0):
    """w_0 = w; w_j = w_(j-1) + eta clamp(P g_j); the mean over j of gradients of the whole batch at w_j."""
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    halves = [(batch.x[:6], batch.first[:6]), (batch.x[6:], batch.first[6:])]
    total = {n: torch.zeros_like(p) for n, p in start.items()}
    values = []
    for x, y in halves:
        model.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        values.append(loss.item())
        with torch.no_grad():
            for n, p in model.named_parameters():
                p.add_(eta * project(n, p.grad).clamp(-clamp, clamp))
        model.zero_grad()
        F.cross_entropy(model(batch.x), batch.first).backward()
        for n, p in model.named_parameters():
            total[n] += p.grad / 2
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.copy_(start[n])
    return values[0], total


@pytest.mark.parametrize("eta", [1e-3, 5e-2])
def test_with_a_full_space_it_is_plain_ascent(problem, same, eta):
    twin = copy.deepcopy(problem.model)
    first, expected = ascent_restated(twin, problem.batch, eta)
    rule = FSDGPM(eta, threshold=1.0).for_epoch(problem.model, iter([problem.batch]), problem.context)
    value, gradients = problem.run(rule)
    same(gradients, expected)
    assert float(value) == pytest.approx(first, rel=1e-12)


def test_the_ascent_stays_in_the_space_of_every_weight(problem, same):
    twin = copy.deepcopy(problem.model)
    generator = torch.Generator().manual_seed(7)
    memory = {}
    for name, p in problem.model.named_parameters():
        if p.ndim > 1:
            basis = torch.linalg.qr(torch.randn(p[0].numel(), 3, dtype=torch.float64, generator=generator))[0]
            memory[name] = basis @ basis.T

    def project(name, g):
        return (g.flatten(1) @ memory[name]).reshape(g.shape) if name in memory else g

    _, expected = ascent_restated(twin, problem.batch, 0.05, project)
    named = dict(problem.model.named_parameters())
    rule = ProjectedAscent(0.05, 2, {named[n]: (p[None], False) for n, p in memory.items()})
    _, gradients = problem.run(rule)
    same(gradients, expected)


def test_long_gradients_are_clamped(problem, same):
    with torch.no_grad():
        problem.model.head.weight.mul_(100)
    twin = copy.deepcopy(problem.model)
    _, clamped = ascent_restated(twin, problem.batch, 0.01)
    _, free = ascent_restated(twin, problem.batch, 0.01, clamp=math.inf)
    assert not torch.allclose(clamped["head.weight"], free["head.weight"])
    _, gradients = problem.run(ProjectedAscent(0.01, 2))
    same(gradients, clamped)


def test_weights_come_back_and_statistics_move_once_at_the_unperturbed_weights(problem):
    twin = copy.deepcopy(problem.model)
    twin(problem.batch.x[:6])
    before = {n: p.clone() for n, p in problem.model.named_parameters()}
    problem.run(ProjectedAscent(0.05, 2))
    assert all(torch.equal(p, before[n]) for n, p in problem.model.named_parameters())
    for (name, mine), (_, expected) in zip(problem.model.named_buffers(), twin.named_buffers(), strict=True):
        assert torch.allclose(mine, expected, rtol=1e-12), name


def test_no_part_of_a_batch_is_a_single_image(problem, mixed):
    assert [len(b.x) for b in problem.batch.split(2)] == [6, 5]
    assert [len(b.x) for b in problem.batch.split(99)] == [3, 2, 2, 2, 2]
    parts = mixed.split(2)
    assert [b.lam for b in parts] == [0.75, 0.75]
    assert torch.equal(torch.cat([b.second for b in parts]), mixed.second)


def test_so_many_images_are_looked_at_and_no_more(problem, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "sharpness.flattening.fs_dgpm.input_moments", lambda model, images, context: (seen.extend(images), {})[1]
    )
    FSDGPM(samples=15).for_epoch(problem.model, iter([problem.batch] * 3), problem.context)
    assert [len(x) for x in seen] == [11, 4]
