"""Selection of images of a named data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from sharpness.data.dataset import LongTailData
from sharpness.data.standardization import Standardization


@dataclass(frozen=True)
class NamedData:
    """A named data set with the selection and standardisation of its images.

    Attributes:
        name: a name in ``sharpness.data.DATASETS``; None for the data set that a checkpoint records.
        data_root: the folder with its files.
        imbalance: imbalance of the long tail.
        subset: rule that selects its images.
        split: ``"train"``, ``"val"`` or ``"test"``.
        mean: mean per channel, for pixels in [0, 1], instead of the usual one.
        std: standard deviation per channel, for pixels in [0, 1].
        download: whether to download missing files.

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
        """Names of the settings that differ from their defaults."""
        values = {f.name: (getattr(self, f.name), f.default) for f in fields(self)}
        # None by identity: a comparison with an array has no truth value.
        return [n for n, (v, default) in values.items() if (v is not None if default is None else v != default)]

    def standardized(self, data: LongTailData, usual: Standardization | None = None) -> LongTailData:
        """The same images with the given mean and std, or with ``usual`` if none are given.

        Raises:
            UserError: mean without std or vice versa, or not one number for each channel.
        """
        wanted = Standardization.given(self.mean, self.std) or usual
        return data if wanted is None else data.standardized(wanted)
