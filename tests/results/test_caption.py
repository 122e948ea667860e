"""Captions say what a reader must know of a picture's numbers."""

import dataclasses

import numpy as np

from sharpness.results import (
    Comparison,
    EigenvalueResult,
    LayerResult,
    PerturbationResult,
    PlaneResult,
    Runs,
    SpectralDensityResult,
)
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


def test_of_many_classes_values_are_means_over_trainings():
    many = {"class_names": tuple(f"n{i}" for i in range(300)), "class_samples": np.ones(300, int), "groups": {}}
    values = np.ones((300, 1))
    one = EigenvalueResult(
        **many, provenance={}, values=values, residuals=values, converged=values > 0, vectors=None, which="LA", k=1,
        tol=1e-3, seed=0, hvp_count=1, sample_products=1,
    )  # fmt: skip
    told = caption("x", Comparison({"a": Runs([one, one], ["seed 0", "seed 1"]), "b": one}))["Errors"]
    assert told.endswith("by their training images; values of a are means over trainings")


def test_a_picture_of_one_training_names_it():
    grid = np.zeros((2, 2))
    one = PlaneResult(
        class_names=("cat",), class_samples=np.array([4]), groups={}, provenance={}, x=np.arange(2.0), y=np.arange(2.0),
        losses=grid, class_losses=grid[None], class_accuracies=grid[None], directions="gaussian", normalization=None,
        seed=0, evaluated=grid == 0, interpolation_errors=grid, class_interpolation_errors=grid[None], base_loss=1.0,
        base_class_losses=np.ones(1), precision="float64", precision_error=0.0, class_precision_errors=np.zeros(1),
    )  # fmt: skip
    told = caption("x", Comparison({"a": Runs([one, one], ["seed 3", "seed 4"]), "b": one}))
    assert told["Models"] == "a, seed 3, b" and told["Errors"] == "none of a single training"
    assert told["Seeds"] == "probe 0"


def test_cells_of_heat_maps_are_means_over_trainings():
    one = LayerResult(
        class_names=("cat",), class_samples=np.array([4]), groups={}, provenance={}, measure="trace", layers=("fc",),
        layer_parameters=np.ones(1), values=np.ones((1, 1)), converged=np.ones((1, 1), bool), per_class=True,
        sample_products=1,
    )  # fmt: skip
    told = caption("x", Comparison({"a": Runs([one, one], ["seed 0", "seed 1"])}))["Errors"]
    assert told == "none of a single training; cells are means over trainings"


def test_bands_of_densities_are_over_random_vectors_only_where_a_model_has_one_training():
    nodes = np.ones((2, 3))
    one = SpectralDensityResult(
        class_names=("cat",), class_samples=np.array([4]), groups={}, provenance={"num_parameters": 9}, nodes=nodes,
        weights=nodes / 3, products=np.array(6), sample_products=24,
    )  # fmt: skip
    several = Runs([one, one], ["seed 0", "seed 1"])
    for entries, told in (({"a": several}, False), ({"a": several, "b": one}, True)):
        errors = caption("x", Comparison(entries))["Errors"]
        assert ("random vectors" in errors) == told and "extreme Ritz values" in errors and "± 1 sd" in errors
