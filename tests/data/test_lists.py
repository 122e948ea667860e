"""Lists of image files: lines, fingerprints against ``git hash-object``, path styles, and the published ones."""

import gzip
import hashlib
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sharpness.data import class_groups
from sharpness.data.image_files import list_lines
from sharpness.data.list_files import read_list, tree_parts
from sharpness.data.listed_data import find_lists
from sharpness.data.path_styles import by_class, found_style, places_256
from sharpness.data.published_lists import recognised
from sharpness.errors import UserError

LISTS = Path(os.environ.get("SHARPNESS_LISTS", ""))
published = pytest.mark.skipif(
    not list(LISTS.glob("Places_LT_train.txt.gz")), reason="needs the published lists in SHARPNESS_LISTS"
)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_blob_is_gits(tmp_path, end):
    path = tmp_path / "train.txt"
    path.write_bytes(f"a/b.jpg 0\r\nc d.jpg 1{end}".encode())
    told = subprocess.run(["git", "hash-object", "--no-filters", str(path)], capture_output=True, text=True, check=True)
    assert read_list("train", path).blob == told.stdout.strip()
    (tmp_path / "train.txt.gz").write_bytes(gzip.compress(path.read_bytes()))
    again = read_list("train", tmp_path / "train.txt.gz")
    assert again.blob == told.stdout.strip()
    assert again.names == ["a/b.jpg", "c d.jpg"]


@published
@pytest.mark.parametrize(
    ("name", "lines", "blob"),
    [
        ("ImageNet_LT_val", 20000, "3ed3188b2f"),
        ("Places_LT_train", 62500, "6392252f8a"),
        ("Places_LT_val", 7300, "b93a2ca58c"),
        ("iNaturalist18_val", 24426, "4c23900857"),
    ],
)
def test_published_lists_are_recognised(name, lines, blob):
    images = read_list("val", LISTS / f"{name}.txt.gz")
    assert len(images) == lines
    assert images.blob.startswith(blob)
    assert recognised(images.blob).startswith(name)


@published
def test_both_styles_of_places_have_the_same_fingerprint_and_lead_to_each_other():
    train = read_list("train", LISTS / "Places_LT_train.txt.gz")
    other = [places_256(name, "") for name in train.names]
    assert other[0].startswith("data_256/a/airfield/")
    assert [by_class(name, "") for name in other] == train.names
    text = "".join(f"{c}/{Path(n).name}\n" for c, n in zip(train.labels, other, strict=True))
    assert hashlib.sha1(text.encode()).hexdigest()[:12] == train.fingerprint
    counts = json.loads((LISTS / "Places_LT_train_counts.json").read_text())
    assert list(train.counts()) == counts


@published
@pytest.mark.parametrize(
    ("name", "convention", "sizes"),
    [
        ("ImageNet_LT", "oltr", (391, 463, 146)),
        ("ImageNet_LT", "classifier-balancing", (385, 479, 136)),
        ("ImageNet_LT", "mislas", (390, 445, 165)),
        ("Places_LT", "oltr", (132, 156, 77)),
        ("Places_LT", "classifier-balancing", (131, 163, 71)),
        ("Places_LT", "mislas", (131, 157, 77)),
    ],
)
def test_groups_of_the_published_lists(name, convention, sizes):
    counts = json.loads((LISTS / f"{name}_train_counts.json").read_text())
    groups = class_groups(counts, convention)
    assert tuple(map(len, groups.values())) == sizes
    if convention == "mislas":  # the counts on either side of its cuts, which lie inside ties
        on = {"ImageNet_LT": (100, 100, 23, 23), "Places_LT": (103, 100, 21, 20)}[name]
        many, medium, few = ([counts[c] for c in groups[g]] for g in ("many", "medium", "few"))
        assert (min(many), max(medium), min(medium), max(few)) == on


@published
def test_the_folder_of_every_image_of_inaturalist_is_its_label():
    val = read_list("test", LISTS / "iNaturalist18_val.txt.gz")
    assert [int(name.split("/")[2]) for name in val.names] == val.labels.tolist()
    assert set(val.counts()) == {3}


def test_json_of_inaturalist(tmp_path):
    path = tmp_path / "train2018.json"
    content = {
        "images": [{"id": 5, "file_name": "t/A/1/x.jpg"}, {"id": 9, "file_name": "t/B/0/y.jpg"}],
        "annotations": [{"id": 5, "image_id": 5, "category_id": 1}, {"id": 9, "image_id": 9, "category_id": 0}],
    }
    path.write_text(json.dumps(content))
    images = read_list("train", path)
    assert images.names == ["t/A/1/x.jpg", "t/B/0/y.jpg"]
    assert images.labels.tolist() == [1, 0]
    content["annotations"].reverse()
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"entry 1: image 5 and an annotation of another"):
        read_list("train", path)


