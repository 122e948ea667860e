"""A choice of images of a named data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from sharpness.data.dataset import LongTailData
from sharpness.data.standardization import Standardization


@dataclass(frozen=True)
class NamedData:
    """A named data set: the choice of its images, and their standardisation.

    Attributes:
        name: of ``sharpness.data.DATASETS``; None for the set that a checkpoint records.
        data_root: the folder with its files.
        imbalance: of its long tail.
        subset: recipe of its images.
        split: ``"train"``, ``"val"`` or ``"test"``.
        mean: per channel, of pixels in [0, 1], in place of the usual one.
        std: per channel, of pixels in [0, 1].
        download: fetch files that are missing.

    >>> NamedData("cifar10-lt", imbalance=50, split="test").given()
    ['name', 'imbalance', 'split']
    """

    name: str | None = None
    data_root: str | None = None
    imbalance: float | None = None
    subset: str | None = None
    split: str = "train"
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    download: bool = False

    def given(self) -> list[str]:
        """Names of the settings that are not left at their defaults."""
        values = {f.name: (getattr(self, f.name), f.default) for f in fields(self)}
        # None by identity: a comparison with an array has no truth value.
        return [n for n, (v, default) in values.items() if (v is not None if default is None else v != default)]

    def standardized(self, data: LongTailData, usual: Standardization | None = None) -> LongTailData:
        """The same images with the given mean and std, or the usual ones where none are given.

        Raises:
            UserError: mean without std or the other way round, or not one number for each channel.
        """
        wanted = Standardization.given(self.mean, self.std) or usual
        return data if wanted is None else data.standardized(wanted)
