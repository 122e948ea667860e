"""Captions say what a reader must know of a picture's numbers."""

import dataclasses

import numpy as np

from sharpness.results import Comparison, EigenvalueResult, PerturbationResult, Runs
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
    assert "3 draws" in told["Errors"] and "boxes of CE are ± 1 sd over trainings" in told["Errors"]
    assert "boxes are ± 1 sd" in caption("Rises", Comparison({"CE": results["CE"]}))["Errors"]


def test_classes_without_images_are_not_counted():
    part = dataclasses.replace(draws(7), class_samples=np.array([4, 0]))
    assert caption("Rises", Comparison({"CE": part}), "train")["Images"] == "4 train, in 1 of 2 classes"


def test_models_that_are_not_drawn_are_not_named():
    other = dataclasses.replace(draws(8), provenance={"loss": "training"})
    told = caption("Rises", Comparison({"CE": draws(7), "SAM": other}), order=["SAM"])
    assert told["Models"] == "SAM" and told["Loss"].startswith("training") and told["Seeds"] == "probe 8"


def test_groups_in_the_place_of_classes_are_counted_as_groups():
    one = dataclasses.replace(draws(7), provenance={"rows": "groups"})
    assert caption("Rises", Comparison({"CE": one}), "train")["Images"] == "6 train, in 2 groups"


def test_it_stands_beside_its_picture(tmp_path):
    written = write_caption(tmp_path / "rises", caption("Rises", Comparison({"SAM": draws(7)})))
    assert written == tmp_path / "rises.txt" and written.read_text().startswith("Shows: Rises\nModels: SAM\n")


def test_of_many_classes_bands_are_told_only_where_classes_are_drawn():
    """Eigenvalues of the whole loss are a single bar, however many classes there are."""

    def spectrum(*shape):
        values = np.ones((*shape, 1))
        return EigenvalueResult(
            class_names=tuple(f"n{i}" for i in range(300)), class_samples=np.ones(300, int), groups={}, provenance={},
            values=values, residuals=0 * values, converged=values > 0, vectors=None, which="LA", k=1, tol=1e-3, seed=0,
            hvp_count=1, sample_products=1,
        )  # fmt: skip

    assert caption("x", Comparison({"a": spectrum()}))["Errors"].startswith("bars are 95 % intervals over images")
    assert "5 to 95 % of classes" in caption("x", Comparison({"a": spectrum(300)}))["Errors"]
