"""CC-SAM's closed form on the classifier against loops over classes, with one gradient and one network each."""

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from sharpness.errors import UserError
from sharpness.flattening import SAM, ClassConditionalStep
from sharpness.methods.cc_sam_head import ClassConditionalHead
from sharpness.methods.cross_entropy import CrossEntropy
from sharpness.methods.ldam import LDAM
from sharpness.models import LearnableWeightScaling, build_model
from sharpness.steps import Batch, Context, PlainStep

HEADS = ("linear", "cosine")


def ce_of_one(logits, y, counts):
    """Loss and weight of one sample."""
    return -F.log_softmax(logits, 0)[y], 1.0


def ldam_of_one(logits, y, counts):
    """The same with LDAM's margin and deferred weight."""
    shift = torch.zeros_like(logits)
    shift[y] = 7.0 * 0.5 * (counts[y] / min(counts)) ** -0.25
    raw = [(1 - 0.9999) / (1 - 0.9999**n) for n in counts]
    return -F.log_softmax(logits - shift, 0)[y], len(raw) * raw[y] / sum(raw)


LOSSES = {"ce": (CrossEntropy(), ce_of_one), "ldam": (LDAM(scale=7.0), ldam_of_one)}


def norm(tensors):
    return sum(float(t.detach().square().sum()) for t in tensors) ** 0.5


def length_of_cc_sam(head, gradient, n):
    """sqrt(k) rho* with rho* = sqrt(|w| / 2|g|) k^(-1/4) (n - 1)^(-1/4)."""
    k = sum(p.numel() for p in head.parameters())
    rho = (norm(head.parameters()) / (2 * norm(gradient))) ** 0.5 * k**-0.25 * max(n - 1, 1) ** -0.25
    return k**0.5 * rho


def bounded(head, length, n, rarest, mode, cap):
    """At most cap |w| for the rarest class, and less by the published ratio for the others."""
    if cap is None:
        return length
    ratio = 1.0 if mode == "direction" else (max(rarest - 1, 1) / max(n - 1, 1)) ** 0.25
    return min(length, cap * norm(head.parameters()) * ratio)


def loop_over_classes(model, batch, of_one, counts, rho_scale=1.0, mode="full", generator=None, cap=None):
    """The paper's gradient of all parameters by name, and the loss where the weights stand."""
    rows = [(i, y, batch.lam if batch.second is not None else 1.0) for i, y in enumerate(batch.first.tolist())]
    if batch.second is not None:
        rows += [(i, y, 1 - batch.lam) for i, y in enumerate(batch.second.tolist())]
    rows = [(i, y, a * of_one(torch.zeros(4), y, counts)[1]) for i, y, a in rows]
    total = sum(a for _, _, a in rows)
    gradients = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    value = 0.0

    def class_loss(network, c):
        logits = network(batch.x)
        of_class = [(i, a) for i, y, a in rows if y == c]
        return sum(a * of_one(logits[i], c, counts)[0] for i, a in of_class) / sum(a for _, a in of_class)

    for c in sorted({y for _, y, _ in rows}):
        g = torch.autograd.grad(class_loss(model, c), list(model.head.parameters()))
        length = 1.0 if mode == "direction" else rho_scale * length_of_cc_sam(model.head, g, counts[c])
        length = bounded(model.head, length, counts[c], min(counts), mode, cap)
        if mode == "magnitude":
            g = [torch.randn(t.shape, generator=generator).to(t) for t in g]
        twin = copy.deepcopy(model)
        with torch.no_grad():
            for p, t in zip(twin.head.parameters(), g, strict=True):
                p += length * t / norm(g)
        share = sum(a for _, y, a in rows if y == c) / total
        perturbed = class_loss(twin, c)
        value += share * class_loss(model, c).item()
        every = torch.autograd.grad(perturbed, list(twin.parameters()))
        for (name, _), t in zip(model.named_parameters(), every, strict=True):
            gradients[name] += share * t
    return gradients, value


def run(rule, model, batch, loss, context):
    model.zero_grad(set_to_none=True)
    value = rule.backward(model, batch, loss, context)
    return {name: p.grad for name, p in model.named_parameters()}, value


