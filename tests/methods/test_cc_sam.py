"""CC-SAM's second stage and its recipe."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from sharpness import load_checkpoint, load_data, train
from sharpness.errors import UserError
from sharpness.flattening import ClassConditionalStep
from sharpness.flattening.class_radius import MODES
from sharpness.methods import build_recipe
from sharpness.methods.cc_sam import CAP, RHO_SCALE, AdversarialFeatures
from sharpness.methods.cc_sam_head import ClassConditionalHead
from sharpness.methods.cross_entropy import CrossEntropy
from sharpness.models import build_model
from sharpness.steps import Batch, Context, PlainStep

COUNTS = [500, 60, 8, 1]


def at(epoch, epochs=30):
    return Context(torch.tensor(COUNTS), epoch, epochs)


def run(rule, model, batch, context):
    model.zero_grad(set_to_none=True)
    value = rule.backward(model, batch, CrossEntropy(), context)
    return [p.grad for p in model.head.parameters()], value.item()


def heads_inputs(rule, model, batch, context):
    """What the head is given: features, then their adversarial versions."""
    seen = []
    handle = model.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    run(rule, model, batch, context)
    handle.remove()
    return seen


def same(gradients, expected):
    for one, other in zip(gradients, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("length", [0.1, 1.0, 5.0])
def test_every_feature_moves_by_the_length_along_its_own_gradient(network, plain, kind, length):
    model = network(kind)
    features, adversarial = heads_inputs(AdversarialFeatures(length), model, plain, at(3))
    step = adversarial - features
    assert step.norm(dim=1).tolist() == pytest.approx([length] * 12, rel=1e-10)
    for i, y in enumerate(plain.first):
        z = features[i : i + 1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model.head(z), y[None]), z)
        assert float(F.cosine_similarity(gradient, step[i : i + 1])) == pytest.approx(1, rel=1e-10)


@pytest.mark.parametrize("epoch", [1, 15, 30])
@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_the_loss_goes_over_to_the_adversarial_one_with_the_epochs(network, plain, kind, epoch):
    model = network(kind)
    gradients, value = run(AdversarialFeatures(0.7), model, plain, at(epoch))
    z = model.backbone(plain.x).detach()
    moved = []
    for i, y in enumerate(plain.first):
        leaf = z[i].clone().requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(model.head(leaf[None]), y[None]), leaf)
        moved.append(z[i] + 0.7 * g / g.norm())
    clean = F.cross_entropy(model.head(z), plain.first)
    adversarial = F.cross_entropy(model.head(torch.stack(moved)), plain.first)
    t = epoch / 30
    expected = (1 - t) * clean + t * adversarial
    assert value == pytest.approx(clean.item(), rel=1e-12)
    same(gradients, torch.autograd.grad(expected, list(model.head.parameters())))


def test_of_length_zero_it_is_cross_entropy(network, plain):
    model = network()
    expected, value = run(PlainStep(), model, plain, at(10))
    gradients, returned = run(AdversarialFeatures(0.0), model, plain, at(10))
    same(gradients, expected)
    assert returned == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize("released", [False, True])
def test_the_backbone_receives_no_gradient(network, plain, released):
    model = network()
    run(AdversarialFeatures(released_code=released), model, plain, at(10))
    assert all(p.grad is None for p in model.backbone.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_running_statistics_follow_the_mode_of_the_backbone(training):
    model = build_model("resnet8", 4, in_channels=1).train(training)
    model.backbone.requires_grad_(False)
    before = model.backbone.bn1.running_mean.clone()
    x = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    run(AdversarialFeatures(), model, Batch(x, torch.arange(12) % 4), at(10))
    assert int(model.backbone.bn1.num_batches_tracked) == int(training)
    assert torch.equal(model.backbone.bn1.running_mean, before) is not training


def released_loop(model, batch, epoch, adver_reg, up_limit):
    """The released stage 2, class by class."""
    z = model.backbone(batch.x).detach()
    alpha = min(epoch / 30, up_limit)
    adversarial = []
    for c in batch.first.unique().tolist():
        q = math.log(max(COUNTS) / COUNTS[c] + 0.01) / 2
        leaf = z.clone().requires_grad_()
        rows = batch.first == c
        (g,) = torch.autograd.grad(F.cross_entropy(model.head(leaf)[rows], batch.first[rows]), leaf)
        moved = z + adver_reg * q * g / torch.linalg.matrix_norm(g, "fro")
        adversarial.append(q * F.cross_entropy(model.head(moved)[rows], batch.first[rows], reduction="none"))
    return alpha * torch.cat(adversarial).mean() + (1 - alpha) * F.cross_entropy(model.head(z), batch.first)


@pytest.mark.parametrize("epoch", [1, 9, 10, 30])
@pytest.mark.parametrize(("adver_reg", "up_limit"), [(1.0, 1.0), (1.0, 0.3), (4.0, 0.8)])
def test_the_released_variant_is_the_released_loop(network, plain, epoch, adver_reg, up_limit):
    model = network()
    expected = released_loop(model, plain, epoch, adver_reg, up_limit)
    rule = AdversarialFeatures(adver_reg, released_code=True, up_limit=up_limit)
    gradients, value = run(rule, model, plain, at(epoch))
    assert value == pytest.approx(F.cross_entropy(model(plain.x), plain.first).item(), rel=1e-10)
    same(gradients, torch.autograd.grad(expected, list(model.head.parameters())))


def test_head_classes_all_but_vanish_from_the_released_adversarial_loss(network, plain):
    """q = log(1.01) / 2 = 0.005 for the largest class, in the step and in the loss."""
    model = network()
    of_head = Batch(plain.x[:5], plain.first[:5])
    features, adversarial = heads_inputs(AdversarialFeatures(released_code=True), model, of_head, at(30))
    assert float((adversarial - features).norm()) == pytest.approx(math.log(1.01) / 2, rel=1e-10)
    gradients, _ = run(AdversarialFeatures(0.0, released_code=True), model, of_head, at(30))
    whole = torch.autograd.grad(F.cross_entropy(model(of_head.x), of_head.first), list(model.head.parameters()))
    same(gradients, [math.log(1.01) / 2 * g for g in whole])


@pytest.mark.parametrize("released", [False, True])
def test_a_sample_without_gradient_stays_where_it_is(network, plain, released):
    model = network()
    with torch.no_grad():
        model.head.weight.zero_()
    features, adversarial = heads_inputs(AdversarialFeatures(1.0, released), model, plain, at(30))
    assert torch.equal(features, adversarial)


def test_the_paper_is_two_stages_with_balanced_sampling_in_the_second(cifar):
    first, second = build_recipe("cc-sam", cifar(), rho_scale=0.5).stages
    assert first.rule == ClassConditionalHead(rho_scale=0.5, mode="full", released_share=None, cap=CAP)
    assert (first.mixup, first.sampler, first.drop_last, first.loss) == (1.0, "instance", False, CrossEntropy())
    assert second.rule == AdversarialFeatures(1.0, False, 1.0)
    assert (second.sampler, second.trainable, second.mixup, second.lr) == ("class_balanced", "head", 0, 0.01)
    assert second.frozen_batchnorm


#: Section 9 of the authors' last commit and their only configurations of imbalance 100, of commit 9d5ba5e.
RELEASED = {
    (10, 200): (1.0, 0.3, 1e-6, 1.0, False),
    (100, 200): (1.0, 0.5, 1e-6, 0.3, False),
    (10, 100): (0.0, 1.0, 1e-2, 0.8, True),
    (100, 100): (1.0, 0.2, 1e-7, 0.3, True),
}


@pytest.mark.parametrize(("classes", "imbalance"), RELEASED)
def test_the_released_recipe_has_the_configuration_of_the_data_and_the_imbalance(cifar, classes, imbalance):
    recipe = build_recipe("cc-sam", cifar(classes, imbalance), released_code=True)
    first, second = recipe.stages
    mixup, flat_ratio, noise_ratio, up_limit, per_tensor = RELEASED[classes, imbalance]
    assert first.rule == ClassConditionalHead(rho_scale=noise_ratio, released_share=flat_ratio, per_tensor=per_tensor)
    assert first.mixup == mixup
    assert first.drop_last
    assert second.rule == AdversarialFeatures(1.0, True, up_limit)
    assert not second.frozen_batchnorm, "statistics keep moving"
    assert (second.trainable, second.lr) == ("head", 0.01)
    told = f"released configuration of CIFAR-{classes}-LT at imbalance {imbalance} ("
    assert any(note.startswith(told) and "nearest" not in note for note in recipe.notes)


@pytest.mark.parametrize(("imbalance", "nearest"), [(1, 100), (10, 100), (50, 100), (141, 100), (142, 200), (256, 200)])
def test_another_imbalance_takes_the_nearest_released_configuration_and_says_so(cifar, imbalance, nearest):
    tail = replace(cifar(10, 100), imbalance=float(imbalance))
    recipe, there = (build_recipe("cc-sam", t, released_code=True) for t in (tail, cifar(10, nearest)))
    assert recipe.stages == there.stages
    assert any(
        f"imbalance {nearest} (" in note and f"none for cifar10-lt at imbalance {imbalance}" in note
        for note in recipe.notes
    )


def test_another_data_set_takes_the_nearest_released_configuration_and_says_so():
    recipe = build_recipe("cc-sam", load_data("digits-lt").longtail, released_code=True)
    assert any("CIFAR-10-LT at imbalance 100" in n and "none for digits-lt at imbalance 30" in n for n in recipe.notes)


def test_mixup_that_is_given_stands_in_the_released_recipe_too(cifar):
    assert build_recipe("cc-sam", cifar(), released_code=True, mixup=0.4).stages[0].mixup == 0.4
    assert build_recipe("cc-sam", cifar(), released_code=False).stages[0].mixup == 1.0


@pytest.mark.parametrize("scope", ["last_block", "all"])
def test_other_scopes_take_the_general_step(cifar, scope):
    recipe = build_recipe("cc-sam", cifar(), scope=scope, rho_scale=0.2, mode="magnitude")
    assert recipe.stages[0].rule == ClassConditionalStep(scope, 0.2, "magnitude", CAP)


@pytest.mark.parametrize("wrong", [{"scope": "all"}, {"scope": "last_block"}, {"mode": "direction"}])
def test_the_released_code_perturbs_the_classifier_only(cifar, wrong):
    with pytest.raises(UserError, match="released_code perturbs the classifier"):
        build_recipe("cc-sam", cifar(), released_code=True, **wrong)


@pytest.mark.parametrize(("wrong", "drop"), [({"rho_scale": 0.5}, "rho_scale=0.5"), ({"cap": 0.3}, "cap=0.3")])
def test_the_released_code_has_its_own_factor_of_the_radius_and_no_cap(cifar, wrong, drop):
    with pytest.raises(UserError, match=f"drop {drop}"):
        build_recipe("cc-sam", cifar(), released_code=True, **wrong)
    assert build_recipe("cc-sam", cifar(), released_code=True, cap="none").stages[0].rule.cap is None


@pytest.mark.parametrize("scope", ["classifier", "all"])
@pytest.mark.parametrize("mode", MODES)
def test_the_formula_is_bounded_and_the_length_of_one_is_one_unless_a_cap_is_given(cifar, mode, scope):
    rule = build_recipe("cc-sam", cifar(), mode=mode, scope=scope).stages[0].rule
    assert rule.cap == (None if mode == "direction" else CAP)
    assert build_recipe("cc-sam", cifar(), mode=mode, scope=scope, cap=0.02).stages[0].rule.cap == 0.02


def test_a_stage_without_perturbation_has_nothing_to_bound(cifar):
    with pytest.raises(UserError, match="mode=plain bounds no step: drop cap=0.1"):
        build_recipe("cc-sam", cifar(), mode="plain", cap=0.1)
    notes = {build_recipe("cc-sam", cifar(), mode="plain", cap=cap).notes for cap in (None, "none", "auto")}
    assert len(notes) == 1 and not any("norm of the perturbed weights" in note for note in notes.pop())


@pytest.mark.parametrize(
    ("where", "wrong", "message"),
    [
        ({"mode": "plain"}, {"scope": "all"}, "mode=plain perturbs no part of the network: drop scope=all"),
        ({"mode": "plain"}, {"scope": "last_block"}, "drop scope=last_block"),
        ({"mode": "plain"}, {"rho_scale": 5.0}, "mode=plain perturbs nothing, .*: drop rho_scale=5.0"),
        ({"mode": "direction"}, {"rho_scale": 5.0}, "mode=direction has steps of length 1, .*: drop rho_scale=5.0"),
        ({"stage2": False}, {"adversarial_length": 7.0}, "stage2=false takes .*: drop adversarial_length=7.0"),
    ],
)
def test_an_option_without_an_effect_is_refused(cifar, where, wrong, message):
    """What is refused changes nothing: the recipe's own value gives the same stages, and elsewhere it is an option."""
    with pytest.raises(UserError, match=f"^{message}$" if message.startswith("mode") else message) as caught:
        build_recipe("cc-sam", cifar(), **where, **wrong)
    assert "\n" not in str(caught.value)
    usual = {"scope": "classifier", "rho_scale": RHO_SCALE, "adversarial_length": 1.0}
    own = {name: usual[name] for name in wrong}
    assert build_recipe("cc-sam", cifar(), **where, **own) == build_recipe("cc-sam", cifar(), **where)
    assert build_recipe("cc-sam", cifar(), **wrong).stages != build_recipe("cc-sam", cifar()).stages


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scope", ["classifier", "last_block", "all"])
@pytest.mark.parametrize("cap", [None, "none", 0.07, 1])
def test_the_cap_reaches_the_rule_and_the_notes(cifar, scope, mode, cap):
    recipe = build_recipe("cc-sam", cifar(), scope=scope, mode=mode, cap=cap)
    assert recipe.stages[0].rule.cap == (None if cap in (None, "none") else cap)
    told = "unbounded" if cap in (None, "none") else f"at most {cap:g} of the norm of the perturbed weights"
    assert sum(told in note for note in recipe.notes) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"scope": "head"},
        {"mode": "random"},
        {"rho_scale": -1},
        {"rho_scale": math.nan},
        {"rho_scale": math.inf},
        {"adversarial_length": -3.0},
        {"adversarial_length": math.nan},
        {"adversarial_length": math.inf},
        {"cap": 0},
        {"cap": -0.1},
        {"cap": math.nan},
        {"cap": "small"},
        {"cap": True},
    ],
)
def test_wrong_options_are_refused_in_one_line(cifar, wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=name) as caught:
        build_recipe("cc-sam", cifar(), **wrong)
    assert "\n" not in str(caught.value)


