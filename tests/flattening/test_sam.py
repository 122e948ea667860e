"""SAM against the widely used implementation of its two steps, written out again; ASAM against its formula."""

import copy

import pytest
import torch
from torch.nn import functional as F

from sharpness.flattening import ASAM, SAM
from sharpness.steps import PlainStep


def momenta(model, value):
    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.momentum = value


def sam_restated(model, loss, rho):
    """first_step: climb to w + e(w) and remember e(w); second_step: the gradient there, then back.

    The running statistics stop for the second pass by a momentum of zero.
    """
    loss(model).backward()
    norm = torch.stack([p.grad.norm(p=2) for p in model.parameters() if p.grad is not None]).norm(p=2)
    steps = {}
    for p in model.parameters():
        if p.grad is not None:
            steps[p] = p.grad * (rho / (norm + 1e-12))
            p.data.add_(steps[p])
            p.grad = None
    momenta(model, 0.0)
    loss(model).backward()
    for p, e in steps.items():
        p.data.sub_(e)
    momenta(model, 0.1)
    return torch.stack([e.norm() for e in steps.values()]).norm()


@pytest.mark.parametrize("rho", [0.05, 0.8, 3.0])
def test_the_gradient_is_that_of_the_two_steps(problem, same, rho):
    twin = copy.deepcopy(problem.model)
    length = sam_restated(twin, lambda m: F.cross_entropy(m(problem.batch.x), problem.batch.first), rho)
    assert float(length) == pytest.approx(rho, rel=1e-12)
    _, gradients = problem.run(SAM(rho))
    same(gradients, {name: p.grad for name, p in twin.named_parameters()})


@pytest.mark.parametrize("rho", [0.05, 0.8])
def test_with_mixup_both_passes_see_both_labels(problem, mixed, same, rho):
    def loss(model):
        logits = model(mixed.x)
        return 0.75 * F.cross_entropy(logits, mixed.first) + 0.25 * F.cross_entropy(logits, mixed.second)

    twin = copy.deepcopy(problem.model)
    sam_restated(twin, loss, rho)
    _, gradients = problem.run(SAM(rho), batch=mixed)
    same(gradients, {name: p.grad for name, p in twin.named_parameters()})


def lengths_seen(model, rule, problem, **options):
    """Distance from the start at every forward pass of the head, over the parameters that have moved."""
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    seen = []

    def record(module, inputs):
        moved = [(p.detach() - start[name]).flatten() for name, p in model.named_parameters()]
        seen.append(float(torch.cat(moved).norm()))

    handle = model.head.register_forward_pre_hook(record)
    problem.run(rule, **options)
    handle.remove()
    return seen


@pytest.mark.parametrize("rho", [1e-3, 0.05, 2.0])
def test_the_perturbation_has_length_rho(problem, rho):
    first, second = lengths_seen(problem.model, SAM(rho), problem)
    assert first == 0
    assert second == pytest.approx(rho, rel=1e-12, abs=1e-12)


def test_the_value_is_the_loss_before_the_climb_and_the_weights_come_back(problem):
    before = [p.detach().clone() for p in problem.model.parameters()]
    plain, _ = problem.run(PlainStep())
    value, _ = problem.run(SAM(0.5))
    assert float(value) == float(plain)
    assert all(torch.equal(p, b) for p, b in zip(problem.model.parameters(), before, strict=True))


def test_running_statistics_move_once(problem):
    twin = copy.deepcopy(problem.model)
    twin(problem.batch.x)
    problem.run(SAM(0.5))
    for name, buffer in problem.model.named_buffers():
        assert torch.equal(buffer, twin.get_buffer(name)), name


def test_both_passes_see_the_same_noise(problem, same):
    problem.context.generator.manual_seed(4)
    noise = torch.randn(11, 4, generator=torch.Generator().manual_seed(4))
    twin = copy.deepcopy(problem.model)
    sam_restated(twin, lambda m: F.cross_entropy(m(problem.batch.x) + noise, problem.batch.first), 0.3)
    _, gradients = problem.run(SAM(0.3), loss="noisy")
    same(gradients, {name: p.grad for name, p in twin.named_parameters()})


def test_frozen_parameters_are_neither_perturbed_nor_counted(problem):
    problem.model.backbone.requires_grad_(False)
    before = [p.clone() for p in problem.model.backbone.parameters()]
    _, length = lengths_seen(problem.model, SAM(0.7), problem)
    assert length == pytest.approx(0.7, rel=1e-12)
    assert all(p.grad is None for p in problem.model.backbone.parameters())
    assert all(torch.equal(p, b) for p, b in zip(problem.model.backbone.parameters(), before, strict=True))


def test_sam_of_every_loss_is_its_formula(case, same):
    run, restated = case
    _, gradients = run(SAM(0.3))
    same(gradients, restated.gradient(restated.climbed(restated.gradient(), 0.3)))


def test_sam_on_a_quadratic(bowls):
    w = bowls.model.w.detach().clone()
    g = bowls.gradient(w)
    expected = g + 0.7 * bowls.loss.hessian @ g / g.norm()
    torch.testing.assert_close(bowls.run(SAM(0.7)), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("eta", "biases"), [(0.0, "adaptive"), (0.01, "adaptive"), (0.01, "plain")])
def test_asam_of_every_loss_is_its_formula(case, same, eta, biases):
    run, restated = case
    sizes = {
        n: torch.ones_like(w) if biases == "plain" and n.endswith("bias") else w.abs() + eta
        for n, w in restated.w.items()
    }
    g = restated.gradient()
    scaled = {n: sizes[n] * g[n] for n in g}
    length = 0.5 / restated.norm(scaled)
    there = {n: w + length * sizes[n] ** 2 * g[n] for n, w in restated.w.items()}
    _, gradients = run(ASAM(0.5, eta=eta, biases=biases))
    same(gradients, restated.gradient(there))


def test_asam_where_all_weights_are_plus_or_minus_one_is_sam(problem, same):
    with torch.no_grad():
        for p in problem.model.parameters():
            p.copy_(torch.where(p < 0, -1.0, 1.0))
    _, sam = problem.run(SAM(0.3))
    _, asam = problem.run(ASAM(0.3))
    same(asam, sam)


def test_asam_does_not_see_a_change_of_scale(problem):
    """Doubling BatchNorm's affine part and halving the head's weight leaves the function and the loss uphill."""

    def loss_uphill():
        seen = []
        loss = problem.losses["plain"]
        problem.losses["recorded"] = type("Recorded", (type(loss),), {"of": lambda s, *a: record(loss.of(*a), seen)})()
        problem.run(ASAM(1.0), "recorded")
        return seen

    def record(value, seen):
        seen.append(value.item())
        return value

    before = loss_uphill()
    with torch.no_grad():
        # Everything that residual branches add up doubles with it, and so do the features.
        for m in problem.model.backbone.modules():
            if isinstance(m, torch.nn.BatchNorm2d):
                m.weight.mul_(2)
                m.bias.mul_(2)
        problem.model.head.weight.div_(2)
    assert before[1] > before[0]
    assert loss_uphill() == pytest.approx(before, rel=1e-6)
