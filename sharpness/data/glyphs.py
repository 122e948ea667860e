"""``glyphs-lt``: a long tail of Han characters, drawn with the installed fonts, as image lists.

A class is a character, and each of its images shows it in another font face. Training and test images come from
different faces; further characters form an open set. The images are reproducible to the pixel with the same font files
and versions of Pillow and FreeType, which ``glyphs.json`` records.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sharpness.errors import UserError, require_whole
from sharpness.files import write_atomically
from sharpness.locks import only_process
from sharpness.progress import progress

logger = logging.getLogger("sharpness")

#: Code points of Han characters, and the number of them that a face must exceed to be used.
HAN, ENOUGH = range(0x4E00, 0xA000), 500
#: Ratio of the largest to the smallest class, largest number of training images of a class, and test images per class.
IMBALANCE, LARGEST, TESTS = 12, 24, 3
#: Number of consecutive characters without enough different faces after which the search ends.
PATIENCE = 500
FONT_FILES = (".ttf", ".ttc", ".otf", ".otc")
REMEDY = "install more, such as apt-get install fonts-noto-cjk fonts-wqy-zenhei fonts-arphic-ukai fonts-arphic-uming"


@dataclass(frozen=True)
class Face:
    """A face of a font file.

    Attributes:
        path: path of the file.
        index: index of the face in the file.
        sha256: SHA-256 of the file.
        characters: code points of the Han characters in the face.
    """

    path: Path
    index: int
    sha256: str
    characters: frozenset[int]

    @property
    def name(self) -> str:
        """The file's name and the index of the face."""
        return f"{self.path.stem}-{self.index}"

    def draw(self, character: int, side: int) -> np.ndarray | None:
        """Draw a character in black on white, centred, ``(side, side)`` uint8; returns None if it is blank or fails."""
        from PIL import Image, ImageDraw, ImageFont

        image = Image.new("L", (side, side), 255)
        try:
            font = ImageFont.truetype(str(self.path), round(0.85 * side), index=self.index)
            ImageDraw.Draw(image).text((side / 2, side / 2), chr(character), 0, font=font, anchor="mm")
        except (OSError, ValueError):  # FreeType cannot run the hinting programs of some faces
            return None
        pixels = np.asarray(image)
        return pixels if int(pixels.min()) < 128 else None


def find_faces(folders: Sequence[Path]) -> list[Face]:
    """Find faces with Han characters in font files below some folders, sorted by file name and hash.

    Copies of a file count once.
    """
    files: dict[str, Path] = {}
    for path in sorted(p for folder in folders for p in folder.rglob("*") if p.suffix.lower() in FONT_FILES):
        if path.is_file():
            files.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
    faces = [face for sha256, path in files.items() for face in _faces_of(path, sha256)]
    return sorted(faces, key=lambda face: (face.path.name, face.sha256, face.index))


def _faces_of(path: Path, sha256: str) -> Iterator[Face]:
    from fontTools.ttLib import TTCollection, TTFont, TTLibError

    try:
        # The file is opened here, because fontTools does not close a font that it cannot read.
        with path.open("rb") as file:
            collection = path.suffix.lower() in (".ttc", ".otc")
            fonts = TTCollection(file, lazy=True).fonts if collection else [TTFont(file, lazy=True)]
            for index, font in enumerate(fonts):
                characters = frozenset((font.getBestCmap() or {}).keys()) & frozenset(HAN)
                if len(characters) > ENOUGH:
                    yield Face(path, index, sha256, characters)
    except (TTLibError, OSError, KeyError, ValueError, AssertionError) as error:
        logger.info("font %s is passed over: %s", path.name, error)


