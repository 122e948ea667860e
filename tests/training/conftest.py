"""Digits, short recipes, and runs that die."""

from dataclasses import replace

import pytest
import torch

from sharpness import load_data
from sharpness.methods import METHODS
from sharpness.training.state import RunFolder


@pytest.fixture(scope="session")
def digits():
    return load_data("digits-lt")


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
