"""Several trainings of one model: their checkpoints, and their comparison with others."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sharpness.checkpoints import Checkpoint, find_checkpoints, load_checkpoint
from sharpness.errors import UserError, shown
from sharpness.results import Comparison, Runs

#: Settings of a run that are not part of the method.
CIRCUMSTANCES = ("seed", "sharpness", "torch", "device")
#: Settings that trainings of one model must share.
METHOD = ("method", "options", "flattening", "augmentation")
logger = logging.getLogger("sharpness")


class Training(NamedTuple):
    """One model of a mapping; ``run`` is its name if its label has several trainings."""

    label: str
    run: str | None
    subject: Any


def named(model: Training) -> str:
    """The name of a training in messages."""
    return model.label if model.run is None else f"{model.label}, {model.run}"


def trainings(subjects: Mapping[Any, Any]) -> list[Training]:
    """List the models of a mapping ``{label: model}``, ``{label: [trainings]}`` or ``{label: {name: training}}``.

    Trainings in a list are named after the seeds recorded in their checkpoints, or numbered. A folder of several
    checkpoints is equivalent to a list of them.

    Raises:
        UserError: an empty mapping or list, a repeated label or name, or trainings of different methods under one
            label.
    """
    labels = [str(label) for label in subjects]
    if not labels:
        raise UserError("an empty mapping of models: there is nothing to compare")
    if len(set(labels)) < len(labels):
        raise UserError(f"labels {', '.join(labels)}: give every model one of its own")
    return [one for label, subject in zip(labels, subjects.values(), strict=True) for one in _of_label(label, subject)]


def _of_label(label: str, subject: Any) -> Iterator[Training]:
    if isinstance(subject, str | Path) and Path(subject).is_dir():
        found = find_checkpoints(subject)
        subject = list(found) if len(found) > 1 else found[0]
    if not isinstance(subject, list | tuple | Mapping):
        yield Training(label, None, subject)
        return
    if not subject:
        raise UserError(f"{label!r} has no model: give a checkpoint, or a list of trainings of one model")
    given = list(subject.values()) if isinstance(subject, Mapping) else subject
    read = [load_checkpoint(one) if isinstance(one, str | Path) else one for one in given]
    _require_one_model(label, read)
    names = [str(name) for name in subject] if isinstance(subject, Mapping) else run_names(read)
    if len(set(names)) < len(names):
        raise UserError(f"{label!r} holds trainings {', '.join(names)}: give each a name of its own")
    for name, one in zip(names, read, strict=True):
        yield Training(label, name, one)


def run_names(subjects: Sequence[Any]) -> list[str]:
    """``"seed 0"`` and so on if all are checkpoints with different recorded seeds, else ``"run 1"`` and so on."""
    seeds = [seed_of(one) for one in subjects]
    if None in seeds or len(set(seeds)) < len(seeds):
        return [f"run {i + 1}" for i in range(len(seeds))]
    return [f"seed {seed}" for seed in seeds]


def seed_of(subject: Any) -> int | None:
    """The seed recorded in a checkpoint; None without one."""
    return subject.manifest.seed if isinstance(subject, Checkpoint) else None


def settings_of(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """The settings recorded for a run, without its seed and machine; trainings of one model agree in them.

    None if the file does not record how it was trained.
    """
    manifest = checkpoint.manifest
    if manifest.seed is None or manifest.method is None:
        return None
    # A run records its augmentation only if it is not the usual one of the data set.
    training = {"augmentation": "usual"} | {k: v for k, v in manifest.training.items() if k not in CIRCUMSTANCES}
    plain = manifest.to_dict()
    kept = {k: plain.get(k) for k in (*METHOD, "longtail", "data_sha256", "normalization", "model", "epoch")}
    return {**kept, **training}


def trainings_by_path(read: Mapping[str, Checkpoint]) -> dict[str, list[str]]:
    """Group paths by model: lists in the order of their seeds, keyed by the common beginning of their paths.

    A path without another training of the same model is a group of its own, under its own name. So are all paths of a
    group in which a seed occurs twice, because a copy is not another training. Groups are in the order of their first
    members.
    """
    alike: dict[str, list[str]] = {}
    for path, checkpoint in read.items():
        settings = settings_of(checkpoint)
        alike.setdefault(path if settings is None else json.dumps(settings, sort_keys=True), []).append(path)
    groups: dict[str, list[str]] = {}
    for members in alike.values():
        seeds = [seed_of(read[path]) for path in members]
        if len(set(seeds)) < len(seeds):
            groups |= {path: [path] for path in members}
            continue
        common = os.path.commonprefix([Path(path).parts for path in members])
        name = str(Path(*common)) if common else members[0]
        groups[members[0] if name in groups else name] = [path for _, path in sorted(zip(seeds, members, strict=True))]
    return groups


def _require_one_model(label: str, subjects: Sequence[Any]) -> None:
    """Refuse trainings of different methods; warn of other differences and of identical weights."""
    read = [one for one in subjects if isinstance(one, Checkpoint)]
    hashes = [one.sha256 for one in read]
    if len(set(hashes)) < len(hashes):
        logger.warning("%s: some of its %d trainings are the same file, their spread means nothing", label, len(hashes))
    known = [settings for one in read if (settings := settings_of(one)) is not None]
    differing: set[str] = set()
    for other in known[1:]:
        for name in other.keys() | known[0].keys():
            if json.dumps(other.get(name), sort_keys=True) == json.dumps(known[0].get(name), sort_keys=True):
                continue
            if name in METHOD:
                values = " and ".join(shown(str(s.get(name))) for s in (known[0], other))
                raise UserError(f"{label!r} holds trainings of {name} {values}: give each a label of its own")
            differing.add(name)
    if differing:
        logger.warning("%s: its trainings differ in %s, not in their seeds alone", label, ", ".join(sorted(differing)))


def compared(subjects: Sequence[Training], probe: Callable[[Training], Any]) -> Comparison[Any]:
    """Run ``probe(training)`` for all trainings, in order, and combine the results into a comparison."""
    found: dict[str, list[Any]] = {}
    several = {one.label for one in subjects if one.run is not None}
    for one in subjects:
        result = probe(one)
        result.provenance["label"] = one.label
        if one.run is not None:
            result.provenance["run"] = one.run
        found.setdefault(one.label, []).append(result)
    results: Comparison[Any] = Comparison()
    for label, of_label in found.items():
        results[label] = Runs(of_label) if label in several else of_label[0]
    return results
