"""Captions say what a reader must know of a picture's numbers."""

import numpy as np

from sharpness.results import Comparison, PerturbationResult, Runs
from sharpness.results.caption import caption, write_caption


def draws(seed):
    return PerturbationResult(
        class_names=("cat", "dog"), class_samples=np.array([4, 2]), groups={},
        provenance={"loss": "ce", "logit_scale": 30.0, "draws": 3}, radii=np.array([0.1, 0.2]), losses=np.ones((2, 3)),
        class_losses=np.ones((2, 3, 2)), class_accuracies=np.ones((2, 3, 2)), base_loss=1.0,
        base_class_losses=np.ones(2), base_class_accuracies=np.ones(2), normalization="filter",
        distribution="gaussian", seed=seed,
    )  # fmt: skip


def test_a_caption_names_models_images_loss_normalisation_seeds_and_errors():
    results = Comparison({"CE": Runs([draws(7), draws(7)], ["seed 0", "seed 1"]), "SAM": draws(7)})
    told = caption("Rises", results, "train")
    assert told["Shows"] == "Rises" and told["Models"] == "CE (2 trainings), SAM"
    assert told["Images"] == "6 train, in 2 classes" and told["Loss"] == "ce, logits times 30"
    assert told["Normalisation"].startswith("filter")
    assert told["Seeds"] == "probe 7; seeds 0, 1 of CE"
    assert "3 draws" in told["Errors"] and "1 sd over trainings" in told["Errors"]


def test_it_stands_beside_its_picture(tmp_path):
    written = write_caption(tmp_path / "rises", caption("Rises", Comparison({"SAM": draws(7)})))
    assert written == tmp_path / "rises.txt" and written.read_text().startswith("Shows: Rises\nModels: SAM\n")
