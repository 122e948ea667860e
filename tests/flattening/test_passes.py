"""What rules share: passes that see the same, steps uphill, and losses with their classes weighed anew."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpness.errors import UserError
from sharpness.flattening import (
    ASAM,
    SAM,
    ClassConditionalStep,
    FocalSAM,
    ImbSAM,
    Passes,
    ReweightedSAM,
    ascent,
    reweighted,
    sharpen_part,
)
from sharpness.steps import Batch, PlainStep, Shards


def penalty(model, batch, context):
    """Stands for what a method adds to its labelled terms."""
    return 0.3 * context.features(model, batch.x).square().mean()


@pytest.fixture
def extended(problem):
    """Weighted cross-entropy whose loss of a batch adds a term without labels."""
    plain = problem.losses["weighted"]

    class Extended(type(plain)):
        def of(self, model, batch, context):
            return super().of(model, batch, context) + penalty(model, batch, context)

    problem.losses["extended"] = Extended()
    return problem


def gradient(problem, value):
    names, parameters = zip(*problem.model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(value, parameters), strict=True))


def test_passes_start_from_the_same_random_numbers(problem):
    passes, seen = Passes(problem.model, problem.context), []
    for _ in range(3):
        with passes.at():
            seen.append(torch.randn(4, generator=problem.context.generator))
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


class Scaled(nn.Module):
    """Multiplies features by given numbers."""

    def __init__(self, factors):
        super().__init__()
        self.factors = factors

    def forward(self, features):
        return features * self.factors


SCOPES = ("head", "last_block", "all")


@pytest.mark.parametrize(
    "rule",
    [SAM(0.5), ASAM(0.5), ImbSAM(rho=0.5), FocalSAM(rho=0.5), *(ClassConditionalStep(scope) for scope in SCOPES)],
    ids=lambda r: f"{type(r).__name__} {getattr(r, 'scope', '')}",
)
def test_dropout_drops_the_same_in_all_passes_of_a_step_and_others_in_the_next(problem, same, rule):
    """The step is that of a network whose features are multiplied by the mask of the first pass."""
    head = problem.model.head
    torch.manual_seed(5)
    masks = [F.dropout(torch.ones(len(problem.batch.x), head.in_features, dtype=torch.float64)) for _ in range(2)]
    expected = []
    for mask in masks:
        problem.model.head = nn.Sequential(Scaled(mask), head)
        expected.append(problem.run(rule)[1])
    problem.model.head = nn.Sequential(nn.Dropout(), head)
    torch.manual_seed(5)
    for gradients in expected:
        same(problem.run(rule)[1], gradients)


@pytest.mark.parametrize("loss", ["plain", "noisy"])
@pytest.mark.parametrize("scope", SCOPES)
def test_classes_draw_what_the_first_pass_drew(problem, same, scope, loss):
    """Without a radius, the step is the plain one; dropout is below and above the cut, noise in the loss."""
    model = problem.model
    model.backbone.layer1 = nn.Sequential(model.backbone.layer1, nn.Dropout())
    model.head = nn.Sequential(nn.Dropout(), model.head)
    found = []
    for rule in (PlainStep(), ClassConditionalStep(scope, rho_scale=0.0)):
        torch.manual_seed(5)
        problem.context.generator.manual_seed(6)
        found.append(problem.run(rule, loss)[1])
    same(*found)


@pytest.mark.parametrize("scope", SCOPES)
def test_classes_drop_the_same_in_every_shard(problem, scope):
    """Without a radius all passes have the same features, so that what is dropped of them can be compared."""
    problem.model.head = nn.Sequential(nn.Dropout(), problem.model.head)
    batch, sizes, seen = problem.batch, (6, 5), {6: [], 5: []}
    problem.model.head[0].register_forward_hook(lambda _, inputs, out: seen[len(out)].append(out == 0))
    halves = tuple(Batch(*rows) for rows in zip(batch.x.split(sizes), batch.first.split(sizes), strict=True))
    generators = tuple(torch.Generator().manual_seed(s) for s in range(2))
    problem.run(ClassConditionalStep(scope, rho_scale=0.0), batch=Shards(halves, generators, 0, sizes, batch.first))
    for masks in seen.values():
        assert len(masks) > 2  # the first pass, and one for each class of the shard
        assert all(torch.equal(mask, masks[0]) for mask in masks)


def test_a_gradient_is_taken_away_and_what_was_there_stays(problem, same):
    passes, x, y = Passes(problem.model, problem.context), problem.batch.x, problem.batch.first
    F.cross_entropy(problem.model(x), y).backward()
    kept = {n: p.grad.clone() for n, p in problem.model.named_parameters()}
    taken = passes.gradient(3 * F.cross_entropy(problem.model(x), y))
    same({n: p.grad for n, p in problem.model.named_parameters()}, kept, rtol=0)
    same(taken, {n: 3 * g for n, g in kept.items()})


def test_parameters_without_a_gradient_have_no_part_in_it(problem):
    problem.model.backbone.conv1.weight.requires_grad_(False)
    passes = Passes(problem.model, problem.context)
    assert "backbone.conv1.weight" not in passes.parameters
    assert list(passes.gradient(problem.model.head.weight.sum())) == ["head.weight"]


@pytest.mark.parametrize("rho", [1e-3, 0.05, 2.0])
def test_a_step_uphill_has_length_rho(problem, rho):
    passes = Passes(problem.model, problem.context)
    g = passes.gradient(F.cross_entropy(problem.model(problem.batch.x), problem.batch.first))
    length = torch.cat([e.flatten() for e in ascent(g, rho).values()]).norm()
    assert float(length) == pytest.approx(rho, rel=1e-12, abs=1e-12)


def test_where_the_gradient_vanishes_nothing_moves():
    assert ascent({"w": torch.zeros(3)}, 0.1)["w"].tolist() == [0, 0, 0]


def test_classes_are_weighed_anew_in_one_forward_pass(kind, problem, mixed):
    factors = [torch.tensor([1.0, 0, 0, 0]), torch.tensor([0.0, 2, 3, 4]), torch.ones(4)]
    passes, loss = [], problem.losses[kind]
    handle = problem.model.backbone.register_forward_pre_hook(lambda *_: passes.append(1))
    problem.context.generator.manual_seed(1)
    values = reweighted(loss, problem.model, mixed, problem.context, *factors)
    assert len(passes) == 1
    handle.remove()
    problem.context.generator.manual_seed(1)
    assert values[2].item() == pytest.approx(loss.of(problem.model, mixed, problem.context).item(), rel=1e-13)
    logits = problem.model(mixed.x)
    for factor, value in zip(factors[:2], values, strict=False):
        problem.context.generator.manual_seed(1)
        expected = 0.0
        for labels, share in ((mixed.first, 0.75), (mixed.second, 0.25)):
            losses, weights = loss.terms(logits, labels, problem.context)
            expected += share * ((factor[labels] * weights * losses).sum() / weights.sum()).item()
        assert value.item() == pytest.approx(expected, rel=1e-12)


def test_what_a_method_adds_is_kept_once_and_not_perturbed(extended, same):
    """G = grad of the added term and the head's at w, and of the tail's at w + eps; eps is the tail's alone."""
    problem, model = extended, extended.model
    factor = torch.tensor([0.0, 0, 1, 1], dtype=torch.float64)

    def parts():
        logits, y = model(problem.batch.x), problem.batch.first
        terms = (1.0 + y) * F.cross_entropy(logits, y, reduction="none") / (1.0 + y).sum()
        return terms, factor[y], penalty(model, problem.batch, problem.context)

    terms, tail, added = parts()
    g = gradient(problem, (tail * terms).sum())
    terms, tail, added = parts()
    still = gradient(problem, ((1 - tail) * terms).sum() + added)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    length = torch.cat([v.flatten() for v in g.values()]).norm()
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.add_(g[n] * (0.3 / length))
    terms, tail, _ = parts()
    there = gradient(problem, (tail * terms).sum())
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.copy_(start[n])
    _, gradients = problem.run(ImbSAM(0.3), "extended")
    same(gradients, {n: still[n] + there[n] for n in still})


@pytest.mark.parametrize("rule", [ImbSAM(), FocalSAM(), ReweightedSAM()], ids=repr)
def test_a_loss_that_is_no_average_of_labelled_terms_is_refused(problem, rule):
    class Own(type(problem.losses["plain"])):
        def of(self, model, batch, context):
            return F.cross_entropy(model(batch.x), batch.first)

    problem.losses["own"] = Own()
    with pytest.raises(UserError, match="the loss Own is no average of labelled terms") as caught:
        problem.run(rule, "own")
    assert "\n" not in str(caught.value)


def test_the_part_of_a_batch_without_its_classes_is_a_plain_step(problem):
    batch = Batch(problem.batch.x[:4], problem.batch.first[:4])
    passes = []
    problem.model.head.register_forward_pre_hook(lambda *_: passes.append(1))
    factor = torch.tensor([0.0, 1, 1, 1])
    sharpen_part(problem.model, batch, problem.losses["plain"], problem.context, factor, 0.1)
    assert len(passes) == 1
