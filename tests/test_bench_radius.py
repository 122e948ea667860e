"""The sweep of CC-SAM's radius: what it chooses by, and that it goes on where it stopped."""

import importlib.util
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

import sharpness
from sharpness.data.digits import digit_pools
from sharpness.flattening.class_radius import Perturbation

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "radius.py"


@pytest.fixture(scope="module")
def radius():
    spec = importlib.util.spec_from_file_location("bench_radius", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_accuracy_is_on_every_training_image_that_the_long_tail_leaves_out_and_on_no_other(radius):
    pool, data = digit_pools()[0], sharpness.load_data("digits-lt")
    held = radius.left_out(data)
    assert len(held) + len(data.train) == len(pool)
    assert (held.class_samples(10) + torch.tensor(data.train_counts)).tolist() == pool.class_samples(10).tolist()
    together = sorted(image.numpy().tobytes() for image in torch.cat([held.images, data.train.images]))
    assert together == sorted(image.numpy().tobytes() for image in pool.images)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_a_factor_of_the_logits(radius, factor):
    """Labels are drawn from the softmax of the logits, whose best temperature is therefore 1, up to the draw."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 5, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).flatten()
    assert radius.temperature(factor * logits, labels) == pytest.approx(factor, rel=0.05)


def test_the_share_of_rows_at_their_limit_is_counted(radius):
    counts, w = torch.tensor([17, 17, 17, 17]), torch.tensor(1.0)
    with radius.limits() as bound:
        Perturbation(cap=0.1).length(w, torch.tensor([1e-9, 1e-9, 1e-9, 1e9]), 16, counts, counts[0])
    assert bound == [0.75]
    before = Perturbation.length
    with pytest.raises(RuntimeError), radius.limits():
        raise RuntimeError
    assert Perturbation.length is before


def test_rows_that_are_there_are_not_made_again(radius, monkeypatch, tmp_path):
    made = []

    def trained(data, held, factor, cap, mixup, seed, epochs):
        made.append((factor, cap, mixup, seed))
        return {"held_accuracy": 0.9 if factor == "plain" else 0.85 if cap == "0.1" else 0.7}

    monkeypatch.setattr(radius, "trained", trained)
    out = tmp_path / "rows.csv"
    for factors in ("0.01", "0.01,0.1"):
        monkeypatch.setattr(
            sys, "argv", ["radius.py", "--factors", factors, "--caps", "0.1,none", "--mixup", "0", "--output", str(out)]
        )
        radius.main()
    assert made == [
        (f, c, 0.0, 0) for f, c in [("plain", "none"), *((f, c) for f in ("0.01", "0.1") for c in ("0.1", "none"))]
    ]
    rows = pd.read_csv(out)
    assert rows.collapsed.tolist() == [False, False, True, False, True]