def same(one, other, rtol=1e-9):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.allclose(one[name], other[name], rtol=rtol, atol=rtol * float(other[name].abs().max())), name


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("mixing", [False, True])
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("rho_scale", [0.01, 1.0])
def test_the_gradient_is_that_of_a_loop_over_classes(network, plain, mixed, context, kind, mixing, loss, rho_scale):
    model, batch = network(kind), mixed if mixing else plain
    ours, of_one = LOSSES[loss]
    expected, value = loop_over_classes(model, batch, of_one, context.train_counts.tolist(), rho_scale)
    gradients, returned = run(ClassConditionalHead(rho_scale), model, batch, ours, context)
    same(gradients, expected)
    assert float(returned) == pytest.approx(value, rel=1e-10)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("mixing", [False, True])
@pytest.mark.parametrize("kind", HEADS)
def test_direction_is_a_step_of_length_one(network, plain, mixed, context, kind, mixing, loss):
    model, batch = network(kind), mixed if mixing else plain
    ours, of_one = LOSSES[loss]
    expected, _ = loop_over_classes(model, batch, of_one, context.train_counts.tolist(), mode="direction")
    gradients, _ = run(ClassConditionalHead(mode="direction"), model, batch, ours, context)
    same(gradients, expected)


@pytest.mark.parametrize("cap", [0.05, 0.4, 50.0])
@pytest.mark.parametrize(
    ("kind", "mode"), [*((kind, mode) for kind in HEADS for mode in ("full", "direction")), ("linear", "magnitude")]
)
def test_with_a_cap_it_is_the_loop_with_bounded_lengths(network, mixed, context, kind, mode, cap):
    """0.05 binds for every class, 0.4 for some, 50 for none."""
    model, counts = network(kind), context.train_counts.tolist()
    context.noise.manual_seed(9)
    generator = torch.Generator().manual_seed(9)
    expected, _ = loop_over_classes(model, mixed, ce_of_one, counts, 0.4, mode, generator, cap)
    gradients, _ = run(ClassConditionalHead(0.4, mode, cap=cap), model, mixed, CrossEntropy(), context)
    same(gradients, expected)


def test_a_cap_that_never_binds_changes_no_bit(network, mixed, context):
    model = network()
    bare, _ = run(ClassConditionalHead(0.4), model, mixed, CrossEntropy(), context)
    capped, _ = run(ClassConditionalHead(0.4, cap=1e6), model, mixed, CrossEntropy(), context)
    assert all(torch.equal(bare[name], capped[name]) for name in bare)


@pytest.mark.parametrize("mixing", [False, True])
@pytest.mark.parametrize("cap", [None, 0.05])
@pytest.mark.parametrize("mode", ["full", "direction"])
@pytest.mark.parametrize("kind", HEADS)
def test_no_value_is_looked_at_on_the_host(network, plain, mixed, context, kind, mode, cap, mixing):
    """On the meta device there are no values: whatever waits for one, or has a shape that depends on one, fails."""
    batch = mixed if mixing else plain
    second = batch.second.to("meta") if mixing else None
    batch = Batch(batch.x.to("meta"), batch.first.to("meta"), second, batch.lam)
    context = replace(context, train_counts=context.train_counts.to("meta"))
    gradients, _ = run(
        ClassConditionalHead(mode=mode, cap=cap), network(kind).to("meta"), batch, CrossEntropy(), context
    )
    assert all(g.is_meta for g in gradients.values())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("mixing", [False, True])