def make_glyphs(
    folders: Sequence[Path], out: Path, classes: int = 1000, *, side: int = 64, seed: int = 0
) -> dict[str, Any]:
    """Draw a long tail of characters into folders ``train``, ``test`` and ``open``, with lists of the same names.

    The class of rank c has ``int(F (1 / 12) ** (c / (C - 1)))`` training images, at least 1, where F is three quarters
    of the training faces and at most 24. Every class has 3 test images from faces that are not used for training.
    Identical pictures of a character are only used once. The open set consists of further characters, a tenth of the
    number of classes but at least 10, drawn with the test faces.

    Args:
        folders: folders that are searched for fonts.
        out: an empty or new folder.
        classes: C.
        side: side of the images in pixels.
        seed: seed for the choice of characters and faces.

    Returns:
        The content of ``glyphs.json``.

    Raises:
        UserError: too few faces or characters in the fonts, or a folder that is not empty.
    """
    require_whole("classes", classes, least=2)
    if side < 8:
        raise UserError(f"side {side}: give at least 8 pixels")
    out.mkdir(parents=True, exist_ok=True)
    with only_process(out, "draws glyphs"):
        if any(out.iterdir()):
            raise UserError(f"{out} holds something: give a new folder")
        faces = find_faces(folders)
        if len(faces) < 6:
            raise UserError(f"{len(faces)} faces of Han characters in {folders[0]}, and 6 are needed: {REMEDY}")
        random = np.random.default_rng(seed)
        # One face in five is for tests, and at least four, because some may be blank or identical.
        order = random.permutation(len(faces))
        held = max(TESTS + 1, len(faces) // 5)
        testing, training = ([faces[i] for i in part] for part in (order[:held], order[held:]))
        # Some faces of a small set are blank or identical to others (regional variants).
        largest = min(LARGEST, 3 * len(training) // 4)
        drawn = _Characters(training, testing, side, seed)
        with progress(classes, "draw glyphs", "classes") as bar:
            lists = drawn.fill(out, classes, largest, random, bar)
        for part, lines in lists.items():
            _write_text(out / f"{part}.txt", "".join(f"{line}\n" for line in sorted(lines)))
        record = _record(training, testing, lists, {"classes": classes, "side": side, "seed": seed})
        _write_text(out / "glyphs.json", json.dumps(record, indent=1))
    return record


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _record(
    training: Sequence[Face], testing: Sequence[Face], lists: Mapping[str, Sequence[str]], settings: dict[str, int]
) -> dict[str, Any]:
    import PIL
    from PIL import features

    faces = {"train": training, "test": testing}
    return {
        **settings,
        "pillow": PIL.__version__,
        "freetype": features.version("freetype2"),
        "images": {part: len(lines) for part, lines in lists.items()},
        "faces": {part: [f"{f.path.name}:{f.index} {f.sha256}" for f in found] for part, found in faces.items()},
    }


class _Characters:
    """Pictures of characters in training and test faces, without duplicates of a character."""

    def __init__(self, training: Sequence[Face], testing: Sequence[Face], side: int, seed: int) -> None:
        self.faces, self.side, self.seed = {"train": training, "test": testing}, side, seed
        self._names = Counter(face.name for face in (*training, *testing))

    def _name(self, face: Face) -> str:
        """File name for the pictures of a face, with a hash if several font files have the same name."""
        return face.name if self._names[face.name] == 1 else f"{face.name}-{face.sha256[:12]}"

    def pictures(self, character: int, part: str, number: int, seen: set[bytes]) -> list[tuple[str, np.ndarray]]:
        """Draw up to ``number`` pictures with the faces of a part, in a random order that depends on the character."""
        order = np.random.default_rng([self.seed, character]).permutation(len(self.faces[part]))
        found: list[tuple[str, np.ndarray]] = []
        for i in order:
            face = self.faces[part][i]
            if len(found) == number:
                break
            if character not in face.characters:
                continue
            pixels = face.draw(character, self.side)
            if pixels is not None and pixels.tobytes() not in seen:
                seen.add(pixels.tobytes())
                found.append((self._name(face), pixels))
        return found

    def fill(
        self, out: Path, classes: int, largest: int, random: np.random.Generator, bar: Any
    ) -> dict[str, list[str]]:
        """Draw the classes from the largest to the smallest, then the open set; returns the lines of the lists.

        Raises:
            UserError: too few characters have enough faces.
        """
        by_faces = {part: np.zeros(len(HAN), dtype=int) for part in self.faces}
        for part, faces in self.faces.items():
            for face in faces:
                by_faces[part][np.array(sorted(face.characters)) - HAN.start] += 1
        # Every candidate has enough faces for the largest class, so its rank does not depend on its number of faces.
        enough = (by_faces["train"] >= largest) & (by_faces["test"] >= TESTS)
        candidates = random.permutation(np.flatnonzero(enough) + HAN.start).tolist()
        chosen: list[tuple[int, list[Any], list[Any]]] = []
        unknown: list[tuple[int, list[Any]]] = []
        opened = max(classes // 10, 10)
        in_vain = 0
        for character in candidates:
            # Faces of one family may draw identical pictures; trying all characters to find out would take minutes.
            if (len(chosen) == classes and len(unknown) == opened) or in_vain == PATIENCE:
                break
            in_vain += 1
            seen: set[bytes] = set()
            if len(chosen) == classes:
                if len(pictures := self.pictures(character, "test", TESTS, seen)) == TESTS:
                    unknown.append((character, pictures))
                    in_vain = 0
                continue
            wanted = max(1, int(largest * (1 / IMBALANCE) ** (len(chosen) / (classes - 1))))
            train = self.pictures(character, "train", wanted, seen)
            test = self.pictures(character, "test", TESTS, seen)
            if len(train) == wanted and len(test) == TESTS:
                chosen.append((character, train, test))
                in_vain = 0
                bar.update()
        if len(chosen) < classes or len(unknown) < opened:
            raise UserError(
                f"{len(chosen) + len(unknown):,} characters have {largest} different training faces and {TESTS} for "
                f"tests, and {classes + opened:,} are needed: ask for fewer classes, or {REMEDY}"
            )
        # Labels follow code points, so they are independent of the class sizes.
        chosen.sort(key=lambda entry: entry[0])
        lists: dict[str, list[str]] = {"train": [], "test": [], "open": []}
        for label, (character, train, test) in enumerate(chosen):
            for part, pictures in (("train", train), ("test", test)):
                lists[part] += _write(out, part, character, pictures, label)
        for character, pictures in unknown:
            lists["open"] += _write(out, "open", character, pictures, -1)
        return lists


def _write(
    out: Path, part: str, character: int, pictures: Sequence[tuple[str, np.ndarray]], label: int
) -> Iterator[str]:
    from PIL import Image

    folder = out / part / f"U+{character:04X}"
    folder.mkdir(parents=True)
    for name, pixels in pictures:
        Image.fromarray(pixels).save(folder / f"{name}.png")
        yield f"{part}/{folder.name}/{name}.png {label}"
