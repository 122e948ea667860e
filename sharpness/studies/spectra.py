"""Hessian spectra of the most frequent and the rarest class, with a panel for each model.

The pictures follow Rangwani et al., "Escaping saddle points for effective generalization on class-imbalanced data"
(NeurIPS 2022): a minimum for the head may be a saddle point for the tail, whose spectrum then has a negative part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from sharpness.objective import Objective
from sharpness.plots import figure_of, plot_density
from sharpness.plots.density import density_floor
from sharpness.plots.small_multiples import SmallMultiples
from sharpness.plots.style import style
from sharpness.probes import spectral_density
from sharpness.results import SpectralDensityResult
from sharpness.results.comparison import first_of, one_training
from sharpness.results.words import named_coordinates


def head_and_tail(
    objective: Objective, draws: int = 3, steps: int = 30, seed: int = 0, coordinates: str | None = None
) -> SpectralDensityResult:
    """Compute spectral densities of the most frequent and the rarest class, on the same number of images.

    Args:
        objective: objective with all classes.
        draws, steps, seed, coordinates: arguments of :func:`sharpness.spectral_density`.
    """
    known = objective.train_counts
    counts = np.asarray(objective.class_samples if known is None else known)
    order = np.argsort(-counts, kind="stable")
    present = order[objective.class_samples[order] > 0]
    ends = [int(present[0]), int(present[-1])]  # of equally frequent classes the first and the last
    part = objective.restrict(torch.isin(objective.classes, torch.tensor(ends)).nonzero().squeeze(1))
    number = int(objective.class_samples[ends].min())
    return spectral_density(
        part, per_class=True, draws=draws, steps=steps, seed=seed, match_samples=number, coordinates=coordinates
    )


def draw_spectra(results: Mapping[str, Any], train_counts: Sequence[int]) -> Figure:
    """Draw the densities of both classes with the same smoothing, in a panel for each model, on one scale.

    Ticks mark the extreme Ritz values. The axis is linear around zero, where nearly all eigenvalues are, and
    logarithmic elsewhere.
    """
    results = one_training(results)
    first = first_of(results)
    ends = [c for c in np.argsort(-np.asarray(train_counts), kind="stable") if first.class_samples[c]]
    rules = {label: {c: r.quadrature(int(c)) for c in ends} for label, r in results.items()}
    every = [rule for of_model in rules.values() for rule in of_model.values()]
    top = max(float(np.nanmax(np.abs(rule.nodes))) for rule in every)
    linear = 10.0 ** np.floor(np.log10(top) - 2)
    drawn: dict[str, dict[str, Any]] = {}
    marks: dict[str, dict[str, Any]] = {}
    for label, of_model in rules.items():
        for c, rule in of_model.items():
            name = f"{first.class_names[c]} ({train_counts[c]} training images)"
            # Narrower than the linear part of the axis, which the bulk of the spectrum would otherwise fill.
            found = rule.density(width=linear / 5)
            drawn.setdefault(label, {})[name] = (found.grid, found.density, found.lower, found.upper)
            marks.setdefault(label, {})[name] = np.array([np.nanmin(rule.nodes), np.nanmax(rule.nodes)])
    floor = density_floor({f"{label}{name}": c for label, curves in drawn.items() for name, c in curves.items()})
    with style():
        panels = SmallMultiples(len(results), None, columns=3, height=1.6)
        for ax, (label, curves) in zip(panels.places, drawn.items(), strict=True):
            plot_density(
                curves, ax, title=label, floor=floor, linthresh=linear, marks=marks[label], legend=False, xlabel="",
                ylabel="",
            )  # fmt: skip
        decades = 10.0 ** np.arange(np.log10(linear), np.ceil(np.log10(top)))
        panels.places[0].set_xticks([*-decades[1::2], 0, *decades])  # there is no room for all ticks near zero
        handles, _ = panels.places[0].get_legend_handles_labels()
        where = named_coordinates(first.provenance)
        panels.finish(f"Eigenvalue of the Hessian{where}", "Spectral density", None, handles)
    return figure_of(panels.places)
