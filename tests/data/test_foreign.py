"""One's own images arrive pixel for pixel, in the order of their labels, however they are kept."""

import gzip
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from sharpness import Objective
from sharpness.data import ForeignData, ImageSet, read_images
from sharpness.errors import UserError

CLASSES = ("bee", "ant", "cat")
COUNTS = (3, 1, 2)


def pixels(n, h=6, w=6, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, h, w, channels), dtype=np.uint8)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.squeeze()).save(path)
    return path


@pytest.fixture
def images():
    return pixels(sum(COUNTS))


@pytest.fixture
def folder(tmp_path, images):
    """Classes in folders; names sort as ant, bee, cat."""
    rows = iter(images)
    for name, count in zip(CLASSES, COUNTS, strict=True):
        for i in range(count):
            save(tmp_path / "pictures" / name / f"{i}.png", next(rows))
    (tmp_path / "pictures" / "bee" / "notes.txt").write_text("no image")
    (tmp_path / "pictures" / ".hidden").mkdir()
    return tmp_path / "pictures"


@pytest.fixture
def listing(folder):
    """A list in another order than the folders', beside them."""
    rows = ["cat/1.png 0", "bee/2.png 1", "ant/0.png 2", "", "bee/0.png 1"]
    (folder.parent / "list.txt").write_text("\n".join(f"pictures/{row}" if row else "" for row in rows))
    return folder.parent / "list.txt"


def told(*args, **options):
    with pytest.raises(UserError) as caught:
        read_images(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def planes(images):
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def test_a_folder_per_class(folder, images):
    data = read_images(folder)
    assert data.class_names == ("ant", "bee", "cat") and data.train_counts == (1, 3, 2)
    assert data.labels.tolist() == [0, 1, 1, 1, 2, 2]
    assert torch.equal(data.inputs, planes(images[[3, 0, 1, 2, 4, 5]]))


def test_hidden_copies_of_images_are_no_images(folder):
    before = read_images(folder).train_counts
    first = next((folder / "bee").glob("*.*"))
    (folder / "bee/.ipynb_checkpoints").mkdir()
    for copy in (f".ipynb_checkpoints/a-checkpoint{first.suffix}", f"._{first.name}"):
        (folder / "bee" / copy).write_bytes(first.read_bytes())
    assert read_images(folder).train_counts == before


def test_class_names_set_the_order_and_may_be_more(folder, images):
    data = read_images(folder, class_names=("bee", "dog", "ant", "cat"))
    assert data.labels.tolist() == [0, 0, 0, 2, 3, 3]
    assert data.train_counts == (3, 0, 1, 2)
    assert torch.equal(data.inputs, planes(images))


@pytest.mark.parametrize("zipped", [False, True])
def test_a_list_of_files(listing, images, zipped):
    if zipped:
        (packed := listing.with_suffix(".txt.gz")).write_bytes(gzip.compress(listing.read_bytes()))
        listing = packed
    data = read_images(str(listing))
    assert data.labels.tolist() == [0, 1, 2, 1] and data.class_names == ("0", "1", "2")
    assert torch.equal(data.inputs, planes(images[[5, 2, 3, 0]]))


def test_a_list_may_lie_elsewhere_and_paths_may_hold_spaces(tmp_path, images):
    save(tmp_path / "a b" / "c d.png", images[0])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "list.txt").write_text("a b/c d.png\t3\n")
    data = read_images(tmp_path / "elsewhere" / "list.txt", root=tmp_path)
    assert data.labels.tolist() == [3] and data.num_classes == 4


@pytest.mark.parametrize("keys", [("x", "y"), ("images", "labels"), ("data", "labels")])
@pytest.mark.parametrize("first", [False, True])
def test_an_npz(tmp_path, images, keys, first):
    labels = np.repeat([0, 1, 2], COUNTS)[:, None]
    stored = images.transpose(0, 3, 1, 2) if first else images
    np.savez(tmp_path / "a.npz", **dict(zip(keys, (stored, labels), strict=True)))
    data = read_images(tmp_path / "a.npz", class_names=CLASSES)
    assert torch.equal(data.inputs, planes(images)) and data.train_counts == COUNTS


def test_grey_images_get_a_channel(tmp_path):
    grey = pixels(4, channels=1)
    np.savez(tmp_path / "a.npz", x=grey[..., 0], y=np.arange(4))
    assert torch.equal(read_images(tmp_path / "a.npz").inputs, planes(grey))
    save(tmp_path / "pictures" / "a" / "0.png", grey[0])
    assert torch.equal(read_images(tmp_path / "pictures", channels=1).inputs, planes(grey[:1]))
    assert torch.equal(read_images(tmp_path / "pictures").inputs, planes(grey[:1]).expand(-1, 3, -1, -1))


