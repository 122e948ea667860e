"""RSG against a plain loop over samples and positions, and the promises of its module."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from sharpness.data import LongTail
from sharpness.errors import UserError
from sharpness.flattening import SAM, ClassConditionalStep
from sharpness.methods import build_recipe
from sharpness.methods.ldam import LDAM
from sharpness.methods.rsg import RSG, head_classes, rounds
from sharpness.methods.rsg_module import PairClassifier, RareSampleGenerator
from sharpness.models import CifarResNet, Classifier, CosineHead, ModelSpec, WideResNet, build_model
from sharpness.steps import Batch, Context, PlainStep

COUNTS = (60, 30, 9, 8, 2)


@pytest.fixture
def loss():
    return RSG(base=LDAM(scale=5.0), centers=3, head_share=0.4)


@pytest.fixture
def network(loss):
    """A narrow ResNet-8 of five classes in float64 with a generator whose centres differ."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        spec = ModelSpec("resnet8", 5, 1, "cosine", 5.0)
        model = Classifier(CifarResNet(8, 1, width=4), CosineHead(16, 5, 5.0), spec)
        model.auxiliary = loss.parts(model, COUNTS)
        with torch.no_grad():
            model.auxiliary.centers.normal_()
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.weight.copy_(torch.rand(module.weight.shape) + 0.5)
                    module.bias.normal_()
    return model.double().train()


def batch_of(labels):
    x = torch.randn(len(labels), 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(len(labels)))
    return Batch(x, torch.tensor(labels))


MORE_HEADS = [0, 2, 0, 1, 3, 0, 1, 0, 0, 4, 1]
MORE_TAILS = [2, 0, 3, 3, 4, 1, 2, 2]


def context(epoch):
    return Context(torch.tensor(COUNTS), epoch, 10)


def unit(vector):
    return [v / math.fsum(u * u for u in vector) ** 0.5 for v in vector]


def cross_entropy(logits, label):
    return torch.logsumexp(logits, 0) - logits[label]


def gammas(module, one, label):
    """The softmax over the centres of a class of one map (channels, h, w)."""
    pooled = [channel.sum() / channel.numel() for channel in one]
    scores = []
    for j in range(module.centers.shape[1]):
        score = module.offset[label, j]
        for c, value in enumerate(pooled):
            score = score + module.weight[label, c, j] * value
        scores.append(score)
    top = sum(s.exp() for s in scores)
    return [s.exp() / top for s in scores]


def pair_logits(module, first, second):
    """Of two maps (channels, h, w)."""
    pairs = module.pairs
    stacked = torch.cat([first, second])[None]
    hidden = F.conv2d(stacked, pairs.conv1.weight, pairs.conv1.bias).clamp_min(0)
    hidden = F.conv2d(hidden, pairs.conv2.weight, pairs.conv2.bias, padding=1)
    return pairs.linear.weight @ hidden[0].flatten(1).mean(1) + pairs.linear.bias


def minus_center(module, one, label):
    values = [float(g.detach()) for g in gammas(module, one, label)]
    center = module.centers[label, values.index(max(values))].detach()
    return torch.stack([channel - center[c] for c, channel in enumerate(one)])


