"""A model that was read from a file, with everything that the file and its family say about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from sharpness.checkpoints.heads import HeadReading, reread
from sharpness.data import LongTail, LongTailData, load_data
from sharpness.errors import UserError
from sharpness.models import Classifier

#: File names that say nothing about the model; its folder does.
_USUAL_NAMES = ("ckpt", "model_best", "current", "last", "best", "final_model_checkpoint", "latest_model_checkpoint")


@dataclass(frozen=True)
class Checkpoint:
    """A trained model and its manifest.

    Attributes:
        model: in eval mode; returns calibrated logits (n, C).
        manifest: plain values. Ours hold ``model`` (architecture, head, scale, ...), ``normalization`` (mean, std),
            ``longtail`` (data set, subset recipe, class counts, ...), ``method``, ``options``, ``loss``,
            ``training`` (epochs, seed, ...) and ``accuracy``. Those of foreign files hold ``family``, ``model``,
            ``head_layout``, ``stage``, ``prefix``, ``epoch``, ``accuracy``, ``class_order``, ``dataset``,
            ``normalization``, ``subset``, ``unused_parameters`` and ``notes``; what is not known is None.
            ``head_readings`` are the kinds that the head may have, the one taken first, where the file leaves it open.
        path: where it was read from.
        sha256: of the file.
    """

    model: nn.Module
    manifest: dict[str, Any]
    path: str
    sha256: str

    @property
    def is_foreign(self) -> bool:
        """Whether somebody else's code wrote the file."""
        return "family" in self.manifest

    @property
    def longtail(self) -> LongTail:
        """The training set's description.

        Raises:
            UserError: the file does not record it.
        """
        if "longtail" not in self.manifest:
            raise UserError(f"{self.path} does not record its training set: pass data=, a data set name or (x, y)")
        return LongTail.from_dict(self.manifest["longtail"])

    @property
    def label(self) -> str:
        """A short name for tables and legends."""
        given = self.manifest.get("label") or self.manifest.get("method")
        path = Path(self.path)
        if not given and self.is_foreign and path.name.split(".")[0] in _USUAL_NAMES:
            folder = path.resolve().parent
            given = folder.parent.name if folder.name in ("ckps", "checkpoint") else folder.name
        return str(given or path.stem)

    def readings(self) -> dict[str, Checkpoint]:
        """The same checkpoint with its head read as the file allows it, by reading; empty where it is settled."""
        found = [HeadReading(**reading) for reading in self.manifest.get("head_readings", ())]
        if not found or not isinstance(self.model, Classifier):
            return {}
        square = len({reading.layout for reading in found}) > 1
        made = {}
        for reading in found:
            name = (str(reading) if square else reading.kind) + (f", scale {reading.scale:g}" * (reading.scale != 1))
            head = reread(self.model.head, found[0], reading, self.path)
            made[name] = replace(self, model=Classifier(self.model.backbone, head, self.model.spec).eval())
        return made

    def load_data(self, data_root: str | None = None, download: bool = False) -> LongTailData:
        """The data it was trained on, rebuilt by the recorded recipe, and the matching test set.

        Raises:
            UserError: the training set is not recorded, or the files here give other training images.
        """
        t = self.longtail
        data = load_data(
            t.dataset,
            profile=t.profile,
            imbalance=t.imbalance,
            subset=t.subset,
            groups=t.group_convention,
            data_root=data_root,
            download=download,
        )
        if data.train.sha256() != self.manifest.get("data_sha256", data.train.sha256()):
            raise UserError(
                f"{self.path} was trained on other images of {t.dataset} than the files here give: point --data-root "
                "at the files it was trained on"
            )
        return data
