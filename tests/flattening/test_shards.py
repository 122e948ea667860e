"""Rules on a batch in shards: the loss and the gradients of the whole batch, with BatchNorm inside a shard."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.func import functional_call

from sharpness.flattening import (
    ASAM,
    FSDGPM,
    SAM,
    ClassConditionalStep,
    FocalSAM,
    GradientNormPenalty,
    ImbSAM,
    ModelPerturbation,
    PoF,
    ReweightedSAM,
)
from sharpness.methods.cc_sam import AdversarialFeatures
from sharpness.methods.cc_sam_head import ClassConditionalHead
from sharpness.steps import Batch, EpochRule, PlainStep, Shards

SIZES = (4, 3, 4)
RULES = {
    "plain": PlainStep(), "sam": SAM(0.5), "asam": ASAM(0.5), "gp": GradientNormPenalty(0.5, 0.3),
    "mp": ModelPerturbation(0.5, draws=3), "imbsam": ImbSAM(0.5, tail_factor=2), "focal-sam": FocalSAM(0.5),
    "rwsam": ReweightedSAM(0.5), "fs-dgpm": FSDGPM(0.5, inner=1), "pof": PoF(),
    "adversarial": AdversarialFeatures(0.5), "adversarial, released": AdversarialFeatures(0.5, True),
    **{f"step, {scope}": ClassConditionalStep(scope, rho_scale=0.1) for scope in ("head", "last_block", "all")},
    **{f"step, {mode}": ClassConditionalStep("head", 0.1, mode) for mode in ("direction", "magnitude")},
    **{f"head, {mode}": ClassConditionalHead(0.1, mode) for mode in ("full", "direction", "magnitude")},
    "head, released": ClassConditionalHead(0.1, released_share=0.3),
}  # fmt: skip


def cut(batch, sizes=SIZES):
    """The batch in shards, of which this process has all."""
    seconds = [None] * len(sizes) if batch.second is None else batch.second.split(sizes)
    parts = zip(batch.x.split(sizes), batch.first.split(sizes), seconds, strict=True)
    generators = tuple(torch.Generator().manual_seed(s) for s in range(len(sizes)))
    return Shards(tuple(Batch(*part, batch.lam) for part in parts), generators, 0, sizes, batch.first)


def mixed_in_shards(batch):
    partner = torch.cat([start + torch.arange(n).roll(1) for start, n in zip((0, 4, 7), SIZES, strict=True)])
    return Batch(0.7 * batch.x + 0.3 * batch.x[partner], batch.first, batch.first[partner], 0.7)


@pytest.mark.parametrize("mixing", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_where_images_do_not_meet_a_step_on_shards_is_one_on_the_batch(problem, same, name, mixing):
    """BatchNorm in eval mode, and a loss whose weights differ from shard to shard."""
    problem.model.eval()
    batch = mixed_in_shards(problem.batch) if mixing else problem.batch
    found = []
    for each in (batch, cut(batch)):
        problem.context.noise.manual_seed(3)
        rule = RULES[name]
        if isinstance(rule, EpochRule):
            rule = rule.for_epoch(problem.model, iter([each]), problem.context)
        found.append(problem.run(rule, "LDAM-DRW", each))
    (one, whole), (other, sharded) = found
    assert float(other) == pytest.approx(float(one), rel=1e-10)
    same({n: g for n, g in sharded.items() if g is not None}, {n: g for n, g in whole.items() if g is not None})


def restated(model, w, batch):
    """Weighted cross-entropy of the batch, with every shard by itself in BatchNorm."""
    labels = batch.first.split(SIZES)
    logits = [functional_call(copy.deepcopy(model), w, (x,)) for x in batch.x.split(SIZES)]
    losses = [-(u.log_softmax(1)[range(len(y)), y] * (1.0 + y)).sum() for u, y in zip(logits, labels, strict=True)]
    return sum(losses) / (1.0 + batch.first).sum()


@pytest.mark.parametrize("rho", [None, 0.5])
def test_a_step_with_batchnorm_is_that_of_the_sum_over_shards(problem, same, rho):
    names, start = zip(*((n, p.detach().clone()) for n, p in problem.model.named_parameters()), strict=True)

    def gradient(at):
        leaves = [p.clone().requires_grad_(True) for p in at]
        value = restated(problem.model, dict(zip(names, leaves, strict=True)), problem.batch)
        return value, torch.autograd.grad(value, leaves)

    value, expected = gradient(start)
    if rho is not None:
        norm = torch.cat([g.flatten() for g in expected]).norm()
        _, expected = gradient([p + rho * g / norm for p, g in zip(start, expected, strict=True)])
    found, gradients = problem.run(SAM(rho) if rho else PlainStep(), "weighted", cut(problem.batch))
    assert float(found) == pytest.approx(float(value.detach()), rel=1e-12)
    same(gradients, dict(zip(names, expected, strict=True)))


@pytest.mark.parametrize("name", ["plain", "sam", "imbsam", "step, all", "head, full", "mp"])
def test_running_statistics_are_the_mean_of_those_that_shards_would_leave(problem, name):
    twins = [copy.deepcopy(problem.model) for _ in SIZES]
    seen = []
    problem.model.backbone.conv1.register_forward_pre_hook(
        lambda *_: seen.append({n: p.detach().clone() for n, p in problem.model.named_parameters()})
    )
    problem.run(RULES[name], "plain", cut(problem.batch))
    for twin, x in zip(twins, problem.batch.x.split(SIZES), strict=True):
        twin.load_state_dict(seen[0], strict=False)
        twin(x)
    for n, buffer in problem.model.named_buffers():
        each = torch.stack([twin.get_buffer(n).double() for twin in twins])
        assert torch.allclose(buffer.double(), each.mean(0), rtol=1e-12, atol=1e-14), n
    assert int(problem.model.backbone.bn1.num_batches_tracked) == 1


def test_parts_of_shards_are_parts_of_each(problem):
    halves = cut(problem.batch, (4, 7)).split(2)
    assert [half.sizes for half in halves] == [(2, 4), (2, 3)]
    assert torch.equal(torch.cat([part.x for part in halves[0].mine]), problem.batch.x[[0, 1, 4, 5, 6, 7]])
    assert torch.equal(halves[1].first, problem.batch.first[[2, 3, 8, 9, 10]])
    assert len(cut(problem.batch).split(9)) == 1  # a shard of three has no halves of two


def test_rows_of_other_processes_are_constants(problem):
    """This process has the second shard; what the others have comes by the sum."""
    everything = cut(problem.batch)
    others = torch.arange(11.0)
    mine = torch.full((3,), 7.0, requires_grad=True)
    shards = replace(
        everything, mine=everything.mine[1:2], generators=everything.generators[1:2], start=1,
        total=lambda own: own + others * (own == 0),
    )  # fmt: skip
    rows = shards.gathered([mine])
    assert rows.tolist() == [0, 1, 2, 3, 7, 7, 7, 7, 8, 9, 10]
    assert torch.autograd.grad(rows.square().sum(), mine)[0].tolist() == [14, 14, 14]
    leaf = torch.arange(22.0).requires_grad_(True)
    gradient = torch.autograd.grad(shards.gated(2 * leaf).sum(), leaf)[0]
    assert gradient.nonzero().flatten().tolist() == [4, 5, 6, 15, 16, 17]


@pytest.mark.parametrize("name", ["sam", "step, all", "head, full"])
def test_dropout_draws_what_is_the_shards(problem, name):
    """Whatever torch's global generator, which differs between processes, and without moving it."""
    problem.model.backbone = torch.nn.Sequential(problem.model.backbone, torch.nn.Dropout(0.5))
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(problem.run(RULES[name], "plain", cut(problem.batch))[1])
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(g, found[1][n]) for n, g in found[0].items())
