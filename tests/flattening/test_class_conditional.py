"""Class-conditional SAM against a loop over classes: one copy of the network, one gradient each."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from sharpness.data import profile_counts
from sharpness.errors import UserError
from sharpness.flattening import SAM, ClassConditionalStep, optimal_radius
from sharpness.steps import Batch, PlainStep

SCOPES = ("head", "last_block", "all")
COUNTS = (100, 30, 9, 2)


def in_scope(model, scope):
    prefixes = {"head": ("head.",), "last_block": ("head.", "backbone.layer3.0."), "all": ("",)}[scope]
    return [p for name, p in model.named_parameters() if name.startswith(prefixes)]


def labelled_rows(batch):
    """(image, label, weight) of every row."""
    rows = [(i, int(y), batch.lam if batch.second is not None else 1.0) for i, y in enumerate(batch.first)]
    if batch.second is not None:
        rows += [(i, int(y), 1 - batch.lam) for i, y in enumerate(batch.second)]
    return rows


def loop_over_classes(model, batch, scope, rho_scale=1.0, mode="full", weighted=False, cap=None):
    """Gradients by name, and the perturbation's length by class, from the text of the paper."""
    rows = [(i, y, a * (1 + y if weighted else 1)) for i, y, a in labelled_rows(batch)]
    total = sum(a for _, _, a in rows)
    gradients = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    lengths = {}

    def class_loss(network, c):
        logits = network(batch.x)
        of_class = [(i, a) for i, y, a in rows if y == c]
        return sum(-a * F.log_softmax(logits[i], 0)[c] for i, a in of_class) / sum(a for _, a in of_class)

    for c in sorted({y for _, y, _ in rows}):
        twin = copy.deepcopy(model)
        parameters = in_scope(twin, scope)
        g = torch.autograd.grad(class_loss(twin, c), parameters)
        k = sum(p.numel() for p in parameters)
        w_norm = sum(float(p.detach().square().sum()) for p in parameters) ** 0.5
        g_norm = sum(float(t.square().sum()) for t in g) ** 0.5
        rho = (w_norm / (2 * g_norm)) ** 0.5 * k**-0.25 * max(COUNTS[c] - 1, 1) ** -0.25
        lengths[c] = 1.0 if mode == "direction" else rho_scale * k**0.5 * rho
        if cap is not None:
            ratio = 1.0 if mode == "direction" else (max(min(COUNTS) - 1, 1) / max(COUNTS[c] - 1, 1)) ** 0.25
            lengths[c] = min(lengths[c], cap * w_norm * ratio)
        for p, d in zip(parameters, g, strict=True):
            p.data.add_(lengths[c] * d / g_norm)
        share = sum(a for _, y, a in rows if y == c) / total
        every = torch.autograd.grad(class_loss(twin, c), list(twin.parameters()))
        for (name, _), t in zip(model.named_parameters(), every, strict=True):
            gradients[name] += share * t
    return gradients, lengths


@pytest.mark.parametrize("mode", ["full", "direction"])
@pytest.mark.parametrize("mixing", [False, True])
@pytest.mark.parametrize("scope", SCOPES)
def test_the_gradient_is_that_of_a_loop_over_classes(problem, mixed, same, scope, mixing, mode):
    batch = mixed if mixing else problem.batch
    expected, _ = loop_over_classes(problem.model, batch, scope, rho_scale=0.3, mode=mode)
    _, gradients = problem.run(ClassConditionalStep(scope, rho_scale=0.3, mode=mode), batch=batch)
    same(gradients, expected)


@pytest.mark.every(5)
@pytest.mark.parametrize("cap", [0.001, 0.05, 0.2, 1e6])
@pytest.mark.parametrize("mode", ["full", "direction"])
@pytest.mark.parametrize("scope", SCOPES)
def test_with_a_cap_it_is_the_loop_with_bounded_lengths(problem, mixed, same, scope, mode, cap):
    expected, lengths = loop_over_classes(problem.model, mixed, scope, 0.3, mode, cap=cap)
    rule = ClassConditionalStep(scope, 0.3, mode, cap)
    _, gradients = problem.run(rule, batch=mixed)
    same(gradients, expected)
    size = sum(float(p.detach().square().sum()) for p in in_scope(problem.model, scope)) ** 0.5
    seen = [float(s.norm()) for s in perturbations_seen(problem, rule, mixed)[1:]]
    assert seen == pytest.approx(list(lengths.values()), rel=1e-10)
    assert max(seen) <= cap * size * (1 + 1e-10)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_random_direction_has_the_bounded_length(problem, mixed, scope):
    _, lengths = loop_over_classes(problem.model, mixed, scope, rho_scale=0.3, cap=0.05)
    seen = perturbations_seen(problem, ClassConditionalStep(scope, 0.3, "magnitude", 0.05), mixed)
    assert [float(s.norm()) for s in seen[1:]] == pytest.approx(list(lengths.values()), rel=1e-10)


