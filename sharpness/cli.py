"""The command line, thin: options in, one call of the library, tables out.

Tables go to stdout, files where ``-o`` or ``--out`` say, progress to stderr. A user's mistake ends in one line and exit
code 2, an interruption in 130.
"""

from __future__ import annotations

import ast
import logging
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from click.core import ParameterSource

import sharpness
from sharpness.checkpoints import Checkpoint
from sharpness.data import DATASETS, LongTailData, load_data
from sharpness.engine import distributed
from sharpness.errors import UserError, choose
from sharpness.files import write_atomically
from sharpness.flattening import OPERATIONS
from sharpness.methods import METHODS
from sharpness.plots import save_figure
from sharpness.plots.interactive import save_html
from sharpness.probes import MEASURES, checkpoint_objective, load_directions
from sharpness.results import Comparison
from sharpness.studies import METHODS as FIGURE_METHODS
from sharpness.studies import OPERATIONS as STUDY_OPERATIONS
from sharpness.studies import make_figures, make_flattening_study, make_microbenchmark, to_markdown
from sharpness.studies.flattening import METHODS as STUDY_METHODS

Command = Callable[..., Any]


class OneExample(click.Command):
    """A command whose docstring may end in an example that is shown as it is."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        text, _, example = (self.help or "").partition("Example:")
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(text.strip())
        if example:
            with formatter.section("Example"):
                for row in example.strip().splitlines():
                    formatter.write(f"  {row.strip()}\n")


def several(command: Command, options: list[Command]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def data_options(command: Command) -> Command:
    """Options that describe a long-tailed data set."""
    return several(
        command,
        [
            click.option("--data", default="digits-lt", show_default=True, help=f"One of {', '.join(DATASETS)}."),
            click.option("--data-root", type=click.Path(), help="Folder of the CIFAR files; else $SHARPNESS_DATA."),
            click.option("--download", is_flag=True, help="Fetch the official CIFAR archive if it is missing."),
            click.option("--profile", help="exp or step; exp unless given."),
            click.option("--imbalance", type=float, help="Largest over smallest class."),
            click.option("--subset", help="ldam_seed0, first_n or seed:<int>: which images are kept."),
            click.option("--groups", help="Convention of many, medium and few, such as oltr or mislas."),
        ],
    )


def training_options(command: Command) -> Command:
    """Options of a training run."""
    return several(
        command,
        [
            click.option("--epochs", type=int, help="Of the first stage, later ones in proportion. [published]"),
            click.option("--model", help="Architecture, such as resnet32. [the data set's usual one]"),
            click.option("--batch-size", type=int, help="[published, smaller for tiny data sets]"),
            click.option("--precision", default="auto", show_default=True, help="auto, float32 or bfloat16."),
            click.option("--device", help="Such as cpu or cuda:0. [a GPU if there is one]"),
            click.option("--seed", type=int, default=0, show_default=True),
        ],
    )


def probing_options(command: Command) -> Command:
    """Options of what is probed."""
    return several(
        command,
        [
            click.option("--split", default="train", show_default=True, help="train or test."),
            click.option("--loss", default="ce", show_default=True, help="ce on calibrated logits, or training."),
            click.option("--limit-per-class", type=int, help="Probe so many images of every class at most."),
            click.option("--data", help="Data set of a foreign file, which records none, such as cifar10-lt."),
            click.option("--imbalance", type=float, help="Of that data set. [what the file's family used]"),
            click.option("--data-root", type=click.Path(), help="Folder of the CIFAR files; else $SHARPNESS_DATA."),
            click.option("--device", help="Such as cpu or cuda:0. [a GPU if there is one]"),
        ],
    )


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(sharpness.__version__, prog_name="sharpness")
def cli() -> None:
    """How flat is this minimum, for every class? Sharpness of deep long-tailed recognition."""


@cli.command(cls=OneExample)
@click.option("--method", required=True, help=f"One of {', '.join(METHODS)}.")
@data_options
@training_options
@click.option("--out", type=click.Path(), help="Folder of the run. [runs/DATA-METHOD-seedS]")
@click.option("--flatten", default="", help=f"Flattening operation, one of {', '.join(OPERATIONS)}, such as sam:0.1.")
@click.option("--option", "-O", "pairs", multiple=True, help="Of the method, such as -O scope=all. Repeatable.")
@click.option("--resume", is_flag=True, help="Go on with an unfinished run.")
@click.option("--snapshots", type=int, help="Keep a checkpoint every so many epochs, for trajectories.")
def train(
    method: str, out: str | None, flatten: str, pairs: tuple[str, ...], resume: bool, snapshots: int | None,
    **given: Any,
) -> None:  # fmt: skip
    """Train a model with a method's published recipe; the result is OUT/last.pt.

    Example: sharpness train --method ldam-drw --data digits-lt --epochs 40 --out runs/ldam
    """
    data = _data(given)
    names = tuple(name for name in flatten.split(",") if name)
    folder = Path(out) if out else Path("runs") / f"{given['data']}-{method}-seed{given['seed']}"
    options = dict(_pair(p) for p in pairs)
    kept: dict[str, Any] = {"resume": resume, "snapshots": snapshots}
    history = sharpness.train(method, data, folder, flatten=names, **kept, **_training(given), **options)
    columns = ["stage", "epoch", "lr", "loss", "test_loss", *[str(c) for c in history if str(c).startswith("accuracy")]]
    click.echo(_table(history[columns[:9]].groupby("stage", sort=False).tail(1)))
    click.echo(f"written {folder / 'last.pt'}, {folder / 'history.csv'}")


@cli.command(cls=OneExample)
@click.argument("checkpoints", nargs=-1, required=True)
@probing_options
@click.option("--measures", default="", help=f"Comma-separated: {', '.join(MEASURES)}. [all but trace]")
@click.option("--radius", default=0.1, show_default=True, help="Relative size of random perturbations.")
@click.option("--rho", default=0.05, show_default=True, help="Radius of the worst case.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("-o", "--output", type=click.Path(), help="Also write the table, as .csv or .json.")
def measure(
    checkpoints: tuple[str, ...], measures: str, radius: float, rho: float, seed: int, as_json: bool,
    output: str | None, **probed: Any,
) -> None:  # fmt: skip
    """Print the per-class table of checkpoints: accuracy, loss, eigenvalues, rises of the loss, standard errors.

    Example: sharpness measure runs/ldam/last.pt -o ldam.csv
    """
    if output is not None and Path(output).suffix not in (".csv", ".json"):
        raise UserError(f"-o {output}: the name must end in .csv or .json")
    chosen: dict[str, Any] = {"measures": measures.split(",")} if measures else {}
    table = sharpness.measure(
        {str(p): p for p in checkpoints}, radius=radius, rho=rho, seed=seed, **probed, **chosen,
    ).to_frame()  # fmt: skip
    if len(checkpoints) == 1:
        table = table.drop(columns="model")
    click.echo(_json(table) if as_json else _table(table))
    if output is not None:
        _write(table, Path(output))


@cli.command(cls=OneExample)
@click.argument("checkpoints", nargs=-1, required=True)
@probing_options
@click.option("--per-class", is_flag=True, help="Of the Hessian of every class.")
@click.option("--per-group", is_flag=True, help="Of the Hessian of many, medium and few.")
@click.option("--per-layer", is_flag=True, help="Largest eigenvalue of every layer's diagonal block.")
@click.option("--density", is_flag=True, help="The whole spectrum, by stochastic Lanczos quadrature.")
@click.option("-k", default=1, show_default=True, help="Eigenvalues at each end.")
@click.option("--tol", default=1e-3, show_default=True, help="Relative residual of an eigenvalue.")
@click.option("--kind", default="hessian", show_default=True, help="hessian or ggn (generalised Gauss-Newton).")
@click.option("--scope", default="all", show_default=True, help="all, backbone, classifier or a pattern of names.")
@click.option("--match-samples", type=int, help="Draw so many images of every class first.")
@click.option("--bootstrap", default=0, show_default=True, help="Resamples of a 95 % interval over images.")
@click.option("--verify", is_flag=True, help="Compare with the rise of the loss along the eigenvectors.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("-o", "--output", type=click.Path(), help="Also write the result, as .nc, .csv or .json.")
@click.option("--figure", type=click.Path(), help="Also draw it, as PDF and PNG.")
def spectrum(
    checkpoints: tuple[str, ...], per_class: bool, per_group: bool, per_layer: bool, density: bool, k: int, tol: float,
    kind: str, scope: str, match_samples: int | None, bootstrap: int, verify: bool, seed: int, as_json: bool,
    output: str | None, figure: str | None, **probed: Any,
) -> None:  # fmt: skip
    """Print the largest and smallest Hessian eigenvalues, per class on request, with their residuals.

    With -o, unfinished work is kept beside the output and the same command goes on with it. Under torchrun the images
    are shared among the processes.

    Example: sharpness spectrum runs/ldam/last.pt --per-class
    """
    suffixes = (".nc", ".csv", ".json") if len(checkpoints) == 1 else (".csv", ".json")
    if output is not None and Path(output).suffix not in suffixes:
        raise UserError(f"-o {output}: the name must end in {' or '.join(suffixes)}")
    if density and (per_layer or verify or bootstrap):
        raise UserError("--density goes with --per-class or --per-group, not with --per-layer, --verify or --bootstrap")
    partial = Path(f"{output}.partial") if output is not None else None
    shared: dict[str, Any] = {
        "per_class": per_class, "per_group": per_group, "kind": kind, "match_samples": match_samples, "seed": seed,
        "resume": partial,
    }  # fmt: skip
    results: Comparison = Comparison()
    for path in checkpoints:
        checkpoint = sharpness.load_checkpoint(path)
        objective = checkpoint_objective(checkpoint, parameters=scope, **probed)
        label = path if checkpoint.label in results else checkpoint.label
        if density:
            results[label] = sharpness.spectral_density(objective, **shared)
        else:
            results[label] = sharpness.eigenvalues(
                objective, k, "LA" if per_layer else "both", tol=tol, keep_vectors=False, per_layer=per_layer,
                bootstrap=bootstrap, verify=verify, **shared,
            )  # fmt: skip
        results[label].provenance["label"] = label
    single = next(iter(results.values())) if len(results) == 1 else None
    table = (single or results).to_frame()
    click.echo(_json(table) if as_json else _table(table))
    for label, result in results.items():
        if verify:
            click.echo(f"\n{label}\n{_table(result.checks)}")
        click.echo(f"{label}: {result.sample_products} sample-products", err=True)
    if output is not None:
        _write(single if output.endswith(".nc") else table, Path(output))
        shutil.rmtree(f"{output}.partial", ignore_errors=True)
    if figure is not None:
        drawn = (single or results).plot()
        for written in save_figure(getattr(drawn, "figure", drawn), Path(figure)):
            click.echo(written)


@cli.command(cls=OneExample)
@click.argument("checkpoints", nargs=-1, required=True)
@probing_options
@click.option("--plane", "points", default=51, show_default=True, help="Points along each side; 0 for no plane.")
@click.option("--line", "line_points", default=0, help="Also the line along the first direction, of so many points.")
@click.option("--range", "extent", default=1.0, show_default=True, help="Half the side, in lengths of the directions.")
@click.option(
    "--directions",
    default="filter",
    show_default=True,
    help="filter, layer or none (Gaussian, so normalised); hessian, gradient+hessian, ...; or a saved FILE.npz.",
)
@click.option("--adaptive", default=0.01, show_default=True, help="Interpolate to this part of the relief; 0: do not.")
@click.option("--precision", default="auto", show_default=True, help="auto, float32 or bfloat16.")
@click.option("--scope", default="all", show_default=True, help="all, backbone, classifier or a pattern of names.")
@click.option("--batchnorm", default="eval", show_default=True, help="eval or recalibrate: statistics at each point.")
@click.option("--class", "subsets", multiple=True, help="Draw a class or a group alone. Repeatable.")
@click.option("--per-class", is_flag=True, help="Draw every class, too.")
@click.option("--scale", default="clipped", show_default=True, help="Of the colours: clipped, log or linear.")
@click.option("--interactive", is_flag=True, help="Also a surface to turn in the browser, OUT/surface.html.")
@click.option("--resume/--no-resume", default=True, show_default=True, help="Go on with points that are done.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(), default="landscape", show_default=True, help="Folder for files and pictures.")
def landscape(
    checkpoints: tuple[str, ...], points: int, line_points: int, extent: float, directions: str, adaptive: float,
    precision: str, scope: str, batchnorm: str, subsets: tuple[str, ...], per_class: bool, scale: str,
    interactive: bool, resume: bool, seed: int, out: str, **probed: Any,
) -> None:  # fmt: skip
    """Draw the loss over a plane through each checkpoint, with shared directions, levels and colours.

    All samples, and many, medium and few, unless --class says otherwise. Beside the pictures stand the numbers: a
    NetCDF file and a VTK file (ParaView) of every checkpoint, and one table of all. The same command goes on with
    unfinished work. Under torchrun the points are shared among the processes.

    Example: sharpness landscape runs/ce/last.pt runs/ldam/last.pt --plane 51 --range 1 --per-class --out landscape
    """
    axes, normalization = _directions(directions)
    objectives = {
        label: checkpoint_objective(checkpoint, parameters=scope, batchnorm=batchnorm, **probed)
        for label, checkpoint in _labelled(checkpoints).items()
    }
    folder, partial = Path(out), Path(out) / ".partial"
    shared: dict[str, Any] = {
        "directions": axes, "normalization": normalization, "seed": seed, "precision": precision,
        "resume": partial if resume else None,
    }  # fmt: skip
    span = (-extent, extent)
    if line_points:
        first = axes.split("+")[0] if isinstance(axes, str) else axes
        lines = sharpness.line(objectives, (*span, line_points), **{**shared, "directions": first})
        _draw(lines, folder, subsets, per_class, ("line",))
    if points:
        grid = (*span, points)
        planes = sharpness.plane(objectives, grid, grid, adaptive=adaptive or None, **shared)
        for label, plane in planes.items():
            share = plane.evaluated.mean()
            click.echo(f"{label}: {share:.0%} of {plane.losses.size} points evaluated, {plane.precision}", err=True)
        _draw(planes, folder, subsets, per_class, ("filled", "surface"), scale=scale)
        if interactive:
            click.echo(save_html(planes.plot(kind="interactive"), folder / "surface.html"))
    if distributed.rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)


def _labelled(paths: Sequence[str]) -> dict[str, Checkpoint]:
    """Checkpoints by what they call themselves, or by path where two call themselves the same."""
    read = {path: sharpness.load_checkpoint(path) for path in dict.fromkeys(paths)}
    names = Counter(checkpoint.label for checkpoint in read.values())
    return {c.label if names[c.label] == 1 else path: c for path, c in read.items()}


def _directions(given: str) -> tuple[Any, str | None]:
    """What ``--directions`` stands for: directions and normalisation of a probe."""
    gaussian = {"filter": "filter", "layer": "layer", "none": None}
    if given in gaussian:
        return None, gaussian[given]
    return (load_directions(given) if given.endswith(".npz") else given), "filter"


def _draw(
    results: Comparison, folder: Path, subsets: Sequence[str], per_class: bool, kinds: Sequence[str], **look: Any
) -> None:
    """Files of some lines or planes, and a picture of each kind: rows of subsets, columns of models."""
    if distributed.rank() != 0:
        return
    first = next(iter(results.values()))
    what = "line" if kinds == ("line",) else "plane"
    for label, result in results.items():
        stem = f"{what}-{_file_name(label)}"
        for suffix in (".nc", ".vtk") if what == "plane" else (".nc",):
            click.echo(result.export(folder / f"{stem}{suffix}"))
    _write(results.to_frame(), folder / f"{what}s.csv")
    click.echo(folder / f"{what}s.csv")
    groups = [g for g, classes in first.groups.items() if classes]
    pictures: dict[str, list[str | None]] = {"": list(subsets) if subsets else [None, *groups]}
    if per_class:
        probed = zip(first.class_names, first.class_samples, strict=True)
        pictures |= {f"-class-{_file_name(name)}": [name] for name, samples in probed if samples}
    for suffix, rows in pictures.items():
        for kind in kinds:
            options = look if kind == "line" else {"kind": kind, **look}
            drawn = results.plot(subset=rows, **options)
            figure = np.ravel(np.asarray(drawn, dtype=object))[0].get_figure(root=True)
            for path in save_figure(figure, folder / f"{'contour' if kind == 'filled' else kind}{suffix}"):
                click.echo(path)


def _file_name(label: str) -> str:
    return re.sub(r"[^\w.-]+", "-", label).strip("-")


@cli.command(cls=OneExample)
@click.argument("checkpoints", nargs=-1, required=True)
def inspect(checkpoints: tuple[str, ...]) -> None:
    """Say what checkpoints are: method, architecture, head, data, stages, recorded accuracy.

    Example: sharpness inspect runs/ldam/last.pt
    """
    for i, path in enumerate(checkpoints):
        facts = _facts(sharpness.load_checkpoint(path))
        width = max(map(len, facts))
        click.echo(("\n" if i else "") + "\n".join(f"{k:{width}} {v}" for k, v in facts.items()))


def _facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a checkpoint says of itself, ours or a foreign one."""
    m = checkpoint.manifest
    size = sum(p.numel() for p in checkpoint.model.parameters())
    network = m["model"]
    facts = {
        "file": checkpoint.path,
        "sha256": checkpoint.sha256,
        "model": f"{network['architecture']}, {size:,} parameters",
        "head": f"{network['head']}" + (f", scale {network['scale']:g}" if network["scale"] else ""),
        "notes": "; ".join(m["notes"]) or "none",
    }
    if "method" in m:
        facts |= {
            "method": f"{m['method']} ({m['paper']})",
            "options": m["options"] or "as published",
            "data": repr(checkpoint.longtail),
            "loss": m["loss"],
            "training": ", ".join(f"{k} {v}" for k, v in m["training"].items()),
        }
    else:
        shown = (
            "family",
            "stage",
            "prefix",
            "epoch",
            "head_layout",
            "class_order",
            "normalization",
            "subset",
            "unused",
        )
        facts |= {k: m[k] for k in shown if m.get(k) not in (None, "", [], {})}
    recorded = (
        f"{k.removeprefix('accuracy').strip('_') or 'all'} {100 * v:.1f} %"
        for k, v in (m.get("accuracy") or {}).items()
        if "class" not in k
    )
    return {**facts, "accuracy": ", ".join(recorded) or "not recorded"}


