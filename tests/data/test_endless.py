"""Data without an end, or larger than the machine: one line with a remedy that works."""

import itertools

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, TensorDataset

import sharpness
from sharpness import UserError
from sharpness.data import as_tensors, endless

X, Y = torch.arange(12.0).view(4, 3), torch.tensor([0, 1, 2, 1])
SAMPLES = [(x, int(y)) for x, y in zip(X, Y, strict=True)]


class Forever(Sampler):
    """Says no length, or a wrong one."""

    def __init__(self, length=None):
        if length is not None:
            type(self).__len__ = lambda self: length
        elif hasattr(type(self), "__len__"):
            del type(self).__len__

    def __iter__(self):
        return itertools.cycle(range(4))


class Stream(IterableDataset):
    def __iter__(self):
        return itertools.cycle(SAMPLES)


class LongStream(Stream):
    def __len__(self):
        return 4


class Huge(Dataset):
    """What some call infinite."""

    def __len__(self):
        return 10**12

    def __getitem__(self, i):
        return X[i % 4], int(Y[i % 4])


def again():
    while True:
        yield from DataLoader(TensorDataset(X, Y), batch_size=2, shuffle=True)


ENDLESS = {
    "cycle of samples": lambda: itertools.cycle(SAMPLES),
    "cycle of batches": lambda: itertools.cycle(DataLoader(TensorDataset(X, Y), batch_size=2)),
    "generator": again,
    "stream": Stream,
    "loader of a stream": lambda: DataLoader(Stream(), batch_size=2),
    "loader of single samples": lambda: DataLoader(Stream(), batch_size=None),
    "stream with a length": lambda: DataLoader(LongStream(), batch_size=2),
    "sampler": lambda: DataLoader(TensorDataset(X, Y), batch_size=2, sampler=Forever()),
    "sampler with a length": lambda: DataLoader(TensorDataset(X, Y), batch_size=2, sampler=Forever(4)),
    "batch sampler": lambda: DataLoader(TensorDataset(X, Y), batch_sampler=itertools.repeat([0, 1])),
    "data set": Huge,
    "loader of a data set": lambda: DataLoader(Huge(), batch_size=2),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_what_has_no_end_is_refused_in_one_line(kind, monkeypatch):
    monkeypatch.setattr(endless, "SAMPLES", 200)
    model, data = nn.Linear(3, 3), ENDLESS[kind]()
    state = torch.get_rng_state()
    with pytest.raises(UserError, match=r"^data (have no|hand out|are [15]0*,000,).*: .*(islice|Subset)") as caught:
        sharpness.measure(model, data, measures="loss")
    assert "\n" not in str(caught.value)
    assert torch.equal(state, torch.get_rng_state())


def test_bytes_are_bounded_as_well_as_samples(monkeypatch):
    monkeypatch.setattr(endless, "BYTES", 2**20)
    with pytest.raises(UserError, match="no end after 1 samples or batches"):
        as_tensors((torch.zeros(4, 2**18), torch.zeros(4)) for _ in itertools.count())


def test_the_remedies_work_and_what_ends_is_read_whole():
    x, y = as_tensors(list(itertools.islice(ENDLESS["cycle of samples"](), 6)))
    assert torch.equal(x, torch.cat([X, X[:2]])) and y.tolist() == [0, 1, 2, 1, 0, 1]
    assert as_tensors(list(itertools.islice(ENDLESS["loader of a stream"](), 2)))[1].tolist() == Y.tolist()
    assert as_tensors(torch.utils.data.Subset(Huge(), range(4)))[1].tolist() == Y.tolist()
    assert as_tensors(iter(SAMPLES))[1].tolist() == Y.tolist()
    loader = DataLoader(TensorDataset(X, Y), batch_size=3, sampler=list(range(4)))
    assert torch.equal(as_tensors(loader)[0], X)
