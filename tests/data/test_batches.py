"""Loaders, lists of batches and rows of any kind give the samples that plain tensors give."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import (
    BatchSampler,
    ChainDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from sharpness import Objective, UserError, measure
from sharpness.data import is_data, read_samples

N = 11
X = torch.randn(N, 3, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 3
ROWS = [{"pixel_values": x, "labels": int(y), "path": f"{i}.png"} for i, (x, y) in enumerate(zip(X, Y, strict=True))]


class Rows(Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


def loader(data=None, **options):
    return DataLoader(TensorDataset(X, Y) if data is None else data, **{"batch_size": 4, **options})


WAYS = {
    "loader": loader,
    "loader of rows": lambda: loader(Rows(ROWS)),
    "loader of triplets": lambda: loader(TensorDataset(X, Y, torch.arange(N))),
    "loader without batches": lambda: loader(batch_size=None),
    "loader of a stream": lambda: loader(Stream()),
    "a stream": Stream,
    "workers": lambda: loader(num_workers=2),
    "list of batches": lambda: list(loader()),
    "tuple of batches": lambda: tuple((x, y) for x, y in loader()),
    "one batch in a list": lambda: [(X, Y)],
    "two batches": lambda: [[X[:6], Y[:6]], [X[6:], Y[6:]]],
    "generator of batches": lambda: ((x, y) for x, y in loader()),
    "generator of samples": lambda: zip(X, Y, strict=True),
    "batches as dicts": lambda: [{"image": x, "label": y} for x, y in loader()],
    "two batches as dicts": lambda: [{"image": X[:6], "label": Y[:6]}, {"image": X[6:], "label": Y[6:]}],
    "batches with labels in lists": lambda: [(x, y.tolist()) for x, y in loader()],
    "batches that nobody collated": lambda: loader(collate_fn=lambda samples: samples),
    "rows that nobody collated": lambda: loader(Rows(ROWS), collate_fn=lambda samples: samples),
    "rows": lambda: Rows(ROWS),
    "list of rows": lambda: ROWS,
    "columns by name": lambda: {"images": X, "targets": Y, "idx": torch.arange(N)},
}


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("way", WAYS)
def test_samples_are_those_of_plain_tensors(way):
    x, y = read_samples(WAYS[way]())
    assert torch.equal(x, X) and torch.equal(y, Y)


@pytest.mark.parametrize("way", ["loader", "list of batches", "batches as dicts", "list of rows", "columns by name"])
def test_they_are_told_from_other_arguments(way):
    data = WAYS[way]()
    assert is_data(data)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    found = measure(model, data, "loss,lambda_max")
    np.testing.assert_array_equal(found.values, measure(model, (X, Y), "loss,lambda_max").values)


def test_a_shuffling_loader_is_read_in_one_order_and_draws_nothing_from_the_caller():
    before = torch.random.get_rng_state()
    x, y = read_samples(loader(shuffle=True))
    assert torch.equal(torch.random.get_rng_state(), before)
    rows = {tuple(row.flatten().tolist()): int(label) for row, label in zip(X, Y, strict=True)}
    assert len(x) == N and all(rows[tuple(a.flatten().tolist())] == int(b) for a, b in zip(x, y, strict=True))


def test_rows_of_targets_are_joined_too():
    targets = torch.nn.functional.one_hot(Y).double()
    x, y = read_samples(loader(TensorDataset(X, targets)))
    assert torch.equal(x, X) and torch.equal(y, targets)
    assert torch.equal(read_samples(list(loader(TensorDataset(X, targets))))[1], targets)


def test_batch_says_which_are_inputs_and_targets():
    rows = [{"picture": x, "kind": int(y), "site": 1} for x, y in zip(X, Y, strict=True)]
    with pytest.raises(UserError, match=r"sample 0 is a dict of picture, kind, site: no key .* batch=lambda b:"):
        read_samples(rows)
    for data in (rows, loader(Rows(rows))):
        x, y = read_samples(data, batch=lambda b: (b["picture"], b["kind"]))
        assert torch.equal(x, X) and torch.equal(y, Y)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    objective = Objective(model, rows, batch=lambda b: (b["picture"], b["kind"]))
    assert objective.loss() == Objective(model, (X, Y)).loss()
    triplets = Rows([(a, a, int(b)) for a, b in zip(X, Y, strict=True)])
    assert torch.equal(read_samples(triplets, batch=lambda b: (b[0], b[2]))[1], Y)


def test_pictures_of_pillow_are_numbers_from_0_to_1():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
    images = [Image.fromarray(p) for p in pixels]
    expected = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    labels = [0, 1, 2, 0, 1]
    for data in ((images, labels), list(zip(images, labels, strict=True)), [{"image": i, "label": 0} for i in images]):
        assert torch.equal(read_samples(data)[0], expected)
    grey = [Image.fromarray(p[..., 0]) for p in pixels]
    assert torch.equal(read_samples((grey, labels))[0], expected[:, :1])
    with pytest.raises(UserError, match=r"mode 'RGBA': convert all to RGB"):
        read_samples(([i.convert("RGBA") for i in images], labels))
    read_samples(([i.convert("RGBA").convert("RGB") for i in images], labels))  # the remedy
    with pytest.raises(UserError, match="make them alike"):
        read_samples(([images[0], images[1].resize((3, 3))], [0, 1]))


def test_labels_of_text_want_the_order_of_the_outputs():
    names = ("owl", "cat", "dog")
    texts = [names[int(c)] for c in Y]
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    rows = list(zip(X, texts, strict=True))
    for data in ((X, texts), (X, np.array(texts)), rows, loader(Rows(rows))):
        with pytest.raises(UserError, match="class_names= in the order of the model's outputs"):
            Objective(model, data)
        objective = Objective(model, data, class_names=names)
        assert torch.equal(objective.y, Y) and objective.class_names == names
    with pytest.raises(UserError, match="target 'owl' is none of the class_names"):
        Objective(model, (X, texts), class_names=("cat", "dog", "emu"))


def test_labels_from_1_are_told_as_such():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    with pytest.raises(UserError, match="outside 0..2: labels are counted from 1, give y - 1"):
        Objective(model, loader(TensorDataset(X, Y + 1)))
    Objective(model, (X, (Y + 1) - 1))


class Noisy(Rows):
    def __getitem__(self, i):
        x, y = self.rows[i]
        return x + torch.rand(()), y


class Late(Rows):
    """The first samples are not augmented."""

    def __getitem__(self, i):
        x, y = self.rows[i]
        return x + torch.rand(()) * (i > 5), y


class Failing(Rows):
    def __getitem__(self, i):
        return X[i], 1 // 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: loader(Noisy(list(zip(X, Y, strict=True)))), "the dataset augments at random, switch that off"),
        (lambda: Noisy(list(zip(X, Y, strict=True))), "the dataset augments at random, switch that off"),
        (lambda: Late(list(zip(X, Y, strict=True))), r"sample \d+ differs when read twice"),
        (lambda: Failing(range(3)), r"reading sample 0 of 3 raised ZeroDivisionError: .*: correct the dataset"),
        (lambda: loader(Failing(range(3))), "reading data raised ZeroDivisionError: .* after 0 samples or batches"),
        (lambda: ((X[i], 1 // i) for i in (1, 0)), "reading data raised ZeroDivisionError: .* after 1 samples"),
        (lambda: pd.DataFrame({"a": [1.0], "label": [0]}), r"frame\.drop\(columns='label'\), frame\['label'\]"),
        (lambda: loader(TensorDataset(X[:0], Y[:0])), "without samples"),
        (lambda: iter(()), "without samples"),
        (lambda: [(X[:4], Y[:4]), (X[4:, :2], Y[4:])], r"do not stack .*\(4, 3, 4\) and \(7, 2, 4\)"),
        (lambda: loader(X), "batch 0 is a Tensor: a dataset must return"),
        (lambda: [{"image": X[0], "label": 0, "target": 1}], "label and target could both be the target"),
        (lambda: [{"image": X[0], "img": X[0], "label": 0}], "which of them are inputs"),
        (lambda: [{"label": 0, "name": "a"}], "which of them are inputs"),
        (lambda: [(X[0], 0), ({"a": X[0]}, 0)], "other inputs than the first"),
        (lambda: torch.nn.Sequential(torch.nn.ReLU()), "data is a Sequential"),
    ],
)
def test_what_is_none_of_these_is_told(data, message):
    with pytest.raises(UserError, match=message) as caught:
        read_samples(data())
    assert "\n" not in str(caught.value)


def test_what_a_loader_leaves_out_is_said(caplog):
    with caplog.at_level(logging.WARNING, "sharpness"):
        assert len(read_samples(loader(drop_last=True))[1]) == 8
        assert "drop_last" in caplog.text
        read_samples(loader(sampler=WeightedRandomSampler(torch.ones(N), 5)))
        assert "WeightedRandomSampler decides which samples" in caplog.text


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (BatchSampler(WeightedRandomSampler(torch.ones(N), 5), 2, False), "WeightedRandomSampler decides which"),
        ([[0, 1], [2]], "list decides which samples"),
        (BatchSampler(SequentialSampler(range(N)), 4, True), "drop_last"),
        (BatchSampler(SequentialSampler(range(N)), 4, False), ""),
    ],
)
def test_what_a_batch_sampler_leaves_out_is_said(caplog, batches, message):
    with caplog.at_level(logging.WARNING, "sharpness"):
        read_samples(DataLoader(TensorDataset(X, Y), batch_sampler=batches))
    assert message in caplog.text and bool(message) == bool(caplog.text)


def test_a_stream_that_every_worker_reads_is_said(caplog):
    with caplog.at_level(logging.WARNING, "sharpness"):
        read_samples(DataLoader(Stream(), 4, num_workers=2))
    assert "each of 2 workers reads the whole dataset" in caplog.text
    assert len(read_samples(ChainDataset([Stream()]))[1]) == N


def test_batch_that_fails_is_told():
    for batch, message in {
        lambda b: b["no"]: "batch= raised KeyError", lambda b: 3: "batch= returned a int",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=message):
            read_samples(loader(Rows(ROWS)), batch=batch)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", [list, tuple, Rows])
def test_images_with_as_many_targets_as_channels_could_be_batches(channels, kind):
    samples = [(torch.randn(channels, 8, 8), torch.zeros(channels)) for _ in range(4)]
    with pytest.raises(UserError, match=rf"\({channels}, 8, 8\), each with {channels} target.*give \(x, y\) of all"):
        read_samples(kind(samples))
    x, y = read_samples(DataLoader(Rows(samples), batch_size=2))
    assert x.shape == (4, channels, 8, 8) and y.shape == (4, channels)
    other = [(torch.randn(n, 8, 8), torch.zeros(n)) for n in (channels, channels + 1)]
    assert len(read_samples(kind(other))[0]) == 2 * channels + 1
