"""The whole spectrum of the Hessian, overall and per class or group."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch

from sharpness.curvature import stochastic_lanczos
from sharpness.engine import KINDS
from sharpness.errors import choose
from sharpness.objective import Objective
from sharpness.probes.curvature.rows import rows_of
from sharpness.probes.shared.probe import Given, comparable
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
    *,
    kind: str = "hessian",
    per_group: bool = False,
    match_samples: int | None = None,
    resume: str | Path | None = None,
    **given: Unpack[Given],
) -> SpectralDensityResult:
    r"""The spectral density of the Hessian by stochastic Lanczos quadrature, with its error over ``draws``.

    .. math:: \phi(x) = \frac1k \sum_{i=1}^k \delta(x - \lambda_i)
              \approx \frac1R \sum_{r=1}^R \sum_{j=1}^m w_{rj}\, N(x; \theta_{rj}, \text{width}^2)

    Total mass 1. The result keeps nodes and weights, so that it can be drawn at any width, and asked for masses,
    moments and the cumulative distribution, without new products. Every row sees the same random vectors.

    Args:
        objective: or ``{label: objective}``, to compare.
        draws: R, independent random vectors: what differs between them is the error. At least 2.
        steps: m, products of one draw.
        kind: ``"hessian"``, or ``"ggn"`` for its generalised Gauss-Newton part.
        per_group: a row for each group instead, with the Hessian of the loss over all its samples.
        match_samples: draw so many samples of every class first, by ``seed``.
        resume: a folder for unfinished work; the same call goes on there after the last row that was done.
        given: ``data`` and ``options``: see :class:`~sharpness.probes.shared.probe.Given`.
    """
    choose("kind of curvature", kind, KINDS)
    rows = rows_of(objective, per_class, per_group, match_samples, seed)
    settings = {"kind": kind, "draws": draws, "steps": steps, "seed": seed, "match_samples": match_samples}
    fields = rows.fields(probe="spectral_density", **settings)
    rows.whole.check()
    with progress(draws * steps * len(rows.present), "spectral density", "products") as bar:

        def compute(i: int, part: Objective) -> Arrays:
            with part.operator(kind=kind) as operator:
                rule = stochastic_lanczos(
                    operator,
                    operator.size,
                    draws,
                    steps,
                    generator=torch.Generator().manual_seed(seed),
                    dtype=part.dtype,
                    device=part.device,
                    callback=bar.update,
                )
            return {"products": np.array(rule.products), "nodes": rule.nodes, "weights": rule.weights}

        done = rows.map(rows.work(resume, fields["provenance"]), compute, bar)

    def table(name: str, missing: Any, *shape: int) -> np.ndarray:
        return rows.gather({i: f[name] for i, f in done.items()}, missing, shape)

    products = table("products", 0)
    return SpectralDensityResult(
        nodes=table("nodes", np.nan, draws, steps),
        weights=table("weights", 0.0, draws, steps),
        products=products,
        sample_products=int((np.atleast_1d(products) * rows.samples).sum()),
        **fields,
    )
