"""Images from disk: the same pixels and numbers as in memory, prepared once, continued after an interruption."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import sharpness
from sharpness.data import load_data, prepared as prepared_module
from sharpness.data.file_source import Transform
from sharpness.data.listed_data import find_lists
from sharpness.data.prepared import PreparedSource, prepare
from sharpness.data.rows import ArraySource, Rows
from sharpness.errors import SystemRefusal, UserError


def made(root, out, size=8, **options):
    found = find_lists("list", root)
    return prepare("list", dict(found.parts), root, out, Transform(size), found.class_names, **options)


@pytest.fixture(scope="module")
def prepared(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared")
    made(pictures, out, workers=2)
    return out


def test_files_prepared_images_and_pillow_have_the_same_pixels(pictures, prepared):
    files, rows = load_data("list", root=pictures, size=8), load_data("list", root=prepared)
    listed = [line.rsplit(" ", 1) for line in (pictures / "train.txt").read_text().splitlines()]
    listed.sort(key=lambda pair: int(pair[1]))
    for i, (name, label) in enumerate(listed):
        image = Image.open(pictures / name)
        image = image.resize((9, 8), Image.Resampling.BILINEAR).crop((0, 0, 8, 8))
        for data in (files, rows):
            np.testing.assert_array_equal(data.train.images[[i]][0].permute(1, 2, 0), np.asarray(image))
            assert data.train.labels[i] == int(label)
    assert files.train.sha256() == rows.train.sha256()
    assert (files.train.content.digests == rows.train.content.digests).all()
    assert rows.train_counts == (9, 7, 4, 2)
    assert rows.open.labels.tolist() == [-1] * 4


def test_neighbours_and_single_rows_are_read_alike(prepared):
    train = load_data("list", root=prepared).train.images
    everything = train[:]
    for index in ([3, 4, 5], [5, 3, 4, 4], [21, 0], []):
        assert torch.equal(train[index], everything[index])
    assert torch.equal(train.take(torch.tensor([9, 2]))[1:], everything[[2]])


@pytest.mark.parametrize("double", [False, True])
def test_numbers_are_those_of_images_in_memory_bit_by_bit(prepared, double):
    train = load_data("list", root=prepared).train
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(72, 4))
    model = model.double() if double else model
    on_disk, in_memory = (
        sharpness.Objective(model, data, train_counts=(9, 7, 4, 2))
        for data in (train, (train.normalize(train.images[:]), train.labels))
    )
    assert on_disk.data_sha256 == in_memory.data_sha256
    assert isinstance(on_disk.restrict(2).x, Rows)
    options = {"measures": "accuracy,loss,lambda_max,trace,random_rise,worst_rise", "trace_draws": 2, "draws": 2}
    mine, theirs = (sharpness.measure(o, **options).to_frame() for o in (on_disk, in_memory))
    assert mine.equals(theirs)
    assert np.array_equal(on_disk.gradient(), in_memory.gradient())


def test_images_of_a_list_and_in_memory_are_the_same_samples(prepared):
    train = load_data("list", root=prepared).train
    array = sharpness.data.ImageSet(train.images[:], train.labels, train.mean, train.std)
    rows = replace(array, images=Rows.of(ArraySource(array.images, array.labels)))
    assert (rows.content.digests == array.content.digests).all()


def test_what_was_prepared_is_kept(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(prepared_module, "TOGETHER", 4)
    write, written = prepared_module.write_atomically, []

    def fail_at_third(path, how):
        if path.suffix == ".progress":
            written.append(path)
            if len(written) == 3:
                raise KeyboardInterrupt
        write(path, how)

    monkeypatch.setattr(prepared_module, "write_atomically", fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        made(pictures, tmp_path / "p")
    with pytest.raises(UserError, match="is not complete|no prepared|is no folder|has no list"):
        load_data("list", root=tmp_path / "p")
    monkeypatch.setattr(prepared_module, "write_atomically", write)
    read = []
    one = prepared_module.FileSource.one
    monkeypatch.setattr(prepared_module.FileSource, "one", lambda self, i: read.append((len(self), i)) or one(self, i))
    made(pictures, tmp_path / "p")
    assert [i for n, i in read if n == 22] == list(range(8, 22))  # two chunks of four were noted
    made(pictures, tmp_path / "q")
    for file in (tmp_path / "q").iterdir():
        assert file.read_bytes() == (tmp_path / "p" / file.name).read_bytes()


def test_a_full_disk_is_told_and_loses_nothing(pictures, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(prepared_module.os, "fsync", full)
    with pytest.raises(SystemRefusal, match="No space left on device: make room, then give the same command again"):
        made(pictures, tmp_path / "p")
    monkeypatch.undo()
    made(pictures, tmp_path / "p")
    assert len(load_data("list", root=tmp_path / "p").train) == 22


@pytest.fixture
def damaged(pictures, tmp_path):
    """The tree with a truncated image, a missing one and one of CMYK, and the lines of the first two."""
    root = tmp_path / "damaged"
    for file in pictures.rglob("*.*"):
        (root / file.relative_to(pictures)).parent.mkdir(parents=True, exist_ok=True)
        (root / file.relative_to(pictures)).write_bytes(file.read_bytes())
    whole = (root / "train/c0/1.png").read_bytes()
    (root / "train/c0/1.png").write_bytes(whole[: len(whole) // 2])
    (root / "train/c1/2.png").unlink()
    Image.open(root / "train/c2/0.png").convert("CMYK").save(root / "train/c2/0.jpg")
    (root / "train/c2/0.jpg").rename(root / "train/c2/0.png")
    lines = (root / "train.txt").read_text().splitlines()
    return root, {name: lines.index(f"train/{name}.png {name[1]}") + 1 for name in ("c0/1", "c1/2")}


def test_damaged_images_stop_or_are_skipped_and_recorded(damaged, tmp_path):
    root, lines = damaged
    with pytest.raises(UserError, match=rf"line {lines['c0/1']}: .*c0/1\.png .*damaged.*--policy skip"):
        made(root, tmp_path / "p")
    described = made(root, tmp_path / "p", policy="skip")
    entry = described["parts"]["train"]
    assert entry["skipped_per_class"] == {"0": 1, "1": 1}
    assert f"line {lines['c1/2']}: there is no image" in entry["skipped"][1]
    assert load_data("list", root=tmp_path / "p").train_counts == (8, 6, 4, 2)
    assert load_data("list", root=tmp_path / "p").train.sha256() != load_data("list", root=root, size=8).train.sha256()


def test_resized_crops_of_prepared_images_are_another_run(pictures, prepared, tmp_path):
    """The images have the same digest, but crops of files see what resizing cut off."""
    files, rows = (load_data("list", root=root, size=8) for root in (pictures, prepared))
    assert files.train.sha256() == rows.train.sha256()
    sharpness.train("ce", files, epochs=1, model="resnet8", out=tmp_path / "run")
    with pytest.raises(UserError, match="different run .*cropped"):
        sharpness.train("ce", rows, epochs=1, model="resnet8", out=tmp_path / "run")
    sharpness.train("ce", rows, epochs=1, model="resnet8", out=tmp_path / "other")
    cards = [sharpness.load_checkpoint(tmp_path / run).manifest.card[0]["augmented"] for run in ("run", "other")]
    assert cards[1] == f"{cards[0]}, of stored images"


def test_another_standardisation_is_another_run(pictures, tmp_path):
    constants = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    data = [load_data("list", root=pictures, size=8, **given) for given in ({}, constants)]
    sharpness.train("ce", data[0], epochs=1, model="resnet8", out=tmp_path / "run")
    with pytest.raises(UserError, match="different run .*normalization"):
        sharpness.train("ce", data[1], epochs=1, model="resnet8", out=tmp_path / "run")
    # Runs of 1.0.0 did not record it.
    plan = tmp_path / "run" / "run.json"
    plan.write_text(json.dumps({k: v for k, v in json.loads(plan.read_text()).items() if k != "normalization"}))
    assert len(sharpness.train("ce", data[0], epochs=1, model="resnet8", out=tmp_path / "run")) == 1


def test_images_that_were_lost_are_prepared_once_they_are_back(damaged, pictures, tmp_path):
    root, lines = damaged
    first = made(root, tmp_path / "p", policy="skip")
    assert made(root, tmp_path / "p", policy="skip") == first
    with pytest.raises(UserError, match=rf"line {lines['c0/1']}: .*damaged"):
        made(root, tmp_path / "p")
    assert len(load_data("list", root=tmp_path / "p").train) == 20  # a refusal leaves what was prepared
    (root / "train/c1/2.png").write_bytes((pictures / "train/c1/2.png").read_bytes())
    assert made(root, tmp_path / "p", policy="skip")["parts"]["train"]["skipped_per_class"] == {"0": 1}
    (root / "train/c0/1.png").write_bytes((pictures / "train/c0/1.png").read_bytes())
    assert made(root, tmp_path / "p")["parts"]["train"]["skipped"] == []
    data = [load_data("list", root=tmp_path / "p"), load_data("list", root=root, size=8)]
    assert data[0].train.sha256() == data[1].train.sha256()
    assert torch.equal(data[0].train.images[:], data[1].train.images[:])


def test_lists_of_other_folders_with_the_same_file_names_are_others(pictures, tmp_path):
    for folder in ("photo", "sketch"):
        for file in pictures.rglob("*.png"):
            (tmp_path / folder / file.relative_to(pictures)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / file.relative_to(pictures)).write_bytes(file.read_bytes())
        (tmp_path / f"of-{folder}").mkdir()
        for part in ("train", "test"):
            lines = (pictures / f"{part}.txt").read_text().splitlines()
            (tmp_path / f"of-{folder}/{part}.txt").write_text("\n".join(f"{folder}/{line}" for line in lines))
    found = [find_lists("list", tmp_path, tmp_path / f"of-{folder}") for folder in ("photo", "sketch")]
    sets = [load_data("list", root=tmp_path, lists=tmp_path / f"of-{f}", size=8).train for f in ("photo", "sketch")]
    assert sets[0].sha256() != sets[1].sha256()
    prepare("list", dict(found[0].parts), tmp_path, tmp_path / "p", Transform(8), found[0].class_names)
    with pytest.raises(UserError, match="has the part train of another list"):
        prepare("list", dict(found[1].parts), tmp_path, tmp_path / "p", Transform(8), found[1].class_names)


def test_a_training_on_files_finds_its_images_when_they_are_prepared(pictures, prepared, tmp_path):
    """Lists in any order: that of this one is not by class."""
    files, rows = load_data("list", root=pictures, size=8), load_data("list", root=prepared)
    assert files.longtail == rows.longtail
    sharpness.train("ce", files, epochs=1, model="resnet8", out=tmp_path / "run", device="cpu")
    checkpoint = sharpness.load_checkpoint(tmp_path / "run")
    assert checkpoint.manifest.image_sides == {"size": 8, "resize": 8}
    for root in (pictures, prepared):
        for split in ("train", "test"):
            data = checkpoint.load_data(str(root), split=split)
            assert torch.equal(data.test.images[:], files.test.images[:])
    made(pictures, tmp_path / "q", size=9)
    with pytest.raises(UserError, match="size 8, but .* has 9"):
        checkpoint.load_data(str(tmp_path / "q"), split="test")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"size": 9}, "size 9, but .* has 8"),
        ({"lists": "."}, "which know their lists"),
        ({"imbalance": 3}, "imbalance 3, but that of the list is 4.5"),
        ({"subset": "list:0123"}, "but the training list is list:"),
        ({"profile": "exp"}, "leave profile='exp' out"),
        ({"mean": (0.5, 0.5, 0.5)}, "mean and std together"),
    ],
)
def test_settings_that_prepared_images_do_not_have(prepared, options, told):
    with pytest.raises(UserError, match=told):
        load_data("list", root=prepared, **options)


def test_resize_goes_with_a_size(prepared, pictures):
    with pytest.raises(UserError, match="resize 9: give size"):
        load_data("list", root=pictures, resize=9)
    with pytest.raises(UserError, match="resize 9, but .* has 8"):
        load_data("list", root=prepared, resize=9)
    assert load_data("list", root=prepared, size=8, resize=8).train.images.shape[-1] == 8


def test_other_data_in_a_prepared_folder(prepared, pictures, tmp_path):
    with pytest.raises(UserError, match="prepared images of list, not of places-lt"):
        load_data("places-lt", root=prepared)
    with pytest.raises(UserError, match="shorter side 8, centre 8.*not of list.*give another folder"):
        made(pictures, prepared, size=7)
    found = find_lists("list", pictures)
    parts = {"train": found.parts["test"], "test": found.parts["train"]}
    with pytest.raises(UserError, match="has the part train of another list"):
        prepare("list", parts, pictures, prepared, Transform(8), found.class_names)


def test_a_file_that_is_cut_short_is_told(pictures, tmp_path):
    made(pictures, tmp_path)
    data = load_data("list", root=tmp_path)
    path = data.train.images.source.path
    os.truncate(path, 1000)
    with pytest.raises(UserError, match="was cut short: prepare it again"):
        data.train.images[:]
    with pytest.raises(UserError, match=r"\.images is missing or damaged: prepare .* again"):
        load_data("list", root=tmp_path)


@pytest.mark.parametrize("ending", ["images", "labels", "digests"])
def test_a_file_that_is_lost_is_prepared_again(pictures, prepared, tmp_path, ending):
    entry = made(pictures, tmp_path)["parts"]["train"]
    (tmp_path / entry["images"]).with_suffix(f".{ending}").unlink()
    with pytest.raises(UserError, match=rf"\.{ending} is missing or damaged: prepare .* again"):
        load_data("list", root=tmp_path)
    made(pictures, tmp_path)
    for file in prepared.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


MEMORY = """
import json, resource, sys
import numpy as np, torch, sharpness
from sharpness.data.dataset import ImageSet
from sharpness.data.prepared import PreparedSource
from sharpness.data.rows import Rows
from pathlib import Path
folder, n, side = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
source = PreparedSource(folder, json.loads((folder / "entry.json").read_text()))
data = ImageSet(Rows.of(source), source.labels, (0.5,) * 3, (0.25,) * 3)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 8, 8), torch.nn.Flatten(), torch.nn.Linear(2 * (side // 8) ** 2, 4))
small = sharpness.Objective(model, data.subset(range(64)), num_classes=4, batch_size=64)
small.hvp(torch.ones(small.num_parameters)), small.data_sha256, small.evaluation()(None)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
whole = sharpness.Objective(model, data, num_classes=4, batch_size=64)
for c in (None, 1):
    whole.hvp(torch.ones(whole.num_parameters), c), whole.restrict(0).loss()
whole.evaluation()(None), whole.data_sha256
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_a_probe_does_not_hold_its_images(tmp_path):
    """4,000 images of 64 pixels squared, 49 MB as they are stored and 197 MB in float32, add less than 30 MB."""
    n, side = 4000, 64
    labels = np.arange(n, dtype="<i8") * 4 // n
    (tmp_path / "t.images").write_bytes(bytes(n * 3 * side * side))
    (tmp_path / "t.labels").write_bytes(labels.tobytes())
    (tmp_path / "t.digests").write_bytes(labels.tobytes())
    entry = f'{{"images": "t.images", "key": "k", "shape": [3, {side}, {side}], "rows": {n}}}'
    (tmp_path / "entry.json").write_text(entry)
    told = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path), str(n), str(side)], capture_output=True, text=True, check=True
    )
    assert float(told.stdout) < 30


def test_workers_read_a_file_of_their_own(prepared):
    import pickle

    source = load_data("list", root=prepared).train.images.source
    source.read(np.arange(2))
    again = pickle.loads(pickle.dumps(source))
    assert isinstance(again, PreparedSource)
    assert torch.equal(again.read(np.arange(3)), source.read(np.arange(3)))
