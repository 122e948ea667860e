"""M2m: who becomes a slot and a seed, translation image by image, and what translation must leave alone."""

import copy
from collections import Counter
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from sharpness.data import ImageSet
from sharpness.errors import UserError
from sharpness.methods import build_recipe
from sharpness.methods.cross_entropy import CrossEntropy
from sharpness.methods.m2m import MajorToMinor, acceptance_probabilities
from sharpness.methods.m2m_translation import Translation
from sharpness.methods.recipe import Deferred
from sharpness.models import Frozen, build_model
from sharpness.steps import Batch, Context

COUNTS = [40, 12, 12, 3]
MEAN, STD = (0.5, 0.3), (0.25, 0.4)


def classifier(seed):
    """A small residual network of two channels and four classes in float64, with statistics of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model("resnet8", 4, 2).double()
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                        tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return model


@pytest.fixture
def images():
    return ImageSet(torch.zeros(1, 2, 4, 4, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), MEAN, STD)


@pytest.fixture
def trained():
    """f with a frozen g, in training mode."""
    network = classifier(1).train()
    network.auxiliary = Frozen(classifier(2))
    return network


def statistics(values):
    return (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in values)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(3)
    pixels = torch.rand(24, 2, 8, 8, dtype=torch.float64, generator=generator)
    mean, std = statistics((MEAN, STD))
    return Batch((pixels - mean) / std, torch.arange(24) % 4)


def context(seed=0, counts=COUNTS):
    return Context(torch.tensor(counts), 200, 200, torch.Generator().manual_seed(seed))


def test_acceptance_is_the_closed_form_and_grows_with_the_gap():
    table = acceptance_probabilities(torch.tensor(COUNTS), 0.9)
    for i, seed in enumerate(COUNTS):
        for j, target in enumerate(COUNTS):
            expected = 1 - 0.9 ** (seed - target) if seed > target else 0.0
            assert float(table[i, j]) == pytest.approx(expected, rel=1e-12)


def draws(labels, beta, repetitions):
    rule, where = MajorToMinor(beta=beta), context(7)
    return [rule.draw(labels, where) for _ in range(repetitions)]


def test_an_image_is_kept_with_its_class_share_of_the_largest():
    """With beta = 0 every more frequent image is a certain seed, so that slots are exactly what is not kept."""
    labels = torch.arange(400) % 4
    slots = torch.cat([s for s, _ in draws(labels, 0.0, 50)])
    found = torch.bincount(labels[slots], minlength=4).tolist()
    assert found[0] == 0
    for c in (1, 2, 3):
        assert stats.binomtest(found[c], 5000, 1 - COUNTS[c] / COUNTS[0]).pvalue > 1e-4


def test_seeds_are_drawn_by_acceptance_and_toss_a_coin_of_it():
    """P(slot wins with seed j) = (1 - n_k / n_max) P_j^2 / sum P."""
    labels = torch.tensor([0, 0, 1, 2, 3])
    trials, batches = 20000, 400  # the chances are the same if all of a batch occur 50 times
    pairs = Counter(
        (s % 5, j % 5)
        for slots, seeds in draws(labels.repeat(trials // batches), 0.9, batches)
        for s, j in zip(slots.tolist(), seeds.tolist(), strict=True)
    )
    p = [[1 - 0.9 ** max(COUNTS[a] - COUNTS[b], 0) for a in labels.tolist()] for b in labels.tolist()]
    for slot in (2, 3, 4):
        for seed in range(5):
            chance = (1 - COUNTS[labels[slot]] / 40) * p[slot][seed] ** 2 / sum(p[slot])
            assert stats.binomtest(pairs[slot, seed], trials, chance).pvalue > 1e-4, (slot, seed)


def test_seeds_are_of_more_frequent_classes(trained, images, batch):
    slots, seeds = MajorToMinor(beta=0.5).draw(batch.first, context())
    counts = torch.tensor(COUNTS)
    assert len(slots)
    assert (counts[batch.first[seeds]] > counts[batch.first[slots]]).all()
    assert len(slots.unique()) == len(slots)


@pytest.mark.parametrize("steps", [1, 10])
def test_translation_is_that_of_every_image_by_itself_in_normalised_values(trained, steps):
    """One image at a time, by the gradient of normalised values: divided by s it is that of pixels."""
    generator = torch.Generator().manual_seed(4)
    pixels = torch.rand(5, 2, 8, 8, dtype=torch.float64, generator=generator)
    pixels[0] = 0.0
    seeds, targets = torch.tensor([0, 0, 1, 2, 0]), torch.tensor([3, 1, 3, 3, 2])
    mean, std = statistics((MEAN, STD))
    g, f = trained.auxiliary, trained.eval()
    rule = Translation(seed_weight=0.3, step_length=0.1, steps=steps)
    made = rule(pixels, seeds, targets, lambda p: g((p - mean) / std), lambda p: f((p - mean) / std))
    for i in range(5):
        z = (pixels[i] - mean) / std
        for _ in range(steps):
            z = z.detach().requires_grad_(True)
            loss = -g(z[None]).log_softmax(1)[0, targets[i]] + 0.3 * f(z[None])[0, seeds[i]]
            loss.backward()
            slope = z.grad / std
            length = sum(float(v) ** 2 for v in slope.flatten()) ** 0.5
            z = z.detach() - 0.1 * (slope / length) / std
            z = torch.maximum(torch.minimum(z, (1 - mean) / std), (0 - mean) / std)
        assert torch.allclose(made[i], z * std + mean, rtol=0, atol=1e-11)


def test_a_step_has_its_length_where_no_pixel_is_clamped(trained):
    pixels = torch.full((6, 2, 8, 8), 0.5, dtype=torch.float64)
    pixels += 0.2 * torch.rand(pixels.shape, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(6) % 3
    one = Translation(step_length=0.1, steps=1)(pixels, labels, labels + 1, trained.auxiliary, trained.eval())
    lengths = (one - pixels).flatten(1).norm(dim=1)
    assert torch.allclose(lengths, torch.full((6,), 0.1, dtype=torch.float64), rtol=1e-10)


def test_images_without_a_slope_stay():
    pixels = torch.rand(2, 1, 3, 3, dtype=torch.float64)
    labels = torch.tensor([0, 1])
    made = Translation()(
        pixels, labels, 1 - labels, lambda x: 0 * x.flatten(1)[:, :2], lambda x: 0 * x.flatten(1)[:, :2]
    )
    assert torch.equal(made, pixels)


@pytest.mark.parametrize("radius", [0.0, 0.5, 100.0])
def test_noise_is_bounded_per_image_and_pixels_stay_between_0_and_1(radius):
    generator = torch.Generator().manual_seed(2)
    pixels = torch.rand(50, 3, 8, 8, dtype=torch.float64, generator=generator)
    inside = 0.5 + 0 * pixels
    rule = Translation(noise=radius)
    lengths = (rule.start(inside, generator) - inside).flatten(1).norm(dim=1)
    if radius < 1:
        assert torch.allclose(lengths, torch.full_like(lengths, radius), atol=1e-6)
    else:
        noise = (rule.start(inside, generator) - inside).flatten()
        assert stats.kstest(noise.numpy(), stats.uniform(-0.5, 1).cdf).pvalue > 1e-3
    noisy = rule.start(pixels, generator)
    assert 0 <= float(noisy.min()) <= float(noisy.max()) <= 1


def test_accepted_images_convince_g_and_all_others_are_what_they_were(trained, images, batch):
    rule = MajorToMinor(beta=0.5, gamma=0.4, translation=Translation(steps=3))
    made = rule(trained, batch, images, context())
    slots, _ = rule.draw(batch.first, context())
    changed = (made.x != batch.x).flatten(1).any(1)
    assert 0 < changed.sum() < len(slots), "some are accepted and some are not"
    assert set(torch.nonzero(changed).flatten().tolist()) <= set(slots.tolist())
    assert torch.equal(made.first, batch.first)
    mean, std = statistics((MEAN, STD))
    pixels = made.x[changed] * std + mean
    assert float(pixels.min()) >= -1e-12
    assert float(pixels.max()) <= 1 + 1e-12
    sure = trained.auxiliary(made.x).softmax(1).gather(1, made.first[:, None]).squeeze(1)
    assert (sure[changed] >= 0.4).all()


def test_folded_networks_translate_to_the_same_images(trained, images, batch):
    plain, where = MajorToMinor(beta=0.5, gamma=0.3), context()
    made = plain(trained, batch, images, context())
    modes = {name: m.training for name, m in trained.named_modules()}
    fast = plain.for_epoch(trained, images, where)
    assert fast.folded is not None
    assert fast == plain, "a recipe and a captured translation know it by its numbers"
    assert {name: m.training for name, m in trained.named_modules()} == modes
    assert not torch.equal(made.x, batch.x)
    torch.testing.assert_close(fast(trained, batch, images, context()).x, made.x, rtol=0, atol=1e-9)
    with torch.no_grad():  # a step of training
        for p in trained.parameters():
            p.mul_(0.9)
    torch.testing.assert_close(
        fast(trained, batch, images, context()).x, plain(trained, batch, images, context()).x, rtol=0, atol=1e-9
    )


def test_networks_that_cannot_be_traced_translate_as_they_are(trained, images, batch):
    forward = trained.backbone.forward
    trained.backbone.forward = lambda x: forward(x) if bool(x.sum() > -1e9) else x
    plain = MajorToMinor(beta=0.5, gamma=0.3)
    made = plain.for_epoch(trained, images, context())
    assert made is plain
    assert not torch.equal(made(trained, batch, images, context()).x, batch.x)


def test_all_winners_are_replaced_when_every_confidence_will_do(trained, images, batch):
    rule = MajorToMinor(beta=0.5, gamma=0.0)
    slots, _ = rule.draw(batch.first, context())
    changed = (rule(trained, batch, images, context()).x != batch.x).flatten(1).any(1)
    assert torch.nonzero(changed).flatten().tolist() == slots.tolist()


def test_without_acceptance_the_oversampled_batch_stays(trained, images, batch):
    made = MajorToMinor(beta=0.5, gamma=1 - 1e-12, translation=Translation(steps=1))(trained, batch, images, context())
    assert torch.equal(made.x, batch.x)
    balanced = context(counts=[9, 9, 9, 9])
    assert MajorToMinor()(trained, batch, images, balanced) is batch
    rare = replace(batch, x=batch.x[3::4], first=batch.first[3::4])
    assert MajorToMinor()(trained, rare, images, context()) is rare, "one class alone has no seed"


def test_neither_network_is_touched(trained, images, batch):
    trained.backbone.layer2.eval()
    modes = {name: m.training for name, m in trained.named_modules()}
    before = copy.deepcopy(trained.state_dict())
    first = MajorToMinor(beta=0.5, gamma=0.0)(trained, batch, images, context())
    assert {name: m.training for name, m in trained.named_modules()} == modes
    assert not any(m.training for m in trained.auxiliary.modules())
    after = trained.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(p.grad is None for p in trained.parameters())
    assert not first.x.requires_grad
    alone = replace(batch, x=batch.x.clone())
    again = MajorToMinor(beta=0.5, gamma=0.0)(trained, alone, images, context())
    assert torch.equal(first.x, again.x), "a function of the context's generator"
    assert torch.equal(alone.x, batch.x), "the batch itself is not written to"


def test_modes_come_back_after_an_error(trained, images, batch):
    trained.auxiliary.network.head.register_forward_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        MajorToMinor(beta=0.5)(trained, batch, images, context())
    assert all(m.training for m in trained.backbone.modules())


def test_global_random_numbers_do_not_move(trained, images, batch):
    before = torch.get_rng_state()
    MajorToMinor(beta=0.5)(trained, batch, images, context())
    assert torch.equal(torch.get_rng_state(), before)


def test_translation_raises_what_it_promises(trained):
    """g becomes surer of the target and f forgets the seed."""
    pixels = torch.rand(12, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    seeds, targets = torch.arange(12) % 4, (torch.arange(12) + 1) % 4
    g, f = trained.auxiliary, trained.eval()
    sure = Translation(seed_weight=0.0)(pixels, seeds, targets, g, f)
    assert (
        F.cross_entropy(g(sure), targets, reduction="none") < F.cross_entropy(g(pixels), targets, reduction="none")
    ).all()
    forgotten = Translation(seed_weight=1e6)(pixels, seeds, targets, g, f)
    assert (f(forgotten).gather(1, seeds[:, None]) < f(pixels).gather(1, seeds[:, None])).all()


def test_the_stages_are_the_helper_and_the_translation(cifar):
    recipe = build_recipe("m2m", cifar())
    first, second = recipe.stages
    (ce,) = build_recipe("ce", cifar()).stages
    assert first == replace(ce, name="helper")
    assert (second.helper, second.loss, second.schedule) == ("previous", CrossEntropy(), ce.schedule)
    assert second.deferred == Deferred(
        0.8, "inverse_frequency", MajorToMinor(0.999, 0.9, Translation(0.5, 0.1, 10, 0.5))
    )
    assert [second.late(e) is None for e in (1, 160, 161, 200)] == [True, True, False, False]
    assert (second.sampler, recipe.head) == ("instance", "linear")
    shorter = recipe.with_epochs(10).stages[1]
    assert [shorter.late(e) is None for e in (8, 9)] == [True, False]


def test_with_a_helper_there_is_one_stage(cifar):
    (stage,) = build_recipe("m2m", cifar(), helper="runs/ce", beta=0.9).stages
    assert (stage.helper, stage.deferred.transform.beta) == ("runs/ce", 0.9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 1.0}, "beta=1.0"),
        ({"gamma": -0.1}, "gamma=-0.1"),
        ({"steps": 0}, "steps=0: give an integer, at least 1"),
        ({"step_length": 0.0}, "step_length above 0"),
        ({"seed_weight": -1.0}, "seed_weight of at least 0"),
        ({"helper": 3}, "helper=3"),
    ],
)
def test_senseless_options_are_refused(cifar, options, message):
    with pytest.raises(UserError, match=message):
        build_recipe("m2m", cifar(), **options)
