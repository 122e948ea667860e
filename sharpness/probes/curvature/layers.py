r"""The Hessian's diagonal blocks: one layer at a time, all else fixed.

The block of layer l is :math:`P_l' H P_l` with P_l the embedding of the layer's parameters, so its products are those
of the whole Hessian with vectors that vanish elsewhere: all layers and iterations share one class's saved activations.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.curvature import lanczos
from sharpness.errors import UserError
from sharpness.objective import Objective
from sharpness.probes.curvature.rows import Rows
from sharpness.progress import progress
from sharpness.results import LayerResult


def layers_of(objective: Objective) -> dict[str, slice]:
    """Modules with a weight of two or more axes, in the order of the network, and their places in a flat vector (k,).

    A layer is such a weight with its bias; normalisation layers are none.
    """
    spans: dict[str, slice] = {}
    end = 0
    weighty = {n.rpartition(".")[0] for n, p in zip(objective.names, objective.parameters, strict=True) if p.ndim > 1}
    for name, p in zip(objective.names, objective.parameters, strict=True):
        start, end = end, end + p.numel()
        layer = name.rpartition(".")[0]
        if layer in weighty:
            spans[layer] = slice(spans[layer].start if layer in spans else start, end)
    if not spans:
        raise UserError(f"no parameter in scope {objective.scope!r} is the weight of a layer: take a wider scope")
    return {layer or "model": span for layer, span in spans.items()}


def layer_eigenvalues(
    rows: Rows, which: str, tol: float, seed: int, settings: dict[str, Any], resume: str | Path | None
) -> LayerResult:
    """The largest or smallest eigenvalue of every layer's block, for every row."""
    layers = layers_of(rows.whole)
    fields = layer_fields(rows, layers, probe="layer_eigenvalues", which=which, tol=tol, seed=seed, **settings)
    store = rows.store(resume, fields["provenance"])
    table: dict[str, list[np.ndarray]] = {"value": [], "residual": [], "converged": [], "products": []}
    with progress(None, "eigenvalues per layer", "products") as bar:
        for j, part in enumerate(rows.parts):
            found = None if part is None else store.load(j)
            if part is not None and found is None:
                found = _row(part, rows.names[j], layers, which, tol, seed, settings, bar)
                store.save(j, found)
            for name, column in table.items():
                missing = np.full(len(layers), np.nan if name in ("value", "residual") else 0)
                column.append(missing if found is None else found[name])
    return LayerResult(
        measure="lambda_max" if which == "LA" else "lambda_min",
        values=np.stack(table["value"], axis=1),
        residuals=np.stack(table["residual"], axis=1),
        converged=np.stack(table["converged"], axis=1).astype(bool),
        sample_products=int((np.stack(table["products"], axis=1) * rows.samples).sum()),
        **fields,
    )


def _row(
    part: Objective,
    name: str,
    layers: dict[str, slice],
    which: str,
    tol: float,
    seed: int,
    settings: dict[str, Any],
    bar: Any,
) -> dict[str, np.ndarray]:
    """Every layer of one row: value, residual, converged, products, each of shape (L,)."""
    found = []
    with part.operator(kind=settings["kind"]) as operator:

        def block(v: Tensor, span: slice) -> Tensor:
            whole = v.new_zeros(operator.size)
            whole[span] = v
            return operator(whole)[span]

        for layer, span in layers.items():
            bar.set_postfix_str(f"{name}, {layer}")
            found.append(
                lanczos(
                    partial(block, span=span),
                    span.stop - span.start,
                    which=which,
                    tol=tol,
                    max_iterations=settings["max_iterations"],
                    generator=torch.Generator().manual_seed(seed),
                    dtype=part.dtype,
                    device=part.device,
                    callback=bar.update,
                )
            )
    return {
        "value": np.array([pairs.values[0] for pairs in found]),
        "residual": np.array([pairs.residuals[0] for pairs in found]),
        "converged": np.array([pairs.converged[0] for pairs in found]),
        "products": np.array([pairs.products for pairs in found]),
    }


def layer_fields(rows: Rows, layers: dict[str, slice], **settings: Any) -> dict[str, Any]:
    """The fields that a result per layer has whatever it measures."""
    return {
        "layers": tuple(layers),
        "layer_parameters": np.array([span.stop - span.start for span in layers.values()]),
        "per_class": rows.several,
        **rows.fields(**settings),
    }