@pytest.mark.parametrize("scope", SCOPES)
def test_class_weights_of_the_loss_count(problem, mixed, same, scope):
    expected, _ = loop_over_classes(problem.model, mixed, scope, weighted=True)
    _, gradients = problem.run(ClassConditionalStep(scope), loss="weighted", batch=mixed)
    same(gradients, expected)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("mixing", [False, True])
def test_running_statistics_move_once_and_weights_stay(problem, mixed, scope, mixing):
    batch = mixed if mixing else problem.batch
    twin = copy.deepcopy(problem.model)
    twin(batch.x)
    problem.run(ClassConditionalStep(scope), batch=batch)
    for name, tensor in problem.model.state_dict().items():
        assert torch.equal(tensor, twin.state_dict()[name]), name


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("loss", ["plain", "weighted"])
def test_without_a_radius_it_is_a_plain_step(problem, same, scope, loss):
    plain, expected = problem.run(PlainStep(), loss=loss)
    value, gradients = problem.run(ClassConditionalStep(scope, rho_scale=0.0), loss=loss)
    same(gradients, expected)
    assert float(value) == pytest.approx(float(plain), rel=1e-13)


@pytest.mark.parametrize("scope", SCOPES)
def test_the_value_is_the_loss_before_the_perturbation(problem, scope):
    plain, _ = problem.run(PlainStep())
    value, _ = problem.run(ClassConditionalStep(scope))
    assert float(value) == pytest.approx(float(plain), rel=1e-13)


@pytest.mark.parametrize("scope", ["head", "all"])
@pytest.mark.parametrize("c", [0, 2, 3])
def test_with_one_class_it_is_sam_of_radius_sqrt_k_rho(problem, same, scope, c):
    batch = Batch(problem.batch.x, torch.full((11,), c))
    if scope == "head":
        problem.model.backbone.requires_grad_(False)
    parameters = in_scope(problem.model, scope)
    twin = copy.deepcopy(problem.model)
    loss = F.cross_entropy(twin(batch.x), batch.first)
    g = torch.autograd.grad(loss, in_scope(twin, scope))
    k = sum(p.numel() for p in parameters)
    w_norm = torch.cat([p.detach().flatten() for p in parameters]).norm()
    g_norm = torch.cat([t.flatten() for t in g]).norm()
    radius = k**0.5 * (w_norm / (2 * g_norm)) ** 0.5 * k**-0.25 * (COUNTS[c] - 1) ** -0.25
    _, by_class = problem.run(ClassConditionalStep(scope), batch=batch)
    trained = {name for name, p in problem.model.named_parameters() if p.requires_grad}
    _, by_sam = problem.run(SAM(float(radius)), batch=batch)
    same({n: by_class[n] for n in trained}, {n: by_sam[n] for n in trained})


def perturbations_seen(problem, rule, batch):
    """The whole perturbation, flat, at every pass through the head."""
    start = {name: p.detach().clone() for name, p in problem.model.named_parameters()}
    seen = []

    def record(module, inputs):
        moved = [(p.detach() - start[name]).flatten() for name, p in problem.model.named_parameters()]
        seen.append(torch.cat(moved))

    handle = problem.model.head.register_forward_pre_hook(record)
    problem.run(rule, batch=batch)
    handle.remove()
    return seen


@pytest.mark.parametrize("scope", SCOPES)
def test_magnitude_has_the_length_of_cc_sam_in_a_random_direction(problem, mixed, scope):
    _, lengths = loop_over_classes(problem.model, mixed, scope, rho_scale=0.3)
    full = perturbations_seen(problem, ClassConditionalStep(scope, rho_scale=0.3), mixed)
    random = perturbations_seen(problem, ClassConditionalStep(scope, rho_scale=0.3, mode="magnitude"), mixed)
    again = perturbations_seen(problem, ClassConditionalStep(scope, rho_scale=0.3, mode="magnitude"), mixed)
    assert len(full) == len(random) == 1 + len(lengths)
    size = sum(p.numel() for p in in_scope(problem.model, scope))
    for seen in (full, random):
        assert [float(s.norm()) for s in seen[1:]] == pytest.approx(list(lengths.values()), rel=1e-10)
    for one, other, third in zip(full[1:], random[1:], again[1:], strict=True):
        # Random directions in k dimensions have cosines of about 1 / sqrt(k).
        assert abs(float(F.cosine_similarity(one, other, dim=0))) < 6 * size**-0.5
        assert abs(float(F.cosine_similarity(third, other, dim=0))) < 6 * size**-0.5


