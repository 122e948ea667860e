"""Check lists of images against the files on disk."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sharpness.data.file_source import FileSource, Transform, decoded
from sharpness.data.groups import GROUP_CONVENTIONS, class_groups
from sharpness.data.list_files import ImageList
from sharpness.data.listed_data import Lists
from sharpness.data.prepared import TOGETHER
from sharpness.data.published_lists import recognised
from sharpness.errors import UserError
from sharpness.progress import progress


@dataclass(frozen=True)
class PartReport:
    """The images of one part that cannot be read.

    Attributes:
        images: the list of the part.
        wrong: index in the list and message of every image that is missing or cannot be decoded.
    """

    images: ImageList
    wrong: tuple[tuple[int, str], ...]

    @property
    def wrong_per_class(self) -> dict[int, int]:
        """Number of unreadable images of each class that has any."""
        return dict(sorted(Counter(int(self.images.labels[i]) for i, _ in self.wrong).items()))


def list_in_words(images: ImageList, num_classes: int) -> str:
    """Describe a list: number of images and classes, largest and smallest class, and its origin if it is known.

    >>> import numpy as np
    >>> images = ImageList("train", Path("train.txt"), ["a", "b", "c"], np.array([0, 0, 1]), np.arange(3))
    >>> list_in_words(images, 2)
    'train: 3 images, 2 classes of 2 to 1, list:...'
    """
    counts = [n for n in images.counts(num_classes) if n]
    classes = f"{len(counts):,} classes of {max(counts):,} to {min(counts):,}" if counts else "of no class"
    known = recognised(images.blob)
    whose = f" ({known})" if known else ""
    return f"{images.part}: {len(images):,} images, {classes}, list:{images.fingerprint}{whose}"


def groups_in_words(counts: tuple[int, ...]) -> list[str]:
    """Sizes of many, medium and few under every convention that applies to these classes.

    >>> groups_in_words((500, 101, 100, 21, 20, 5))[:2]
    ['oltr: many 3, medium 1, few 2', 'classifier-balancing: many 2, medium 3, few 1']
    """
    told = []
    for convention in GROUP_CONVENTIONS:
        try:
            groups = class_groups(counts, convention, max(counts) / min(counts))
        except UserError:  # a convention without cuts for this number of classes
            continue
        told.append(f"{convention}: " + ", ".join(f"{name} {len(members)}" for name, members in groups.items()))
    return told


def check_files(lists: Lists, root: Path, transform: Transform, decode: bool, workers: int) -> list[PartReport]:
    """Check that every listed file exists and, with ``decode``, that it can be decoded.

    Args:
        lists: the lists of the data set; a list that is used for two parts is checked once.
        root: folder where their paths begin.
        transform: resize and crop.
        decode: whether to decode the files that exist.
        workers: number of processes that decode.
    """
    reports = []
    distinct = {id(images): images for images in lists.parts.values()}
    for images in distinct.values():
        source = FileSource(images, root, transform, lists.class_names)
        wrong: list[tuple[int, str]] = []
        there = []
        for i in range(len(images)):
            path = source.path(i)
            if path.is_file():
                there.append(i)
            else:
                wrong.append((i, f"{images.place(i)}: there is no {path}"))
        if decode:
            chunks = [np.array(there[i : i + TOGETHER]) for i in range(0, len(there), TOGETHER)]
            with progress(len(there), f"decode {images.part}", "images") as bar:
                for *_, found in decoded(source, chunks, workers, pixels=False) if chunks else ():
                    wrong += found
                    bar.update(TOGETHER)
        reports.append(PartReport(images, tuple(sorted(wrong))))
    return reports
