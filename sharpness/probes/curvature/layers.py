r"""The Hessian's diagonal blocks: the curvature of one layer, with the others fixed.

The block of layer l is :math:`P_l' H P_l` with P_l the embedding of the layer's parameters. Its products are those of
the whole Hessian with vectors that are zero elsewhere, so all layers and iterations share the saved activations of a
row.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, Unpack

import numpy as np
import torch
from torch import Tensor

from sharpness.curvature.lanczos import lanczos
from sharpness.curvature.operator import Operator
from sharpness.engine.class_sums import mean_error
from sharpness.engine.second_order import KINDS
from sharpness.errors import UserError, choose, require_whole
from sharpness.keywords import typed_keywords
from sharpness.objective import Objective
from sharpness.probes.curvature.exact_trace import ExactTrace
from sharpness.probes.curvature.row_eigenvalues import NUMBERS
from sharpness.probes.curvature.rows import Callback, LayerOptions, Rows, ignore, rows_of
from sharpness.probes.shared.work import Arrays
from sharpness.progress import progress
from sharpness.results import LayerResult
from sharpness.statistics.estimate import interval, mean_and_error


def layers_of(objective: Objective) -> dict[str, slice]:
    """Find the layers in scope and their places in a flat vector (k,), in the order of the network.

    A layer is a weight with two or more axes together with its bias. Normalisation layers are not included.

    Returns:
        The slice of every layer by name.

    Raises:
        UserError: there is no layer in scope.
    """
    spans: dict[str, slice] = {}
    end = 0
    named, axes = list(zip(objective.names, objective.parameters, strict=True)), objective.filter_axes
    weighty = {name.rpartition(".")[0] for name, p in named if p.ndim > 1 and axes[name] is not None}
    for name, p in named:
        start, end = end, end + p.numel()
        layer = name.rpartition(".")[0]
        if layer in weighty:
            spans[layer] = slice(spans[layer].start if layer in spans else start, end)
    if not spans:
        raise UserError(f"no parameter in scope {objective.scope!r} is the weight of a layer: take a wider scope")
    return {layer or "model": span for layer, span in spans.items()}


@typed_keywords()
def eigenvalues_by_layer(
    objective: Objective,
    *,
    per_layer: Literal[True],
    which: str = "LA",
    per_class: bool = False,
    tol: float = 1e-3,
    max_iterations: int = 100,
    seed: int = 0,
    **options: Unpack[LayerOptions],
) -> LayerResult:
    """Compute the extreme eigenvalue of every layer's block for every row, see :func:`~sharpness.eigenvalues`."""
    choose("end of every layer's spectrum", which, ("LA", "SA"))
    kind = options["kind"]
    choose("kind of curvature", kind, KINDS)
    rows = rows_of(objective, per_class, seed, options)
    rows.whole.check()
    layers = layers_of(rows.whole)
    solver: dict[str, Any] = {"kind": kind, "which": which, "tol": tol, "max_iterations": max_iterations, "seed": seed}
    # Not "eigenvalues": the probe is part of the key, and both may share a folder of unfinished work.
    fields = layer_fields(rows, layers, probe="layer_eigenvalues", match_samples=options["match_samples"], **solver)
    # The names of the arrays are part of the key, because earlier versions had other ones.
    work = rows.work(options["resume"], fields["provenance"] | {"arrays": NUMBERS})
    with progress(None, "eigenvalues per layer", "products") as bar:
        task = partial(_row, layers=layers, **solver)
        done = rows.map(work, task, bar, basis=max_iterations)

    def table(name: str, missing: Any) -> np.ndarray:
        """Values of all layers and rows, (L, rows)."""
        return np.atleast_2d(rows.gather(done, name, missing, len(layers))).T

    return LayerResult(
        measure="lambda_max" if which == "LA" else "lambda_min",
        values=table("values", np.nan),
        residuals=table("residuals", np.nan),
        converged=table("converged", False),
        sample_products=int((table("products", 0) * rows.samples).sum()),
        **fields,
    )