def test_counts_by_name_may_name_more_classes_than_have_images(folder, tmp_path):
    counts = {"dog": 7, "bee": 30, "cat": 20, "ant": 10}
    data = read_images(folder, train_counts=counts)
    assert data.class_names == ("ant", "bee", "cat", "dog") and data.train_counts == (10, 30, 20, 7)
    assert data.class_totals == (1, 3, 2, 0) and data.labels.tolist() == [0, 1, 1, 1, 2, 2]
    (tmp_path / "counts.json").write_text(json.dumps(counts))
    named = read_images(folder, train_counts=tmp_path / "counts.json", class_names=("dog", "cat", "bee", "ant"))
    assert named.train_counts == (7, 20, 30, 10)


def test_counts_by_folder_are_those_of_folders_with_numbers_as_names(tmp_path, images):
    """Folders are sorted as text, 0, 1, 10, 2: their counts go with the names, not with the labels."""
    counts = {str(c): 100 - c for c in range(11)}
    for name in counts:
        save(tmp_path / "p" / name / "0.png", images[0])
    (tmp_path / "counts.json").write_text(json.dumps(counts))
    for given in (counts, tmp_path / "counts.json"):
        data = read_images(tmp_path / "p", train_counts=given)
        assert data.class_names == tuple(sorted(counts))
        assert data.train_counts == tuple(100 - int(name) for name in data.class_names)
    assert "labels and names of other classes" in told(tmp_path / "p", train_counts={c: 100 - c for c in range(11)})


def test_class_names_may_be_numbers(tmp_path, images):
    for name in ("0", "1"):
        save(tmp_path / "p" / name / "0.png", images[int(name)])
    data = read_images(tmp_path / "p", class_names=[1, 0])
    assert data.class_names == ("1", "0") and data.labels.tolist() == [0, 1]
    assert torch.equal(data.inputs, planes(images[[1, 0]]))


def test_limited_classes_weigh_what_they_had(folder):
    data = read_images(folder, limit_per_class=1)
    assert data.labels.tolist() == [0, 1, 2] and data.weights.tolist() == [1, 3, 2]
    later = read_images(folder).limit_per_class(2)
    assert later.weights.tolist() == [1, 1.5, 1.5, 1, 1] and later.train_counts == (1, 3, 2)


def test_classes_numbered_by_their_training_images(folder, images):
    """From most to fewest, equal ones in the order they had; labels, names, counts and totals move together."""
    data = read_images(folder, train_counts=(5, 2, 5)).in_class_order("stable")
    assert data.class_names == ("ant", "cat", "bee") and data.train_counts == (5, 5, 2)
    assert data.labels.tolist() == [0, 2, 2, 2, 1, 1] and data.class_totals == (1, 2, 3)
    assert torch.equal(data.inputs, planes(images[[3, 0, 1, 2, 4, 5]]))
    limited = read_images(folder, train_counts=(5, 2, 9), limit_per_class=1).in_class_order("stable")
    assert limited.labels.tolist() == [1, 2, 0] and limited.weights.tolist() == [1, 3, 2]
    with pytest.raises(UserError, match="every class has 4 images.*give train_counts"):
        read_images(folder, train_counts=(4, 4, 4)).in_class_order("stable")


class Pictures:
    """What torchvision's data sets look like without a transform."""

    classes = CLASSES

    def __init__(self, images, labels, noise=False):
        self.images, self.labels, self.noise = images, labels, noise

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        noise = np.random.randint(0, 256, self.images[i].shape, dtype=np.uint8) * self.noise
        return Image.fromarray(self.images[i] ^ noise), int(self.labels[i])


def test_map_style_data_sets(images):
    labels = np.repeat([0, 1, 2], COUNTS)
    data = read_images(Pictures(images, labels))
    assert torch.equal(data.inputs, planes(images)) and data.class_names == CLASSES
    x = torch.randn(6, 4)
    for source in (TensorDataset(x, torch.from_numpy(labels)), (x, labels), list(zip(x, labels, strict=True))):
        data = read_images(source)
        assert torch.equal(data.tensors[0], x) and data.tensors[1].tolist() == labels.tolist()


def test_a_data_set_of_two_samples_is_no_pair_of_arrays():
    x = torch.randn(2, 4)
    assert torch.equal(read_images([(x[0], 0), (x[1], 1)]).tensors[0], x)


