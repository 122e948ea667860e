"""What holds for every gradient rule that can be asked for by name, and how it is asked for."""

import copy
import dataclasses
import inspect
import math

import pytest
import torch

from sharpness import flattening
from sharpness.errors import UserError
from sharpness.flattening import (
    ASAM,
    FSDGPM,
    OPERATIONS,
    SAM,
    SWA,
    ClassConditionalStep,
    FocalSAM,
    GradientNormPenalty,
    ImbSAM,
    ModelPerturbation,
    PoF,
    ReweightedSAM,
    build_operation,
    operation_label,
)
from sharpness.methods.cc_sam_head import ClassConditionalHead
from sharpness.steps import EpochRule, PlainStep
from sharpness.training.precision import autocast

RULES = {
    "sam": SAM(0.5),
    "asam": ASAM(0.5),
    "gp": GradientNormPenalty(0.5, 0.5),
    "mp": ModelPerturbation(0.5),
    "imbsam": ImbSAM(0.5),
    "focal-sam": FocalSAM(0.5),
    "rwsam": ReweightedSAM(0.5),
}
#: Backward passes of a step, where every rule has two forward passes.
BACKWARD = {**dict.fromkeys(RULES, 2), "imbsam": 3, "focal-sam": 3}


@pytest.fixture(params=RULES)
def name(request):
    return request.param


def snapshot(model):
    return copy.deepcopy(model.state_dict())


@pytest.mark.parametrize("mixing", [False, True])
def test_passes_are_as_many_as_its_cost_says(problem, mixed, name, mixing):
    forward, backward = [], []
    problem.model.backbone.conv1.register_forward_hook(lambda *_: forward.append(1))
    problem.model.backbone.bn1.register_full_backward_hook(lambda *_: backward.append(1))
    problem.run(RULES[name], "LDAM-DRW", mixed if mixing else None)
    assert (len(forward), len(backward)) == (2, BACKWARD[name])


def test_weights_come_back_exactly_and_running_statistics_move_once(problem, name):
    before, first = snapshot(problem.model), []
    problem.model.backbone.register_forward_pre_hook(
        lambda *_: first.append({n: p.detach().clone() for n, p in problem.model.named_parameters()})
    )
    twin = copy.deepcopy(problem.model)
    twin.backbone._forward_pre_hooks.clear()
    problem.run(RULES[name])
    assert all(torch.equal(p, before[n]) for n, p in problem.model.named_parameters())
    twin.load_state_dict(first[0], strict=False)
    twin(problem.batch.x)
    for n, buffer in problem.model.named_buffers():
        assert torch.equal(buffer, twin.get_buffer(n)), n


