"""A model read from a file, with everything that the file and its family say about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from sharpness.checkpoints.find import FOLDERS, usual_files
from sharpness.checkpoints.heads import reread
from sharpness.checkpoints.manifest import Manifest
from sharpness.checkpoints.zoo import training_images
from sharpness.data import DATASETS, ImageSet, LongTail, LongTailData, load_data
from sharpness.data.class_orders import check_class_order
from sharpness.errors import UserError
from sharpness.models import Classifier


@dataclass(frozen=True)
class Checkpoint:
    """A trained model and its manifest.

    Attributes:
        model: in eval mode; returns calibrated logits (n, C).
        manifest: what is known of it, see :class:`~sharpness.checkpoints.Manifest`.
        path: where it was read from.
        sha256: of the file.
    """

    model: nn.Module
    manifest: Manifest
    path: str
    sha256: str

    @property
    def is_foreign(self) -> bool:
        """True if the file was written by other code than ours."""
        return self.manifest.family is not None

    @property
    def longtail(self) -> LongTail:
        """The training set's description.

        Raises:
            UserError: the file does not record it.
        """
        if self.manifest.longtail is None:
            raise UserError(f"{self.path} does not record its training set: pass data=, a data set name or (x, y)")
        return self.manifest.longtail

    @property
    def label(self) -> str:
        """A short name for tables and legends."""
        given = self.manifest.label or self.manifest.method
        path = Path(self.path)
        # A usual name says nothing about the model; its folder does.
        usual = {"best", *(name.split(".")[0] for name in usual_files())}
        if not given and self.is_foreign and path.name.split(".")[0] in usual:
            folder = path.resolve().parent
            given = folder.parent.name if folder.name in FOLDERS else folder.name
        return str(given or path.stem)

    def readings(self) -> dict[str, Checkpoint]:
        """The same checkpoint with its head read as the file allows it, by reading; empty where it is settled."""
        found = self.manifest.head_readings
        if not found or not isinstance(self.model, Classifier):
            return {}
        square = len({reading.layout for reading in found}) > 1
        made = {}
        for reading in found:
            name = (str(reading) if square else reading.kind) + (f", scale {reading.scale:g}" * (reading.scale != 1))
            head = reread(self.model.head, found[0], reading, self.path)
            made[name] = replace(self, model=Classifier(self.model.backbone, head, self.model.spec).eval())
        return made

    def in_class_order(self, kind: Any) -> Checkpoint:
        """The same checkpoint, whose model numbers the classes as the caller says.

        Args:
            kind: as :func:`sharpness.data.class_order` takes it.

        Raises:
            UserError: no such order, or a file of ours, which records its classes.
        """
        if not self.is_foreign:
            raise UserError(f"{self.path} is our own and complete: leave out class_order")
        return replace(self, manifest=replace(self.manifest, class_order=check_class_order(kind)))

    def _by_content(self, data_root: str | None) -> ImageSet | None:
        """The training images of a model of the zoo, found among all images of the files by their pixels."""
        digests, whole = training_images(self.manifest.data_sha256), self.longtail.dataset.removesuffix("-lt")
        if digests is None or whole not in DATASETS:
            return None
        return load_data(whole, data_root=data_root).train.by_digest(digests)

    def load_data(self, data_root: str | None = None, download: bool = False, split: str = "train") -> LongTailData:
        """The data it was trained on, rebuilt by the recorded recipe, and the matching test set.

        Raises:
            UserError: the training set is not recorded, or the files here give other training images and ``split`` is
                not ``"test"``, for which that does not matter.
        """
        t = self.longtail
        data = load_data(
            DATASETS.recorded(t.dataset, None, self.path),
            profile=t.profile,
            imbalance=t.imbalance,
            subset=t.subset,
            groups=t.group_convention,
            data_root=data_root,
            download=download,
            **self.manifest.image_sides,
        )
        if split == "test":
            return data.described(t)  # the training images, of which all is on record, are not read for it
        wanted = self.manifest.data_sha256
        if wanted not in (None, data.train.sha256()):
            if (found := self._by_content(data_root)) is not None and found.sha256() == wanted:
                return replace(data, longtail=t, train=found)
            raise UserError(
                f"{self.path} was trained on other images of {t.dataset} than the files here give: point --data-root "
                "at the files it was trained on"
            )
        return data
