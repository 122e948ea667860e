"""The same images: in any order, normalised by anything, and told apart by pixels or by names; others are refused."""

import dataclasses
import functools
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpness import (
    Objective,
    UserError,
    eigenvalues,
    line,
    load_result,
    measure,
    plane,
    random_perturbation,
    spectral_density,
    trace,
    worst_case,
)
from sharpness.data import ImageSet, read_images
from sharpness.results import Comparison

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
NAMES = ("cat", "dog", "eel")
N = 24
GRID = (-0.1, 0.1, 3)


def eight_bits():
    return torch.randint(0, 256, (N, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def images():
    return eight_bits()


LABELS = torch.arange(N) % 3


@pytest.fixture(autouse=True)
def short_basis(monkeypatch):
    """Which images an interval is of does not hang on its accuracy."""
    monkeypatch.setattr("sharpness.probes.curvature.resampling.DIMENSIONS", 12)


def model(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)).to(dtype)


def of(images, constants=IMAGENET, labels=LABELS, seed=0, **options):
    return Objective(model(seed), ImageSet(images, labels, *constants), class_names=NAMES, **options)


def tensors(images, constants):
    m, s = (torch.tensor(v)[:, None, None] for v in constants)
    return (images / 255 - m) / s


def shuffled(seed=0):
    return torch.randperm(N, generator=torch.Generator().manual_seed(seed))


PROBES = {
    "line": lambda o: line(o, GRID),
    "plane": lambda o: plane(o, GRID, GRID),
    "perturbation": lambda o: random_perturbation(o, [0.1], 2),
    "worst case": lambda o: worst_case(o, m=8),
    "eigenvalues": lambda o: eigenvalues(o, which="both", per_class=True),
    "bootstrap": lambda o: eigenvalues(o, bootstrap=100),
    "matched": lambda o: eigenvalues(o, match_samples=4),
    "layers": lambda o: eigenvalues(o, per_layer=True),
    "density": lambda o: spectral_density(o, draws=2, steps=4),
    "trace": lambda o: trace(o, draws=4),
    "measure": lambda o: measure(o, "accuracy,loss,lambda_max", draws=2),
}
probes = pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)


@functools.cache
def alone(probe, constants=IMAGENET, seed=0):
    """What a probe finds of the images in their order, for all tests that compare with it; not to be changed."""
    return probe(of(eight_bits(), constants, seed=seed))


def numbers(result):
    found = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    left_out = ("sample_ids", "class_samples", "residuals", "converged", "products")
    return {k: v for k, v in found.items() if isinstance(v, np.ndarray) and k not in left_out}


@probes
def test_any_order_and_any_normalisation_give_the_numbers_of_each_alone(probe, images):
    """The second model's images come in another order; whatever draws or batches samples takes that of the first."""
    order = shuffled()
    both = probe({"a": of(images), "b": of(images[order], HALF, LABELS[order], seed=1)})
    single = {"a": alone(probe), "b": alone(probe, HALF, 1)}
    for label, result in single.items():
        found = numbers(both[label])
        assert found
        for name, value in numbers(result).items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert both["a"].provenance["images_sha256"] == both["b"].provenance["images_sha256"]
    assert both["b"].provenance["image_constants"] == {"mean": list(HALF[0]), "std": list(HALF[1])}
    assert len(both.to_frame()) == sum(len(r.to_frame()) for r in single.values())
    assert both.plot() is not None


@probes
def test_other_images_are_refused_with_how_many_and_which(probe, images):
    other = images.clone()
    other[[3, 4, 6]] += 1
    which = "classes cat 2, dog 1; first: index 3 of 'a' is not in 'b'"
    told = f"'a' and 'b' cannot be compared: 3 of 24 images differ ({which})"
    with pytest.raises(UserError, match=re.escape(told)):
        probe({"a": of(images), "b": of(other, HALF, seed=1)})


@probes
def test_results_of_separate_calls_and_files_follow_the_same_rule(probe, images, tmp_path):
    order = shuffled()
    other = images.clone()
    other[5] += 1
    a, b, c = (
        load_result(result.save(tmp_path / f"{i}.nc"))
        for i, result in enumerate(
            [alone(probe), probe(of(images[order], HALF, LABELS[order], seed=1)), probe(of(other, seed=1))]
        )
    )
    if "match_samples" not in a.provenance:
        np.testing.assert_array_equal(a.probed.identity.words, of(images).identity.words)
    together, apart = Comparison(a=a, b=b), Comparison(a=a, b=b, c=c)
    assert together.plot() is not None and len(together.to_frame())
    if set(map(tuple, a.sample_ids.tolist())) == set(map(tuple, c.sample_ids.tolist())):
        return  # the images that were drawn are the same
    told = r"'a' and 'c' cannot be compared: \d+ of (24|12) images differ \(class(es)? "
    for act in (apart.plot, apart.to_frame, lambda: type(a).compare(apart)):
        with pytest.raises(UserError, match=told):
            act()


