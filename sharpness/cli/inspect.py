"""``sharpness inspect``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

import sharpness
from sharpness.cli.completion import CHECKPOINTS
from sharpness.cli.file_options import file_options
from sharpness.cli.options import AS_JSON, OneExample
from sharpness.cli.output import say

if TYPE_CHECKING:
    from sharpness.checkpoints import Checkpoint

#: Entries of a foreign file's manifest to print, in this order.
FOREIGN = (
    "family", "stage", "prefix", "epoch", "head_layout", "dataset", "class_order", "normalization", "subset",
    "unused_parameters",
)  # fmt: skip


@click.command(cls=OneExample)
@CHECKPOINTS
@file_options
@click.option(
    "--accuracy", is_flag=True, help="Measure the accuracy on the recorded data; implied by every data option."
)
@AS_JSON
def inspect(checkpoints: tuple[str, ...], accuracy: bool, as_json: bool, **given: Any) -> None:
    """Describe checkpoints: method or family, architecture, head, scale, data, stages, recorded accuracy.

    CHECKPOINTS are files or folders. If data are given, the accuracy is measured (on the test split, unless --split
    says otherwise) and compared with the recorded one. This reveals a wrong normalisation or class order at once.

    Example: sharpness inspect runs/ldam/last.pt --accuracy
    """
    from sharpness.cli.subjects import single, subjects

    read, options = subjects(checkpoints, given)
    downloads = "download" in options
    accuracy = accuracy or bool(options.keys() - {"download"})
    if given["images"] is None:
        options.setdefault("split", "test")
    records = []
    for i, checkpoint in enumerate(single(read)):
        facts = _facts(checkpoint)
        # By itself, --download is of recorded data, if there are any; otherwise of the weights of a library.
        if accuracy or (downloads and checkpoint.manifest.longtail is not None):
            facts |= _measured(checkpoint, options)
        if as_json:
            records.append({key.replace(" ", "_"): _plain(value) for key, value in facts.items()})
            continue
        width = max(map(len, facts))
        say(("\n" if i else "") + "\n".join(f"{k:{width}} {v}" for k, v in facts.items()))
    if as_json:
        say(json.dumps(records, indent=1))


def _plain(value: Any) -> Any:
    """Convert a fact for JSON; other types become text."""
    return value if isinstance(value, str | int | float | list | dict | bool | None) else str(value)


def _measured(checkpoint: Checkpoint, options: dict[str, Any]) -> dict[str, str]:
    """Measure the accuracy, and add a remark if it is suspicious."""
    from sharpness.probes import answers
    from sharpness.probes.shared.sanity_check import MARGIN, unseen

    objective = sharpness.checkpoint_objective(checkpoint, **options)
    found = answers(objective)
    recorded = checkpoint.manifest.accuracy.get("accuracy")
    where = "the images given" if "split" not in options else f"the {options['split']} split"
    facts = {
        "accuracy now": f"{100 * found.accuracy:.2f} % of {objective.num_samples:,} samples of {where}, "
        f"mean of the classes {100 * found.class_mean:.2f} %"
    }
    remark = found.remark(recorded) or unseen(checkpoint, **options)
    best = ("", found.class_mean)
    for reading, other in checkpoint.readings().items():
        read = sharpness.checkpoint_objective(other, **options)
        seen = answers(read)
        facts[f"as {reading}"] = f"{100 * seen.accuracy:.2f} %, loss {read.loss():.4g}"
        best = max(best, (reading, seen.class_mean), key=lambda pair: pair[1])
    if best[1] > found.class_mean + MARGIN:
        kind = best[0].partition(", scale")[0]
        remark = f"with its head read as {best[0]} {100 * best[1]:.1f} % would be right: --head '{kind}'"
    return {**facts, "suspicious": remark} if remark else facts


def _facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the facts that a checkpoint records."""
    from sharpness.data.class_orders import describe_order

    m = checkpoint.manifest
    size = sum(p.numel() for p in checkpoint.model.parameters())
    network = m.model
    facts: dict[str, Any] = {
        "file": checkpoint.path,
        "sha256": checkpoint.sha256,
        "model": f"{network.architecture}, {size:,} parameters",
        "head": f"{network.head or 'unknown'}" + (f", scale {network.scale:g}" if network.scale else ""),
    }
    if m.method is not None:
        stages: Sequence[Mapping[str, Any] | str] = m.card or m.stages
        facts |= {
            "method": m.method if m.paper is None else f"{m.method} ({m.paper})",
            "options": m.options or "as published",
            "flattening": "; ".join(m.flattening or m.training.get("flatten", ())) or "none",
            "data": "not recorded" if m.longtail is None else repr(m.longtail),
            # Checkpoints from before cards record their stages as Python source.
            **{f"stage {i}": _block(s) for i, s in enumerate(stages, start=1)},
            "training": ", ".join(f"{k} {v}" for k, v in m.training.items()) or "not recorded",
        }
    else:
        plain = m.to_dict()
        facts |= {k.replace("_", " "): plain[k] for k in FOREIGN if plain.get(k) not in (None, "", [], {})}
        if m.class_order:
            facts["class order"] = describe_order(m.class_order)
    facts["notes"] = "\n    ".join(["", *m.notes]) if len(m.notes) > 1 else "".join(m.notes) or "none"
    recorded = (
        f"{k.removeprefix('accuracy').strip('_') or 'all'} {100 * v:.1f} %"
        for k, v in m.accuracy.items()
        if "class" not in k
    )
    return {**facts, "accuracy": ", ".join(recorded) or "not recorded"}


def _block(stage: Mapping[str, Any] | str) -> str:
    """Format the card of a stage: its name, and every other entry on a line of its own."""
    if isinstance(stage, str):
        return stage
    return "\n    ".join([str(stage.get("stage", "")), *(f"{k:9} {v}" for k, v in stage.items() if k != "stage")])
