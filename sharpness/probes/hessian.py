"""Curvature of the loss: extreme eigenvalues and trace of the Hessian, overall and per class."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sharpness.curvature import ENDS, Eigenpairs, hutchinson, lanczos
from sharpness.errors import UserError, choose
from sharpness.objective import Objective
from sharpness.probes.comparison import common_fields, comparable
from sharpness.progress import progress
from sharpness.results import EigenvalueResult, MeasureResult


@comparable
def eigenvalues(
    objective: Objective,
    k: int = 1,
    which: str = "LA",
    per_class: bool = False,
    tol: float = 1e-3,
    max_iterations: int = 100,
    seed: int = 0,
    keep_vectors: bool = True,
) -> EigenvalueResult:
    """Algebraically largest (``"LA"``), smallest (``"SA"``) or ``"both"`` extreme eigenvalues of the Hessian.

    Per class, the Hessian is that of L_c, and a product passes over the samples of class c only, so that all classes
    together cost as many sample-products as one run over all data with as many iterations.

    Args:
        objective: or ``{label: objective}``, to compare.
        k: eigenvalues at each end.
        tol: a pair is converged when ``|H v - value v| <= tol * max |value|``.
        max_iterations: Lanczos iterations at most; pairs that are not converged by then are flagged.
        keep_vectors: keep the eigenvectors in the result, one float per parameter and value.
    """
    choose("end of the spectrum", which, ENDS)
    if not 1 <= k <= objective.num_parameters:
        raise UserError(f"k={k}: give a number from 1 to the {objective.num_parameters} parameters in scope")
    objective.check()
    parts = _parts(objective, per_class)
    width = min(2 * k if which == "both" else k, objective.num_parameters)
    pairs: list[Eigenpairs | None] = []
    with progress(0, "eigenvalues", "products") as bar:
        for part in parts:
            if part is None:
                pairs.append(None)
                continue
            pairs.append(
                lanczos(
                    part.hvp,
                    part.num_parameters,
                    k,
                    which,
                    tol=tol,
                    max_iterations=max_iterations,
                    generator=torch.Generator().manual_seed(seed),
                    dtype=part.dtype,
                    device=part.device,
                    callback=bar.update,
                )
            )

    def table(field: str, empty: Any) -> np.ndarray:
        rows = [np.full(width, empty) if p is None else np.asarray(getattr(p, field)) for p in pairs]
        return np.stack(rows) if per_class else rows[0]

    vectors = None
    if keep_vectors:
        missing = np.full((width, objective.num_parameters), np.nan)
        stack = [missing if p is None else p.vectors.cpu().numpy() for p in pairs]
        vectors = np.stack(stack) if per_class else stack[0]
    done = [(p.products, part.num_samples) for p, part in zip(pairs, parts, strict=True) if p and part]
    return EigenvalueResult(
        values=table("values", np.nan),
        residuals=table("residuals", np.nan),
        converged=table("converged", False),
        vectors=vectors,
        which=which,
        k=k,
        tol=tol,
        seed=seed,
        hvp_count=sum(products for products, _ in done),
        sample_products=sum(products * samples for products, samples in done),
        **common_fields(objective, probe="eigenvalues", max_iterations=max_iterations),
    )


@comparable
def trace(objective: Objective, per_class: bool = False, probes: int = 30, seed: int = 0) -> MeasureResult:
    """The trace of the Hessian by Hutchinson's estimator, with its standard error over ``probes`` random vectors.

    Per class, every class sees the same random vectors.
    """
    objective.check()
    values = np.full((2, objective.num_classes), np.nan)
    overall = np.full(2, np.nan)
    parts = _parts(objective, per_class)
    with progress(probes * sum(p is not None for p in parts), "trace", "products") as bar:
        for c, part in enumerate(parts):
            if part is None:
                continue
            estimate = hutchinson(
                part.hvp,
                part.num_parameters,
                probes,
                generator=torch.Generator().manual_seed(seed),
                dtype=part.dtype,
                device=part.device,
                callback=bar.update,
            )
            pair = (estimate.value, estimate.standard_error)
            if per_class:
                values[:, c] = pair
            else:
                overall[:] = pair
    if per_class:
        shares = objective.class_counts / objective.num_samples
        overall[0] = np.nansum(shares * values[0])
    return MeasureResult(
        names=("trace",),
        overall=overall[:1],
        values=values[:1],
        errors=values[1:],
        overall_errors=overall[1:],
        train_counts=np.full(objective.num_classes, -1),
        **common_fields(objective, probe="trace", probes=probes, seed=seed),
    )


def _parts(objective: Objective, per_class: bool) -> list[Objective | None]:
    """The objective, or that of every class; None for a class without samples."""
    if not per_class:
        return [objective]
    counts = objective.class_counts
    return [objective.restrict(c) if counts[c] else None for c in range(objective.num_classes)]