STUDIES = ("motivation", "flattening", "microbenchmark")
#: Options of ``figures`` that only some studies have.
STUDY_OPTIONS = {
    "methods": ("motivation", "flattening"),
    "operations": ("flattening",),
    "seeds": ("flattening", "microbenchmark"),
    "jobs": ("flattening", "microbenchmark"),
    "seed": ("motivation",),
    "grid": ("motivation",),
    "adaptive": ("motivation",),
    "extent": ("motivation",),
}


@cli.command(cls=OneExample)
@click.option(
    "--study",
    default="motivation",
    show_default=True,
    help="motivation (with curvature and visualization), flattening (do operations help?) or microbenchmark "
    "(direction or magnitude?).",
)
@click.option("--methods", help=f"[{','.join(FIGURE_METHODS)}; flattening: {','.join(STUDY_METHODS)}]")
@click.option("--operations", default=",".join(STUDY_OPERATIONS), show_default=True, help="Of flattening.")
@click.option("--seeds", default="0,1,2", show_default=True, help="Of flattening and microbenchmark.")
@click.option("--jobs", type=int, help="Trainings at a time. [one per processor, up to 4; 1 with a GPU]")
@data_options
@training_options
@click.option("--out", type=click.Path(), help="Folder of the figures. [figures/DATA]")
@click.option("--runs", type=click.Path(), help="Folder of the trained models. [runs, or runs/STUDY]")
@click.option("--grid", default=51, show_default=True, help="Points along each side of a plane.")
@click.option("--adaptive", default=0.01, show_default=True, help="Interpolate to this part of the relief; 0: do not.")
@click.option("--range", "extent", default=0.5, show_default=True, help="Half the side of a plane, in filter norms.")
@click.option("--split", default="train", show_default=True, help="Probe train or test images.")
@click.option("--loss", default="ce", show_default=True, help="ce on calibrated logits, or training.")
@click.option("--limit-per-class", type=int, help="Probe so many images of every class at most.")
def figures(
    study: str, methods: str | None, operations: str, seeds: str, jobs: int | None, out: str | None, runs: str | None,
    grid: int, adaptive: float, extent: float, split: str, loss: str, limit_per_class: int | None, **given: Any,
) -> None:  # fmt: skip
    """Recreate the talk's figures: train what is missing, probe, draw, and print the summary.

    The same command goes on with unfinished work.

    Example: sharpness figures --data cifar10-lt --epochs 10 --limit-per-class 20 --grid 15
    """
    choose("study", study, STUDIES)
    context = click.get_current_context()
    for name, studies in STUDY_OPTIONS.items():
        if study not in studies and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = "range" if name == "extent" else name
            raise UserError(f"--{option} is no option of --study {study}, only of {' and '.join(studies)}")
    data, out = _data(given), out or f"figures/{given['data']}"
    probed: dict[str, Any] = {"split": split, "loss": loss, "limit_per_class": limit_per_class}
    training = _training(given)
    chosen = methods.split(",") if methods else list(STUDY_METHODS if study == "flattening" else FIGURE_METHODS)
    if study == "motivation":
        _figures(
            data, chosen, out, runs or "runs", grid=grid, extent=extent, adaptive=adaptive or None,
            data_root=given["data_root"], **probed, **training,
        )  # fmt: skip
        return
    del training["seed"]
    shared = {"runs": runs or f"runs/{study}", "jobs": jobs, **probed, **training}
    if study == "flattening":
        drawn = make_flattening_study(data, chosen, operations.split(","), _integers(seeds), out, **shared)
    else:
        drawn = make_microbenchmark(data, _integers(seeds), out, **shared)
    click.echo(drawn.text)
    for path in drawn.files:
        click.echo(path)