@pytest.mark.parametrize("scope", SCOPES)
def test_direction_has_length_one(problem, mixed, scope):
    seen = perturbations_seen(problem, ClassConditionalStep(scope, mode="direction"), mixed)
    assert [float(s.norm()) for s in seen] == pytest.approx([0, 1, 1, 1, 1], rel=1e-12)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_mix_of_weight_one_is_no_mix(problem, mixed, same, scope):
    """Beta(0.2, 0.2) rounds to 1 now and then: a class of partners without weight has no gradient of its own."""
    _, expected = problem.run(ClassConditionalStep(scope))
    _, gradients = problem.run(ClassConditionalStep(scope), batch=replace(mixed, lam=1.0))
    same(gradients, expected)


def test_a_parameter_that_the_network_does_not_use_changes_nothing(problem, mixed, same):
    """Neither the number of weights nor their norm includes it."""
    expected, _ = loop_over_classes(problem.model, mixed, "all")
    problem.model.unused = torch.nn.Parameter(torch.full((500,), 9.0, dtype=torch.float64))
    _, gradients = problem.run(ClassConditionalStep("all"), batch=mixed)
    assert gradients.pop("unused") is None
    same(gradients, expected)


def test_the_radius_minimises_the_bound():
    """J(rho) = sqrt(k) rho |g| + |w| / (2 rho sqrt(n - 1)) is smallest at rho*."""
    w, g, k, n = 3.7, 0.21, 640, 45
    rho = optimal_radius(torch.tensor(w).double(), torch.tensor([g]).double(), k, torch.tensor([n])).item()

    def bound(r):
        return k**0.5 * r * g + w / (2 * r * (n - 1) ** 0.5)

    slope = (bound(rho * (1 + 1e-6)) - bound(rho * (1 - 1e-6))) / (2e-6 * rho)
    assert abs(slope) < 1e-6 * k**0.5 * g
    assert bound(rho) < min(bound(0.99 * rho), bound(1.01 * rho))


@pytest.mark.parametrize(
    ("classes", "largest", "imbalance", "ratio"),
    [
        (10, 5000, 200, "3.80"),
        (10, 5000, 100, "3.18"),
        (10, 5000, 50, "2.67"),
        (10, 5000, 10, "1.78"),
        (100, 500, 200, "4.73"),
        (100, 500, 100, "3.34"),
        (100, 500, 50, "2.73"),
        (100, 500, 10, "1.79"),
    ],
)
def test_rare_classes_of_cifar_have_the_published_multiple_of_the_radius(classes, largest, imbalance, ratio):
    counts = torch.tensor(profile_counts("exp", imbalance, classes, largest))
    radii = optimal_radius(torch.tensor(1.0), torch.ones(classes), 650, counts)
    assert f"{float(radii[-1] / radii[0]):.2f}" == ratio


@pytest.mark.parametrize(
    ("most", "fewest", "ratio"), [(1280, 5, "4.23"), (4980, 5, "5.94"), (1000, 2, "5.62")], ids=str
)
def test_rare_classes_of_large_sets_have_the_published_multiple_of_the_radius(most, fewest, ratio):
    radii = optimal_radius(torch.tensor(1.0), torch.ones(2), 650, torch.tensor([most, fewest]))
    assert f"{float(radii[1] / radii[0]):.2f}" == ratio


def test_a_class_of_one_image_counts_as_two():
    radii = optimal_radius(torch.tensor(2.0), torch.ones(2), 650, torch.tensor([1, 2]))
    assert float(radii[0]) == float(radii[1])


def test_a_vanishing_gradient_leaves_the_radius_finite():
    radii = optimal_radius(torch.tensor(2.0), torch.zeros(1), 650, torch.tensor([10]))
    assert torch.isfinite(radii).all()


@pytest.mark.parametrize("wrong", [{"scope": "backbone"}, {"mode": "random"}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(UserError, match="choose one of"):
        ClassConditionalStep(**wrong)
