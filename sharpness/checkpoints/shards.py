"""Weights that lie in several files with an index of JSON, as libraries of Hugging Face write large models.

The index says which file holds which tensor, ``{"metadata": {"total_size": 24}, "weight_map": {"fc.weight":
"model-00001-of-00002.safetensors", ...}}``. It is believed in nothing: files are those of its own folder, each is
checked as any checkpoint is, and together they hold exactly the tensors that it names.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import OrderedDict
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.checkpoints.safety import LIMIT, read_safely
from sharpness.errors import UserError, shown
from sharpness.untrusted.plain_json import read_json
from sharpness.untrusted.refused import Refused

logger = logging.getLogger("sharpness")

_PART = re.compile(r"(.+)-\d{5}-of-(\d{5})(\.safetensors|\.bin|\.pt|\.pth)$")


def read_weights(path: Path) -> tuple[Any, str]:
    """Read a checkpoint, objects of foreign classes passed over: its content and SHA-256.

    Args:
        path: a file, or the index of several, by its ending ``.json``; the sum is then over the sums of all, in the
            order of their names after that of the index.

    Raises:
        UserError: one line that says why it is not read; nothing in it was run.
    """
    if path.suffix != ".json":
        if (index := index_of(path)) is not None:
            raise UserError(f"{path} is one of several files of a model: give their index, {index}")
        return _as_tensors(read_safely(path, foreign=True)), _sha256(path)
    files, said = _parts_of(path)
    state: dict[str, Tensor] = {}
    left, sums = LIMIT, [_sha256(path)]
    for name, wanted in sorted(files.items()):
        shard = path.parent / name
        # An index may name ten thousand parts of the largest size.
        content = read_safely(shard, left)
        left -= shard.stat().st_size
        if not isinstance(content, dict) or not all(isinstance(t, Tensor) for t in content.values()):
            raise UserError(f"cannot read {shard}: it holds other things than tensors by name: save the weights again")
        for told, names in (("lacks", wanted - content.keys()), ("holds also", content.keys() - wanted)):
            if names:
                first = shown(str(min(map(str, names))), 120)
                found = f"{shown(name)} {told} {first} ({len(names)} in all), other than the index says"
                raise UserError(f"cannot read {path}: {found}: are they of one save? fetch all files again")
        state.update(content)
        sums.append(_sha256(shard))
    held = sum(t.nbytes for t in state.values())
    if said is not None and said != held:
        logger.warning("%s: total_size is not the %d bytes of its tensors, and is passed over", path, held)
    return state, hashlib.sha256("".join(sums).encode()).hexdigest()


def index_of(path: Path) -> Path | None:
    """The index beside one of several files, which stands for them; None of a file that is whole."""
    part = _PART.match(path.name)
    index = None if part is None or int(part[2]) == 1 else path.parent / f"{part[1]}{part[3]}.index.json"
    return index if index is not None and index.is_file() else None


def _as_tensors(content: Any, entries: bool = True) -> Any:
    """The same, with states of NumPy's arrays as states of tensors, and in its entries, too."""
    if type(content) not in (dict, OrderedDict) or not content:
        return content
    kinds = {type(value) for value in content.values()}
    if np.ndarray in kinds and all(issubclass(kind, np.ndarray | Tensor) for kind in kinds):
        return {name: torch.as_tensor(value) for name, value in content.items()}
    found = {key: _as_tensors(value, False) for key, value in content.items()} if entries else content
    return found if any(found[key] is not content[key] for key in content) else content


def _parts_of(index: Path) -> tuple[dict[str, set[str]], Any]:
    """Names of the tensors in each file, by the file's name, and how many bytes the index says there are."""

    def refuse(reason: object) -> UserError:
        return UserError(f"cannot read {index}: it {reason}")

    try:
        content = read_json(index)
    except Refused as error:
        raise refuse(error) from None
    found = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found or not all(isinstance(v, str) for v in found.values()):
        raise refuse("is JSON without a weight_map, so it holds no weights and names no files of them: give those")
    files: dict[str, set[str]] = {}
    for tensor, name in found.items():
        files.setdefault(name, set()).add(tensor)
    for name in files:
        # As names of Windows, too: they have other separators, and drives.
        if not name.isprintable() or name in ("", "..") or {PureWindowsPath(name).name, Path(name).name} != {name}:
            raise refuse(f"names {shown(repr(name), 120)}, and its files must lie beside it")
    absent = sorted(name for name in files if not os.path.exists(index.parent / name))
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise refuse(
            f"names {shown(absent[0], 120)}{more}, which is not beside it: fetch all of its {len(files)} files"
        )
    metadata = content.get("metadata")
    return files, metadata.get("total_size") if isinstance(metadata, dict) else None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