def _integers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds {text}: give whole numbers, such as 0,1,2") from None


@cli.command(cls=OneExample)
@click.option("--epochs", default=60, show_default=True, help="Of the first stage of every method.")
@click.option("--out", type=click.Path(), default="figures/demo", show_default=True)
@click.option("--runs", type=click.Path(), default="runs/demo", show_default=True)
def demo(epochs: int, out: str, runs: str) -> None:
    """Five methods on the embedded digits: trained, probed per class and drawn, in two or three minutes.

    Example: sharpness demo
    """
    _figures(load_data("digits-lt"), FIGURE_METHODS, out, runs, epochs=epochs)


def _figures(data: LongTailData, methods: Any, out: str, runs: str, **options: Any) -> None:
    drawn = make_figures(data, methods, out, runs, **options)
    click.echo(to_markdown(drawn.summary))
    click.echo("Accuracy in % on the test set; sharpness of the training loss; rise and worst rise: of the loss, under")
    click.echo(
        "random perturbation (± standard error) and after one ascent step; tail: mean of the few-shot classes.\n"
    )
    for path in drawn.files:
        click.echo(path)


def _data(given: dict[str, Any]) -> LongTailData:
    names = ("profile", "imbalance", "subset", "groups", "data_root", "download")
    return load_data(given["data"], **{name: given[name] for name in names})


