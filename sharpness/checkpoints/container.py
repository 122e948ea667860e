"""The file format of our own checkpoints: tensors and a manifest of plain values."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from sharpness.checkpoints.families.reading import is_state
from sharpness.checkpoints.manifest import Manifest, Network
from sharpness.checkpoints.networks import filled
from sharpness.checkpoints.safety import Tensors
from sharpness.errors import UserError, choose, shown
from sharpness.files import write_archive, write_atomically
from sharpness.models import BACKBONES, HEADS, OWN, ModelSpec, build_model, build_own
from sharpness.models.factory import load_weights
from sharpness.untrusted.checksums import is_whole, sealed

FORMAT = "sharpness-checkpoint"
VERSION = 1


def save_checkpoint(
    path: Path, model: nn.Module, manifest: Mapping[str, Any], weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write a checkpoint atomically; what serves training alone, ``model.auxiliary``, is left out.

    Args:
        path: with the ending ``.safetensors`` it is a file of that kind, which holds the manifest as a text of its
            metadata; with any other one of ``torch.save``.
        model: must carry a ``spec`` (as :func:`build_model` makes it).
        manifest: a :class:`Manifest`, or its plain values; of its network ``model`` says more.
        weights: what a model of that ``spec`` takes, if ``model`` is trained in another form.
    """
    given = model.state_dict() if weights is None else weights
    state = {
        name: value.detach().cpu().contiguous() for name, value in given.items() if not name.startswith("auxiliary.")
    }
    plain = manifest.to_dict() if isinstance(manifest, Manifest) else manifest
    content = {
        "format": FORMAT,
        "version": VERSION,
        "manifest": {**plain, "model": model.spec.to_dict()},  # type: ignore[operator, union-attr]
        "state_dict": state,
    }
    if path.suffix != ".safetensors":
        write_archive(sealed(content), path)
        return
    described = sealed(content | {"state_dict": dict(sorted(state.items()))})  # as they are read
    metadata = {FORMAT: json.dumps({name: value for name, value in described.items() if name != "state_dict"})}
    # Tied weights share memory, which safetensors refuses.
    apart = {name: value.clone() for name, value in state.items()}
    write_atomically(path, lambda partial: partial.write_bytes(save(apart, metadata)))


def own_content(content: Any) -> dict[str, Any] | None:
    """The content of our own file, of either kind; None of any other."""
    if isinstance(content, Tensors):
        try:
            described = json.loads(content.metadata.get(FORMAT, "null"))
        except (ValueError, RecursionError):
            described = None
        content = {**described, "state_dict": dict(sorted(content.items()))} if isinstance(described, dict) else None
    return content if isinstance(content, dict) and content.get("format") == FORMAT else None


def read_own(
    content: dict[str, Any], path: Path, model: nn.Module | Callable[..., nn.Module] | str | None = None
) -> tuple[nn.Module, Manifest]:
    """The model in eval mode and the manifest of a file that ``sharpness train`` wrote.

    Files of earlier versions have no checksum, and are believed as far as their entries fit together.

    Args:
        content: of the file.
        path: of the file, for messages.
        model: what makes a network that does not come with this package, or one that is made.

    Raises:
        UserError: it is from a newer version, or damaged: it is not what its checksum says, or an entry is missing or
            odd, or does not fit the others.
    """
    version, manifest, state = (content.get(name) for name in ("version", "manifest", "state_dict"))
    if type(version) is not int:
        raise UserError(f"{path} is damaged: its format version is {shown(reprlib.repr(version))}, not an integer")
    if version > VERSION:
        raise UserError(f"{path} has format version {version}, this release reads {VERSION}: upgrade")
    if not isinstance(manifest, dict) or not is_state(state):
        raise UserError(f"{path} is damaged: it lacks its manifest or its weights")
    if not is_whole(content):
        raise UserError(f"{path} is damaged: it was altered afterwards: take 'checksum' out if you meant that")
    spec = _spec(manifest.get("model"), path)
    described = Manifest.from_dict(manifest, Network.of(spec), path)
    if spec.architecture in BACKBONES.built_in():
        if model is not None:
            raise UserError(f"{path} is our own and complete: leave out model")
        return filled(partial(build_model, **spec.to_dict()), state, str(path)).eval(), described
    # Code of the user's own may not run without memory, so that sizes are looked at before it is called.
    if max(spec.num_classes, spec.in_channels) > sum(tensor.numel() for tensor in state.values()):
        raise UserError(f"{path} is damaged: {spec.num_classes} classes are more than it has weights")
    if model is None:
        model = BACKBONES[BACKBONES.recorded(spec.architecture, spec.source, str(path))]
    elif isinstance(model, str):
        model = BACKBONES.choose(model)
    network = build_own(model, spec)
    if any(tensor.dtype == torch.float64 for tensor in state.values()):
        network.to(torch.float64)
    return load_weights(network, state, where=str(path)).eval(), described


def _spec(given: Any, path: Path) -> ModelSpec:
    """The network that a manifest describes, if it describes one."""
    try:
        spec = ModelSpec(**given)
    except TypeError:
        raise UserError(f"{path} is damaged: its manifest describes no model ({shown(reprlib.repr(given))})") from None
    sizes, words = (spec.num_classes, spec.in_channels), (spec.architecture, spec.head)
    whole = all(type(n) is int and n > 0 for n in sizes) and all(isinstance(w, str) for w in words)
    if not (whole and isinstance(spec.scale, int | float | None) and isinstance(spec.source, str | None)):
        raise UserError(f"{path} is damaged: its manifest describes the model as {shown(reprlib.repr(given), 160)}")
    try:
        choose("head", spec.head, HEADS if spec.architecture in BACKBONES.built_in() else (*HEADS, OWN))
    except UserError as error:
        raise UserError(f"{path} is damaged, or from a newer release: {shown(str(error), 160)}") from None
    return spec