@probes
def test_files_from_before_images_were_kept_are_compared_by_their_inputs(probe, images):
    def old(result):
        return dataclasses.replace(result, sample_ids=None)

    a, same, other = alone(probe), alone(probe, seed=1), alone(probe, HALF, 1)
    assert Comparison(a=a, b=old(same)).plot() is not None
    with pytest.raises(UserError, match="data_sha256 is .* and 'b' does not tell whether that is the images"):
        Comparison(a=a, b=old(other)).plot()
    with pytest.raises(UserError, match="'a' and 'b' does not tell"):
        Comparison(a=old(a), b=old(other)).plot()


def told(*objectives):
    with pytest.raises(UserError) as caught:
        line(dict(zip("abc", objectives, strict=False)), GRID)
    return str(caught.value).removeprefix("'a' and 'b' cannot be compared: ")


def test_what_differs_is_told_in_words(images):
    a = of(images)
    part = told(a, of(images[:20], labels=LABELS[:20]))
    assert part.startswith(
        "4 of the 24 images of 'a' are not in 'b' (classes eel 2, cat 1, dog 1; first: index 20); give"
    )
    labels = LABELS.clone()
    labels[7] = 0
    assert told(a, of(images, labels=labels)) == (
        "labels of 1 of 24 images differ (class dog 1; first: index 7, dog in 'a' and cat in 'b'): give both the same "
        "labels"
    )
    twice = images.clone()
    twice[3] = twice[0]
    assert told(a, of(twice)).startswith("1 of 24 images differ (class cat 1; first: index 3 of 'a' is not in 'b')")
    assert told(of(twice), a).startswith("1 of 24 images differ (class cat 1; first: index 3 of 'a' is not in 'b')")
    uneven = told(a, of(torch.cat([images[2:], images[:1] + 1]), labels=torch.cat([LABELS[2:], LABELS[:1]])))
    assert uneven.startswith(
        "2 of the 24 images of 'a' are not in 'b' (classes cat 1, dog 1; first: index 0), and 1 of "
    )
    assert ", and 1 of the 23 images of 'b' are not in 'a' (class cat 1; first: index 22)" in uneven
    weights = torch.ones(N)
    weights[:2] = 3
    assert told(a, of(images, weights=weights)).startswith("weights of 24 of 24 images differ")
    assert list(line({"a": a, "b": of(images, weights=torch.full((N,), 3.0))}, GRID)) == ["a", "b"]


def test_weights_go_with_their_images(images):
    weights, order = torch.arange(1.0, N + 1), shuffled()
    a, b = of(images, weights=weights), of(images[order], HALF, LABELS[order], seed=1, weights=2 * weights[order])
    found = line({"a": a, "b": b}, GRID)
    np.testing.assert_allclose(
        found["b"].losses, line(of(images, HALF, seed=1, weights=weights), GRID).losses, rtol=1e-6
    )
    assert Comparison(a=line(a, GRID), b=line(b, GRID)).plot() is not None
    with pytest.raises(UserError, match="weights of .* of 24 images differ"):
        Comparison(a=line(a, GRID), b=line(of(images, HALF, seed=1), GRID)).plot()


def test_tensors_are_compared_as_they_stand_unless_something_tells_them(images):
    xs = {"a": tensors(images, IMAGENET), "b": tensors(images, HALF)}

    def objectives(**told):
        return [
            Objective(model(i), (x, LABELS), class_names=NAMES, **{k: v[i] for k, v in told.items()})
            for i, x in enumerate(xs.values())
        ]

    assert "24 of 24 images differ" in (refused := told(*objectives()))
    assert "mean=, std=" in refused and "names=" in refused
    means, stds = zip(IMAGENET, HALF, strict=True)
    paths = [f"{i}.png" for i in range(N)]
    for options in ({"mean": means, "std": stds}, {"names": (paths, paths)}):
        found = line(dict(zip("ab", objectives(**options), strict=True)), GRID)
        for label, one in zip("ab", objectives(), strict=True):
            np.testing.assert_array_equal(found[label].losses, line(one, GRID).losses)
    first, second = objectives(mean=means, std=stds)
    assert list(line({"a": first, "set": of(images, HALF), "b": second}, GRID)) == ["a", "set", "b"]
    named = told(*objectives(names=(paths, [*paths[:-1], "x"])))
    assert named.startswith("1 of 24 images differ (class eel 1; first: index 23 of 'a' is not in 'b')")
    mixed = told(of(images), objectives()[1])
    assert "'a' tells its samples apart by pixels and 'b' by values" in mixed and "mean=, std=" in mixed
    assert told(of(images), objectives(names=(paths, paths))[1]).endswith("give both names=, or neither")


