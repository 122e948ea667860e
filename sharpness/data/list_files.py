"""Lists of image files with labels and fingerprints, from text, iNaturalist's JSON, or folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from sharpness.data.image_files import is_image, list_lines, parsed_lines
from sharpness.data.path_styles import by_class
from sharpness.errors import UserError
from sharpness.untrusted.refused import Refused
from sharpness.untrusted.regular_files import open_regular

JSON = 2**29
"""Largest JSON file that is read, in bytes; the one of iNaturalist's training images has 120 million."""

#: Label of the images of an open set, whose classes are not among the training classes.
UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class ImageList:
    """Names and labels of image files, in the order of a list.

    Attributes:
        part: ``"train"``, ``"val"``, ``"test"`` or ``"open"``.
        path: the list, JSON file or folder.
        names: ``(n,)`` paths below the root, with forward slashes.
        labels: ``(n,)`` int64; -1 for the images of an open set.
        lines: ``(n,)`` line numbers from 1 on; positions in a JSON file or folder.
        blob: the result of ``git hash-object`` for the unpacked list; None for JSON and folders.
        whole: whether the fingerprint hashes whole names, as for lists of your own. Published lists are distributed in
            several path styles, and only their file names are the same in all of them.
    """

    part: str
    path: Path
    names: Sequence[str]
    labels: np.ndarray
    lines: np.ndarray
    blob: str | None = None
    whole: bool = False

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def fingerprint(self) -> str:
        """First 12 hexadecimal digits of the SHA-1 of ``label/name`` lines, with file names unless ``whole``."""
        names = self.names if self.whole else [name.rpartition("/")[2] for name in self.names]
        text = "".join(f"{label}/{name}\n" for label, name in zip(self.labels, names, strict=True))
        return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:12]

    @property
    def num_classes(self) -> int:
        """One more than the largest label."""
        return int(self.labels.max(initial=-1)) + 1

    def counts(self, num_classes: int | None = None) -> tuple[int, ...]:
        """Images of each class, ``(C,)``."""
        known = self.labels[self.labels >= 0]
        return tuple(np.bincount(known, minlength=num_classes or self.num_classes).tolist())

    def place(self, index: int) -> str:
        """The line of an image, for messages."""
        return f"{self.path} line {int(self.lines[index])}"

    def take(self, kept: np.ndarray) -> ImageList:
        """The entries at some indices."""
        return replace(
            self, names=[self.names[i] for i in kept], labels=self.labels[kept], lines=self.lines[kept]
        )  # fmt: skip

    def sorted_by_class(self) -> ImageList:
        """The same entries sorted by class, in the order of the list within each class."""
        return self.take(np.argsort(self.labels, kind="stable"))


def read_list(part: str, path: Path) -> ImageList:
    """Read a list with ``relative/path label`` on each line, plain or gzipped, or a JSON file of iNaturalist 2018.

    In the part ``"open"``, every label becomes -1.

    Raises:
        UserError: a line of another form, which the message names, or no lines.
    """
    if path.suffix == ".json":
        return _of_json(part, path)
    lines = list(list_lines(path))
    content = "\n".join(lines).encode()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    names, labels, numbers = parsed_lines(path, lines, UNKNOWN if part == "open" else 0)
    found = np.array(labels, dtype=np.int64)
    if part == "open":
        found[:] = UNKNOWN
    return ImageList(part, path, names, found, np.array(numbers), blob)


