"""``sharpness spectrum``."""

from __future__ import annotations

from typing import Any

import click

import sharpness
from sharpness.cli.completion import CHECKPOINTS
from sharpness.cli.options import (
    CLUSTER,
    PARAMETERS,
    TOL,
    OneExample,
    coordinates_option,
    executor_of,
    measured_on,
    picture_look,
    probing_options,
    result_options,
    split_of,
)
from sharpness.cli.output import RESULTS, alone, as_text, deliver, require_file, require_picture, say
from sharpness.cli.work import work_beside
from sharpness.errors import UserError


@click.command(cls=OneExample)
@CHECKPOINTS
@probing_options
@coordinates_option()
@click.option("--per-class", is_flag=True, help="Eigenvalues of the Hessian of every class.")
@click.option("--per-group", is_flag=True, help="Eigenvalues of the Hessians of many, medium and few.")
@click.option("--per-layer", is_flag=True, help="Largest eigenvalue of every layer's diagonal block.")
@click.option("--density", is_flag=True, help="Density of the whole spectrum, by stochastic Lanczos quadrature.")
@click.option("--owners", is_flag=True, help="Share of every class in the largest eigenvalues of the whole loss.")
@click.option("-k", type=int, help="Number of eigenvalues at each end. [1; --owners: 10]")
@TOL
@click.option(
    "--kind", default="hessian", show_default=True, help="Curvature matrix: hessian or ggn (generalised Gauss-Newton)."
)
@PARAMETERS
@click.option("--match-samples", type=int, help="Number of images of every class, drawn at random first.")
@click.option(
    "--bootstrap", default=0, show_default=True, help="Number of resamples for 95 % intervals over images; 0 for none."
)
@click.option("--verify", is_flag=True, help="Compare eigenvalues with the rise of the loss along their vectors.")
@click.option("--seed", default=0, show_default=True, help="Seed of start vectors and resamples.")
@CLUSTER
@result_options
def spectrum(
    checkpoints: tuple[str, ...], per_class: bool, per_group: bool, per_layer: bool, density: bool, owners: bool,
    k: int | None, tol: float, kind: str, parameters: str, match_samples: int | None, bootstrap: int, verify: bool,
    seed: int, as_json: bool,
    output: str | None, plot: str | None, coordinates: str, cluster: str | None, **probed: Any,
) -> None:  # fmt: skip
    """Print the largest and smallest Hessian eigenvalues, per class on request, with their residuals.

    With -o, unfinished work is kept beside the output, and the same command continues it. Under torchrun the images
    are shared among the processes; with --cluster classes, or groups, are tasks of its workers.

    Example: sharpness spectrum runs/ldam/last.pt --per-class
    """
    from sharpness.cli.subjects import subjects
    from sharpness.results.caption import caption

    if density and (per_layer or verify or bootstrap):
        raise UserError("--density goes with --per-class or --per-group, not with --per-layer, --verify or --bootstrap")
    if owners:
        _require_alone({
            "--per-class": per_class, "--per-group": per_group, "--per-layer": per_layer, "--density": density,
            "--bootstrap": bootstrap, "--verify": verify, "--match-samples": match_samples, "--kind": kind != "hessian",
        })  # fmt: skip
    if cluster is not None and (owners or per_layer):
        raise UserError("--cluster is for rows of classes: leave out --owners and --per-layer")
    read, options = subjects(checkpoints, probed)
    look = picture_look(probed, read, plot is not None)
    if density and "log" in look:
        raise UserError("--log: densities are always on a logarithmic axis, leave it out")
    require_file("-o", output, RESULTS)
    require_picture("--plot", plot)
    work, partial = work_beside(output) if output is not None else (None, None)
    executor = executor_of(cluster)
    shared: dict[str, Any] = {
        "per_class": per_class, "per_group": per_group, "kind": kind, "match_samples": match_samples, "seed": seed,
        "resume": partial, "coordinates": coordinates, "executor": executor,
    }  # fmt: skip
    # Probes know data and options apart, where measure takes all of them as keywords.
    shared |= {"data": options.pop("data", None), "options": {"parameters": parameters, **options}}
    if density:
        results: Any = sharpness.spectral_density(read, **shared)
    elif owners:
        shared = {name: shared[name] for name in ("data", "options", "resume", "coordinates")}
        results = sharpness.owners(read, k=10 if k is None else k, tol=tol, seed=seed, **shared)
    else:
        shared |= {
            "k": 1 if k is None else k,
            "which": "LA" if per_layer else "both",
            "tol": tol,
            "bootstrap": bootstrap,
            "verify": verify,
        }
        shared |= {"per_layer": True} if per_layer else {"keep_vectors": False}
        results = sharpness.eigenvalues(read, **shared)
    what = (
        "Spectral density of the Hessian" if density
        else "Shares of the classes in the largest eigenvalues of the Hessian" if owners
        else "Extreme eigenvalues of the Hessian"
    )  # fmt: skip
    deliver(
        results, lambda: alone(results).plot(**look), lambda: caption(what, results, split_of(probed)), work,
        as_json=as_json, output=output, plot=plot, remarks=lambda: [measured_on(probed)],
    )  # fmt: skip
    for label, result in results.each().items():
        if verify:
            say(f"\n{label}\n{as_text(result.checks)}", err=as_json)
        if not owners:
            say(f"{label}: {result.sample_products} sample-products", err=True)


def _require_alone(others: dict[str, Any]) -> None:
    """Refuse options beside ``--owners`` that it does not have.

    Raises:
        UserError: names the first.
    """
    for name, value in others.items():
        if value:
            raise UserError(f"--owners is of the Hessian of the whole loss: leave {name} out")