def test_the_very_same_tensors_need_no_telling(images):
    """An image set, and what its tensors are: bit by bit the same inputs."""
    own = of(images)
    other = Objective(model(1), ImageSet(images, LABELS, *IMAGENET).tensors, class_names=NAMES)
    found = eigenvalues({"a": own, "b": other}, match_samples=4)
    wanted = eigenvalues(of(images, seed=1), match_samples=4)
    np.testing.assert_array_equal(found["b"].values, wanted.values)
    assert found.plot() is not None
    assert other.identity.by == "values"  # what the user gave stays what it was


def test_matched_samples_are_the_same_whatever_the_order(images):
    order = shuffled(3)
    a, b = of(images).matched(4, seed=5), of(images[order], HALF, LABELS[order]).matched(4, seed=5)
    assert a.identity.sha256 == b.identity.sha256 and a.class_samples.tolist() == [4, 4, 4]
    assert a.identity.sha256 != of(images).matched(4, seed=6).identity.sha256


def test_other_sizes_of_the_same_files_are_the_same_images(images, tmp_path):
    from PIL import Image

    for i, image in enumerate(images):
        path = tmp_path / NAMES[i % 3] / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    torch.manual_seed(0)
    pooled = [
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        for _ in "ab"
    ]
    small, large = (Objective(m, read_images(tmp_path, size=s)) for m, s in zip(pooled, (None, 8), strict=True))
    assert small.x.shape[-1] == 4 and large.x.shape[-1] == 8
    assert list(line({"a": small, "b": large}, GRID)) == ["a", "b"]


def test_a_target_that_is_no_label_is_part_of_the_identity(images):
    x = tensors(images, IMAGENET)
    targets = torch.randn(N, 3, generator=torch.Generator().manual_seed(1))

    def squares(u, t):
        return (u - t).square().sum(1)

    def regression(t, seed=0, **options):
        return Objective(model(seed), (x, t), squares, mean=IMAGENET[0], std=IMAGENET[1], **options)

    order = shuffled()
    same = Objective(
        model(1), (tensors(images[order], HALF), targets[order].double()), squares, mean=HALF[0], std=HALF[1]
    )
    found = line({"a": regression(targets), "b": same}, GRID)
    y = model(1)(tensors(images, HALF))
    assert found["b"].losses[1] == pytest.approx(squares(y, targets).mean().item(), rel=1e-5)
    other = targets.clone()
    other[2] += 1
    assert told(regression(targets), regression(other, 1)).startswith("1 of 24 images differ")
    groups = [list("xy")[i % 2] for i in range(N)]
    moved = ["y", *groups[1:]]
    split = told(regression(targets, group_by=groups), regression(targets, 1, group_by=moved))
    assert split.startswith("labels of 1 of 24 images differ (class x 1; first: index 0, x in 'a' and y in 'b')")


def test_measure_refuses_other_images_before_anything_is_measured(images, monkeypatch):
    monkeypatch.setattr(Objective, "evaluate", lambda self: pytest.fail("evaluated"))
    with pytest.raises(UserError, match="24 of 24 images differ"):
        measure({"a": of(images), "b": of(images.flip(3), seed=1)})


def test_unfinished_work_is_kept_by_the_exact_inputs(images, tmp_path):
    """Another normalisation is another key, though the images are the same."""
    for constants in (IMAGENET, HALF, IMAGENET):
        line(of(images, constants), GRID, resume=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_losses_at_the_centre_are_those_of_plain_torch(images):
    found = plane({"a": of(images), "b": of(images, HALF, seed=1)}, GRID, GRID)
    for seed, (label, constants) in enumerate({"a": IMAGENET, "b": HALF}.items()):
        wanted = F.cross_entropy(model(seed)(tensors(images, constants)), LABELS).item()
        assert found[label].losses[1, 1] == pytest.approx(wanted, rel=1e-5)
