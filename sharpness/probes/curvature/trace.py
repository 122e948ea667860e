"""The trace of the Hessian: overall, per class or group, per layer."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from functools import partial
from typing import Annotated, Any, Literal, Unpack

import numpy as np
import torch
from torch import Tensor

from sharpness.clusters import Parcel, do_all, parcelled, scratch_of
from sharpness.curvature.operator import random_signs
from sharpness.curvature.trace import TraceEstimate, hutchinson, hutchpp
from sharpness.engine.class_sums import mean_error
from sharpness.engine.operator import CurvatureOperator
from sharpness.engine.second_order import KINDS
from sharpness.errors import UserError, choose, require_whole
from sharpness.keywords import Default
from sharpness.objective import Objective
from sharpness.probes.curvature.exact_trace import ExactTrace
from sharpness.probes.curvature.layers import trace_by_layer
from sharpness.probes.curvature.resampling import mean_interval, require_resamples
from sharpness.probes.curvature.rows import Callback, CurvatureOptions, Rows, ignore, rows_of
from sharpness.probes.curvature.verification import check_sum, check_trace
from sharpness.probes.shared.column import Column, table_of
from sharpness.probes.shared.probe import comparable_by_layer
from sharpness.probes.shared.work import Arrays, Work
from sharpness.progress import progress
from sharpness.renamed import renamed_arguments
from sharpness.results import MeasureResult
from sharpness.results.estimates import Estimate, mean_of
from sharpness.statistics.estimate import interval, mean_and_error

ESTIMATORS = {"hutchinson": hutchinson, "hutch++": hutchpp}


class TraceOptions(CurvatureOptions, total=False):
    """Keywords of :func:`~sharpness.trace`.

    Attributes:
        estimator: ``"exact"``, without random vectors, for networks that are piecewise linear in each parameter
            (convolutions, BatchNorm, ReLU, pooling; a linear or cosine head); ``"hutchinson"``; or ``"hutch++"`` (Meyer
            et al. 2021), which is better if few eigenvalues dominate. ``"auto"`` is exact where that takes at most
            eight backward passes for each of ``draws``, otherwise Hutchinson's.
        per_layer: the trace of every layer's diagonal block instead, from the same passes. Takes no ``"hutch++"``,
            ``bootstrap`` or ``verify``.
        bootstrap: number of resamples for 95 % intervals over samples: of exact traces, or with Hutchinson's estimator
            of z' H_i z for every sample i and vector z instead of products. Only for the Hessian.
        verify: compare the trace with the rise of the loss under Gaussian noise and, for several rows, their weighted
            sum with the trace of all samples, in ``result.checks``.
    """

    estimator: Annotated[str, Default("auto")]
    per_layer: Annotated[Literal[False], Default(False)]
    bootstrap: Annotated[int, Default(0)]
    verify: Annotated[bool, Default(False)]


@renamed_arguments(probes="draws")
@comparable_by_layer(trace_by_layer)
def trace(
    objective: Objective,
    per_class: bool = False,
    draws: int = 30,
    seed: int = 0,
    **options: Unpack[TraceOptions],
) -> MeasureResult:
    r"""Compute the trace of the Hessian, :math:`\operatorname{tr} \nabla^2 L(w)`, with its standard error.

    It is not divided by the number of parameters. For networks that are piecewise linear in each parameter, it is
    exact, from one backward pass per output (``sharpness/engine/diagonal.py``), and the standard error is over images.
    Otherwise it is Hutchinson's estimate, the mean of :math:`z' \nabla^2 L\, z` over random sign vectors z, and the
    standard error is over these vectors. Every row uses the same vectors, so differences between classes are not due
    to the draws.

    Args:
        objective: an objective, a model with ``data`` or a checkpoint; or ``{label: one of these}``, to compare them.
        per_class: one row per class, with the Hessian of L_c, instead of one row for all samples.
        draws: number of random vectors, with one product each per row, where the trace is not exact; for ``"hutch++"``,
            the total number of products.
        seed: seed of the random vectors, and of the samples drawn by ``match_samples`` and ``bootstrap``.
        options: see :class:`TraceOptions`.

    Returns:
        A table with the measure ``"trace"``; ``result.over`` is ``("images",)`` if it is exact. With
        ``per_layer`` a :class:`~sharpness.results.LayerResult`. For a mapping, a :class:`~sharpness.Comparison` of such
        results by label.

    Raises:
        UserError: an unknown estimator or kind, no exact form for ``estimator="exact"``, fewer than 2 draws (6 for
            Hutch++), incompatible settings, or models that cannot be compared.

    The loss :math:`(3 w_1^2 + w_2^2) / 2` has the Hessian diag(3, 1), and a diagonal one is traced exactly:

    >>> model, data = torch.nn.Linear(2, 1, bias=False), (torch.tensor([[3**0.5, 0.0], [0.0, 1.0]]), torch.zeros(2))
    >>> objective = Objective(model, data, loss=lambda outputs, y: outputs[:, 0] ** 2)
    >>> trace(objective, draws=2).overall.round(4).tolist()
    [4.0]
    """
    estimator = options["estimator"]
    choose("trace estimator", estimator, ["auto", "exact", *ESTIMATORS])
    kind = options["kind"]
    choose("kind of curvature", kind, KINDS)
    bootstrap, verify, executor = options["bootstrap"], options["verify"], options["executor"]
    if bootstrap and estimator == "hutch++":
        raise UserError("estimator='hutch++' has no parts by sample: take 'hutchinson'")
    if (bootstrap or verify) and kind != "hessian":
        raise UserError(f"kind={kind!r}: bootstrap and verify look at the loss itself: take kind='hessian'")
    require_resamples(bootstrap)
    rows = rows_of(objective, per_class, seed, options)
    rows.whole.check()
    exact = None
    if estimator == "exact":
        exact = ExactTrace.of(rows.whole, kind)
    elif estimator == "auto" and not bootstrap and not verify:
        exact = ExactTrace.instead_of(draws, rows.whole, kind)
    if estimator == "auto":
        estimator = "hutchinson" if exact is None else "exact"
    fields = rows.fields(
        probe="trace", estimator=estimator, kind=kind, draws=draws, seed=seed, match_samples=options["match_samples"],
        bootstrap=bootstrap,
    )  # fmt: skip
    if exact is not None:
        traces = exact.traces(rows.work(options["resume"], fields["provenance"]), executor)
        return _exact(rows, traces, bootstrap, verify, seed, fields)
    # Arrays of single vectors have a separate key: with a bootstrap, earlier versions saved their means as row 0.
    by_vector = (rows.several or bootstrap) and estimator == "hutchinson" and kind == "hessian"
    kept = {"by": "vector"} if by_vector and not rows.several else {}
    work = rows.work(options["resume"], fields["provenance"] | kept)
    if by_vector:
        done = _of_every_sample(rows, work, draws, seed, executor)
    else:
        with progress(draws * len(rows.present), "trace", "products") as bar:
            task = partial(_estimate, estimator=estimator, kind=kind, draws=draws, seed=seed)
            done = rows.map(work, task, bar, executor)
    # Added only now, because the provenance is the key of unfinished work, which must not depend on results.
    fields["provenance"]["products"] = int(sum(int(f["products"]) for f in done.values()))
    if verify:
        fields["provenance"]["checks"] = _verify(rows, done, estimator, draws, seed)
    return _result(rows, done, bootstrap, estimator, seed, fields)


def _estimate(
    row: int, part: Objective, callback: Callback = ignore, *, estimator: str, kind: str, draws: int, seed: int
) -> Arrays:
    """Compute the arrays of one row."""
    generator = torch.Generator().manual_seed(seed)
    with part.operator(kind=kind) as operator:
        found: TraceEstimate = ESTIMATORS[estimator](
            operator, operator.size, draws, generator=generator, dtype=part.dtype, device=part.device, callback=callback
        )
    return {
        "value": found.value, "error": found.standard_error, "products": found.products, "samples": found.samples
    }  # fmt: skip


def _exact(
    rows: Rows, traces: np.ndarray, resamples: int, verify: bool, seed: int, fields: dict[str, Any]
) -> MeasureResult:
    """Make the table from the traces of every sample (n,), with errors over images."""
    # Like losses, traces that are nonnegative for every image have a nonnegative mean whatever the images.
    keeps_sign = fields["provenance"]["kind"] == "ggn" or bool((traces >= 0).all())
    weights, nothing = rows.whole.weights.double().numpy(), np.arange(0)
    members = [rows.indices(i) for i in range(len(rows.parts))] if rows.several else [nothing] * rows.whole.num_classes
    members.append(np.arange(len(traces)))

    def of_samples(indices: np.ndarray) -> Estimate:
        if not len(indices):
            return Estimate(*[np.nan] * 4)
        value = float(np.average(traces[indices], weights=weights[indices]))
        error = mean_error(traces[indices], weights[indices])
        ends = np.ravel(interval(value, error, len(indices) - 1, keeps_sign))
        if resamples:
            ends = np.array(mean_interval(traces[indices], weights[indices], resamples, seed))
        return Estimate(value, error, *ends)

    found = [of_samples(indices) for indices in members]
    groups = rows.whole.present_groups if rows.several and not rows.grouped else {}
    # Without random vectors in common, classes are independent of each other.
    found += [mean_of([found[c] for c in classes]) for classes in groups.values()]
    over = f"images ({resamples} resamples)" if resamples else "images"
    columns = {"trace": Column(Estimate(*np.array(found, dtype=float).T), over)}
    fields["provenance"]["products"] = 0
    if verify:
        last = len(members) - 1
        fields["provenance"]["checks"] = [
            check_trace(part, rows.names[i], float(found[i if rows.several else last].value), 0.0, seed=seed)
            for i, part in rows.present
        ]
    return table_of(columns, np.full(len(members) - 1, -1), **fields)


def _of_every_sample(rows: Rows, work: Work, draws: int, seed: int, executor: Executor | None) -> dict[int, Arrays]:
    """Compute Hutchinson's estimates of all rows from z' H_i z of every sample, in one pass per vector."""
    whole, weights = rows.whole, rows.whole.weights.double().numpy()
    require_whole("draws", draws, 2, ", for a standard error")
    forms = np.empty((draws, whole.num_samples))
    with progress(draws, "trace", "products") as bar:
        if executor is None:
            with whole.operator() as operator:
                for draw, z in enumerate(_signs(whole, draws, seed)):
                    forms[draw] = work.once(draw, partial(_forms, whole, z, operator))["forms"]
                    bar.update()
        else:
            # Vectors are the tasks, not classes, so that sums over samples are bitwise those of a single process.
            with parcelled(whole, scratch_of(executor, work.folder)) as parcel:
                for draw, found in do_all(executor, {d: partial(_sent, work, parcel, d, seed) for d in range(draws)}):
                    forms[draw] = found["forms"]
                    bar.update()
    done = {}
    for i, _ in rows.present:
        own = rows.indices(i)
        of_row, a = forms[:, own], weights[own]
        samples = of_row @ a / a.sum()
        value, error = mean_and_error(samples)
        done[i] = {"value": value, "error": error, "products": draws, "samples": samples, "forms": of_row.mean(axis=0)}
    return done


def _signs(whole: Objective, draws: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(draws):
        yield random_signs(whole.num_parameters, generator, whole.dtype, whole.device)


def _forms(whole: Objective, z: Tensor, operator: CurvatureOperator, draw: int) -> Arrays:
    return {"forms": whole.quadratic_forms(z, operator=operator)}


def _sent(work: Work, parcel: Parcel, draw: int, seed: int) -> Arrays:
    """Compute the quadratic forms of one vector in another process, unless they are saved."""

    def compute(draw: int) -> Arrays:
        whole = parcel.open()
        *_, z = _signs(whole, draw + 1, seed)
        with whole.operator() as operator:
            return _forms(whole, z, operator, draw)

    return work.once(draw, compute)


def _result(
    rows: Rows, done: dict[int, Any], resamples: int, estimator: str, seed: int, fields: dict[str, Any]
) -> MeasureResult:
    """Make the table of the estimates for rows, all samples and groups."""
    names = [i for i, _ in rows.present]
    keeps_sign = fields["provenance"]["kind"] == "ggn"  # semidefinite for convex losses of the outputs
    draws = {i: len(found["samples"]) for i, found in done.items()}
    # With Hutch++, the number of draws may differ between rows; combinations of rows use the smallest number.
    fewest = min(draws.values(), default=0)
    freedom = np.array([draws.get(i, fewest) for i in range(len(rows.parts) + 1)]) - 1
    # Values and standard errors of the rows and, last, of all samples.
    table = np.full((2, len(rows.parts) + 1), np.nan)
    for i, found in done.items():
        table[:, i] = found["value"], found["error"]
    shares = rows.shares[names]
    if rows.complete and estimator == "hutchinson":
        table[:, -1] = mean_and_error(sum(s * done[i]["samples"] for s, i in zip(shares, names, strict=True)))
    elif rows.complete:  # the rows' estimates are dependent: the sum of their errors bounds that of the sum
        table[:, -1] = table[:, names] @ shares
    groups = _groups(rows, done, estimator)
    ends = interval(table[0], table[1], freedom, keeps_sign)
    of_groups = interval(groups[0], groups[1], fewest - 1, keeps_sign)
    if resamples:
        forms = {i: (done[i]["forms"], part.weights.double().numpy()) for i, part in rows.present}
        if rows.complete:
            q, a = (np.concatenate(parts) for parts in zip(*forms.values(), strict=True))
            forms[len(rows.parts)] = q, a
        ends[:] = np.nan
        for i, (q, a) in forms.items():
            ends[:, i] = mean_interval(q, a, resamples, seed)
        if groups.size:
            column = Column.of_images(rows.whole, table[0], table[1], ends)
            of_groups = np.stack(column.rows[2:])[:, table.shape[1] :]
    known = np.concatenate([table, ends])
    if not rows.several:
        known = np.c_[np.full((4, rows.whole.num_classes), np.nan), known[:, -1]]
    estimates = Estimate(*np.c_[known, np.concatenate([groups, of_groups])])
    over = f"images ({resamples} resamples)" if resamples else f"{fields['provenance']['draws']} random vectors"
    return table_of({"trace": Column(estimates, over)}, np.full(known.shape[1] - 1, -1), **fields)


def _groups(rows: Rows, done: dict[int, Any], estimator: str) -> np.ndarray:
    """Means over the groups' classes and their errors, (2, G); estimates depend on each other through the vectors."""
    groups = rows.whole.present_groups if rows.several and not rows.grouped else {}
    found = np.full((2, len(groups)), np.nan)
    for g, classes in enumerate(groups.values()):
        if not classes:
            continue
        if estimator == "hutchinson":
            found[:, g] = mean_and_error(np.mean([done[c]["samples"] for c in classes], axis=0))
        else:  # an upper bound, as for all samples
            found[:, g] = np.mean([(done[c]["value"], done[c]["error"]) for c in classes], axis=0)
    return found


def _verify(rows: Rows, done: dict[int, Any], estimator: str, draws: int, seed: int) -> list[dict[str, Any]]:
    checks = [
        check_trace(part, rows.names[i], float(done[i]["value"]), float(done[i]["error"]), seed=seed)
        for i, part in rows.present
    ]
    if rows.several and rows.complete and estimator == "hutchinson":
        whole = _estimate(-1, rows.whole, estimator=estimator, kind="hessian", draws=draws, seed=seed)
        values = np.array([done[i]["value"] if i in done else np.nan for i in range(len(rows.parts))], dtype=float)
        checks.append(check_sum("all", values, rows.shares, float(whole["value"])))
    return checks
