"""Prepared images: decoded once, 8-bit, class after class in one file, of which rows are read in place.

Rows are read with ``pread`` rather than through a memory map: pages of a map count as memory of the process, and a
file that is cut short while it is mapped ends the process with SIGBUS instead of an error.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.data.file_source import FileSource, Transform, content_key, decoded
from sharpness.data.list_files import ImageList
from sharpness.errors import UserError
from sharpness.files import refusal, write_atomically
from sharpness.locks import only_process
from sharpness.progress import progress
from sharpness.untrusted.plain_json import parse_json
from sharpness.untrusted.refused import Refused
from sharpness.untrusted.regular_files import open_regular

logger = logging.getLogger("sharpness")

#: The file of a folder of prepared images that describes them.
DESCRIPTION = "prepared.json"
POLICIES = ("stop", "skip")
#: Images that are decoded, written and noted together: what an interruption may cost.
TOGETHER = 256
#: Largest description, in bytes.
LIMIT = 2**28


class PreparedSource:
    """One part of a folder of prepared images as a source.

    Args:
        folder: of :func:`prepare`.
        entry: the part's description in ``prepared.json``.
        transform: how its images were made.

    Raises:
        UserError: a file that is missing or has another length than described.
    """

    def __init__(self, folder: Path, entry: dict[str, Any], transform: Transform | None = None) -> None:
        self.path, self.transform = folder / entry["images"], transform
        self.key, self.image_shape = str(entry["key"]), tuple(entry["shape"])
        self._bytes = int(np.prod(self.image_shape))
        self._file: int | None = None
        rows = int(entry["rows"])
        known = {name: self.path.with_suffix(f".{name}") for name in ("labels", "digests")}
        wanted = {self.path: rows * self._bytes, known["labels"]: 8 * rows, known["digests"]: 8 * rows}
        for path, size in wanted.items():
            if not path.is_file() or path.stat().st_size != size:
                raise UserError(f"{path} is missing or damaged: prepare {folder} again (sharpness data prepare)")
        self.labels = torch.from_numpy(np.fromfile(known["labels"], dtype="<i8").astype(np.int64))
        self._digests = np.fromfile(known["digests"], dtype="<u8").astype(np.uint64)

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            os.close(self._file)  # type: ignore[arg-type]

    def read(self, indices: np.ndarray) -> Tensor:
        """The images at some indices; neighbours are read at once.

        Raises:
            UserError: the file ends before they do.
        """
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY)
        indices = np.asarray(indices, dtype=np.int64)
        found = np.empty((len(indices), *self.image_shape), dtype=np.uint8)
        # One read for every run of neighbours: images of a class lie together.
        breaks = np.flatnonzero(np.diff(indices) != 1) + 1
        for start, end in pairwise([0, *breaks.tolist(), len(indices)] if len(indices) else []):
            into: Any = memoryview(found[start:end].reshape(-1))  # type: ignore[arg-type]
            offset = int(indices[start]) * self._bytes
            while len(into):
                got = os.preadv(self._file, [into], offset)
                if not got:
                    raise UserError(f"{self.path} was cut short: prepare it again (sharpness data prepare)")
                into, offset = into[got:], offset + got
        return torch.from_numpy(found)

    def digests(self, indices: np.ndarray) -> np.ndarray:
        """Digests ``(n,)`` uint64 of all pixels of the decoded files."""
        return self._digests[indices]


def read_description(folder: Path) -> dict[str, Any]:
    """Read ``prepared.json`` of a folder.

    Raises:
        UserError: it is damaged, or written by a later version.
    """
    path = folder / DESCRIPTION
    try:
        with open_regular(path, LIMIT)[0] as file:
            found = json.loads(file.read()) if path.stat().st_size > 2**24 else parse_json(file.read())
    except (OSError, ValueError, RecursionError, Refused):
        raise UserError(f"{path} is damaged: prepare the folder again (sharpness data prepare)") from None
    if not isinstance(found, dict) or found.get("version") != 1 or not isinstance(found.get("parts"), dict):
        raise UserError(f"{path} describes no prepared images of this version: prepare them again")
    return found


def is_prepared(folder: Path) -> bool:
    """True if a folder has prepared images."""
    return (folder / DESCRIPTION).is_file()


def prepare(
    name: str, lists: dict[str, ImageList], root: Path, out: Path, transform: Transform,
    folders: tuple[str, ...], *, policy: str = "stop", workers: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Decode the images of lists into a folder, part after part.

    Finished parts are kept, unless images that could not be read then can be read now.

    Args:
        name: of the data set.
        lists: by part.
        root: where their paths begin.
        out: the folder.
        transform: what is kept of every image.
        folders: names of the classes' folders.
        policy: ``"stop"`` at an image that cannot be read, or ``"skip"`` it and record it.
        workers: processes that decode.

    Returns:
        The description, as ``prepared.json`` has it.

    Raises:
        UserError: an image that cannot be read, with its line; a folder that was prepared from other lists.
        SystemRefusal: a full disk. What was prepared before either is kept, and the same command continues.
    """
    out.mkdir(parents=True, exist_ok=True)
    with only_process(out, "prepares images"):
        described: dict[str, Any] = {"version": 1, "data": name, "transform": transform.words, "size": transform.size,
                                     "resize": transform.resize, "class_names": list(folders), "parts": {}}  # fmt: skip
        if is_prepared(out):
            known = read_description(out)
            if (known["data"], known["transform"]) != (name, transform.words):
                raise UserError(
                    f"{out} has images of {known['data']} ({known['transform']}), not of {name} ({transform.words}): "
                    "give another folder"
                )
            described["parts"] = known["parts"]
        for part, images in lists.items():
            source = FileSource(images.sorted_by_class(), root, transform, folders)
            entry = described["parts"].get(part)
            # By the key of list and transform: a part of another list must not pass for this one.
            if entry is not None and entry["list"] != source.key:
                raise UserError(f"{out} has the part {part} of another list than {images.path}: give another folder")
            if entry is None or not _is_whole(out, entry) or _is_restored(source, entry, policy):
                prepared = _prepared_part(part, source, out, policy, workers)
                # That of the list as it is, by which a training on the files themselves names its images.
                described["parts"][part] = prepared | {"fingerprint": images.fingerprint}
                write_atomically(out / DESCRIPTION, _writer(described))
    return described