def written_out(network, batch, late):
    """The loss of the sheet, sample by sample and position by position; and how many maps were made."""
    module, backbone = network.auxiliary, network.backbone
    labels = batch.first.tolist()
    hidden = backbone.layer2(backbone.layer1(F.relu(backbone.bn1(backbone.conv1(batch.x)))))
    maps = hidden.detach()
    n, channels, height, width = maps.shape
    positions = [(a, b) for a in range(height) for b in range(width)]
    center_loss = 0
    for one, y in zip(maps, labels, strict=True):
        for j, gamma in enumerate(gammas(module, one, y)):
            square = sum(((one[:, a, b] - module.centers[y, j]) ** 2).sum() for a, b in positions)
            center_loss = center_loss + gamma * square / n
    made, made_labels, transfer_loss = [], [], 0
    if not late:
        half = n // 2
        for i in range(half):
            logits = pair_logits(module, maps[i], maps[half + i])
            center_loss = center_loss + cross_entropy(logits, int(labels[i] == labels[half + i])) / half
    else:
        heads = [i for i, y in enumerate(labels) if y in (0, 1)]
        tails = [i for i, y in enumerate(labels) if y in (2, 3, 4)]
        few, many = sorted([heads, tails], key=len)
        segments = len(many) // len(few)
        for s in range(segments):
            for k, short in enumerate(few):
                h, t = (many[s * len(few) + k], short) if len(heads) >= len(tails) else (short, many[s * len(few) + k])
                v = minus_center(module, maps[h], labels[h])
                away = minus_center(module, maps[t], labels[t])
                moved = F.conv2d(v[None], module.transfer.weight, module.transfer.bias, padding=1)[0]
                term = cross_entropy(pair_logits(module, maps[h], moved), 0)
                for a, b in positions:
                    term = term + (moved[:, a, b].norm() - v[:, a, b].norm()).abs()
                    direction = moved[:, a, b] / moved[:, a, b].norm()
                    for c, t_hat in enumerate(unit(away[:, a, b].tolist())):
                        term = term + (t_hat * direction[c] - 1).abs()
                transfer_loss = transfer_loss + term / len(few) / segments
                made.append(maps[t] + moved)
                made_labels.append(labels[t])
    whole = torch.cat([hidden, torch.stack(made)]) if made else hidden
    features = backbone.layer3(whole).mean((2, 3))
    logits = network.head(features)
    margins = [0.5 * (2 / count) ** 0.25 for count in COUNTS]
    beta = 0.9999
    weights = [(1 - beta) / (1 - beta**count) if late else 1.0 for count in COUNTS]
    total = 0
    everyone = labels + made_labels
    for u, y in zip(logits, everyone, strict=True):
        shifted = torch.stack([v - 5 * margins[y] if c == y else v for c, v in enumerate(u)])
        total = total + weights[y] * cross_entropy(shifted, y)
    total = total / sum(weights[y] for y in everyone)
    return total + 0.1 * center_loss + 0.01 * transfer_loss, len(made)


@pytest.mark.parametrize(("labels", "made"), [(MORE_HEADS, 6), (MORE_TAILS, 6)])
@pytest.mark.parametrize("late", [False, True])
def test_the_loss_and_its_gradients_are_those_of_a_plain_loop(network, loss, labels, made, late):
    other, batch = copy.deepcopy(network), batch_of(labels)
    value = loss.of(network, batch, context(9 if late else 8))
    expected, count = written_out(other, batch, late)
    assert count == (made if late else 0)
    assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-11)
    value.backward()
    expected.backward()
    for (name, p), q in zip(network.named_parameters(), other.parameters(), strict=True):
        if name.startswith("auxiliary.pairs.") and late:
            assert p.grad is None, "frozen"
        elif q.grad is None:
            assert p.grad is None, name
        else:
            assert torch.allclose(p.grad, q.grad, rtol=1e-9, atol=1e-10), name
    for (name, a), b in zip(network.named_buffers(), other.buffers(), strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=1e-12), name


def test_without_generation_the_backbone_learns_as_ldam_does(network, loss):
    """Nothing flows back through what the generator is shown."""
    batch, plain = batch_of(MORE_HEADS), copy.deepcopy(network)
    loss.of(network, batch, context(1)).backward()
    loss.base.of(plain, batch, context(1)).backward()
    for part in ("backbone", "head"):
        for p, q in zip(getattr(network, part).parameters(), getattr(plain, part).parameters(), strict=True):
            assert torch.equal(p.grad, q.grad)


def test_the_losses_of_the_generator_do_not_reach_the_network(network):
    module, batch = network.auxiliary, batch_of(MORE_HEADS)
    hidden = network.backbone.forward_to(batch.x, 2)
    maps, y = hidden.detach(), batch.first
    new, transfer_loss = module.generate(maps[:2], y[:2], maps[4:6], y[4:6])
    (module.center_loss(maps, y) + module.pair_loss(maps, y) + transfer_loss + new.sum()).backward()
    assert all(p.grad is None for n, p in network.named_parameters() if not n.startswith("auxiliary."))


