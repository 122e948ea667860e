"""Characters drawn by fonts: with the faces of this computer where there are enough, and with drawn ones elsewhere."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from sharpness.cli import main
from sharpness.data import glyphs, load_data
from sharpness.data.glyphs import Face, find_faces, make_glyphs
from sharpness.errors import UserError

FONTS = Path("/usr/share/fonts")
CLASSES = 6


class Drawn(Face):
    """A face without a font: noise that depends on face and character; two faces draw alike, one is blank."""

    def draw(self, character, side):
        if self.index == 3:
            return None
        twin = 0 if self.index == 1 else self.index
        return np.random.default_rng([twin, character]).integers(0, 256, (side, side), dtype=np.uint8)


@pytest.fixture
def drawn(monkeypatch):
    characters = frozenset(range(0x4E00, 0x4E00 + 40))
    faces = [Drawn(Path(f"face{i:02}.ttf"), i, f"{i:064}", characters) for i in range(16)]
    monkeypatch.setattr(glyphs, "find_faces", lambda folders: faces)
    return faces


def tree(root):
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*.*")}


def test_faces_and_pictures_are_apart(drawn, tmp_path):
    record = make_glyphs([FONTS], tmp_path / "g", CLASSES, side=16)
    lines = {part: (tmp_path / "g" / f"{part}.txt").read_text().splitlines() for part in ("train", "test", "open")}
    sizes = {part: len(found) for part, found in lines.items()}
    largest = 3 * len(record["faces"]["train"]) // 4
    expected = sorted(max(int(largest * (1 / 12) ** (c / (CLASSES - 1))), 1) for c in range(CLASSES))
    counts = np.bincount([int(line.split()[1]) for line in lines["train"]])
    assert sizes == record["images"]
    assert sorted(counts) == expected
    assert sizes["test"] == 3 * CLASSES
    faces, characters, pictures = ({part: set() for part in lines} for _ in range(3))
    for part, found in lines.items():
        for line in found:
            name, label = line.split()
            _, character, file = name.split("/")
            faces[part].add(file)
            characters[part].add(character)
            pictures[part].add((character, (tmp_path / "g" / name).read_bytes()))
            assert (label == "-1") == (part == "open")
    assert not faces["train"] & (faces["test"] | faces["open"])
    assert characters["train"] == characters["test"]
    assert not characters["open"] & characters["train"]
    assert {part: len(found) for part, found in pictures.items()} == sizes  # none twice, neither twins nor blanks
    assert not pictures["train"] & pictures["test"]


def test_the_same_faces_and_seed_give_the_same_files(drawn, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_glyphs([FONTS], tmp_path / name, CLASSES, side=16, seed=seed)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert tree(tmp_path / "a") != tree(tmp_path / "c")


def test_font_files_of_the_same_name_have_pictures_of_their_own(tmp_path, monkeypatch):
    class Version(Face):
        def draw(self, character, side):
            random = np.random.default_rng([int(self.sha256[:8], 16), character])
            return random.integers(0, 256, (side, side), dtype=np.uint8)

    characters = frozenset(range(0x4E00, 0x4E00 + 40))
    sums = [hashlib.sha256(bytes([i])).hexdigest() for i in range(16)]
    faces = [Version(Path(f"{i}/face.ttf"), 0, sha256, characters) for i, sha256 in enumerate(sums)]
    monkeypatch.setattr(glyphs, "find_faces", lambda folders: faces)
    record = make_glyphs([FONTS], tmp_path / "g", CLASSES, side=16)
    for part, number in record["images"].items():
        lines = (tmp_path / "g" / f"{part}.txt").read_text().splitlines()
        assert len(set(lines)) == len(lines) == number
        assert len(list((tmp_path / "g" / part).rglob("*.png"))) == number


def test_it_is_a_data_set(drawn, tmp_path):
    make_glyphs([FONTS], tmp_path / "g", CLASSES, side=16)
    data = load_data("glyphs-lt", root=tmp_path / "g", size=16)
    assert data.augmentation == "crop"
    assert data.class_names[0].startswith("U+4E")
    assert data.train.images[[0]].shape == (1, 3, 16, 16)
    assert len(data.open) == 30


def test_what_is_wrong_is_told(drawn, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"and 60 are needed: ask for fewer classes, or install more"):
        make_glyphs([FONTS], tmp_path / "a", 50, side=8)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").touch()
    with pytest.raises(UserError, match="holds something: give a new folder"):
        make_glyphs([FONTS], tmp_path / "b", CLASSES)
    with pytest.raises(UserError, match="side 4: give at least 8 pixels"):
        make_glyphs([FONTS], tmp_path / "c", CLASSES, side=4)
    with pytest.raises(UserError, match="classes=1: give an integer, at least 2"):
        make_glyphs([FONTS], tmp_path / "c", 1)
    monkeypatch.setattr(glyphs, "find_faces", lambda folders: drawn[:5])
    with pytest.raises(UserError, match=r"5 faces of Han characters .* 6 are needed: install more, such as apt-get"):
        make_glyphs([FONTS], tmp_path / "d", CLASSES)


def test_files_that_are_no_fonts_are_passed_over(tmp_path):
    (tmp_path / "a.ttf").write_bytes(b"nope")
    (tmp_path / "b.ttc").write_bytes(b"ttcf" + bytes(8))
    assert find_faces([tmp_path]) == []


def test_faces_that_draw_the_same_are_given_up_early(drawn, tmp_path, monkeypatch):
    asked = []

    def same(self, character, side):
        asked.append(character)
        return np.random.default_rng(character).integers(0, 256, (side, side), dtype=np.uint8)

    monkeypatch.setattr(Drawn, "draw", same)
    monkeypatch.setattr(glyphs, "PATIENCE", 5)
    with pytest.raises(UserError, match="0 characters have 9 different training faces and 3 for tests"):
        make_glyphs([FONTS], tmp_path / "g", CLASSES, side=16)
    assert len(set(asked)) == 5


def test_fonts_of_this_computer(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(glyphs, "PATIENCE", 20)
    faces = find_faces([FONTS]) if FONTS.is_dir() else []
    if len(faces) < 8:
        pytest.skip(f"needs 8 faces of Han characters in {FONTS}, there are {len(faces)}: make glyphs installs some")
    code = main(["data", "make", "glyphs-lt", "--classes", "8", "--side", "32", "-o", str(tmp_path / "g")])
    said = capsys.readouterr()
    if code and "different training faces" in said.err:  # faces of one family may draw the same
        pytest.skip(said.err.strip())
    assert code == 0 and "8 classes, images: train" in said.out
    record = json.loads((tmp_path / "g" / "glyphs.json").read_text())
    assert record["freetype"]
    assert main(["data", "check", "--data", "glyphs-lt", "--data-root", str(tmp_path / "g"), "--size", "32"]) == 0
