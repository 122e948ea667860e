"""Read a checkpoint: ours, or one of any family known here, which its content decides."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from sharpness.checkpoints.checkpoint import Checkpoint
from sharpness.checkpoints.container import own_content, read_own
from sharpness.checkpoints.families import FAMILIES, Family, Options, Reading
from sharpness.checkpoints.families.reading import WEIGHTS
from sharpness.checkpoints.find import file_of
from sharpness.checkpoints.heads import parse_head
from sharpness.checkpoints.published import published_checkpoint
from sharpness.checkpoints.shards import read_weights
from sharpness.errors import UserError, choose, shown
from sharpness.extensions import in_one_line
from sharpness.models.factory import model_from
from sharpness.models.hubs import hub_of
from sharpness.untrusted.passed_over import PassedOver, PickledNetwork, passed_over

logger = logging.getLogger("sharpness")


def load_checkpoint(
    path: str | Path,
    *,
    family: str | None = None,
    head: str | None = None,
    scale: float | None = None,
    stage2: str | Path | None = None,
    num_classes: int | None = None,
    weights: str = "model",
    model: nn.Module | Callable[[], nn.Module] | str | None = None,
    class_order: Any = None,
    download: bool = False,
) -> Checkpoint:
    """Read a checkpoint of this package or another code base, without executing anything in it (``weights_only=True``).

    Checkpoints of this package, LDAM-DRW, RSG, Saddle-LongTail, Focal-SAM, GCL, MiSLAS, OLTR, classifier-balancing,
    Balanced Softmax, M2m, CC-SAM, ImbSAM, SWA, PoF, Lightning, safetensors and plain state dicts are recognised by
    their content.

    Args:
        path: a file, the index of weights in several files, or a folder that contains a file with one of the usual
            names; ``"zoo:METHOD"`` for a model that comes with the package (:mod:`sharpness.checkpoints.zoo`);
            ``"timm:NAME"``, ``"torchvision:NAME"`` or ``"hf:NAME_OR_FOLDER"`` for a library's model with published
            weights.
        family: a name in :data:`FAMILIES`, to override the detected one.
        head: ``"linear"``, ``"cosine"``, ``"unit-features"`` or ``"unit-weights"``, optionally followed by ``" [C,
            d]"`` or ``" [d, C]"``, if the file does not determine it or differs from its family.
        scale: s of a normalised head, which is not stored in the file; by default 30 (20 in GCL's second stage). With
            ``head="linear"``, the inverse of a temperature.
        stage2: the second file of a model that was saved as two files, such as GCL's classifier or PoF's ``clf_E.pth``.
        num_classes: the expected C, which is checked.
        weights: ``"model"``, or ``"ema"`` or ``"swa"`` if the file holds them.
        model: the network for the weights, if the architecture is not known here (also for files of this package): a
            module, which is copied; a class or function that makes one; ``"package.module:factory"``; or
            ``"timm:NAME"``. Parameters that are missing in the file must be frozen (``requires_grad_(False)``) and keep
            their values.
        class_order: the model's numbering of the classes, as :func:`sharpness.data.class_order` takes it, if it differs
            from that of its family; your own images (:func:`sharpness.data.read_images`) are renumbered accordingly.
        download: download published weights that are not on this machine. Nothing else is ever downloaded.

    Returns:
        The model in eval mode, and a manifest with what the file records.

    Raises:
        UserError: the file is missing, broken, of an unknown kind or from a newer version, or its entries do not fit
            the model; or an option does not apply to it.

    >>> checkpoint = load_checkpoint("zoo:ce")
    >>> checkpoint.manifest.method, checkpoint.manifest.model.num_classes, checkpoint.model.training
    ('ce', 10, False)
    """
    if not isinstance(path, str | Path):
        raise UserError(f"a checkpoint is read from a file: give its path, not a {type(path).__name__}")
    choose("weights", weights, WEIGHTS)
    if family is not None:
        FAMILIES.choose(family)
    given = {"family": family, "head": head, "scale (--logit-scale)": scale, "stage2": stage2}
    idle = [name for name, value in given.items() if value is not None] + ["weights"] * (weights != "model")
    if (network_of := hub_of(path)) is not None:
        if idle := idle + ["model"] * (model is not None):
            raise UserError(f"{path} is a network of a library with its weights: leave out {', '.join(idle)}")
        complete = published_checkpoint(network_of, download, num_classes)
        return complete if class_order is None else complete.in_class_order(class_order)
    path = file_of(Path(path))
    # Objects of foreign classes are stand-ins here; a file of ours has none, which is checked below.
    content, sha256 = read_weights(path)
    passed = passed_over(content)
    if (described := own_content(content)) is not None:
        if passed:
            raise UserError(f"{path} is damaged: {shown(', '.join(passed), 160)} are of classes that we never write")
        # Our own files record all that these options could say: ignored, they would seem to have an effect.
        if idle := idle + ["class_order"] * (class_order is not None):
            raise UserError(f"{path} is our own and complete: leave out {', '.join(idle)}")
        own, manifest = read_own(described, path, _copied(model) if isinstance(model, nn.Module) else model)
        classes = manifest.model.num_classes
        if num_classes not in (None, classes):
            raise UserError(f"num_classes={num_classes} was given, but {path} tells {classes} apart")
        return Checkpoint(own, manifest, str(path), sha256)
    found = _family(content, path, family)
    if weights not in found.weights:
        remedy = f"choose one of {', '.join(found.weights)}" if len(found.weights) > 1 else "leave weights out"
        raise UserError(f"{path} holds no weights={weights!r}: {remedy}")
    second = None if stage2 is None else file_of(Path(stage2))
    if second is None and found.twin is not None:
        second = found.twin(path)
    if second is not None and not found.two_files:
        raise UserError(
            f"stage2= (--stage2) is for models saved in two files, and {path} holds a whole one: leave it out"
        )
    if head is not None:
        parse_head(head)
    # A copy, because an instance, and what a factory keeps, may be asked for again.
    network = None if model is None else _copied(model_from(model))
    options = Options(
        scale=scale, head=head, num_classes=num_classes, weights=weights, model=network, named=family is not None
    )
    if second is not None:
        part, second_sha256 = read_weights(second)
        options = replace(options, stage2=part, stage2_path=str(second))
        passed += passed_over(part)
    reading = _read(found, content, path, options)
    known = reading.manifest
    manifest = replace(
        known,
        notes=[*known.notes, *_foreign_notes(content, passed, path)],
        extra={**known.extra, **({} if second is None else {"stage2_sha256": second_sha256})},
    )
    read = Checkpoint(reading.model, manifest, str(path), sha256)
    return read if class_order is None else read.in_class_order(class_order)


def _family(content: Any, path: Path, family: str | None) -> Family:
    if family is not None:
        if not FAMILIES[family].matches(content):
            raise UserError(f"{path} is not of family {family!r}: leave family out to have it found")
        return FAMILIES[family]
    for name, known in FAMILIES.working():
        if _matches(name, known, content, path):
            return known
    raise UserError(
        f"{path} is not a checkpoint of 'sharpness train' nor of a family known here ({_told(content)}): save the "
        "weights alone where you trust it, torch.save(model.state_dict(), PATH), or build its model in Python and pass "
        "it to sharpness.Objective(model, (x, y))"
    )


def _matches(name: str, family: Family, content: Any, path: Path) -> bool:
    """True if the content is of the family; an error of a user's own family is passed over."""
    try:
        return family.matches(content)
    except Exception as error:
        if name in FAMILIES.built_in():
            raise
        logger.warning("%s: family %r is passed over: %s", path, name, in_one_line(error))
        return False


def _foreign_notes(content: Any, passed: list[str], path: Path) -> list[str]:
    """Notes on objects of foreign classes; those that were passed over are also logged."""
    notes = []
    entries = {"": content} if isinstance(content, PickledNetwork) or not isinstance(content, dict) else content
    for key, network in entries.items():
        if isinstance(network, PickledNetwork):
            what = f"a pickled {shown(network.name)}" + (f" under {shown(str(key), 40)}" if key else "")
            notes.append(f"{what} is read for its weights alone, and nothing of it was run")
    if passed:
        names = shown(", ".join(passed), 160)
        notes.append(f"passed over, as objects of classes that are not known here: {names}; nothing of them was run")
        logger.info("%s: passed over: %s", path, names)
    return notes


def _copied(made: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(made)
    except Exception as error:  # a network of anybody's may hold anything
        told = in_one_line(error)
        raise UserError(f"model {type(made).__name__} cannot be copied ({told}), which every file needs") from None


def _read(family: Family, content: Any, path: Path, options: Options) -> Reading:
    try:
        return family.read(content, str(path), options)
    except UserError:
        raise
    except Exception as error:
        # A file may hold anything where its family has something else.
        told = in_one_line(error)
        raise UserError(f"{path} looks like a file of family {family.name!r} and does not fit it ({told})") from error


def _told(content: Any) -> str:
    if isinstance(content, dict) and content.keys() >= {"state", "param_groups"}:
        return "an optimizer's state, without weights"
    if isinstance(content, dict):
        return f"a dict with {', '.join(str(k)[:40] for k in list(content)[:4]) or 'nothing'}"
    if isinstance(content, PassedOver):
        return f"an object of {shown(content.name)}"
    return f"a {type(content).__name__}"