def test_the_frozen_pair_classifier_passes_gradients_on():
    torch.manual_seed(0)
    module = RareSampleGenerator(3, 2, centers=2, hidden=4).double()
    maps = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    y = torch.tensor([0, 0, 1, 1])
    _, transfer_loss = module.generate(maps[:2], y[:2], maps[2:], y[2:])
    transfer_loss.backward()
    with_pairs = module.transfer.weight.grad.clone()
    assert all(p.grad is None for p in module.pairs.parameters())
    assert module.centers.grad is module.weight.grad is module.offset.grad is None
    module.transfer.weight.grad = None
    with torch.no_grad():
        module.pairs.linear.weight.zero_()
    module.generate(maps[:2], y[:2], maps[2:], y[2:])[1].backward()
    assert not torch.allclose(module.transfer.weight.grad, with_pairs)


def test_with_the_right_scores_the_nearest_centre_is_the_nearest():
    """l = 2 s c and b = -s |c|^2 give gamma = softmax(-s |mean - c|^2 + s |mean|^2)."""
    torch.manual_seed(1)
    module = RareSampleGenerator(6, 3, centers=4).double()
    with torch.no_grad():
        module.centers.normal_()
        module.weight.copy_(2 * module.centers.transpose(1, 2))
        module.offset.copy_(-module.centers.square().sum(2))
    maps, y = torch.randn(9, 6, 4, 4, dtype=torch.float64), torch.arange(9) % 3
    squares = (maps.mean((2, 3))[:, None] - module.centers[y]).square().sum(2)
    assert torch.allclose(module.assignments(maps, y), (-squares).softmax(1), rtol=1e-9)
    nearest = module.centers[y, squares.argmin(1)].detach()
    assert torch.allclose(module.displacement(maps, y), maps - nearest[:, :, None, None])
    assert not module.displacement(maps, y).requires_grad


def test_fresh_centres_are_zero_and_start_with_the_energy_of_the_maps():
    module = RareSampleGenerator(4, 2).double()
    maps, y = torch.randn(5, 4, 3, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1])
    assert float(module.center_loss(maps, y).detach()) == pytest.approx(float(maps.square().sum() / 5), rel=1e-12)


def test_the_pair_classifier_has_the_published_shapes():
    shapes = {name: tuple(p.shape) for name, p in PairClassifier(32).named_parameters()}
    assert shapes == {
        "conv1.weight": (256, 64, 1, 1),
        "conv1.bias": (256,),
        "conv2.weight": (256, 256, 3, 3),
        "conv2.bias": (256,),
        "linear.weight": (2, 256),
        "linear.bias": (2,),
    }


@pytest.mark.parametrize("heads", [0, 1, 2, 5, 7, 12])
@pytest.mark.parametrize("tails", [0, 1, 3, 5])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_rounds_pair_equally_many_in_batch_order(heads, tails, strength):
    h, t = torch.arange(heads), 100 + torch.arange(tails)
    made = rounds(h, t, strength)
    if not heads or not tails:
        assert made == []
        return
    small, large = min(heads, tails), max(heads, tails)
    assert len(made) == max(1, math.floor(strength * large / small))
    assert all(len(a) == len(b) == small for a, b in made)
    lent, borrowed = (torch.cat(side).tolist() for side in zip(*made, strict=True))
    if heads >= tails:
        assert lent == list(range(len(lent)))
        assert all(b.tolist() == t.tolist() for _, b in made)
    else:
        assert borrowed == [100 + i for i in range(len(borrowed))]
        assert all(a.tolist() == h.tolist() for a, _ in made)


def test_head_classes_are_the_largest_fifth():
    assert torch.nonzero(head_classes(torch.tensor([9, 8, 7, 6, 5, 4, 3, 2, 1, 1]), 0.2)).flatten().tolist() == [0, 1]
    assert torch.nonzero(head_classes(torch.tensor([1, 5, 2]), 0.2)).flatten().tolist() == [1]
    assert head_classes(torch.arange(100), 0.2).sum() == 20


