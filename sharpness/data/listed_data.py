"""Data sets given by lists of image files: ImageNet-LT, Places-LT, iNaturalist 2018, and the user's own lists."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sharpness.data.dataset import ImageSet, LongTailData
from sharpness.data.file_source import FileSource, Transform
from sharpness.data.groups import check_convention
from sharpness.data.list_files import ImageList, class_names, read_list, tree_parts
from sharpness.data.longtail import LongTail
from sharpness.data.prepared import PreparedSource, is_prepared, read_description
from sharpness.data.profiles import LISTED
from sharpness.data.published_lists import PUBLISHED
from sharpness.data.rows import Rows
from sharpness.data.standardization import Standardization
from sharpness.errors import UserError, choose

logger = logging.getLogger("sharpness")

#: Usual crop and shorter side of test images.
USUAL = Transform(224, 256)


@dataclass(frozen=True)
class Lists:
    """The lists of a data set by part, and the names of its classes.

    >>> Lists({}, ("cat", "dog")).num_classes
    2
    """

    parts: Mapping[str, ImageList]
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)

    @property
    def counts(self) -> tuple[int, ...]:
        """Training images of each class, ``(C,)``."""
        return self.parts["train"].counts(self.num_classes)


def find_lists(name: str, root: str | Path | None, lists: str | Path | Sequence[str | Path] | None = None) -> Lists:
    """Find and read the lists of a data set; no image is opened.

    Args:
        name: a name in :data:`~sharpness.data.published_lists.PUBLISHED`.
        root: folder where the paths of the lists begin, and by default the folder of the lists.
        lists: folder of the lists.

    Raises:
        UserError: no training or test list, or labels out of range; the message names the line.
    """
    choose("data set of lists", name, list(PUBLISHED))
    known = PUBLISHED[name]
    folder = Path(str(lists if lists is not None else root)).expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give the folder of the lists with lists= (--lists)")
    parts = {
        part: replace(read_list(part, path), whole=known.whole_names)
        for part in known.lists
        if (path := _found(folder, known.lists[part]))
    }
    if not parts and known.tree and root is not None:
        parts = tree_parts(Path(root).expanduser())
        logger.warning(
            "data: %s has no lists: every image of its tree, whose last 3 of each class are the test images; the "
            "published split is another one", folder,
        )  # fmt: skip
    # Without a test list, the validation list is used, as for iNaturalist 2018.
    if "test" not in parts and "val" in parts:
        parts["test"] = parts["val"]
    for part in ("train", "test"):
        if part not in parts:
            wanted = ", ".join(f"{stem}.txt" for stem in known.lists[part])
            raise UserError(f"{folder} has no list {wanted} (or .txt.gz): name the folder of the lists with --lists")
    classes = known.num_classes or parts["train"].num_classes
    for images in parts.values():
        wrong = (images.labels >= classes).nonzero()[0]
        if len(wrong):
            i = int(wrong[0])
            raise UserError(
                f"{images.place(i)}: label {images.labels[i]} is outside 0..{classes - 1}: {name} has {classes} classes"
            )
    if missing := [c for c, n in enumerate(parts["train"].counts(classes)) if not n]:
        told = f"{missing[0]} and {len(missing) - 1} others" if len(missing) > 1 else str(missing[0])
        raise UserError(f"{parts['train'].path} has no images of class {told}: every class needs at least 1")
    return Lists(parts, class_names(parts, classes))


def _found(folder: Path, stems: Sequence[str]) -> Path | None:
    for stem in stems:
        for ending in (".txt", ".txt.gz", ".json"):
            if (folder / (stem + ending)).is_file():
                return folder / (stem + ending)
    return None


def load_listed(
    name: str,
    data_root: str | Path | None = None,
    lists: str | Path | None = None,
    profile: str = LISTED,
    imbalance: float | None = None,
    subset: str | None = None,
    groups: str | None = None,
    size: int | None = None,
    resize: int | None = None,
    workers: int = 0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> LongTailData:
    """Load ``imagenet-lt``, ``places-lt``, ``inat18``, or ``list``: your own ``train.txt`` and ``test.txt``.

    Images are read on demand and not kept. All parts are sorted by class.

    Args:
        name: name of the data set.
        data_root: folder where the paths of the lists begin, or a folder written by ``sharpness data prepare``.
        lists: folder of the lists; ``data_root`` by default.
        profile: ``"listed"``.
        imbalance: recorded imbalance; must be that of the list.
        subset: recorded subset, ``list:<fingerprint>``; must be that of the training list.
        groups: the group convention, by default ``oltr``, and ``mislas`` for ``inat18``.
        size: side of the central square for probes and tests; 224 by default.
        resize: shorter side before that crop, only together with ``size``; ``size`` by default, or 256 if neither is
            given.
        workers: number of processes that augment training images; 0 uses the training process.
        mean: mean per channel, for pixels in [0, 1]; by default the usual one of the data set.
        std: standard deviation per channel, given with ``mean``.

    Raises:
        UserError: no root, lists that do not fit it or each other, or images that were prepared with other settings.
    """
    known = PUBLISHED[name]
    if data_root is None:
        raise UserError(f"{name} is read from your disk: say with root= (--data-root) where its images are")
    if profile != LISTED:
        raise UserError(f"{name} is a list: leave profile={profile!r} out")
    if groups is not None:
        check_convention(groups)
    parts, names, fingerprint = _sources(name, Path(data_root).expanduser(), lists, size, resize)
    listed_subset = f"list:{fingerprint}"
    if subset not in (None, listed_subset):
        raise UserError(f"subset {subset!r}, but the training list is {listed_subset}: point --lists at that list")
    constants = Standardization.given(mean, std) or known.constants
    sets = {}
    for part, source in parts.items():
        source.workers = workers
        sets[part] = ImageSet(Rows.of(source), source.labels, constants.mean, constants.std)
    counts = tuple(sets["train"].class_samples(len(names)).tolist())
    # Prepared images lack those that could not be read, which may be all images of a class.
    if not min(counts):
        raise UserError(f"class {names[counts.index(0)]} has no images that can be read: restore some")
    listed = max(counts) / min(counts)
    if imbalance is not None and abs(imbalance - listed) > 1e-9 * listed:
        raise UserError(f"imbalance {imbalance:g}, but that of the list is {listed:g}: leave imbalance out")
    longtail = LongTail(name, names, LISTED, listed, listed_subset, counts, groups or known.groups)
    small = sets["train"].images.shape[-1] <= 64 and known.model != "resnet10"
    model = "resnet10-cifar" if small else known.model
    return LongTailData(
        longtail, sets["train"], sets["test"], known.augmentation, 4, model, val=sets.get("val"), open=sets.get("open")
    )


def _sources(
    name: str, root: Path, lists: str | Path | None, size: int | None, resize: int | None
) -> tuple[dict[str, Any], tuple[str, ...], str]:
    """Sources of images by part, class names, and the fingerprint of the training list."""
    # The description of prepared images replaces the lists, so a probe needs neither these nor the image files.
    if is_prepared(root):
        described = read_description(root)
        _require_prepared(name, root, described, size, resize, lists)
        transform = Transform(described["size"], described["resize"])
        prepared = {part: PreparedSource(root, entry, transform) for part, entry in described["parts"].items()}
        return prepared, tuple(map(str, described["class_names"])), str(described["parts"]["train"]["fingerprint"])
    found = find_lists(name, root, lists)
    if size is None and resize is not None:
        raise UserError(f"resize {resize}: give size, the side after the crop, too (--size)")
    transform = USUAL if size is None else Transform(size, resize)
    files = {
        part: FileSource(images.sorted_by_class(), root, transform, found.class_names)
        for part, images in found.parts.items()
    }
    return files, found.class_names, found.parts["train"].fingerprint


def _require_prepared(
    name: str, root: Path, described: Mapping[str, Any], size: int | None, resize: int | None, lists: Any
) -> None:
    """Refuse settings that differ from those of prepared images."""
    if described["data"] != name:
        raise UserError(f"{root} has prepared images of {described['data']}, not of {name}: give another root")
    if {"train", "test"} - described["parts"].keys():
        raise UserError(f"{root} is not complete: give the same sharpness data prepare command again, which continues")
    if lists is not None:
        raise UserError(f"{root} has prepared images, which know their lists: leave lists (--lists) out")
    has = {"size": described["size"], "resize": described["resize"] or described["size"]}
    for option, given in (("size", size), ("resize", resize)):
        if given not in (None, has[option]):
            raise UserError(f"{option} {given}, but {root} has {has[option]}: prepare another folder")


imagenet_lt, places_lt, inat18, glyphs_lt, listed_data = (partial(load_listed, name) for name in PUBLISHED)