def test_statistics_are_computed_per_channel_or_given(folder, images):
    data = read_images(folder)
    values = images.astype(np.float64) / 255
    assert data.mean == pytest.approx(values.mean((0, 1, 2)), rel=1e-12)
    assert data.std == pytest.approx(values.std((0, 1, 2)), rel=1e-12)
    x, _ = data.tensors
    assert (
        x.double().mean((0, 2, 3)).abs().max() < 1e-6
        and (x.double().var((0, 2, 3), correction=0) - 1).abs().max() < 1e-5
    )
    given = read_images(folder, mean=(0.5, 0.25, 0), std=(1, 0.5, 2))
    expected = (given.inputs.double() / 255 - torch.tensor([0.5, 0.25, 0])[:, None, None]) / torch.tensor([1, 0.5, 2])[
        :, None, None
    ]
    assert torch.allclose(given.tensors[0].double(), expected, atol=1e-6)


def test_other_numbers_are_normalised_only_when_asked():
    x = torch.rand(4, 3, 5, 5, dtype=torch.float64)
    assert torch.equal(read_images((x, torch.arange(4))).tensors[0], x)
    data = read_images((x, torch.arange(4)), mean=(0.5,) * 3, std=(0.25,) * 3)
    assert torch.allclose(data.tensors[0], (x - 0.5) / 0.25, atol=1e-15)
    last = read_images((x.permute(0, 2, 3, 1), torch.arange(4)), layout="channels last")
    assert torch.equal(last.tensors[0], x)


LEVELS = np.arange(0, 65536, 97, dtype=np.uint16)[:675].reshape(3, 15, 15)


def nearest(levels):
    """Of 255 steps between black and white, the nearest to a level of 65535 steps."""
    return torch.from_numpy(np.rint(levels / 65535 * 255).astype(np.uint8))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_image_files_are_scaled(tmp_path, ending):
    (tmp_path / "p" / "a").mkdir(parents=True)
    for i, levels in enumerate(LEVELS):
        Image.fromarray(levels).save(tmp_path / "p" / "a" / f"{i}.{ending}")
    expected = nearest(LEVELS)[:, None]
    assert torch.equal(read_images(tmp_path / "p", channels=1).inputs, expected)
    assert torch.equal(read_images(tmp_path / "p").inputs, expected.expand(-1, 3, -1, -1))
    pictures = [(Image.open(tmp_path / "p" / "a" / f"{i}.{ending}"), 0) for i in range(3)]
    assert torch.equal(read_images(pictures).inputs, expected)


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 2, 3, 1)])
def test_16_bit_arrays_are_scaled(tmp_path, axes):
    levels = LEVELS.reshape(1, 3, 15, 15)
    x = np.ascontiguousarray(levels.transpose(axes))
    np.savez(tmp_path / "a.npz", x=x, y=np.zeros(1, int))
    assert torch.equal(read_images(tmp_path / "a.npz").inputs, nearest(levels))
    assert torch.equal(read_images((x, np.zeros(1, int))).inputs, nearest(levels))
    table = read_images((LEVELS[0], np.zeros(15, int))).tensors[0]
    assert torch.equal(table, torch.from_numpy(LEVELS[0].astype(np.float32))), "numbers that are no image stay"


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_without_black_and_white_are_told(tmp_path, kind):
    (tmp_path / "p" / "a").mkdir(parents=True)
    Image.fromarray(np.ones((4, 4), kind)).save(path := tmp_path / "p" / "a" / "0.tif")
    for source in (tmp_path / "p", [(Image.open(path), 0)]):
        assert "save it with 8 or 16 bits" in told(source)
    assert "a/0.tif: pixels of mode" in told(tmp_path / "p")


def test_pixels_of_two_colours_and_of_a_palette(tmp_path):
    colours = np.array([[[0, 0, 0], [255, 255, 255]], [[255, 255, 255], [0, 0, 0]]], np.uint8)
    for mode, expected in (("1", colours[:, :, :1]), ("P", colours)):
        data = read_images(
            [(Image.fromarray(colours).convert(mode), 0)], mean=(0,) * expected.shape[2], std=(1,) * expected.shape[2]
        )
        assert torch.equal(data.inputs, planes(expected[None]))


def test_the_centre_is_cropped(tmp_path):
    wide = pixels(1, 6, 10)
    save(tmp_path / "p" / "a" / "0.png", wide[0])
    assert torch.equal(read_images(tmp_path / "p", size=6).inputs, planes(wide[:, :, 2:8]))
    assert torch.equal(read_images(tmp_path / "p", size=4, resize=6).inputs, planes(wide[:, 1:5, 3:7]))


