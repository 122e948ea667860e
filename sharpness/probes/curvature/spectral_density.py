"""The whole spectrum of the Hessian, overall and per class or group."""

from __future__ import annotations

from functools import partial
from typing import Unpack

import numpy as np
import torch

from sharpness.curvature.density import stochastic_lanczos
from sharpness.engine.second_order import KINDS
from sharpness.errors import choose
from sharpness.objective import Objective
from sharpness.probes.curvature.rows import Callback, CurvatureOptions, ignore, rows_of
from sharpness.probes.shared.probe import comparable
from sharpness.probes.shared.work import Arrays
from sharpness.progress import progress
from sharpness.renamed import renamed_arguments
from sharpness.results import SpectralDensityResult


@renamed_arguments(runs="draws")
@comparable
def spectral_density(
    objective: Objective,
    per_class: bool = False,
    draws: int = 5,
    steps: int = 40,
    seed: int = 0,
    **options: Unpack[CurvatureOptions],
) -> SpectralDensityResult:
    r"""Estimate the spectral density of the Hessian by stochastic Lanczos quadrature, with its standard error.

    .. math:: \phi(x) = \frac1k \sum_{i=1}^k \delta(x - \lambda_i)
              \approx \frac1R \sum_{r=1}^R \sum_{j=1}^m w_{rj}\, N(x; \theta_{rj}, \text{width}^2)

    The total mass is 1. The result keeps nodes and weights, from which the density at any width, masses, moments and
    the cumulative distribution follow without new products. Every row uses the same random vectors.

    Args:
        objective: an objective, a model with ``data`` or a checkpoint; or ``{label: one of these}``, to compare them.
        per_class: one row per class, with the Hessian of L_c, instead of one row for all samples.
        draws: R, the number of independent random vectors, at least 2. Their spread gives the error.
        steps: m, the number of products per draw.
        seed: seed of the random vectors, and of the samples drawn by ``match_samples``.
        options: see :class:`~sharpness.probes.curvature.rows.CurvatureOptions`.

    Returns:
        Nodes and weights of every row and draw.
        For a mapping, a :class:`~sharpness.Comparison` of such results by label.

    Raises:
        UserError: an unknown kind, fewer than 2 draws or 1 step, or models that cannot be compared.

    The loss :math:`(3 w_1^2 + w_2^2) / 2` has the Hessian diag(3, 1), half of whose spectrum is above 2:

    >>> model, data = torch.nn.Linear(2, 1, bias=False), (torch.tensor([[3**0.5, 0.0], [0.0, 1.0]]), torch.zeros(2))
    >>> objective = Objective(model, data, loss=lambda outputs, y: outputs[:, 0] ** 2)
    >>> found = spectral_density(objective, draws=2, steps=4)
    >>> [round(float(node), 4) for node in found.nodes[0][:2]], found.weights[0][:2].round(4).tolist()
    ([1.0, 3.0], [0.5, 0.5])
    """
    kind = options["kind"]
    choose("kind of curvature", kind, KINDS)
    rows = rows_of(objective, per_class, seed, options)
    settings = {"kind": kind, "draws": draws, "steps": steps, "seed": seed, "match_samples": options["match_samples"]}
    fields = rows.fields(probe="spectral_density", **settings)
    # Before any row: with a random loss, every draw would have another density.
    rows.whole.check()
    with progress(draws * steps * len(rows.present), "spectral density", "products") as bar:
        task = partial(_rule, kind=kind, draws=draws, steps=steps, seed=seed)
        done = rows.map(rows.work(options["resume"], fields["provenance"]), task, bar, options["executor"], basis=steps)
    table = partial(rows.gather, done)
    products = table("products", 0)
    return SpectralDensityResult(
        nodes=table("nodes", np.nan, draws, steps),
        weights=table("weights", 0.0, draws, steps),
        products=products,
        sample_products=rows.sample_products(products),
        **fields,
    )


def _rule(
    row: int, part: Objective, callback: Callback = ignore, *, kind: str, draws: int, steps: int, seed: int
) -> Arrays:  # fmt: skip
    """Compute the quadrature rules of one row."""
    # One generator per row, so that its vectors do not depend on which rows are already done.
    generator = torch.Generator().manual_seed(seed)
    with part.operator(kind=kind) as operator:
        rule = stochastic_lanczos(
            operator, operator.size, draws, steps, generator=generator, dtype=part.dtype, device=part.device,
            callback=callback,
        )  # fmt: skip
    return {"products": np.array(rule.products), "nodes": rule.nodes, "weights": rule.weights}
