"""Inputs of commands: checkpoints, networks and images described by options."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from inspect import signature
from typing import Any

from torch import Tensor, nn

from sharpness.checkpoints import Checkpoint, find_checkpoints
from sharpness.cli.values import keywords
from sharpness.data import read_images
from sharpness.data.foreign import is_arrays
from sharpness.data.standardization import Standardization
from sharpness.errors import UserError
from sharpness.methods import METHODS
from sharpness.models.factory import model_from, source_of
from sharpness.models.hubs import hub_of
from sharpness.probes import labelled_checkpoints

#: Options for files, for the user's own images, and for recorded data.
FILE = ("family", "head", "stage2", "weights", "class_order")
IMAGES = ("root", "mean", "std", "size", "resize", "layout", "train_counts")
RECORDED = ("split", "loss", "limit_per_class", "data", "imbalance", "subset", "data_root", "download", "device")


def subjects(
    paths: Sequence[str], given: dict[str, Any]
) -> tuple[dict[str, Checkpoint | list[Checkpoint]], dict[str, Any]]:
    """Read checkpoints by label, and return them with the options of ``checkpoint_objective`` for all of them.

    Several trainings of one model form a list, unless ``--each`` is given.

    Args:
        paths: files and folders.
        given: values of ``probing_options`` by name.
    """
    if given.get("method") is not None:
        if given["loss"] != "training":
            raise UserError("--method is for the loss that files were trained with: add --loss training")
        METHODS.choose(given["method"])
    file = _chosen(given, FILE)
    if given["logit_scale"] is not None:
        file["scale"] = given["logit_scale"]
    if not paths and not given.get("named") and hub_of(given["model"]) and not given["model_args"]:
        paths, given = [given["model"]], {**given, "model": None}  # use the published weights, because no file is given
    options = _chosen(given, RECORDED)
    if any(map(hub_of, [*paths, *(text.partition("=")[2] for text in given.get("named", ()))])):
        file["download"] = bool(given["download"] if given["images"] is None else options.pop("download", False))
    checkpoints = _labelled(paths, given.get("named", ()), _network(given), given.get("each", True), file)
    paths = [*paths, *(text.partition("=")[2] for text in given.get("named", ()))]
    if given["logits"] is not None:
        key, _, last = given["logits"].rpartition(",")
        if last == "temperature":
            options["logits"] = last
        if key or last != "temperature":
            options["output"] = _picker(key if last == "temperature" else given["logits"])
    several_times = {name: given[name] or None for name in ("mean", "std")}
    described = _chosen({**given, **several_times}, IMAGES)
    # Constants given once per file belong to the checkpoints; a single pair belongs to the data.
    if max(len(given["mean"]), len(given["std"])) > 1:
        checkpoints = _each_normalized(checkpoints, paths, given["mean"], given["std"])
        described = {name: value for name, value in described.items() if name not in ("mean", "std")}
        if given["images"] is None and "data" not in options:
            raise UserError("--mean is for images of your own or named data: give --images or --data")
    constants: dict[str, Any] = {
        name: _numbers(name, described[name][0]) for name in ("mean", "std") if name in described
    }
    if given["images"] is None:
        idle = [name for name in described if name not in constants or "data" not in options]
        if idle:
            other = " or named data: give --images or --data" if idle[0] in constants else ": give them with --images"
            raise UserError(f"--{idle[0].replace('_', '-')} is for images of your own{other}")
        return checkpoints, {**options, **constants}
    if "data" in options:
        raise UserError(f"--images {given['images']} and --data {options['data']}: give one of them")
    limit = options.pop("limit_per_class", None)
    if "layout" in described:
        described["layout"] = described["layout"].replace("-", " ")
    if not is_arrays(given["images"]):
        described |= crop_of(checkpoints, given)
        grey = all(_takes_grey(checkpoint.model) for checkpoint in single(checkpoints))
        described["channels"] = 1 if grey else 3
    images = read_images(given["images"], limit_per_class=limit, **described | constants)
    return checkpoints, {**options, "data": images}


def _labelled(
    paths: Sequence[str], named: Sequence[str], network: Any, each: bool, file: dict[str, Any]
) -> dict[str, Checkpoint | list[Checkpoint]]:
    """Read checkpoints by label; those without a ``NAME=FILE`` come first.

    Raises:
        UserError: no path, a label that is not NAME=FILE, several models with one label, or a label given twice.
    """
    labels: dict[str, str] = {}
    for text in named:
        name, _, path = text.partition("=")
        if not name or not path:
            raise UserError(f"--label {text!r}: write it as NAME=FILE")
        if name in labels:
            raise UserError(f"--label {name!r} names two files: give each a name of its own")
        labels[name] = path
    others = [path for path in paths if path not in labels.values()]
    if not others and not labels:
        raise UserError("Missing argument 'CHECKPOINTS...': name files or folders, or give --label NAME=FILE")
    found = labelled_checkpoints(others, network, each, **file) if others else {}
    for name, path in labels.items():
        known = labelled_checkpoints([path], network, **file)
        if len(known) > 1:
            raise UserError(f"--label {name}={path}: {len(known)} models are there: name one file or its runs")
        if name in found:
            raise UserError(f"--label {name!r}: another model is called that: give another name")
        (found[name],) = known.values()
    return found


def _each_normalized(
    checkpoints: Mapping[str, Checkpoint | list[Checkpoint]],
    paths: Sequence[str],
    means: Sequence[str],
    stds: Sequence[str],
) -> dict[str, Checkpoint | list[Checkpoint]]:
    """Set the normalisation of each checkpoint, in the order of the paths.

    Raises:
        UserError: the numbers of constants and paths differ, or a path stands for several files.
    """
    if not len(means) == len(stds) == len(paths):
        raise UserError(
            f"--mean is given {len(means)} times and --std {len(stds)} times for {len(paths)} paths: give each once "
            "for all, or once for each path in their order, - where what is known of a file is right"
        )
    # By file, not by position, because checkpoints are ordered and grouped by label.
    known: dict[str, Standardization] = {}
    for path, mean, std in zip(paths, means, stds, strict=True):
        files = find_checkpoints(path)
        if len(files) > 1:
            raise UserError(f"--mean for each path, and {path} stands for {len(files)} files: name them one by one")
        if (mean, std) != ("-", "-"):
            known[str(files[0])] = Standardization(_numbers("mean", mean), _numbers("std", std))

    def normalized(one: Checkpoint) -> Checkpoint:
        if one.path not in known:
            return one
        if not one.is_foreign:
            raise UserError(f"{one.path} records what its images are normalised by: give --mean - and --std - for it")
        channels, constants = one.manifest.model.in_channels, known[one.path]
        if any(channels not in (None, len(values)) for values in (constants.mean, constants.std)):
            raise UserError(f"--mean and --std of {one.path}: give {channels} numbers each, one for each channel")
        return replace(one, manifest=replace(one.manifest, normalization=constants))

    return {
        label: [normalized(one) for one in entry] if isinstance(entry, list) else normalized(entry)
        for label, entry in checkpoints.items()
    }


def single(checkpoints: Mapping[str, Checkpoint | list[Checkpoint]]) -> list[Checkpoint]:
    """Return all checkpoints in one list."""
    return [one for entry in checkpoints.values() for one in (entry if isinstance(entry, list) else [entry])]


def _chosen(given: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the options with these names that were given."""
    return {name: given[name] for name in names if given.get(name) is not None}