def test_resizing_keeps_a_linear_ramp(tmp_path):
    ramp = np.broadcast_to((4 * np.arange(32, dtype=np.uint8))[None, :, None], (16, 32, 3))
    save(tmp_path / "p" / "a" / "0.png", np.ascontiguousarray(ramp))
    read = read_images(tmp_path / "p", size=6, resize=8).inputs
    assert read.shape == (1, 3, 6, 6)
    expected = 8 * torch.arange(5, 11) + 2
    assert (read.int() - expected).abs().max() <= 1


def test_class_counts_are_those_of_training(tmp_path, folder):
    (tmp_path / "counts.json").write_text(json.dumps([500, 30, 2]))
    for given in (tmp_path / "counts.json", (500, 30, 2), np.array([500, 30, 2]), {2: 2, 0: 500, 1: 30}):
        assert read_images(folder, train_counts=given).train_counts == (500, 30, 2)


def test_a_limit_keeps_the_first_of_each_class_and_the_counts(folder, listing, images):
    data = read_images(folder, limit_per_class=2)
    assert data.labels.tolist() == [0, 1, 1, 2, 2] and data.train_counts == (1, 3, 2)
    assert torch.equal(data.inputs, planes(images[[3, 0, 1, 4, 5]]))
    assert torch.equal(read_images(folder).limit_per_class(2).inputs, data.inputs)
    (folder / "bee" / "0.png").write_bytes(b"damaged")
    assert len(read_images(listing, limit_per_class=1)) == 3, "what is beyond the limit is not opened"


def test_an_objective_takes_it(folder):
    data = read_images(folder, size=4)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    objective = Objective(model, data)
    assert objective.class_samples.tolist() == [1, 3, 2]
    x, y = data.tensors
    assert objective.loss() == pytest.approx(torch.nn.functional.cross_entropy(model(x), y).item(), rel=1e-5)
    assert isinstance(data.image_set, ImageSet) and isinstance(data, ForeignData) and "3 classes" in repr(data)


def test_a_missing_source_is_told(tmp_path):
    assert "there is no" in told(tmp_path / "nowhere")
    assert "has no folders" in told(tmp_path)


def test_a_damaged_image_is_named(folder):
    whole = (folder / "bee" / "1.png").read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        (folder / "bee" / "1.png").write_bytes(content)
        assert str(folder / "bee" / "1.png") in told(folder)


def test_an_image_of_another_size_is_named(folder):
    save(folder / "cat" / "0.png", pixels(1, 6, 7)[0])
    assert "cat/0.png is 6x7 pixels" in (line := told(folder)) and "give size=" in line
    assert read_images(folder, size=6).inputs.shape == (6, 3, 6, 6)


def test_an_image_of_too_many_pixels_is_named(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    assert "more than 20 pixels" in told(folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("pictures/bee/0.png", "line 2 is 'pictures/bee/0.png': write 'path label'"),
        ("pictures/bee/0.png one", "line 2 is"),
        ("pictures/bee/0.png -1", "line 2 is"),
        ("pictures/bee/none.png 0", "there is no image"),
        ("pictures/bee/0.png 1000000", "line 2: label 1000000 is not below 1,000,000"),
        ("pictures/bee/0.png 3000000000", "line 2: label 3000000000 is not below"),
        ("pictures/bee/0.png " + "9" * 5000, "line 2: label 999999999999999999999999 is not below"),
    ],
)
def test_a_bad_line_is_named(folder, line, message):
    (bad := folder.parent / "bad.txt").write_text(f"pictures/ant/0.png 1\n{line}\n")
    assert message in told(bad)


def test_a_list_without_images_is_told(folder):
    (bad := folder.parent / "bad.txt").write_text("ant/0.png 1\n")
    assert "say with root=" in told(bad)
    bad.write_text("\n\n")
    assert "lists no images" in told(bad)
    bad.write_bytes(b"\xff\xfe\x00\x01")
    assert "it is no text" in told(bad)
    (folder.parent / "bad.txt.gz").write_bytes(b"no gzip at all")
    assert "cannot read the list" in told(folder.parent / "bad.txt.gz")


