"""``sharpness spectrum``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import click

import sharpness
from sharpness.cli.completion import CHECKPOINTS
from sharpness.cli.file_options import probing_options
from sharpness.cli.grouped import grouped
from sharpness.cli.options import (
    CLUSTER,
    PARAMETERS,
    TOL,
    OneExample,
    coordinates_option,
    executor_of,
    picture_look,
    result_options,
    was_given,
)
from sharpness.cli.output import Delivery, as_text, say
from sharpness.errors import UserError


@dataclass(frozen=True)
class RowSettings:
    """Settings of both eigenvalues and densities."""

    per_class: bool
    per_group: bool
    kind: str
    match_samples: int | None
    coordinates: str
    seed: int


@dataclass(frozen=True)
class EndSettings:
    """Settings of eigenvalues only."""

    per_layer: bool
    k: int | None
    tol: float
    bootstrap: int
    verify: bool

    def of_rows(self) -> dict[str, Any]:
        """Return the arguments of :func:`sharpness.eigenvalues`; layers only have the largest end."""
        which = {"which": "LA", "per_layer": True} if self.per_layer else {"which": "both", "keep_vectors": False}
        shared = {"tol": self.tol, "bootstrap": self.bootstrap, "verify": self.verify}
        return {"k": 1 if self.k is None else self.k, **shared, **which}


@click.command(cls=OneExample)
@CHECKPOINTS
@probing_options
@coordinates_option()
@click.option("--per-class", is_flag=True, help="Compute the eigenvalues of each class's Hessian.")
@click.option("--per-group", is_flag=True, help="Compute the eigenvalues of the many, medium and few groups' Hessians.")
@click.option("--per-layer", is_flag=True, help="Compute the largest eigenvalue of each layer's diagonal block.")
@click.option("--density", is_flag=True, help="Estimate the spectral density by stochastic Lanczos quadrature.")
@click.option(
    "--owners", is_flag=True, help="Compute each class's share of the largest eigenvalues of the overall loss."
)
@click.option("-k", type=int, help="Number of eigenvalues at each end. [default: 1; with --owners: 10]")
@TOL
@click.option("--kind", default="hessian", help="Curvature matrix: hessian or ggn (generalised Gauss-Newton).")
@PARAMETERS
@click.option("--match-samples", type=int, help="Draw this many images of each class at random, and use only these.")
@click.option("--bootstrap", default=0, help="Number of bootstrap resamples for 95 % intervals over images; 0: none.")
@click.option("--verify", is_flag=True, help="Check eigenvalues against the rise of the loss along their eigenvectors.")
@click.option("--seed", default=0, help="Seed of starting vectors and resamples.")
@CLUSTER
@result_options
@grouped(rows=RowSettings, ends=EndSettings, shown=Delivery)
def spectrum(
    checkpoints: tuple[str, ...], density: bool, owners: bool, rows: RowSettings, ends: EndSettings, parameters: str,
    cluster: str | None, shown: Delivery, **probed: Any,
) -> None:  # fmt: skip
    """Print the largest and smallest Hessian eigenvalues with their residuals, overall or per class.

    With -o, run the same command again to resume an interrupted one. Under torchrun, processes share the images; with
    --cluster, classes or groups are distributed over the workers.

    Example: sharpness spectrum runs/ldam/last.pt --per-class
    """
    from sharpness.cli.subjects import subjects
    from sharpness.results.words import named_matrix

    if density and (ends.per_layer or ends.verify or ends.bootstrap or ends.k is not None or was_given("tol")):
        raise UserError(
            "--density goes with --per-class or --per-group, not with --per-layer, --verify, --bootstrap, -k or --tol"
        )
    if owners:
        _require_alone({
            "--per-class": rows.per_class, "--per-group": rows.per_group, "--per-layer": ends.per_layer,
            "--density": density, "--bootstrap": ends.bootstrap, "--verify": ends.verify,
            "--match-samples": rows.match_samples, "--kind": rows.kind != "hessian",
        })  # fmt: skip
    if cluster is not None and (owners or ends.per_layer):
        raise UserError("--cluster is for rows of classes: leave out --owners and --per-layer")
    read, options = subjects(checkpoints, probed)
    look = picture_look(probed, read, shown.plot is not None)
    if density and "log" in look:
        raise UserError("--log: densities are always on a logarithmic axis, leave it out")
    shown.require()
    work, partial = shown.work()
    # Probes take data and options separately, unlike measure, which takes keywords.
    shared: dict[str, Any] = {
        "data": options.pop("data", None), "options": {"parameters": parameters, **options}, "resume": partial,
    }  # fmt: skip
    of_rows = {**shared, **asdict(rows), "executor": executor_of(cluster)}
    matrix = named_matrix({"kind": rows.kind})
    if density:
        what = f"Spectral density of the {matrix}"
        results: Any = sharpness.spectral_density(read, **of_rows)
    elif owners:
        what = "Shares of the classes in the largest eigenvalues of the Hessian"
        k = 10 if ends.k is None else ends.k
        results = sharpness.owners(
            read, k=k, tol=ends.tol, seed=rows.seed, coordinates=rows.coordinates, **shared
        )  # fmt: skip
    else:
        what = f"Extreme eigenvalues of the {matrix}"
        results = sharpness.eigenvalues(read, **of_rows, **ends.of_rows())
    shown.results(results, what, {**probed, "match_samples": rows.match_samples, "seed": rows.seed}, look, work)
    for label, result in results.each().items():
        if ends.verify:
            say(f"\n{label}\n{as_text(result.checks)}", err=shown.as_json)
        if not owners:
            say(f"{label}: {result.sample_products} sample-products", err=True)


def _require_alone(others: dict[str, Any]) -> None:
    """Refuse options that do not apply to ``--owners``.

    Raises:
        UserError: one of them was given; the message names the first.
    """
    for name, value in others.items():
        if value:
            raise UserError(f"--owners is of the Hessian of the whole loss: leave {name} out")
