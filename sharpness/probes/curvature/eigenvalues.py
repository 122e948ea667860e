"""Extreme eigenvalues of the Hessian: overall, per class or group, per layer."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal, Unpack

import numpy as np
import torch

from sharpness.curvature.ends import ENDS
from sharpness.engine.memory import memory_budget
from sharpness.engine.second_order import KINDS
from sharpness.errors import UserError, choose
from sharpness.keywords import Default
from sharpness.objective import Objective
from sharpness.probes.curvature.class_shares import owners_of
from sharpness.probes.curvature.layers import eigenvalues_by_layer
from sharpness.probes.curvature.resampling import require_resamples
from sharpness.probes.curvature.row_eigenvalues import LARGEST, SHORT, SMALLEST, RowEigenvalues, solved
from sharpness.probes.curvature.rows import CurvatureOptions, rows_of
from sharpness.probes.curvature.verification import check_eigenvalue
from sharpness.probes.shared.cost import announce_rows
from sharpness.probes.shared.probe import comparable_by_layer
from sharpness.probes.shared.work import Work
from sharpness.progress import progress
from sharpness.results import EigenvalueResult
from sharpness.results.eigenvalues import OWNERS

#: Bytes up to which eigenvectors are kept by default.
USUAL = 2**30
logger = logging.getLogger("sharpness")


class EigenvalueOptions(CurvatureOptions, total=False):
    r"""Keywords of :func:`~sharpness.eigenvalues`.

    Attributes:
        per_layer: compute the eigenvalue of every layer's diagonal block instead, at one end: ``which="LA"`` or
            ``"SA"``. Takes no ``k``, ``keep_vectors``, ``bootstrap``, ``standard_errors`` or ``verify``.
        bootstrap: number of resamples for 95 % intervals over samples. The eigenvalues of every resample are computed
            in the Krylov space of the run, see :mod:`~sharpness.probes.curvature.resampling`. Takes up to 240 more
            products.
        standard_errors: compute standard errors over samples: that of :math:`v' H v` with v fixed, the mean of
            :math:`v' H_i v`, which is :math:`s / \sqrt{n}` (the infinitesimal jackknife of an eigenvalue).
        verify: compare each row's first eigenvalue with the rise of the loss along its eigenvector, in
            ``result.checks``.
    """

    per_layer: Annotated[Literal[False], Default(False)]
    bootstrap: Annotated[int, Default(0)]
    standard_errors: Annotated[bool, Default(False)]
    verify: Annotated[bool, Default(False)]


@comparable_by_layer(eigenvalues_by_layer)
def eigenvalues(
    objective: Objective,
    k: int = 1,
    which: str = "LA",
    per_class: bool = False,
    tol: float = 1e-3,
    max_iterations: int = 100,
    seed: int = 0,
    keep_vectors: bool | None = None,
    **settings: Unpack[EigenvalueOptions],
) -> EigenvalueResult:
    r"""Compute the largest and smallest eigenvalues of the Hessian :math:`\nabla^2 L(w)` by Lanczos iteration.

    L is the weighted mean loss over the objective's samples; nothing is divided by the number of parameters. Per class,
    the Hessian is that of L_c. A product only passes over the samples of class c, so all classes together cost as many
    sample-products as one run over all data with the same number of iterations. Computations that the products of a
    class share are done once, see :meth:`Objective.operator`.

    Args:
        objective: an objective, a model with ``data`` or a checkpoint; or ``{label: one of these}``, to compare them.
        k: number of eigenvalues at each end, per row.
        which: ``"LA"`` for the algebraically largest, ``"SA"`` for the smallest (most negative), or ``"both"``.
        per_class: one row per class, with the Hessian of L_c, instead of one row for all samples.
        tol: a pair is converged when ``|H v - value v|`` is at most ``tol`` times the largest absolute value and
            ``5 tol`` times its own, see :func:`~sharpness.curvature.lanczos.lanczos`.
        max_iterations: maximum number of Lanczos iterations; pairs that have not converged by then are flagged.
        seed: seed of the random half of the starting vector (the other half is the gradient), and of the samples drawn
            by ``match_samples`` and ``bootstrap``.
        keep_vectors: keep the eigenvectors in the result, one float per parameter and value; by default up to 1 GiB.
        settings: see :class:`EigenvalueOptions`.

    Returns:
        Values (in descending order), residuals and, on request, vectors and errors of every row; with ``per_layer`` a
        :class:`~sharpness.results.LayerResult`.
        For a mapping, a :class:`~sharpness.Comparison` of such results by label.

    Raises:
        UserError: an unknown end or kind, more eigenvalues than parameters, incompatible settings, or models that
            cannot be compared.

    The loss :math:`(3 w_1^2 + w_2^2) / 2` has the Hessian diag(3, 1):

    >>> model, data = torch.nn.Linear(2, 1, bias=False), (torch.tensor([[3**0.5, 0.0], [0.0, 1.0]]), torch.zeros(2))
    >>> objective = Objective(model, data, loss=lambda outputs, y: outputs[:, 0] ** 2)
    >>> eigenvalues(objective, which="both").values.round(4).tolist()
    [3.0, 1.0]
    """
    choose("end of the spectrum", which, ENDS)
    kind, bootstrap, standard_errors = settings["kind"], settings["bootstrap"], settings["standard_errors"]
    verify, executor = settings["verify"], settings["executor"]
    choose("kind of curvature", kind, KINDS)
    require_resamples(bootstrap)
    if not 1 <= k <= objective.num_parameters:
        raise UserError(f"k={k}: give a number from 1 to the {objective.num_parameters} parameters in scope")
    if verify and kind != "hessian":
        raise UserError(
            "verify=True compares with the loss itself, whose curvature is the Hessian: take kind='hessian'"
        )
    if (bootstrap or standard_errors) and kind != "hessian":
        raise UserError(f"kind={kind!r}: bootstrap and standard_errors are of the Hessian, take kind='hessian'")
    rows = rows_of(objective, per_class, seed, settings)
    fields = rows.fields(
        probe="eigenvalues", kind=kind, max_iterations=max_iterations, match_samples=settings["match_samples"],
        bootstrap=bootstrap,
    )  # fmt: skip
    # Checked before hours of products: with 1,000 classes, vectors may not fit into memory.
    width = min(2 * k if which == "both" else k, objective.num_parameters)
    size = objective.dtype.itemsize
    keep_vectors = vectors_are_kept(keep_vectors, len(rows.names), width, objective.num_parameters, size)
    rows.whole.check()
    # Part of the key: rows saved without vectors or errors cannot be used by a call that needs them.
    vectors = keep_vectors or verify
    asked = {"k": k, "which": which, "tol": tol, "seed": seed, "vectors": vectors, "errors": standard_errors}
    work = rows.work(settings["resume"], {**fields["provenance"], **asked})
    task = RowEigenvalues(work, k, which, tol, max_iterations, seed, kind, bootstrap, standard_errors, vectors)
    if executor is not None and rows.several and rows.present:
        share = k * (LARGEST if which == "LA" else LARGEST + SMALLEST) / SHORT
        short = partial(replace(task, work=Work(None, {}), k=1, max_iterations=SHORT), 0)
        announce_rows(rows.whole, "eigenvalues", short, share, rows.samples[rows.samples > 0].tolist(), executor)
    with progress(None, "eigenvalues", "products") as bar:
        done = solved(rows, task, bar, executor)
    checks = [
        check_eigenvalue(part, rows.names[i], float(done[i]["values"][0]), torch.as_tensor(done[i]["vectors"][0]))
        for i, part in (rows.present if verify else [])
    ]
    table = partial(rows.gather, done)
    products = table("products", 0)
    if checks:
        fields["provenance"]["checks"] = checks
    result = EigenvalueResult(
        values=table("values", np.nan, width),
        residuals=table("residuals", np.nan, width),
        converged=table("converged", False, width),
        vectors=table("vectors", np.nan, width, objective.num_parameters) if keep_vectors else None,
        lower=table("lower", np.nan, width) if bootstrap else None,
        upper=table("upper", np.nan, width) if bootstrap else None,
        standard_errors=table("errors", np.nan, width) if standard_errors or bootstrap else None,
        top_share=table("top_share", np.nan, width) if standard_errors or bootstrap else None,
        products=products,
        which=which,
        k=k,
        tol=tol,
        seed=seed,
        hvp_count=int(products.sum()),
        sample_products=rows.sample_products(products),
        **fields,
    )
    if result.vectors is not None and not rows.several:
        OWNERS[result] = partial(owners_of, rows.whole)
    return result


def vectors_are_kept(wanted: bool | None, rows: int, width: int, parameters: int, itemsize: int) -> bool:
    """Decide whether a result keeps its eigenvectors.

    Args:
        wanted: the caller's choice; None keeps them up to 1 GiB, and logs if they are not kept.
        rows: number of rows of the result, such as classes.
        width: number of eigenvalues per row.
        parameters: number of parameters in scope.
        itemsize: bytes of a number.

    Returns:
        True if they are kept.

    Raises:
        UserError: they are wanted but do not fit into free memory; the message states the number of bytes.

    >>> vectors_are_kept(None, 10, 2, 1000, 4), vectors_are_kept(None, 1000, 1, 25_557_032, 4)
    (True, False)
    """
    size = rows * width * parameters * itemsize
    told = f"{rows:,} x {width} eigenvectors of {parameters:,} parameters take {size:,} bytes"
    if wanted is None:
        if size > USUAL:
            logger.info("%s: they are not kept; keep_vectors=True keeps them where they fit", told)
        return size <= USUAL
    free = 2 * memory_budget(torch.device("cpu"))  # the budget is half of the free memory
    if wanted and size > max(free, USUAL):
        raise UserError(f"{told}, and {free:,} are free: give keep_vectors=False, or fewer parameters")
    return wanted