def _is_restored(source: FileSource, entry: Mapping[str, Any], policy: str) -> bool:
    """True if images that could not be read when a part was prepared can be read now.

    Raises:
        UserError: they still cannot, and the policy is to stop at them.
    """
    lost = np.array(entry.get("lost", []), dtype=np.int64)
    if len(lost) < len(entry["skipped"]):
        return True  # prepared by a version that did not note which
    if not len(lost):
        return False
    ((_, _, kept, wrong),) = decoded(source, [lost], pixels=False)
    if wrong and policy == "stop":
        raise UserError(f"{wrong[0][1]} (--policy skip leaves such images out)")
    return bool(len(kept))


def _is_whole(folder: Path, entry: dict[str, Any]) -> bool:
    """True if the files of a part are as described; they may have been deleted since."""
    try:
        PreparedSource(folder, entry)
    except UserError:
        return False
    return True


def _writer(content: Any) -> Any:
    return lambda partial: partial.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _prepared_part(part: str, source: FileSource, out: Path, policy: str, workers: int) -> dict[str, Any]:
    """Decode one part, from where an interrupted command stopped."""
    stem = f"{part}-{source.key[:12]}"
    paths = {kind: out / f"{stem}.{kind}" for kind in ("images", "labels", "digests")}
    noted = out / f"{stem}.progress"
    state: dict[str, Any] = {"next": 0, "rows": 0, "skipped": []}
    if noted.is_file():
        state = json.loads(noted.read_text(encoding="utf-8"))
    row = {"images": int(np.prod(source.image_shape)), "labels": 8, "digests": 8}
    try:
        with ExitStack() as opened:
            files: dict[str, Any] = {}
            for kind, path in paths.items():
                files[kind] = opened.enter_context(path.open("r+b" if path.exists() else "w+b"))
                # What was written after the last note is written again.
                files[kind].truncate(state["rows"] * row[kind])
                files[kind].seek(0, os.SEEK_END)
            left = np.arange(state["next"], len(source))
            chunks = [left[i : i + TOGETHER] for i in range(0, len(left), TOGETHER)]
            bar = opened.enter_context(progress(len(source), f"prepare {part}", "images", done=state["next"]))
            for chunk, (images, digests, kept, wrong) in zip(
                chunks, decoded(source, chunks, workers) if chunks else (), strict=True
            ):
                if wrong and policy == "stop":
                    raise UserError(f"{wrong[0][1]} (--policy skip leaves such images out)")
                written = {"images": images, "digests": digests.astype("<u8"), "labels": source.images.labels[kept]}
                for kind, content in written.items():
                    files[kind].write(np.ascontiguousarray(content).tobytes())
                    files[kind].flush()
                    os.fsync(files[kind].fileno())
                state = {
                    "next": state["next"] + len(chunk),
                    "rows": state["rows"] + len(kept),
                    "skipped": state["skipped"] + [[index, message] for index, message in wrong],
                }
                write_atomically(noted, _writer(state))
                bar.update(len(chunk))
    except OSError as error:
        raise refusal(f"{out} cannot take the prepared images", error) from None
    noted.unlink(missing_ok=True)
    skipped = state["skipped"]
    classes = Counter(int(source.images.labels[index]) for index, _ in skipped)
    return {
        "images": paths["images"].name, "rows": state["rows"], "shape": list(source.image_shape), "list": source.key,
        "key": content_key(source.images, source.transform, tuple(index for index, _ in skipped)),
        "blob": source.images.blob, "lost": [index for index, _ in skipped],
        "skipped": [message for _, message in skipped],
        "skipped_per_class": {str(label): number for label, number in sorted(classes.items())},
    }  # fmt: skip


def lost_in_words(lost: Mapping[int, int], names: Sequence[str]) -> str:
    """Images that cannot be read, and their number of each class, in one line.

    Args:
        lost: their number of each class that has any; -1 is the open set.
        names: of the classes.

    >>> lost_in_words({1: 2, -1: 1}, ("cat", "dog"))
    '3 images cannot be read: dog 2, open 1'
    """
    told = [f"{names[c] if c >= 0 else 'open'} {number}" for c, number in lost.items()]
    return f"{sum(lost.values()):,} images cannot be read: " + ", ".join(told[:20]) + (", ..." if told[20:] else "")