@pytest.mark.parametrize(
    ("rule", "fatal"),
    [*((rule, fatal) for rule in RULES.values() for fatal in (1, 2)), (ClassConditionalStep("all"), 3)],
    ids=repr,
)
def test_everything_comes_back_when_a_pass_fails(problem, rule, fatal):
    before, calls = snapshot(problem.model), []

    def fail(module, inputs):
        calls.append(1)
        if len(calls) == fatal:
            raise RuntimeError("in the middle")

    problem.model.head.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        problem.run(rule)
    after = problem.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(p, before[n]) for n, p in problem.model.named_parameters())
    assert all(m.track_running_stats for m in problem.model.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_frozen_parameters_are_left_alone(problem, name):
    problem.model.backbone.requires_grad_(False)
    seen = []
    problem.model.head.register_forward_pre_hook(
        lambda *_: seen.append(torch.cat([p.detach().flatten() for p in problem.model.backbone.parameters()]))
    )
    stale = torch.ones_like(problem.model.backbone.conv1.weight)
    problem.model.zero_grad(set_to_none=True)
    problem.model.backbone.conv1.weight.grad = stale
    RULES[name].backward(problem.model, problem.batch, problem.losses["CE"], problem.context)
    assert all(torch.equal(s, seen[0]) for s in seen)
    assert problem.model.backbone.conv1.weight.grad is stale
    assert (stale == 1).all()
    assert all(p.grad is None for n, p in problem.model.backbone.named_parameters() if n != "conv1.weight")
    assert all(p.grad is not None for p in problem.model.head.parameters())


@pytest.mark.parametrize(
    ("rule", "end"),
    [
        (GradientNormPenalty(0.4, 0.0), PlainStep()),
        (GradientNormPenalty(0.4, 1.0), SAM(0.4)),
        (ImbSAM(0.4, 0), PlainStep()),
        (ImbSAM(0.4, 1000), SAM(0.4)),
        (FocalSAM(0.4, 3.0, 0.0), PlainStep()),
        (FocalSAM(0.4, 0.0, 1.0), SAM(0.4)),
        (ReweightedSAM(0.4, p=0.0), SAM(0.4)),
    ],
    ids=repr,
)
def test_its_ends_are_sgd_and_sam(kind, problem, mixed, same, rule, end):
    results = []
    for each in (end, rule):
        problem.context.generator.manual_seed(1)
        results.append(problem.run(each, kind, mixed)[1])
    same(results[1], results[0], rtol=1e-13 if isinstance(rule, GradientNormPenalty) else 1e-9)


@pytest.mark.parametrize("rule", [r for n, r in RULES.items() if n != "mp"], ids=repr)
def test_the_value_is_that_of_a_plain_step(problem, rule):
    values = []
    for each in (PlainStep(), rule):
        problem.context.generator.manual_seed(7)
        values.append(float(problem.run(each, "noisy")[0]))
    assert values[1] == pytest.approx(values[0], rel=1e-14)


ALL_RULES = [
    *RULES.values(),
    FSDGPM(),
    *(ClassConditionalStep("head", mode=mode) for mode in ("full", "direction", "magnitude")),
    *(ClassConditionalHead(mode=mode) for mode in ("full", "direction", "magnitude")),
]


@pytest.mark.parametrize("rule", ALL_RULES, ids=repr)
def test_images_that_follow_a_step_are_those_that_follow_a_plain_one(problem, rule):
    """Batches and losses draw from one generator: a rule leaves it where a plain step does, so that runs of one seed
    see the same images whatever their rule."""
    loss = "CE" if isinstance(rule, ClassConditionalStep | ClassConditionalHead) else "noisy"
    states = []
    for each in (PlainStep(), rule):
        problem.context.generator.manual_seed(7)
        if isinstance(each, EpochRule):
            each = each.for_epoch(problem.model, iter([problem.batch]), problem.context)
        problem.run(each, loss)
        states.append(problem.context.generator.get_state())
    assert torch.equal(states[0], states[1])


def test_all_passes_see_the_same_noise_of_the_loss(problem, name):
    states = []
    problem.model.head.register_forward_pre_hook(lambda *_: states.append(problem.context.generator.get_state()))
    problem.run(RULES[name], "noisy")
    assert len(states) == 2
    assert torch.equal(states[0], states[1])


def test_no_graph_is_left(problem, name):
    value, gradients = problem.run(RULES[name], "GCL")
    assert not value.requires_grad
    assert all(g is not None and not g.requires_grad for g in gradients.values())


def test_the_global_random_numbers_do_not_move(problem, name):
    before = torch.get_rng_state()
    problem.run(RULES[name], "GCL")
    assert torch.equal(torch.get_rng_state(), before)


def test_under_autocast_its_ends_are_still_what_they_are(problem, name):
    """Both sides run the same passes, but what is rounded to bfloat16 may fall on either side: 8 bits are 0.004."""
    ends = {
        "asam": (ASAM(1e-9), PlainStep()),
        "gp": (GradientNormPenalty(0.5, 1.0), SAM(0.5)),
        "mp": (ModelPerturbation(0.0, draws=1), PlainStep()),
        "imbsam": (ImbSAM(0.5, eta=1000), SAM(0.5)),
        "focal-sam": (FocalSAM(0.5, 0.0, 1.0), SAM(0.5)),
        "rwsam": (ReweightedSAM(0.5, 0.0), SAM(0.5)),
        "sam": (SAM(1e-9), PlainStep()),
    }
    problem.model.float()
    problem.context = dataclasses.replace(problem.context, autocast=autocast("bfloat16", torch.device("cpu")))
    problem.batch = dataclasses.replace(problem.batch, x=problem.batch.x.float())
    one, other = (problem.run(rule, "CE")[1] for rule in ends[name])
    for n in one:
        assert one[n].dtype == torch.float32
        assert torch.isfinite(one[n]).all()
        assert float((one[n] - other[n]).norm()) <= 0.02 * float(other[n].norm()), n


def test_every_operation_has_a_spelling_and_its_paper_and_shows_every_parameter(name):
    assert OPERATIONS.label(name).replace("-", "").lower() == name.replace("-", "")
    rule = build_operation(name)
    assert rule == OPERATIONS[name]()
    assert rule.paper.count(",") >= 2
    for parameter in inspect.signature(OPERATIONS[name]).parameters:
        assert f"{parameter}={getattr(rule, parameter)!r}" in repr(rule)


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        ("sam:0.1", SAM(0.1)),
        ("sam:rho=0.1", SAM(0.1)),
        ("asam:0.5:eta=0.01:biases=plain", ASAM(0.5, 0.01, "plain")),
        ("gp:alpha=0.5:r=0.2", GradientNormPenalty(0.2, 0.5)),
        ("mp:0.016:layers=8", ModelPerturbation(0.016, layers=8)),
        ("imbsam:eta=100:tail_factor=2", ImbSAM(eta=100, tail_factor=2)),
        ("focal-sam:rho=0.2:gamma=3", FocalSAM(0.2, 3)),
        ("rwsam:p=0.5", ReweightedSAM(p=0.5)),
        ("fs-dgpm:0.05", FSDGPM(eta=0.05)),
        ("swa:0.5", SWA(start=0.5)),
    ],
)
def test_parameters_are_given_by_name_after_colons(asked, rule):
    assert build_operation(asked) == rule
    assert operation_label(asked).lower() == asked


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("sam:radius=0.1", "'radius' is no parameter of sam, it has rho=0.05"),
        ("gp:0.1:0.8", "'0.8' is no parameter of gp, it has r=0.1, alpha=0.8"),
        ("gp:0.1:r=0.8", "'r' is given twice, it has r=0.1, alpha=0.8"),
        ("focal-sam:gamma=high", "'high' is not a number"),
        ("mp:draws=1.5", "'1.5' is not an integer"),
        ("mp:noise=normal", "unknown noise 'normal'"),
        ("sam:", "'' is not a number"),
        ("sam:0", "rho=0.0: SAM needs a positive radius"),
        ("swam", "unknown flattening operation 'swam': choose one of sam, "),
    ],
)
def test_wrong_parameters_are_refused_in_one_line(asked, message):
    with pytest.raises(UserError, match=message.replace("+", r"\+")) as caught:
        build_operation(asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("operation", "option", "values"),
    [
        (SAM, "rho", (0.0, -0.1, math.nan)),
        (ASAM, "rho", (0.0,)),
        (ASAM, "eta", (-0.1, math.nan)),
        (ASAM, "biases", ("none",)),
        (GradientNormPenalty, "r", (0.0, math.inf)),
        (GradientNormPenalty, "alpha", (-0.1, 1.1)),
        (ModelPerturbation, "bound", (-0.1,)),
        (ModelPerturbation, "draws", (0, 1.5)),
        (ModelPerturbation, "layers", (0,)),
        (ModelPerturbation, "noise", ("normal",)),
        (ImbSAM, "rho", (0.0,)),
        (ImbSAM, "eta", (-1,)),
        (ImbSAM, "share", (1.0, -0.1)),
        (ImbSAM, "tail_factor", (-1,)),
        (FocalSAM, "rho", (-0.1,)),
        (FocalSAM, "gamma", (-1.0,)),
        (FocalSAM, "lam", (math.nan,)),
        (ReweightedSAM, "rho", (0.0,)),
        (ReweightedSAM, "p", (-1.0,)),
        (FSDGPM, "eta", (0,)),
        (FSDGPM, "threshold", (1.5,)),
        (FSDGPM, "samples", (1,)),
        (FSDGPM, "inner", (0,)),
        (SWA, "start", (1, -0.1)),
        (SWA, "lr", (0,)),
        (PoF, "gamma", (0,)),
        (PoF, "share", (-1,)),
        (PoF, "lr", (math.inf,)),
    ],
)
def test_wrong_options_are_refused_in_one_line(operation, option, values):
    for value in values:
        with pytest.raises(UserError, match=rf"{option}\W+{value}\b") as caught:
            operation(**{option: value})
        assert "\n" not in str(caught.value)


def test_labels_are_found_by_their_old_name():
    with pytest.warns(FutureWarning, match=r"OPERATIONS\.label\(name\)"):
        assert flattening.LABELS["sam"] == "SAM"