def test_class_folders_that_do_not_fit_are_named(folder):
    assert "cat is none of the 2 classes named" in told(folder, class_names=("ant", "bee"))
    (folder / "dog").mkdir()
    assert f"{folder / 'dog'} holds no images" in told(folder)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.ones(2)}, "holds a: name the arrays x and y"),
        ({"x": np.array([{}]), "y": np.zeros(1)}, "other things than arrays of numbers"),
        ({"x": np.ones((3, 2)), "y": np.array(["a", "b", "c"])}, "other things than arrays of numbers"),
        ({"x": np.ones((3, 2)), "y": np.zeros(2, int)}, "give one label for each input"),
        ({"x": np.ones((3, 2)), "y": np.zeros(3)}, "labels are torch.float64"),
        ({"x": np.ones((3, 2)), "y": np.array([0, -1, 1])}, "label -1 at index 1"),
        ({"x": np.ones((3, 2)), "y": np.array([0, 3 * 10**9, 1])}, "label 3000000000 at index 1 is not below"),
        ({"x": np.ones((3, 2), np.uint8), "y": np.zeros(3, int)}, "8-bit images have shape"),
        ({"x": np.ones((3, 3, 5, 3), np.uint8), "y": np.zeros(3, int)}, "say layout="),
        ({"x": np.ones((3, 5, 5, 3), np.uint8), "y": np.zeros(3, int)}, "channel of these images is constant"),
    ],
)
def test_arrays_that_do_not_fit_are_told(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    assert message in told(tmp_path / "a.npz")


def test_a_damaged_npz_is_told(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\3\4 nothing")
    assert "a.npz is an archive that does not end as one" in told(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.5,)}, "give mean and std together"),
        ({"mean": (0.5,), "std": (0.5,)}, "give 3 values each"),
        ({"mean": (0.5,) * 3, "std": (0.5, 0, 1)}, "std above 0"),
        ({"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)}, "pixels in [0, 255]: divide them by 255"),
        ({"mean": (float("nan"),) * 3, "std": (0.5,) * 3}, "std above 0"),
        ({"mean": (0.5,) * 3, "std": (0.5, float("inf"), 1)}, "std above 0"),
        ({"class_names": ("ant", "bee", "cat", "ant")}, "class_names has 'ant' twice"),
        ({"size": 0}, "size 0"),
        ({"size": 8, "resize": 6}, "resize 6 and size 8"),
        ({"resize": 6}, "resize 6 and size None"),
        ({"channels": 4}, "channels 4"),
        ({"layout": "nhwc"}, "unknown layout 'nhwc'"),
        ({"limit_per_class": 0}, "at least 1, not 0"),
        ({"train_counts": (1, 2)}, "2 class counts for 3 class names"),
        ({"train_counts": (1, 2, -1)}, "integers from 0 on"),
        ({"train_counts": (1, 2, 0.5)}, "integers from 0 on"),
        ({"train_counts": 7}, "integers from 0 on"),
        ({"train_counts": {"ant": 1}}, "bee is none of the 1 classes named"),
        ({"train_counts": {"ant": 1}, "class_names": ("ant", "bee", "cat")}, "take labels as keys"),
        ({"train_counts": "nowhere.json"}, "cannot read class counts from nowhere.json"),
    ],
)
def test_options_that_do_not_fit_are_told(folder, options, message):
    assert message in told(folder, **options)


def test_data_sets_that_do_not_fit_are_told(images):
    labels = np.repeat([0, 1, 2], COUNTS)
    assert "differs when read twice" in told(Pictures(images, labels, noise=True))
    assert "do not stack" in told([(torch.ones(2), 0), (torch.ones(3), 1), (torch.ones(2), 1)])
    assert "must return (input, label)" in told([torch.ones(2), torch.ones(2), torch.ones(2)])
    assert "data is a" in told([])
    assert "data is a" in told(7)


@pytest.mark.parametrize("option", [{"size": 4}, {"size": 4, "resize": 5}, {"root": "somewhere"}, {"channels": 1}])
@pytest.mark.parametrize("kept_as", ["npz", "pair"])
def test_arrays_are_not_taken_for_images_that_an_option_would_change(kept_as, option, tmp_path, images):
    labels = np.array([0, 0, 0, 1, 2, 2])
    np.savez(tmp_path / "a.npz", x=images, y=labels)
    source = tmp_path / "a.npz" if kept_as == "npz" else (images, labels)
    name, value = list(option.items())[0]
    assert told(source, **option).startswith(f"{name}={value}")
    assert told(source, **option).endswith("leave it out")


def test_grey_arrays_are_grey(images):
    assert read_images((images[..., :1], [0, 0, 0, 1, 2, 2]), channels=1).inputs.shape == (6, 1, 6, 6)


def test_class_folders_have_no_root(folder):
    assert told(folder, root="elsewhere") == (
        f"root=elsewhere: only for the paths of a list, and {folder} is a folder: leave it out"
    )