def _training(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in ("epochs", "model", "batch_size", "precision", "device", "seed")}


def _pair(text: str) -> tuple[str, Any]:
    """``"key=value"`` with a Python literal or a bare word as value."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UserError(f"option {text!r}: write it as name=value")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, {"true": True, "false": False}.get(value.lower(), value)


def _table(frame: pd.DataFrame) -> str:
    return frame.to_string(index=False, float_format=lambda v: f"{v:.4g}", na_rep="-")


def _json(frame: pd.DataFrame) -> str:
    return frame.to_json(orient="records", indent=1)


def _write(what: Any, path: Path) -> None:
    """A result as NetCDF, or a table as CSV or JSON."""
    if path.suffix == ".nc":
        what.save(path)
        return
    text = _json(what) + "\n" if path.suffix == ".json" else what.to_csv(index=False)
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


class Notices(logging.Handler):
    """The library's one-line notices, on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"sharpness: {record.getMessage()}", err=True)


@contextmanager
def _surroundings() -> Iterator[None]:
    """Notices are shown; under torchrun the first process alone speaks."""
    distributed.start()
    notices, logger = Notices(), logging.getLogger("sharpness")
    logger.addHandler(notices)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        if distributed.rank() == 0:
            yield
        else:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
                yield
    finally:
        logger.removeHandler(notices)
        logger.setLevel(level)
        distributed.stop()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    try:
        with _surroundings():
            cli.main(args=arguments, prog_name="sharpness", standalone_mode=False)
    except UserError as error:
        click.echo(f"sharpness: {error}", err=True)
        return 2
    except click.ClickException as error:
        click.echo(f"sharpness: {error.format_message()} (see --help)", err=True)
        return 2
    except (KeyboardInterrupt, click.Abort):
        click.echo("sharpness: interrupted; what was finished is kept, 'train' goes on with --resume", err=True)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