@pytest.mark.parametrize(
    "text",
    ["[", "[1]", '{"images": []}', '{"images": [1], "annotations": [2]}', "[" * 100000,
     '{"images": [{"id": 1, "file_name": 3}], "annotations": [{"image_id": 1, "category_id": 0}]}'],
)  # fmt: skip
def test_other_json_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "train2018.json").write_text(text)
    with pytest.raises(UserError, match=r"train2018\.json") as refused:
        read_list("train", tmp_path / "train2018.json")
    assert "\n" not in str(refused.value)


def test_a_bare_tree(tmp_path):
    for label, n in ((0, 5), (1, 2), (2, 1)):
        folder = tmp_path / "train_val2018" / "Aves" / str(label)
        folder.mkdir(parents=True)
        for i in range(n):
            (folder / f"{i}.jpg").touch()
    parts = tree_parts(tmp_path)
    assert parts["train"].counts() == (2, 1, 1)
    assert parts["test"].counts(3) == (3, 1, 0)
    assert parts["test"].names[0] == "train_val2018/Aves/0/2.jpg"


def test_a_bare_tree_of_single_images_is_refused(tmp_path):
    for label in range(2):
        (folder := tmp_path / "train_val2018" / "Aves" / str(label)).mkdir(parents=True)
        (folder / "0.jpg").touch()
    with pytest.raises(UserError, match="has no class of 2 images"):
        tree_parts(tmp_path)


@pytest.mark.parametrize(
    ("name", "folder", "there"),
    [
        ("data_256/a/airfield/1.jpg", "airfield", "train/airfield/1.jpg"),
        ("train/airfield/1.jpg", "airfield", "data_256/a/airfield/1.jpg"),
        ("val_256/P_1.jpg", "airfield", "val/airfield/P_1.jpg"),
        ("val/airfield/P_1.jpg", "airfield", "val_256/P_1.jpg"),
        ("val/n01/I_1.JPEG", "n01", "val/I_1.JPEG"),
        ("val/I_1.JPEG", "n01", "val/n01/I_1.JPEG"),
    ],
)
def test_the_style_of_the_disk_is_found(tmp_path, name, folder, there):
    (tmp_path / there).parent.mkdir(parents=True)
    (tmp_path / there).touch()
    assert found_style(tmp_path, name, folder, "l line 1")(name, folder) == there


def test_a_list_that_does_not_fit_its_root_names_its_first_line(tmp_path):
    with pytest.raises(UserError, match=r"^l line 1: there is no .*a/1\.jpg: say with root="):
        found_style(tmp_path, "a/1.jpg", "a", "l line 1")
    with pytest.raises(UserError, match=r"^l line 2: there is no .*train"):
        found_style(tmp_path, "train//1.jpg", "", "l line 2")


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ("a 0\nb 2\n", "has no images of class 1: every class needs at least 1"),
        ("a 0\nb -1\n", r"line 2 is 'b -1': write 'path label' with a label from 0 on"),
        ("a 0\nb 7.5\n", r"line 2 is 'b 7\.5'"),
        ("\n\n", "lists no images"),
    ],
)
def test_wrong_lists(tmp_path, train, told):
    (tmp_path / "train.txt").write_text(train)
    (tmp_path / "test.txt").write_text("a 0\n")
    with pytest.raises(UserError, match=told):
        find_lists("list", tmp_path)


def test_labels_out_of_range_are_named_with_their_line(tmp_path):
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbfa 0\r\nb 1\r\n")  # as an editor of Windows writes it
    assert next(list_lines(tmp_path / "train.txt")).split() == ["a", "0"]
    (tmp_path / "test.txt").write_text("a 0\n\nb 3\n")
    with pytest.raises(UserError, match=r"test\.txt line 3: label 3 is outside 0\.\.1"):
        find_lists("list", tmp_path)


def test_the_open_list_has_labels_of_minus_one(tmp_path):
    (tmp_path / "open.txt").write_text("a -1\nb 12\n")
    images = read_list("open", tmp_path / "open.txt")
    assert images.labels.tolist() == [-1, -1]
    np.testing.assert_array_equal(images.counts(), ())
