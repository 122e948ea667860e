"""A real checkpoint that somebody else trained, on the real test set."""

import os
from pathlib import Path

import pytest
import torch

from sharpness import UserError, checkpoint_objective, load_checkpoint, load_data
from sharpness.checkpoints import Network

DATA = Path(os.environ.get("SHARPNESS_DATA", ""))
FILE = Path(os.environ.get("SHARPNESS_AKAMASTER", DATA / "akamaster_resnet20-12fca82f.th"))

pytestmark = pytest.mark.skipif(not FILE.is_file(), reason="needs akamaster's ResNet-20 in SHARPNESS_AKAMASTER")


def test_it_is_recognised():
    checkpoint = load_checkpoint(FILE)
    manifest = checkpoint.manifest
    assert manifest.family == "akamaster"
    assert manifest.model == Network("resnet20", num_classes=10, in_channels=3, head="linear", scale=None)
    assert manifest.prefix == "module."
    assert sum(p.numel() for p in checkpoint.model.parameters()) == 269_722
    assert manifest.accuracy["accuracy"] == pytest.approx(0.9178)


def test_without_a_training_set_on_record_the_error_says_what_to_give():
    with pytest.raises(UserError, match="pass data="):
        checkpoint_objective(load_checkpoint(FILE), data_root=str(DATA))


@pytest.mark.skipif(not (DATA / "cifar-10-batches-py").is_dir(), reason="needs CIFAR-10 in SHARPNESS_DATA")
def test_it_reaches_its_accuracy_on_the_test_set():
    checkpoint = load_checkpoint(FILE)
    objective = checkpoint_objective(checkpoint, split="test", data="cifar10-lt")
    test = load_data("cifar10-lt").test
    mean, std = (torch.tensor(getattr(checkpoint.manifest.normalization, k))[:, None, None] for k in ("mean", "std"))
    assert torch.allclose(objective.x[:50], (test.images[:50] / 255 - mean) / std, atol=1e-5)
    sums = objective.evaluate()
    assert sums.correct.sum() / sums.count.sum() == pytest.approx(0.9173, abs=1e-9)
