"""What an epoch visits."""

import numpy as np
import pytest
import torch
from scipy import stats

from sharpness.data.samplers import SAMPLERS, epoch_indices
from sharpness.errors import UserError

COUNTS = torch.tensor([400, 120, 50, 20, 7, 1])


@pytest.fixture
def labels():
    every = torch.repeat_interleave(torch.arange(len(COUNTS)), COUNTS)
    return every[torch.randperm(len(every), generator=torch.manual_seed(1))]


def draw(name, labels, seed=0, **options):
    return epoch_indices(name, labels, len(COUNTS), torch.Generator().manual_seed(seed), **options)


@pytest.mark.parametrize("name", [*SAMPLERS, "class_balanced:4", "effective_number:0.99"])
def test_an_epoch_is_a_function_of_the_generator(labels, name):
    first, second, other = draw(name, labels, 5), draw(name, labels, 5), draw(name, labels, 6)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert (first.dtype, first.shape) == (torch.int64, labels.shape)
    assert 0 <= int(first.min()) <= int(first.max()) < len(labels)


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampling_leaves_the_global_generators_alone(labels, name):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    draw(name, labels)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_instance_visits_every_image_once(labels):
    assert draw("instance", labels).sort().values.tolist() == list(range(len(labels)))


@pytest.mark.parametrize("per_class", [1, 2, 4, 9])
def test_class_balanced_visits_every_class_once_a_cycle(labels, per_class):
    visited = labels[draw("class_balanced", labels, per_class=per_class)]
    num_classes = len(COUNTS)
    for start in range(0, len(visited), num_classes * per_class):
        cycle = visited[start : start + num_classes * per_class]
        if len(cycle) == num_classes * per_class:
            assert cycle.bincount().tolist() == [per_class] * num_classes
            assert (cycle.reshape(num_classes, per_class) == cycle[::per_class, None]).all()


@pytest.mark.parametrize("per_class", [1, 3])
def test_class_balanced_uses_up_a_class_before_repeating_an_image(labels, per_class):
    indices = draw("class_balanced", labels, per_class=per_class)
    for c, n in enumerate(COUNTS.tolist()):
        stream = indices[labels[indices] == c]
        times = stream.bincount(minlength=len(labels))[labels == c]
        assert int(times.max() - times.min()) <= 1
        for start in range(0, len(stream), n):
            assert len(stream[start : start + n].unique()) == len(stream[start : start + n])


def test_class_balanced_shuffles_every_cycle_anew(labels):
    indices = draw("class_balanced", labels)
    orders = {tuple(labels[indices[i : i + 6]].tolist()) for i in range(0, 594, 6)}
    assert len(orders) > 50
    stream = indices[labels[indices] == 4]
    assert len({tuple(stream[i : i + 7].tolist()) for i in range(0, 91, 7)}) > 10


def test_class_balanced_takes_its_argument_from_the_name(labels):
    assert torch.equal(draw("class_balanced:4", labels), draw("class_balanced", labels, per_class=4))
    assert torch.equal(draw("class_balanced:4", labels, per_class=2), draw("class_balanced:4", labels))


def test_class_balanced_skips_classes_without_images():
    labels = torch.tensor([0, 0, 0, 3])
    indices = epoch_indices("class_balanced", labels, 6, torch.Generator().manual_seed(0))
    assert labels[indices].bincount().tolist() == [2, 0, 0, 2]


def class_probabilities(name):
    n = COUNTS.double().numpy()
    if name == "inverse_frequency":
        weights = 1 / n
    elif name == "cben":
        gap = np.log(n.max()) - np.log(n)
        beta = 0.9999 + 1e-5 * (gap - gap.min()) / (gap.max() - gap.min())
        weights = (1 - beta) / (1 - beta**n)
    else:
        beta = float(name.partition(":")[2] or 0.9999)
        weights = (1 - beta) / (1 - beta**n)
    return weights * n / (weights * n).sum()


@pytest.mark.parametrize("name", ["inverse_frequency", "effective_number", "effective_number:0.9", "cben"])
def test_weighted_samplers_draw_classes_and_images_with_their_probabilities(labels, name):
    indices = torch.cat([draw(name, labels, seed) for seed in range(100)])
    expected = class_probabilities(name)
    drawn = labels[indices].bincount(minlength=len(COUNTS)).numpy()
    assert stats.chisquare(drawn, expected * len(indices)).pvalue > 1e-3
    per_image = indices.bincount(minlength=len(labels)).numpy()
    share = (expected / COUNTS.numpy())[labels.numpy()]
    assert stats.chisquare(per_image, share * len(indices)).pvalue > 1e-3


def test_cben_of_balanced_data_is_uniform():
    labels = torch.arange(4).repeat(50)
    indices = torch.cat([epoch_indices("cben", labels, 4, torch.Generator().manual_seed(s)) for s in range(50)])
    assert stats.chisquare(indices.bincount(minlength=200).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("name", ["inverse_frequency", "effective_number", "cben"])
def test_classes_without_images_are_harmless(name):
    labels = torch.tensor([0, 0, 0, 2, 2, 5])
    indices = epoch_indices(name, labels, 7, torch.Generator().manual_seed(0))
    assert len(indices) == 6


def test_an_unknown_sampler_lists_the_choices(labels):
    with pytest.raises(UserError, match="instance, class_balanced, inverse_frequency, effective_number, cben"):
        draw("square_root", labels)


@pytest.mark.parametrize(
    "name",
    [
        "instance:2",
        "cben:1",
        "class_balanced:",
        "class_balanced:0",
        "class_balanced:1.5",
        "effective_number:1",
    ],
)
def test_a_wrong_argument_is_named(labels, name):
    with pytest.raises(UserError, match=name):
        draw(name, labels)


def test_wrong_labels_are_refused(labels):
    with pytest.raises(UserError, match="per_class|class_balanced"):
        draw("class_balanced", labels, per_class=0)
    with pytest.raises(UserError, match="label 5 at index"):
        epoch_indices("instance", labels, 5, torch.Generator())
    with pytest.raises(UserError, match="empty"):
        draw("instance", labels[:0])
