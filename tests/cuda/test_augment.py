"""A device sees the augmented images that the CPU sees, and is not waited for."""

from contextlib import contextmanager

import pytest
import torch

from sharpness.data.augment import AUGMENTATIONS, augment


@contextmanager
def unwaited(device):
    """A context in which the host may not wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_augmented_images_are_those_of_the_cpu(kind, channels, device):
    few = 500 if device.type == "cuda" else 100  # of a pretended device, whose every operation is followed
    images = torch.randint(256, (few, channels, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    there = images.to(device)
    expected = augment(images, kind, 4, torch.Generator().manual_seed(2))
    augment(there, kind, 4, torch.Generator().manual_seed(2))  # tables are sent once
    with unwaited(device):
        found = augment(there, kind, 4, torch.Generator().manual_seed(2))
    assert torch.equal(found.cpu(), expected)
