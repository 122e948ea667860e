"""Whatever people keep samples in becomes two tensors of the right values, or is refused in one line."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from sharpness import UserError
from sharpness.data import as_tensors, classes_of, is_data, load_data, read_images

X, Y = torch.arange(12.0).view(4, 3), torch.tensor([0, 1, 2, 1])
FRACTIONS = [0.1, 0.2, 0.7, 0.9]


class Samples(Dataset):
    def __init__(self, *columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns[0])

    def __getitem__(self, i):
        return tuple(column[i] for column in self.columns)


@pytest.mark.parametrize(
    "data",
    [
        (X, Y), [X, Y], (X.numpy(), Y.numpy()), (X, Y.tolist()), (X.tolist(), Y.tolist()), (list(X), list(Y)),
        TensorDataset(X, Y), Samples(X, Y), Samples(X, Y.tolist()), Samples(X.numpy(), Y.numpy()),
        [(x, int(y)) for x, y in zip(X, Y, strict=True)], [[x, int(y)] for x, y in zip(X, Y, strict=True)],
        Samples(X.tolist(), Y.tolist()),
        (X.numpy().astype(">f4"), Y.numpy().astype(">i8")), (X.numpy().astype(np.longdouble), Y.numpy()),
        (X.numpy()[::-1].copy()[::-1], Y.numpy()[::-1].copy()[::-1]),
        (pd.DataFrame(X.numpy()).astype("Float64"), pd.Series(Y.numpy()).astype("Int64")),
    ],
)  # fmt: skip
def test_labels_and_inputs_however_they_are_kept(data):
    x, y = as_tensors(data)
    assert torch.equal(x.float(), X)
    assert y.dtype == torch.int64
    assert torch.equal(y, Y)


def test_a_tuple_of_one_input_is_that_input():
    x, y = as_tensors(((X,), Y))
    assert torch.equal(x, X) and torch.equal(y, torch.as_tensor(Y))
    assert as_tensors(((X[0],), [1]))[0].shape == (1, *X[0].shape), "a tuple of one sample, with its one target"


def test_tables_are_read_without_a_warning(recwarn):
    x, y = as_tensors((pd.DataFrame(X.numpy()), pd.Series(Y.numpy(), index=[7, 8, 9, 10])))
    assert torch.equal(x, X)
    assert torch.equal(y, Y)
    assert not [w for w in recwarn if "writable" in str(w.message)]


@pytest.mark.parametrize(
    "targets",
    [FRACTIONS, np.array(FRACTIONS), torch.tensor(FRACTIONS, dtype=torch.float64), [np.float64(v) for v in FRACTIONS]],
)
@pytest.mark.parametrize("keep", [lambda x, y: (x, y), Samples, lambda x, y: list(zip(x, y, strict=True))])
def test_fractions_stay_fractions_to_the_last_bit(keep, targets):
    assert as_tensors(keep(X, targets))[1].double().tolist() == FRACTIONS


def test_targets_of_any_shape_are_kept_by_map_style_data_sets():
    masks, boxes = torch.randint(0, 5, (4, 2, 2)), [[0.5, 1.5], [1.0, 2.0], [0.0, 0.25], [3.0, 4.0]]
    assert torch.equal(as_tensors(Samples(X, masks))[1], masks)
    assert as_tensors(Samples(X, boxes))[1].tolist() == boxes
    assert as_tensors(Samples(X, [1, 0.5, 2, 3]))[1].tolist() == [1, 0.5, 2, 3]
    assert as_tensors([(image, mask) for image, mask in zip(masks[:2], masks[2:], strict=True)])[1].shape == (2, 2, 2)


@pytest.mark.parametrize(
    "data",
    [
        Samples(X, Y, ["a.png", "b.png", "c.png", "d.png"]), Samples(X, Y.tolist(), range(4)),
        TensorDataset(X, Y, torch.arange(4)), (X, Y, torch.arange(4)),
    ],
)  # fmt: skip
def test_what_follows_a_plain_target_is_left_out_with_a_warning(data, caplog):
    assert torch.equal(as_tensors(data)[1], Y)
    assert "its other 1 entries" in caplog.text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (X, "without targets"),
        (X.numpy(), "without targets"),
        (TensorDataset(X), "one tensor without targets"),
        (load_data("digits-lt"), "data.train or data.test"),
        ({"a": X, "b": Y}, "data is a dict"),
        ([], "without samples"),
        ((X, ["cat", "dog", "owl", "cat"]), r"targets are text \(cat, dog, owl, ...\): .* return_inverse"),
        ((X, np.array(["cat", "dog", "owl", "cat"], dtype=object)), "targets are text"),
        (Samples(X, ["cat", "dog", "owl", "cat"]), "targets are text"),
        (Samples(X, [None] * 4), "hold NoneType as objects: give numbers"),
        ((np.array([[1.5, "a"]] * 4, dtype=object), Y), r"inputs hold float and str as objects: .*select_dtypes"),
        (Samples(X, [[1], [1, 2], [3], [4]]), "do not stack"),
        (Samples([torch.zeros(2), torch.zeros(3)], [0, 1]), r"do not stack \(inputs: \(2,\) and \(3,\)\)"),
        (Samples([{"ids": X[0]}], [0]), "inputs are a dict of several tensors: give one"),
        (({"ids": X, "mask": X}, Y), "inputs are a dict of several tensors: give one"),
        (((X, X), Y), "inputs are a tuple of several tensors: give one"),
        ((X, {"boxes": X}), "targets are a dict of several tensors: put what the loss needs into one"),
        ((X, (Y, Y)), "targets are a tuple of several tensors"),
        (TensorDataset(X, X, Y), "which is the target"),
        (Samples(X, X, Y), "which is the target"),
        ((X, set(Y.tolist())), "targets are a set"),
        ((X, iter(Y.tolist())), "targets are a list_iterator: give a tensor, an array or a list"),
        ((X, np.array([], dtype=object)), "targets hold nothing as objects"),
        ((X, [None, 1, 2, 0]), "targets hold NoneType and int as objects: give numbers, and leave"),
        ((np.ma.masked_less(X.numpy(), 3), Y), "inputs have masked entries"),
        ((X, Y[:3]), "one label per input"),
        ((X, 3), "one label per input"),
        ({"train": (X, Y), "test": (X, Y)}, "data is a dict of train, test: give one of them"),
        ((X.to_sparse(), Y), r"a tensor that is sparse: give x.to_dense\(\)"),
        ((X, Y.to("meta")), "a tensor that is on the device meta"),
        ((torch.nested.nested_tensor([X[0], X[1, :2]]), Y[:2]), "is nested: give torch.nested.to_padded_tensor"),
        ((torch.quantize_per_tensor(X, 0.1, 0, torch.qint8), Y), r"is quantised: give x.dequantize\(\)"),
    ],
)
def test_other_things_are_refused_in_one_line(data, message):
    with pytest.raises(UserError, match=message) as caught:
        as_tensors(data)
    assert "\n" not in str(caught.value)


def test_images_of_ones_own_want_labels_and_take_them_in_a_column():
    pixels = torch.randint(0, 256, (4, 3, 2, 2), dtype=torch.uint8)
    column = Samples(pixels, Y.numpy().reshape(4, 1))  # as medmnist keeps them
    assert torch.equal(read_images(column).labels, Y)
    with pytest.raises(UserError, match="give one class number for each sample"):
        read_images(Samples(pixels, FRACTIONS))


def test_arguments_of_probes_are_not_taken_for_data():
    columns = [(X, Y), (X, Y.tolist()), (X.tolist(), [0, 1, 2, 0]), TensorDataset(X, Y)]
    assert all(map(is_data, [*columns, Samples(X, Y), [(X[0], 0)]]))
    others = [(-1, 1, 51), [0.1, 0.2], 3, None, "cifar10-lt", ["accuracy", "loss"], {"w": X}, [{"w": X}], (3, 4)]
    assert not any(map(is_data, [*others, torch.nn.ReLU(), [{"w": X}, {"w": X}], ["a.pt", "b.pt"]]))


def test_equal_numbers_are_one_group_whatever_their_kind():
    found = classes_of(X, Y, 3, group_by=[1, 2.5, 1.0, True])
    assert found.names == ("1", "2.5") and found.index.tolist() == [0, 1, 0, 0]


def test_classes_of_no_samples_are_told():
    with pytest.raises(UserError, match="classes= has 0 entries for 4 samples"):
        classes_of(X, Y, 3, classes=np.array([], dtype=np.int64))