@typed_keywords()
def trace_by_layer(
    objective: Objective,
    *,
    per_layer: Literal[True],
    per_class: bool = False,
    draws: int = 30,
    seed: int = 0,
    estimator: str = "auto",
    **options: Unpack[LayerOptions],
) -> LayerResult:
    """Compute the trace of every layer's block for every row, see :func:`~sharpness.trace`.

    Exact traces are those of all parameters, summed by layer. In Hutchinson's estimate, all layers use the same
    products: that of layer l is the mean of :math:`z_l' (H z)_l`, and the sum over all parameters is :math:`z' H z`.

    Args:
        objective: the objective.
        per_layer: True.
        per_class: one row per class.
        draws: number of random vectors, where traces are not exact.
        seed: seed of the random vectors.
        estimator: ``"auto"``, ``"exact"`` or ``"hutchinson"``.
        options: see :class:`LayerOptions`.

    Returns:
        Values and standard errors (L, rows).
    """
    kind = options["kind"]
    choose("kind of curvature", kind, KINDS)
    choose("trace estimator per layer", estimator, ("auto", "exact", "hutchinson"))
    rows = rows_of(objective, per_class, seed, options)
    layers = layers_of(rows.whole)
    rows.whole.check()
    exact = None
    if estimator != "hutchinson":
        of = ExactTrace.of if estimator == "exact" else partial(ExactTrace.instead_of, draws)
        exact = of(rows.whole, kind)
    settings = {"kind": kind, "draws": draws, "seed": seed, "match_samples": options["match_samples"]}
    if exact is not None:
        settings["estimator"] = "exact"
    fields = layer_fields(rows, layers, probe="trace", **settings)
    if exact is not None:
        work = rows.work(options["resume"], fields["provenance"] | {"per_layer": True})
        return _exact(rows, exact.traces(work, layers=list(layers.values())), fields)
    # Part of the key, because rows of the whole trace may be in the same folder of unfinished work.
    work = rows.work(options["resume"], fields["provenance"] | {"per_layer": True})
    with progress(draws * len(rows.present), "trace per layer", "products") as bar:
        done = rows.map(work, partial(_quadratic_forms, layers=layers, draws=draws, seed=seed, kind=kind), bar)
    forms = rows.gather(done, "forms", np.nan, len(layers), draws).reshape(-1, len(layers), draws)
    values, errors = mean_and_error(forms.T)  # over the draws, (L, rows)
    # The trace of a block is not negative, but its estimate may be: z_l' G z_l is only a part of it.
    ends = interval(values, errors, draws - 1, (kind == "ggn") & (values > 0))
    return _result(values, errors, ends, draws * int(rows.samples.sum()), fields)


def _result(
    values: np.ndarray, errors: np.ndarray, ends: np.ndarray, sample_products: int, fields: dict[str, Any]
) -> LayerResult:
    """Make the result from traces and errors (L, rows) and the ends of their intervals (2, L, rows)."""
    return LayerResult(
        measure="trace",
        values=values,
        standard_errors=errors,
        lower=ends[0],
        upper=ends[1],
        converged=np.isfinite(values),
        sample_products=sample_products,
        **fields,
    )


def _exact(rows: Rows, traces: np.ndarray, fields: dict[str, Any]) -> LayerResult:
    """Make the result from the traces of every sample and layer (n, L), with errors over images."""
    values, errors, lower, upper = np.full((4, traces.shape[1], len(rows.parts)), np.nan)
    weights = rows.whole.weights.double().numpy()
    keeps_sign = (fields["provenance"]["kind"] == "ggn") | (traces >= 0).all(axis=0)
    for i, _ in rows.present:
        own = rows.indices(i)
        values[:, i] = np.average(traces[own], axis=0, weights=weights[own])
        errors[:, i] = [mean_error(column, weights[own]) for column in traces[own].T]
        lower[:, i], upper[:, i] = interval(values[:, i], errors[:, i], len(own) - 1, keeps_sign)
    return _result(values, errors, np.stack([lower, upper]), 0, fields)


def _quadratic_forms(
    row: int,
    part: Objective,
    callback: Callback = ignore,
    *,
    layers: dict[str, slice],
    draws: int,
    seed: int,
    kind: str,
) -> Arrays:
    """Compute ``z_l' (H z)_l`` for every layer l and random vector z: ``forms`` (L, draws)."""
    require_whole("draws", draws, least=2)
    forms = np.empty((len(layers), draws))
    with part.operator(kind=kind) as curvature:
        generator = torch.Generator().manual_seed(seed)
        operator = Operator(curvature, callback, generator, part.dtype, part.device)
        for d in range(draws):
            z = operator.signs(curvature.size)
            image = operator(z)
            forms[:, d] = [float((z[span].double() * image[span].double()).sum()) for span in layers.values()]
    return {"forms": forms, "products": draws}


def _row(
    row: int,
    part: Objective,
    callback: Callback = ignore,
    *,
    layers: dict[str, slice],
    kind: str,
    seed: int,
    **settings: Any,
) -> Arrays:
    """Compute value, residual, converged flag and products of every layer of one row, each (L,)."""
    found = []
    with part.operator(kind=kind) as operator:
        # Products of the whole Hessian, not of an objective for every layer: all layers share the saved activations.
        def block(v: Tensor, span: slice) -> Tensor:
            whole = v.new_zeros(operator.size)
            whole[span] = v
            return operator(whole)[span]

        for span in layers.values():
            generator = torch.Generator().manual_seed(seed)
            run = partial(lanczos, partial(block, span=span), span.stop - span.start, generator=generator)
            found.append(run(dtype=part.dtype, device=part.device, callback=callback, **settings))
    return {name: np.array([np.ravel(getattr(pairs, name))[0] for pairs in found]) for name in NUMBERS}


def layer_fields(rows: Rows, layers: dict[str, slice], **settings: Any) -> dict[str, Any]:
    """The fields common to all results per layer."""
    return {
        "layers": tuple(layers),
        "layer_parameters": np.array([span.stop - span.start for span in layers.values()]),
        "per_class": rows.several,
        **rows.fields(**settings),
    }