def crop_of(checkpoints: Mapping[str, Checkpoint | list[Checkpoint]], given: dict[str, Any]) -> dict[str, int]:
    """Return ``size`` and ``resize`` of the user's own image files; empty for whole files and for other images.

    They are those given, otherwise those of networks with published weights.

    Args:
        given: values of ``file_options`` by name.
    """
    if given["images"] is None or is_arrays(given["images"]):
        return {}
    own = _chosen(given, ("size", "resize"))
    return own if "size" in own else _common_crop(single(checkpoints)) | own


def _common_crop(checkpoints: Sequence[Checkpoint]) -> dict[str, int]:
    """Return the crop of networks with published weights; empty if no checkpoint records one.

    Raises:
        UserError: networks crop differently.
    """
    crops = {
        (c.manifest.extra["size"], c.manifest.extra["resize"]): c for c in checkpoints if "size" in c.manifest.extra
    }
    if len(crops) > 1:
        told = ", ".join(f"{one.path} to {size} of {side}" for (size, side), one in crops.items())
        raise UserError(f"networks crop their images differently ({told}): give --size for all of them")
    return {name: value for crop in crops for name, value in zip(("size", "resize"), crop, strict=True)}


def _takes_grey(model: nn.Module) -> bool:
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    return first is not None and first.in_channels == 1


def _network(given: dict[str, Any]) -> Callable[[], Any] | None:
    arguments: dict[str, Any] = {}
    for text in given["model_args"]:
        arguments |= keywords(text)
    if given["model"] is None:
        if arguments:
            raise UserError("--model-args are for a network of your own: name it with --model package.module:factory")
        return None

    source = source_of(given["model"])

    def make(**sizes: int) -> nn.Module:
        with redirect_stdout(sys.stderr):  # keep the output of foreign code out of tables and JSON
            return model_from(given["model"], {**sizes, **arguments})

    if callable(source) and not isinstance(source, nn.Module):
        with suppress(TypeError, ValueError):  # without a signature, no recorded sizes are passed
            make.__signature__ = signature(source)  # type: ignore[attr-defined]
    return make


def _picker(key: str) -> Callable[[Any], Any]:
    index: int | str = int(key) if key.lstrip("-").isdigit() else key

    def pick(returned: Any) -> Any:
        if isinstance(returned, Tensor):
            raise UserError(f"--logits {key}: the network returns a single tensor: leave it out")
        try:
            return returned[index]
        except (KeyError, IndexError, TypeError):
            has = ", ".join(map(str, returned)) if isinstance(returned, dict) else f"a {type(returned).__name__}"
            has += f" of {len(returned)}" if isinstance(returned, tuple | list) else ""
            raise UserError(f"--logits {key}: the network returns no such thing, but {has}") from None

    return pick


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--{name} {text!r}: write numbers with commas, such as 0.49,0.48,0.45") from None
