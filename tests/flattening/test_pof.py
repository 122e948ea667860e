"""PoF: the line search by brute force, the step written out again."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from sharpness.flattening import PoF
from sharpness.flattening.pof import LONGEST, line_search
from sharpness.steps import Batch, Context, Loss


def brute_force(loss):
    """The published search, written as its text says."""
    end = 1.0
    while True:
        if loss(end) > loss(0.0) or end >= LONGEST:
            break
        end = end * 2
    grid = torch.linspace(0, end, 17, dtype=torch.float64)[1:]
    return float(grid[int(torch.tensor([loss(float(t)) for t in grid]).argmin())]), end


@pytest.mark.parametrize("minimum", [0.1, 0.4, 1.0, 2.9, 11.0, 50.0])
def test_the_line_search_finds_the_minimum_to_a_sixteenth(minimum):
    def loss(step):
        return (step - minimum) ** 2 - 7

    found, (expected, end) = line_search(loss), brute_force(loss)
    assert found == pytest.approx(expected)
    assert abs(found - minimum) <= end / 32 + 1e-12
    assert end / 4 <= max(minimum, 0.5) <= end


def test_the_line_search_of_a_classifier_is_that_of_brute_force():
    generator = torch.Generator().manual_seed(0)
    z, y = torch.randn(40, 5, generator=generator, dtype=torch.float64), torch.arange(40) % 3
    w = torch.randn(3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(F.cross_entropy(z @ w.T, y), w)

    def loss(step):
        return F.cross_entropy(z @ (w - step * g).T, y).item()

    assert line_search(loss) == pytest.approx(brute_force(loss)[0])
    assert loss(line_search(loss)) < loss(0.0)


def test_a_loss_that_falls_for_ever_ends_at_the_longest_step():
    assert line_search(lambda step: -step) == LONGEST


def test_a_loss_that_is_not_finite_is_not_a_minimum():
    assert line_search(lambda step: (step - 0.25) ** 2 if step < 0.5 else math.nan) == 0.25


@pytest.fixture
def other(problem):
    x = torch.randn(9, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    return Batch(x, torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 3]))


def rule(problem, other, gamma=2.0):
    problem.model.head.requires_grad_(False)
    return PoF(gamma).for_epoch(problem.model, iter([other]), problem.context)


def test_the_backbones_gradient_is_that_under_the_shifted_classifier(problem, other, same):
    twin = copy.deepcopy(problem.model)
    state = problem.context.noise.get_state()
    value, gradients = problem.run(rule(problem, other))
    problem.context.noise.set_state(state)
    problem.context.apart()  # of the line search
    kappa = 2 * float(torch.rand((), generator=problem.context.noise))

    features = twin.backbone(other.x).detach()
    head = twin.head
    w, b = torch.autograd.grad(F.cross_entropy(head(features), other.first), [head.weight, head.bias])

    def loss(step):
        shifted = F.linear(features, head.weight - step * w, head.bias - step * b)
        return F.cross_entropy(shifted, other.first).item()

    best, _ = brute_force(loss)
    z = twin.backbone(problem.batch.x)
    plain = F.cross_entropy(head(z), problem.batch.first).item()
    shifted = F.linear(z, (head.weight - kappa * best * w).detach(), (head.bias - kappa * best * b).detach())
    F.cross_entropy(shifted, problem.batch.first).backward()
    same(
        {n: g for n, g in gradients.items() if n.startswith("backbone.")},
        {n: p.grad for n, p in twin.named_parameters() if n.startswith("backbone.")},
    )
    assert float(value) == pytest.approx(plain, rel=1e-12)


def test_the_classifier_stays_and_the_statistics_move_once(problem, other):
    twin = copy.deepcopy(problem.model)
    twin(problem.batch.x)
    before = {n: p.clone() for n, p in problem.model.named_parameters()}
    _, gradients = problem.run(rule(problem, other))
    assert gradients["head.weight"] is None
    assert gradients["head.bias"] is None
    assert all(torch.equal(p, before[n]) for n, p in problem.model.named_parameters())
    for (name, mine), (_, expected) in zip(problem.model.named_buffers(), twin.named_buffers(), strict=True):
        assert torch.allclose(mine, expected, rtol=1e-12), name


def test_the_loss_along_the_line_has_one_draw_of_noise(problem, other):
    """With fresh noise in each evaluation the search would follow the noise, not the classifier."""
    seen = []

    class Recording(type(problem.losses["noisy"])):
        def terms(self, logits, labels, context):
            seen.append(torch.randn(3, generator=context.generator).tolist())
            return super().terms(logits, labels, context)

    problem.losses["recording"] = Recording()
    problem.run(rule(problem, other), "recording")
    assert len(seen) > 18
    assert len({tuple(s) for s in seen[:-2]}) == 1
    assert seen[-1] == seen[-2] != seen[0]


def test_the_loss_is_that_of_the_end_of_training(problem, other):
    epochs = []

    class Late(Loss):
        def terms(self, logits, labels, context):
            epochs.append((context.epoch, context.epochs))
            return F.cross_entropy(logits, labels, reduction="none"), torch.ones_like(logits[:, 0])

    problem.losses["late"] = Late()
    problem.context = Context(problem.context.train_counts, epoch=1, epochs=50)
    problem.run(rule(problem, other), "late")
    assert set(epochs) == {(50, 50)}