def test_the_multiple_of_the_radius_is_recorded(cifar):
    assert any("0.25" in note for note in build_recipe("cc-sam", cifar(), rho_scale=0.25).notes)


def test_each_stage_can_stand_alone_and_is_otherwise_the_same(cifar):
    both = build_recipe("cc-sam", cifar()).stages
    assert build_recipe("cc-sam", cifar(), stage2=False).stages == both[:1]
    plain, second = build_recipe("cc-sam", cifar(), mode="plain").stages
    assert second == both[1]
    assert plain == replace(both[0], name="mixup", rule=PlainStep())
    assert build_recipe("cc-sam", cifar(), mode="plain", stage2=False).stages == (plain,)


@pytest.mark.parametrize("mode", ["direction", "magnitude", "full"])
def test_without_the_second_stage_the_first_keeps_its_perturbation(cifar, mode):
    (only,) = build_recipe("cc-sam", cifar(), mode=mode, stage2=False).stages
    assert only.rule == ClassConditionalHead(rho_scale=RHO_SCALE, mode=mode, cap=None if mode == "direction" else CAP)


def test_a_first_stage_without_perturbation_claims_no_radius(cifar):
    notes = build_recipe("cc-sam", cifar(), mode="plain", stage2=False).notes
    assert not any("perturbed loss" in note or "stage 2" in note for note in notes)
    assert not any("radius" in note for note in notes) and any("without a perturbation" in note for note in notes)


def test_the_second_stage_alone_starts_from_plain_mixup_and_moves_the_head_only(tmp_path):
    """Stage 1 of both runs is the same, so that what differs between their results is what stage 2 does."""
    data = load_data("digits-lt")
    for name, stage2 in (("baseline", False), ("second", True)):
        train("cc-sam", data, tmp_path / name, epochs=1, mode="plain", stage2=stage2)
    baseline, second = (load_checkpoint(tmp_path / name).model.state_dict() for name in ("baseline", "second"))
    moved = {name for name in baseline if not torch.equal(baseline[name], second[name])}
    assert moved == {"head.weight", "head.bias"}


def test_the_released_code_has_no_plain_mode(cifar):
    with pytest.raises(UserError, match="released_code perturbs the classifier"):
        build_recipe("cc-sam", cifar(), released_code=True, mode="plain")


def test_a_second_stage_is_there_or_not(cifar):
    with pytest.raises(UserError, match="stage2='no': give true or false"):
        build_recipe("cc-sam", cifar(), stage2="no")