def _of_json(part: str, path: Path) -> ImageList:
    """Read ``{"images": [{"id", "file_name"}], "annotations": [{"image_id", "category_id"}]}``, aligned by position."""
    wrong = f"{path} is no list of iNaturalist 2018: give {{'images': [...], 'annotations': [...]}}, or a text list"
    try:
        with open_regular(path, JSON)[0] as file:
            content = json.loads(file.read())
    except (RecursionError, ValueError):
        raise UserError(wrong) from None
    except Refused as error:
        raise UserError(f"cannot read the list {path}: it {error}") from None
    except OSError as error:
        raise UserError(f"cannot read the list {path}: {error.strerror}") from None
    images, notes = (content.get(k) if isinstance(content, Mapping) else None for k in ("images", "annotations"))
    if not isinstance(images, list) or not isinstance(notes, list) or not images:
        raise UserError(wrong)
    # Published code also relies on equal orders, and asserts them.
    if len(images) != len(notes):
        raise UserError(f"{path} has {len(images)} images and {len(notes)} annotations: give one for each")
    names: list[str] = []
    labels: list[int] = []
    for i, (image, note) in enumerate(zip(images, notes, strict=True)):
        if not (_fits(image, file_name=str, id=int) and _fits(note, category_id=int)):
            raise UserError(f"{wrong} (entry {i + 1})")
        if image["id"] != note.get("image_id", note.get("id")):
            raise UserError(f"{path} entry {i + 1}: image {image['id']} and an annotation of another: restore the file")
        if not 0 <= note["category_id"] < 2**20:
            raise UserError(f"{path} entry {i + 1}: category {note['category_id']}: number the classes from 0")
        names.append(image["file_name"])
        labels.append(note["category_id"])
    return ImageList(part, path, names, np.array(labels, dtype=np.int64), np.arange(1, len(names) + 1))


def _fits(value: Any, **kinds: type) -> bool:
    return isinstance(value, dict) and all(type(value.get(name)) is kind for name, kind in kinds.items())


def tree_parts(root: Path, held_out: int = 3) -> dict[str, ImageList]:
    """Training and test lists of a bare tree ``train_val2018/GROUP/ID/*.jpg``, where ID is the label.

    The tree does not tell which images belong to the published validation set. The test list has the last ``held_out``
    images of each class by name, as many as the published one, but leaves at least one for training.

    Raises:
        UserError: no such tree, a folder whose name is not a number, or no class with two images.
    """
    tree = next((p for p in (root / "train_val2018", root) if p.is_dir()), root)
    folders = sorted(
        (p for group in sorted(tree.iterdir()) if group.is_dir() for p in group.iterdir()
         if p.is_dir() and not p.name.startswith(".")), key=str
    ) if tree.is_dir() else []  # fmt: skip
    if not folders:
        raise UserError(f"{root} has no train_val2018/GROUP/ID folders: give lists=, or the root of the images")
    kept: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for folder in folders:
        if not (folder.name.isdecimal() and folder.name.isascii() and len(folder.name) < 7):
            raise UserError(f"{folder} is no label: folders below a group are numbers from 0 on")
        label = int(folder.name)
        files = sorted(p.relative_to(root).as_posix() for p in folder.iterdir() if is_image(p, folder))
        # A class of one image goes to training: what is not trained on cannot be tested.
        cut = len(files) - min(held_out, len(files) - 1) if files else 0
        kept["train"] += [(name, label) for name in files[:cut]]
        kept["test"] += [(name, label) for name in files[cut:]]
    if not kept["test"]:
        raise UserError(f"{tree} has no class of 2 images, so that none is left for a test: give lists=")
    return {
        part: ImageList(
            part, tree, [n for n, _ in found], np.array([c for _, c in found], dtype=np.int64),
            np.arange(1, len(found) + 1),
        )
        for part, found in kept.items()
    }  # fmt: skip


def class_names(parts: Mapping[str, ImageList], num_classes: int) -> tuple[str, ...]:
    """Class names: the folder of each class in the training list if all are different, otherwise the labels.

    >>> files = ImageList("train", Path("l"), ["train/cat/1.jpg", "train/dog/2.jpg"], np.arange(2), np.arange(1, 3))
    >>> class_names({"train": files}, 2)
    ('cat', 'dog')
    """
    train = parts["train"]
    first = {int(c): PurePosixPath(by_class(name, "")) for name, c in zip(train.names, train.labels, strict=True)}
    folders = tuple(first[c].parent.name if c in first else "" for c in range(num_classes))
    plain = tuple(str(c) for c in range(num_classes))
    return folders if len(set(folders)) == num_classes and "" not in folders else plain