@pytest.mark.parametrize("labels", [[0, 1, 1, 0], [2, 3, 4, 2]])
def test_a_batch_without_heads_or_without_tails_generates_nothing(network, loss, labels):
    batch, plain = batch_of(labels), copy.deepcopy(network)
    value = loss.of(network, batch, context(10))
    base = loss.base.of(plain, batch, context(10))
    maps = network.backbone.forward_to(batch.x, 2).detach()
    assert float((value - base).detach()) == pytest.approx(
        0.1 * float(network.auxiliary.center_loss(maps, batch.first).detach()), rel=1e-9
    )


def test_inference_does_not_know_the_module(network):
    x = batch_of(MORE_TAILS).x
    with_module = network.eval()(x)
    network.auxiliary = None
    assert torch.equal(network(x), with_module)


def test_sam_perturbs_the_generator_too_and_puts_everything_back(network, loss):
    before = copy.deepcopy(network.state_dict())
    batch, where = batch_of(MORE_HEADS), context(10)
    plain = copy.deepcopy(network)
    value = SAM(0.5).backward(network, batch, loss, where)
    assert float(value) == float(PlainStep().backward(plain, batch, loss, where))
    for name, p in network.named_parameters():
        assert torch.equal(p.detach(), before[name])
    assert not torch.equal(network.auxiliary.transfer.weight.grad, plain.auxiliary.transfer.weight.grad)


def test_a_rule_that_takes_losses_by_sample_is_refused(network, loss):
    with pytest.raises(UserError, match="RSG's loss is one of whole batches"):
        ClassConditionalStep().backward(network, batch_of(MORE_HEADS), loss, context(1))


def test_the_module_takes_the_channels_before_the_last_group():
    loss = RSG()
    assert loss.parts(build_model("resnet32", 10), (1,) * 10).transfer.weight.shape == (32, 32, 3, 3)
    assert loss.parts(build_model("resnet50-cifar", 10), (1,) * 10).transfer.weight.shape == (1024, 1024, 3, 3)
    module = loss.parts(build_model("resnet8", 7), (1,) * 7)
    assert (module.centers.shape, module.weight.shape, module.offset.shape) == ((7, 15, 32), (7, 32, 15), (7, 15))


def test_a_network_without_groups_is_refused():
    wide = Classifier(WideResNet(1, 1, 3), CosineHead(64, 10), ModelSpec("wrn", 10))
    with pytest.raises(UserError, match="not WideResNet"):
        RSG().parts(wide, (1,) * 10)


def test_the_stage_is_the_released_one(cifar):
    recipe = build_recipe("rsg", cifar())
    (stage,) = recipe.stages
    assert (recipe.head, recipe.scale, stage.drop_last, stage.mixup) == ("cosine", 30.0, True, 0.0)
    assert stage.loss == RSG(LDAM(30.0, 0.5, 0.8, 0.9999), 15, 0.2, 1.0, 0.8, 0.1, 0.01)
    factors = [stage.schedule.factor(e, 200) for e in (1, 5, 159, 160, 179, 180, 200)]
    assert factors == [0.2, 1.0, 1.0, 0.01, 0.01, 0.0001, 0.0001]
    assert stage.loss.deterministic() == LDAM()


@pytest.mark.parametrize(
    ("options", "share"), [({}, "20 %"), ({"head_share": 0.5}, "50 %"), ({"head_share": 0.29}, "29 %")]
)
def test_the_card_tells_the_share_of_head_classes(cifar, options, share):
    (note,) = (n for n in build_recipe("rsg", cifar(), **options).notes if "head classes" in n)
    assert note.startswith(f"head classes are the largest {share} by count")


def test_equal_classes_are_refused():
    even = LongTail("toy", ("a", "b"), "exp", 1.0, "first_n", (7, 7), "oltr")
    with pytest.raises(UserError, match="all 2 of toy have 7 images"):
        build_recipe("rsg", even)


@pytest.mark.parametrize("options", [{"centers": 0}, {"head_share": 1.0}, {"transfer_strength": 1.5}])
def test_senseless_options_are_refused(cifar, options):
    with pytest.raises(UserError, match=r"centers=0: give an integer, at least 1|give a share between 0 and 1"):
        build_recipe("rsg", cifar(), **options)