def test_magnitude_is_the_length_of_cc_sam_along_one_random_direction_a_class(
    network, plain, mixed, context, mixing, loss
):
    model, batch = network("linear"), mixed if mixing else plain
    ours, of_one = LOSSES[loss]
    context.noise.manual_seed(9)
    expected, _ = loop_over_classes(
        model,
        batch,
        of_one,
        context.train_counts.tolist(),
        rho_scale=0.4,
        mode="magnitude",
        generator=torch.Generator().manual_seed(9),
    )
    gradients, _ = run(ClassConditionalHead(rho_scale=0.4, mode="magnitude"), model, batch, ours, context)
    same(gradients, expected)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("linear", "full"),
        ("linear", "direction"),
        ("linear", "magnitude"),
        ("cosine", "full"),
        ("cosine", "direction"),
    ],
)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("cap", [None, 0.3])
def test_the_loop_of_the_general_step_gives_the_same(network, mixed, context, kind, mode, loss, cap):
    model, results = network(kind), []
    for rule in (ClassConditionalHead(0.7, mode, cap=cap), ClassConditionalStep("head", 0.7, mode, cap)):
        context.noise.manual_seed(2)
        results.append(run(rule, model, mixed, LOSSES[loss][0], context)[0])
    same(results[0], results[1])


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("c", [0, 1, 2])
def test_with_one_class_it_is_sam_on_the_head_of_radius_sqrt_k_rho(network, plain, context, kind, c):
    model = network(kind)
    model.backbone.requires_grad_(False)
    batch = Batch(plain.x, torch.full((12,), c))
    g = torch.autograd.grad(F.cross_entropy(model(batch.x), batch.first), list(model.head.parameters()))
    radius = length_of_cc_sam(model.head, g, context.train_counts[c].item())
    by_sam, _ = run(SAM(radius), model, batch, CrossEntropy(), context)
    by_class, _ = run(ClassConditionalHead(), model, batch, CrossEntropy(), context)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    same({n: by_class[n] for n in trained}, {n: by_sam[n] for n in trained})


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", HEADS)
def test_without_a_radius_it_is_a_plain_step(network, plain, context, kind, loss):
    model = network(kind)
    expected, value = run(PlainStep(), model, plain, LOSSES[loss][0], context)
    gradients, returned = run(ClassConditionalHead(rho_scale=0.0), model, plain, LOSSES[loss][0], context)
    same(gradients, expected)
    assert float(returned) == pytest.approx(float(value), rel=1e-13)


@pytest.mark.parametrize("kind", HEADS)
def test_a_mix_of_weight_one_is_no_mix(network, plain, mixed, context, kind):
    """Beta(0.2, 0.2) rounds to 1 now and then: a class of partners without weight has no gradient of its own."""
    model = network(kind)
    first = plain.first.clamp_max(2)
    assert 3 in mixed.second
    expected, _ = run(ClassConditionalHead(), model, replace(plain, first=first), CrossEntropy(), context)
    batch = replace(mixed, first=first, lam=1.0)
    gradients, _ = run(ClassConditionalHead(), model, batch, CrossEntropy(), context)
    same(gradients, expected)


@pytest.mark.parametrize("mode", ["full", "direction", "magnitude"])
def test_weights_are_never_touched(network, mixed, context, mode):
    model = network()
    before = copy.deepcopy(model.state_dict())
    versions = [p._version for p in model.parameters()]
    run(ClassConditionalHead(mode=mode), model, mixed, CrossEntropy(), context)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [p._version for p in model.parameters()] == versions


