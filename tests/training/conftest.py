"""Digits, short recipes, and runs that die."""

import functools
from dataclasses import replace

import pytest
import torch

from sharpness import load_data
from sharpness.data import LongTailData
from sharpness.data.digits import digit_pools
from sharpness.methods import METHODS
from sharpness.models import BACKBONES, CifarResNet
from sharpness.training.state import RunFolder


@pytest.fixture(scope="module", autouse=True)
def small(shallow_resnet8):
    """What training does with a network does not hang on its size."""


@pytest.fixture
def two_groups(monkeypatch):
    """RSG generates before the last group: it needs one more."""
    monkeypatch.setitem(BACKBONES, "resnet8", functools.partial(CifarResNet, 8, width=4, blocks=(1, 1)))


@pytest.fixture(autouse=True)
def large_enough(request):
    if "rsg" in request.node.name:
        request.getfixturevalue("two_groups")


@pytest.fixture(scope="session")
def digits():
    return load_data("digits-lt")


@pytest.fixture(scope="session")
def few_digits(digits):
    """A third of them, for what does not hang on how many there are: 131 for training, 60 for the test."""
    pool, test = digit_pools()
    rows = torch.cat([(test.labels == c).nonzero().flatten()[:6] for c in range(10)])
    return LongTailData.from_pool(
        "digits-lt", pool, test.subset(rows), class_names=digits.class_names, profile="exp", imbalance=20,
        subset="ldam_seed0", groups="oltr", n_max=40, augmentation="crop", padding=1, default_model="resnet8",
    )  # fmt: skip


@pytest.fixture
def shorten(monkeypatch):
    """Give the stages of a method other epochs, one number a stage."""

    def change(method, *epochs):
        published = METHODS[method]

        def recipe(longtail, **options):
            whole = published(longtail, **options)
            stages = [replace(s, epochs=e) for s, e in zip(whole.stages, epochs, strict=True)]
            return replace(whole, stages=tuple(stages))

        # The option check reads the signature.
        recipe.__wrapped__ = published
        monkeypatch.setitem(METHODS, method, recipe)

    return change


@pytest.fixture
def killed_after(monkeypatch):
    """A context in which the process dies right after the n-th save."""
    save = RunFolder.save

    def patch(n):
        context = pytest.MonkeyPatch.context()
        saves = []

        def dying(folder, state):
            save(folder, state)
            saves.append(1)
            if len(saves) == n:
                raise KeyboardInterrupt

        class Killed:
            def __enter__(self):
                context.__enter__().setattr(RunFolder, "save", dying)

            def __exit__(self, *error):
                return context.__exit__(*error)

        return Killed()

    return patch


@pytest.fixture
def states(monkeypatch):
    """Stage and copies of the whole state dict after every epoch."""
    kept = []
    save = RunFolder.save

    def record(folder, state):
        kept.append((state.stage, {name: tensor.clone() for name, tensor in state.model.items()}))
        save(folder, state)

    monkeypatch.setattr(RunFolder, "save", record)
    return kept


@pytest.fixture
def weights():
    """The tensors of a run's result."""
    return lambda out: torch.load(out / "last.pt", weights_only=True)["state_dict"]


@pytest.fixture
def identical():
    def compare(one, other):
        assert one.keys() == other.keys()
        for name in one:
            assert torch.equal(one[name], other[name]), name

    return compare
