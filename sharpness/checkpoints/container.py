"""Our own checkpoint: tensors and plain values, with everything that a probe needs to know."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sharpness.data import LongTail, LongTailData, load_data
from sharpness.errors import UserError
from sharpness.files import write_atomically
from sharpness.models import ModelSpec, build_model

FORMAT = "sharpness-checkpoint"
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A trained model and its manifest.

    Attributes:
        model: in eval mode; returns calibrated logits (n, C).
        manifest: plain values: ``model`` (architecture, head, scale, ...), ``normalization`` (mean, std),
            ``longtail`` (data set, subset recipe, class counts, ...), ``method``, ``options``, ``loss``,
            ``training`` (epochs, seed, ...) and ``accuracy``.
        path: where it was read from.
        sha256: of the file.
    """

    model: nn.Module
    manifest: dict[str, Any]
    path: str
    sha256: str

    @property
    def longtail(self) -> LongTail:
        """The training set's description."""
        return LongTail.from_dict(self.manifest["longtail"])

    @property
    def label(self) -> str:
        """A short name for tables and legends."""
        return str(self.manifest.get("label") or self.manifest.get("method") or Path(self.path).stem)

    def load_data(self, data_root: str | None = None) -> LongTailData:
        """The data it was trained on, rebuilt by the recorded recipe, and the matching test set.

        Raises:
            UserError: the files here give other training images than those it was trained on.
        """
        t = self.longtail
        options: dict[str, Any] = {"data_root": data_root} if data_root else {}
        data = load_data(
            t.dataset,
            profile=t.profile,
            imbalance=t.imbalance,
            subset=t.subset,
            groups=t.group_convention,
            **options,
        )
        if data.train.sha256() != self.manifest["data_sha256"]:
            raise UserError(
                f"{self.path} was trained on other images of {t.dataset} than the files here give: point --data-root "
                "at the files it was trained on"
            )
        return data


def save_checkpoint(path: Path, model: nn.Module, manifest: dict[str, Any]) -> None:
    """Write a checkpoint atomically; ``model`` must carry a ``spec`` (as :func:`build_model` makes it)."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    content = {
        "format": FORMAT,
        "version": VERSION,
        "manifest": {**manifest, "model": model.spec.to_dict()},  # type: ignore[operator, union-attr]
        "state_dict": state,
    }
    write_atomically(path, lambda partial: torch.save(content, partial))


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint that ``sharpness train`` wrote. Nothing in the file is executed (``weights_only=True``).

    Raises:
        UserError: the file is missing, broken, not ours, or from a newer version.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "last.pt"
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}: give the path of a last.pt that 'sharpness train' wrote")
    content = read_safely(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(
            f"{path} is not a checkpoint of 'sharpness train': build its model in Python and pass it to "
            "sharpness.Objective(model, (x, y)) instead"
        )
    if content["version"] > VERSION:
        raise UserError(f"{path} has format version {content['version']}, this release reads {VERSION}: upgrade")
    manifest = content["manifest"]
    model = build_model(**ModelSpec(**manifest["model"]).to_dict())
    model.load_state_dict(content["state_dict"])
    return Checkpoint(model.eval(), manifest, str(path), hashlib.sha256(path.read_bytes()).hexdigest())


def read_safely(path: Path) -> Any:
    """``torch.load`` without unpickling anything but tensors and plain values."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"cannot read {path} as tensors and plain values ({reason[:160]}): is it whole?") from None