def test_running_statistics_move_once(context):
    model = build_model("resnet8", 4, in_channels=1)
    x = torch.randn(9, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = Batch(x, torch.arange(9) % 4)
    twin = copy.deepcopy(model)
    twin(x)
    run(ClassConditionalHead(), model, batch, CrossEntropy(), context)
    assert all(torch.equal(buffer, twin.get_buffer(name)) for name, buffer in model.named_buffers())


def released_loop(model, batch, counts, noise_ratio, flat_ratio, per_tensor=False):
    """The released stage 1, class by class; the perturbation is a constant of the graph."""
    head = model.head
    f = model.backbone(batch.x)
    o = F.linear(f, head.weight, head.bias)

    def ce(logits, labels):
        return F.cross_entropy(logits, labels, reduction="none")

    losses = ce(o, batch.first)
    if batch.second is not None:
        losses = batch.lam * losses + (1 - batch.lam) * ce(o, batch.second)
    theta = norm([head.weight, head.bias])
    k = head.weight.numel() + head.bias.numel()
    hard = torch.zeros_like(losses)
    for c in batch.first.unique().tolist():
        rows = batch.first == c
        gradients = torch.autograd.grad(losses[rows].mean(), [head.weight, head.bias], retain_graph=True)
        noise = []
        for p, g in zip((head.weight, head.bias), gradients, strict=True):
            size = float(g.norm())
            length = float(p.detach().norm()) if per_tensor else theta
            rho = noise_ratio * length**0.5 / (2**0.5 * size**0.5 * max(counts[c] - 1, 1) ** 0.25 * k**0.25)
            noise.append(k**0.5 * rho * g / size)
        perturbed = F.linear(f[rows], head.weight + noise[0], head.bias + noise[1])
        hard = hard.index_put((torch.nonzero(rows).flatten(),), ce(perturbed, batch.first[rows]))
    value = (1 - flat_ratio) * losses.mean() + flat_ratio * hard.mean()
    names = [name for name, _ in model.named_parameters()]
    gradients = torch.autograd.grad(value, list(model.parameters()))
    return dict(zip(names, gradients, strict=True)), losses.mean().item()


@pytest.mark.parametrize("mixing", [False, True])
@pytest.mark.parametrize(("noise_ratio", "flat_ratio"), [(1e-6, 0.3), (0.3, 0.5), (1.0, 1.0)])
@pytest.mark.parametrize("per_tensor", [False, True])
def test_the_released_variant_is_the_released_loop(
    network, plain, mixed, context, mixing, noise_ratio, flat_ratio, per_tensor
):
    model, batch = network(), mixed if mixing else plain
    expected, value = released_loop(model, batch, context.train_counts.tolist(), noise_ratio, flat_ratio, per_tensor)
    rule = ClassConditionalHead(rho_scale=noise_ratio, released_share=flat_ratio, per_tensor=per_tensor)
    gradients, returned = run(rule, model, batch, CrossEntropy(), context)
    same(gradients, expected)
    assert float(returned) == pytest.approx(value, rel=1e-12)


@dataclass(frozen=True)
class Float32Context(Context):
    """Features as training under autocast sees them."""

    def features(self, model, x):
        return super().features(model, x).float()


@pytest.mark.parametrize("kind", HEADS)
def test_float32_agrees_with_float64_to_its_rounding(network, mixed, context, kind):
    model = network(kind)
    expected, _ = loop_over_classes(model, mixed, ce_of_one, context.train_counts.tolist())
    single = Float32Context(context.train_counts, 200, 200)
    batch = replace(mixed, x=mixed.x.float())
    gradients, _ = run(ClassConditionalHead(), model.float(), batch, CrossEntropy(), single)
    # A few hundred operations of relative rounding 6e-8 on numbers of like size.
    same({name: g.double() for name, g in gradients.items()}, expected, rtol=300 * 6e-8)


def test_what_has_no_closed_form_is_refused(network, plain, context):
    cosine = network("cosine")
    with pytest.raises(UserError, match="magnitude"):
        run(ClassConditionalHead(mode="magnitude"), cosine, plain, CrossEntropy(), context)
    scaled = network()
    scaled.head = LearnableWeightScaling(scaled.head, 4).double()
    with pytest.raises(UserError, match="LearnableWeightScaling: take scope="):
        run(ClassConditionalHead(), scaled, plain, CrossEntropy(), context)
    with pytest.raises(UserError, match="mode"):
        ClassConditionalHead(mode="random")
    with pytest.raises(UserError, match=r"cap=0.1: the released code bounds no step"):
        ClassConditionalHead(released_share=0.3, cap=0.1)
    with pytest.raises(UserError, match="give released_share"):
        ClassConditionalHead(per_tensor=True)


def test_a_dead_feature_and_a_sure_class_stay_finite(network, plain, context):
    """Zero features have no direction, and a class that is sure has no gradient."""
    model = network()
    with torch.no_grad():
        model.backbone[0].weight.zero_()
        model.backbone[0].bias.zero_()
        model.head.bias.copy_(torch.tensor([2000.0, 0.0, 0.0, 0.0]))
    gradients, value = run(ClassConditionalHead(), model, plain, CrossEntropy(), context)
    assert torch.isfinite(value)
    assert all(torch.isfinite(g).all() for g in gradients.values())


@pytest.mark.parametrize("mode", ["full", "direction", "magnitude"])
def test_a_normalised_head_is_perturbed_as_the_one_it_amounts_to(network, mixed, context, mode):
    normalized = network()
    spectral_norm(normalized.head).eval()
    plain = network()
    plain.head.load_state_dict({"weight": normalized.head.weight, "bias": normalized.head.bias})
    rule, state = ClassConditionalHead(0.1, mode), context.noise.get_state()
    expected = run(rule, plain, mixed, CrossEntropy(), context)
    context.noise.set_state(state)
    found = run(rule, normalized, mixed, CrossEntropy(), context)
    weight = expected[0].pop("head.weight")
    for name, gradient in expected[0].items():
        assert torch.allclose(found[0][name], gradient, rtol=1e-10), name
    assert found[1] == pytest.approx(expected[1])
    # The weight's gradient passes through the division.
    original = normalized.head.parametrizations.weight.original
    (through,) = torch.autograd.grad((normalized.head.weight * weight).sum(), original)
    assert torch.allclose(original.grad, through, rtol=1e-10)
