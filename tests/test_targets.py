"""Targets of every kind against dense float64 derivatives of losses written out by hand; classes apart from them."""

import collections
import copy
import functools
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sharpness
from sharpness import Objective, UserError
from sharpness.data import class_groups, class_order
from sharpness.probes import answers


class Kind(NamedTuple):
    """A model, data, the loss as users write it, and the same for the oracle, from float64 outputs."""

    model: nn.Module
    x: torch.Tensor
    y: torch.Tensor
    loss: Any
    oracle: Any


class Tokens(nn.Module):
    """Ids (n, t) to logits of every place, (n, t, 4)."""

    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(7, 3), nn.Linear(3, 4)

    def forward(self, ids):
        return self.out(torch.tanh(self.embed(ids)))


def mlp(outputs):
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, outputs))


def log_probability(u, t):
    """Of labels t along axis 1 of logits u."""
    return (u - u.logsumexp(1, keepdim=True)).gather(1, t.unsqueeze(1)).squeeze(1)


def several_labels(u, t):
    p, t = torch.sigmoid(u), t.double()
    return -(t * p.log() + (1 - t) * (1 - p).log()).mean(1)


def soft(u, t):
    return -(t * u.log_softmax(1)).sum(1)


def make(name):
    torch.manual_seed(3)
    x, n = torch.randn(23, 5), 23
    bce = lambda u, t: F.binary_cross_entropy_with_logits(u, t.to(u), reduction="none").mean(1)  # noqa: E731
    square, squares = (lambda u, t: (u.squeeze(1) - t) ** 2), lambda u, t: ((u - t) ** 2).mean(1)
    truths = lambda u, t: torch.where(t, F.softplus(-u), F.softplus(u)).mean(1)  # noqa: E731
    masks = lambda u, t: F.cross_entropy(u, t, reduction="none").mean((1, 2))  # noqa: E731
    tokens = lambda u, t: F.cross_entropy(u.transpose(1, 2), t, reduction="none").mean(1)  # noqa: E731
    by_places = lambda u, t: -log_probability(u, t).flatten(1).mean(1)  # noqa: E731
    labels = torch.arange(n) % 3
    return {
        "numbers": lambda: Kind(mlp(1), x, torch.rand(n) * 0.9, square, square),
        "vectors": lambda: Kind(mlp(2), x, torch.randn(n, 2), squares, squares),
        "whole numbers": lambda: Kind(mlp(2), x, torch.randint(0, 90, (n, 2)), squares, squares),
        "several labels": lambda: Kind(mlp(3), x, (torch.rand(n, 3) > 0.5).float(), bce, several_labels),
        "several labels as integers": lambda: Kind(mlp(3), x, torch.randint(0, 2, (n, 3)), bce, several_labels),
        "truth values": lambda: Kind(mlp(3), x, torch.rand(n, 3) > 0.5, truths, several_labels),
        "one-hot": lambda: Kind(mlp(3), x, F.one_hot(labels, 3), "ce", lambda u, t: -log_probability(u, t.argmax(1))),
        "probabilities": lambda: Kind(mlp(3), x, torch.rand(n, 3, dtype=torch.float64).softmax(1), "ce", soft),
        "masks": lambda: Kind(
            nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 3, 1)),
            torch.randn(6, 2, 4, 5), torch.randint(0, 3, (6, 4, 5)), masks, by_places,
        ),
        "sequences": lambda: Kind(
            Tokens(), torch.randint(0, 7, (9, 6)), torch.randint(0, 4, (9, 6)), tokens,
            lambda u, t: by_places(u.transpose(1, 2), t),
        ),
    }[name]()  # fmt: skip


KINDS = ["numbers", "vectors", "whole numbers", "several labels", "several labels as integers", "truth values",
         "one-hot", "probabilities", "masks", "sequences"]  # fmt: skip


def dense(kind, names, chosen=slice(None)):
    """Loss, gradient and Hessian over the chosen samples, in float64."""
    model = copy.deepcopy(kind.model).double()
    tensors = dict(model.named_parameters())
    x, y = (t.double() if t.is_floating_point() else t for t in (kind.x[chosen], kind.y[chosen]))
    shapes = [tensors[name].shape for name in names]

    def value(w):
        pieces = w.split([s.numel() for s in shapes])
        inside = {name: piece.view(shape) for name, piece, shape in zip(names, pieces, shapes, strict=True)}
        return kind.oracle(torch.func.functional_call(model, inside, (x,)), y).mean()

    w = torch.cat([tensors[name].detach().reshape(-1) for name in names])
    return float(value(w)), torch.func.grad(value)(w), torch.func.hessian(value)(w)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("batch_size", [1, 4, "auto"])
def test_numbers_of_any_target_are_those_of_the_dense_oracle(name, batch_size):
    kind = make(name)
    model, x = kind.model.double(), kind.x.double() if kind.x.is_floating_point() else kind.x
    objective = Objective(model, (x, kind.y), kind.loss, batch_size=batch_size)
    expected = kind._replace(y=kind.y.double() if kind.y.dtype == torch.float32 else kind.y)
    loss, gradient, hessian = dense(expected, objective.names)
    v = torch.randn(objective.num_parameters, dtype=torch.float64)
    assert objective.loss() == pytest.approx(loss, rel=1e-12)
    assert objective.class_losses() == pytest.approx([loss], rel=1e-12)
    torch.testing.assert_close(objective.gradient(), gradient, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(objective.hvp(v), hessian @ v, rtol=1e-8, atol=1e-9)
    assert objective.check().mean == objective.loss()
    forms = objective.quadratic_forms(v)
    assert forms.mean() == pytest.approx(float(v @ hessian @ v), rel=1e-8)


@pytest.mark.parametrize("name", KINDS)
def test_both_ends_of_the_spectrum_in_single_precision(name):
    kind = make(name)
    objective = Objective(kind.model, (kind.x, kind.y), kind.loss)
    assert objective.class_names == ("all",)
    assert not objective.has_answers
    loss, _, hessian = dense(kind, objective.names)
    values = torch.linalg.eigvalsh(hessian)
    found = sharpness.eigenvalues(objective, which="both", max_iterations=300)
    scale = float(values.abs().max())
    assert objective.loss() == pytest.approx(loss, rel=1e-5)
    assert found.largest == pytest.approx(float(values[-1]), rel=5e-3)
    assert found.smallest == pytest.approx(float(values[0]), rel=2e-2, abs=1e-3 * scale)


@pytest.mark.parametrize("name", ["numbers", "probabilities", "masks"])
def test_classes_apart_from_targets_are_restrictions_by_hand(name):
    kind = make(name)
    index = torch.arange(len(kind.x)) % 2
    towns = np.array(["Oslo", "Bern"])[index.numpy()]
    by_index = Objective(kind.model, (kind.x, kind.y), kind.loss, classes=index.tolist())
    by_value = Objective(kind.model, (kind.x, kind.y), kind.loss, group_by=towns)
    by_function = Objective(kind.model, (kind.x, kind.y), kind.loss, group_by=lambda x, y: towns)
    assert by_index.class_names == ("0", "1")
    assert by_value.class_names == by_function.class_names == ("Bern", "Oslo")
    expected = [dense(kind, by_index.names, index == c) for c in (0, 1)]
    losses = [loss for loss, _, _ in expected]
    np.testing.assert_allclose(by_index.class_losses(), losses, rtol=1e-5)
    np.testing.assert_allclose(by_value.class_losses(), losses[::-1], rtol=1e-5)
    np.testing.assert_allclose(by_function.class_losses(), losses[::-1], rtol=1e-5)
    found = sharpness.eigenvalues(by_index, per_class=True)
    np.testing.assert_allclose(found.largest, [float(torch.linalg.eigvalsh(h)[-1]) for _, _, h in expected], rtol=5e-3)
    v = torch.randn(by_index.num_parameters)
    for c in (0, 1):
        torch.testing.assert_close(by_index.hvp(v, c).double(), expected[c][2] @ v.double(), rtol=1e-3, atol=1e-4)
    assert by_index.loss() == pytest.approx(Objective(kind.model, (kind.x, kind.y), kind.loss).loss(), rel=1e-12)


def test_accuracy_compares_with_labels_whatever_splits_the_answers():
    torch.manual_seed(0)
    model, x, y = mlp(3), torch.randn(30, 5), torch.arange(30) % 3
    domain = torch.arange(30) % 2
    objective = Objective(model, (x, y), group_by=domain, groups={"both": (0, 1)}, train_counts=[500, 3])
    right = (model(x).argmax(1) == y).double()
    table = sharpness.measure(objective, "accuracy,loss")
    np.testing.assert_allclose(table.values[0], [right[domain == d].mean() for d in (0, 1)])
    assert table.overall[0] == pytest.approx(float(right.mean()))
    assert table.train_counts.tolist() == [500, 3]
    assert answers(objective).accuracy == pytest.approx(float(right.mean()))
    assert objective.confusion().shape == (3, 3)
    assert sharpness.eigenvalues(objective, per_class=True, match_samples=5).class_samples.tolist() == [5, 5]


def test_names_may_come_in_an_order_of_their_own_with_values_that_are_missing_here():
    model, data = mlp(1), (torch.randn(4, 5), torch.randn(4))
    objective = Objective(
        model, data, lambda u, t: (u.squeeze(1) - t) ** 2, group_by=[2, 1, 2, 2], class_names=["2", "1", "3"]
    )
    assert objective.classes.tolist() == [0, 1, 0, 0]
    assert objective.class_samples.tolist() == [3, 1, 0]
    assert np.isnan(objective.class_losses()[2])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (range(3), ("0", "1", "2")),
        (np.unique([4, 9, 7]), ("4", "7", "9")),
        (np.array(["a", "b", "c"]), ("a", "b", "c")),
        ({0: 7, 2: 5, 1: 6}, ("7", "6", "5")),
        ((n for n in (7, "b", 2.5)), ("7", "b", "2.5")),
    ],
    ids=["range", "array", "texts", "mapping", "generator"],
)
def test_names_of_any_kind_are_text_and_can_be_saved(names, expected, tmp_path):
    objective = Objective(mlp(3), (X, Y), class_names=names)
    assert objective.class_names == expected
    saved = sharpness.measure(objective, "loss").save(tmp_path / "loss.nc")
    assert sharpness.load_result(saved).class_names == expected


def test_numbers_as_names_match_texts_and_values_of_their_own():
    texts = np.array(["9", "4", "7", "4"])
    named = Objective(mlp(3), (torch.randn(4, 5), texts), class_names=np.array([4, 7, 9]))
    assert named.y.tolist() == [2, 0, 1, 0], "targets that are names are positions among them"
    labels = Objective(mlp(3), (torch.randn(4, 5), [2, 0, 1, 0]), class_names=[2, 1, 0])
    assert labels.classes.tolist() == [2, 0, 1, 0], "targets that are numbers are labels, whatever the names"
    model, data = mlp(1), (torch.randn(12, 5), torch.randn(12))
    split = Objective(model, data, lambda u, t: (u.squeeze(1) - t) ** 2, group_by=[3, 5] * 6, class_names=[5, 3])
    assert split.class_names == ("5", "3") and split.classes.tolist() == [1, 0] * 6


def test_one_logit_of_two_labels_has_classes_and_no_accuracy():
    torch.manual_seed(0)
    model, x, y = mlp(1), torch.randn(21, 5), torch.arange(21) % 2
    bce = lambda u, t: F.binary_cross_entropy_with_logits(u.squeeze(1), t.to(u), reduction="none")  # noqa: E731
    objective = Objective(model, (x, y), bce)
    assert objective.num_classes == 2
    table = sharpness.measure(objective).to_frame()
    assert "accuracy" not in table
    assert table["class"].tolist() == ["all", "0", "1"]
    with pytest.raises(UserError, match="no accuracy: it compares"):
        sharpness.measure(objective, "accuracy")
    with pytest.raises(UserError, match="no accuracy here"):
        sharpness.line(objective, (-1, 1, 3)).plot(quantity="accuracy")


PROBES = {
    "eigenvalues": lambda o: sharpness.eigenvalues(o, which="both"),
    "eigenvalues per class": lambda o: sharpness.eigenvalues(o, 2, per_class=True, standard_errors=True),
    "eigenvalues with intervals": lambda o: sharpness.eigenvalues(o, bootstrap=200),
    "eigenvalues per layer": lambda o: sharpness.eigenvalues(o, per_layer=True, per_class=True),
    "trace": lambda o: sharpness.trace(o, per_class=True, bootstrap=200),
    "density": lambda o: sharpness.spectral_density(o, per_class=True, draws=2, steps=10),
    "line": lambda o: sharpness.line(o, (-1, 1, 5)),
    "plane": lambda o: sharpness.plane(o, (-1, 1, 7), (-1, 1, 7), adaptive=0.05),
    "random perturbation": lambda o: sharpness.random_perturbation(o, draws=2),
    "worst case": lambda o: sharpness.worst_case(o, m=9),
    "measure": lambda o: sharpness.measure(o),
    "characteristic radius": lambda o: sharpness.characteristic_radius(o, [23]),
}


@pytest.mark.parametrize("name", PROBES)
def test_every_probe_takes_an_objective_of_one_class(name, tmp_path):
    kind = make("vectors")
    objective = Objective(kind.model, (kind.x, kind.y), kind.loss)
    result = PROBES[name](objective)
    frame = result.to_frame()
    assert not any("accuracy" in column for column in frame if frame[column].notna().any())
    assert name == "worst case" or not any("accuracy" in column for column in frame)
    assert result.provenance["targets"] == "(n, 2) of float32"
    assert result.provenance["classes"] == "none"
    result.plot()
    again = sharpness.load_result(result.save(tmp_path / "result.nc"))
    assert again.to_frame().equals(frame)
    if name in ("measure", "worst case"):
        assert frame["class"].tolist() == ["all"]
    if name in ("line", "plane"):
        assert set(frame["class"]) == {"all"} and len(frame) == result.losses.size


def test_targets_are_told_apart_by_their_bytes_and_classes():
    model, x = mlp(1), torch.randn(6, 5)
    loss = lambda u, t: (u.squeeze(1) - t) ** 2  # noqa: E731
    first, second, split, otherwise = (
        Objective(model, (x, y), loss, classes=c).data_sha256
        for y, c in [
            (torch.full((6,), 0.25), None), (torch.full((6,), 0.75), None),
            (torch.full((6,), 0.25), [0, 0, 0, 1, 1, 1]), (torch.full((6,), 0.25), [0, 1, 0, 1, 0, 1]),
        ]
    )  # fmt: skip
    assert len({first, second, split, otherwise}) == 4


X, Y = torch.randn(6, 5), torch.arange(6) % 3
HALF = torch.full((6,), 0.5)
SQUARE = lambda u, t: (u.squeeze(1) - t) ** 2  # noqa: E731


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Objective(mlp(3), (X, HALF)), r"\(n,\) of float32: these are no class labels; .* pass a loss"),
        (lambda: Objective(mlp(3), (X, Y.float())), r"class labels must be integers, y.long\(\)"),
        (lambda: Objective(mlp(3), (X, torch.ones(6, 3))), r"add up to 1; where several labels are true at once"),
        (lambda: Objective(mlp(3), (X, torch.randn(6, 3))), "takes probabilities"),
        (lambda: Objective(mlp(3), (X, torch.ones(6, 2))), r"takes labels \(n,\), or class probabilities \(n, 3\)"),
        (lambda: Objective(mlp(1), (X, Y % 2)), "cross-entropy of a single logit is always 0"),
        (lambda: Objective(nn.Conv2d(1, 3, 1), (torch.randn(6, 1, 2, 2), torch.ones(6, 2, 2).long())),
         r"flatten\(1\)\.mean\(1\)"),
        (lambda: Objective(Tokens(), (torch.ones(6, 4).long(), torch.ones(6, 4).long())), r"transpose\(1, 2\)"),
        (lambda: Objective(mlp(1), (X, torch.arange(6)), SQUARE), r"make them floats, y.float\(\)"),
        (lambda: Objective(mlp(1), (X, HALF), lambda u, t: (u - t) ** 2), r"returned shape \(6, 6\) for 6 samples"),
        (lambda: Objective(mlp(2), (X, HALF), lambda u, t: (u[:, 0] - t).mean()), "reduction='none'"),
        (lambda: Objective(mlp(3), (X, HALF), nn.CrossEntropyLoss(reduction="none")), r"the loss raised .* of float32"),
        (lambda: Objective(mlp(1), (X, HALF), SQUARE, classes=[0, 1]), "2 entries for 6 samples"),
        (lambda: Objective(mlp(1), (X, HALF), SQUARE, classes=[0, 1, 2, 0, -1, 2]), "-1 of sample 4 .* below 0"),
        (lambda: Objective(mlp(1), (X, HALF), SQUARE, classes=HALF), "one integer per sample"),
        (lambda: Objective(mlp(1), (X, HALF), SQUARE, classes=list("aabbcc")), "names, such as 'a': .* group_by="),
        (lambda: Objective(mlp(1), (X, HALF), SQUARE, classes=Y, group_by=Y), "give one of them"),
        (lambda: Objective(mlp(1), (X, HALF), SQUARE, classes=Y, num_classes=2), "class 2 of sample 2 is outside 0..1"),
        (lambda: Objective(mlp(1), (X, HALF), SQUARE, group_by="domain"), "group_by= is a str"),
        (lambda: Objective(mlp(1), (X, HALF), SQUARE, group_by=[1.0, float("nan")] * 3), "nan for sample 1"),
        (lambda: Objective(mlp(1), (X, HALF), SQUARE, group_by=list("abcabc"), class_names=["a", "b"]), "'c', which"),
        (lambda: Objective(mlp(1), (X, HALF), SQUARE, class_names=["a", "b"]), "2 class_names and 1 class: .*say with"),
        (lambda: Objective(mlp(1), (X, HALF), SQUARE, num_classes=4), "say with classes= or group_by="),
        (lambda: Objective(mlp(1), (X, HALF), SQUARE, train_counts=[3, 4]), "for each of the 1 "),
        (lambda: Objective(mlp(3), (X, Y), groups={"few": (2, 3)}), "group 'few' has class 3, outside 0..2"),
        (lambda: Objective(mlp(3), (X, Y), groups={"few": ["cat"]}), "group 'few' has class 'cat', outside 0..2"),
        (lambda: Objective(mlp(3), (X, Y), groups={"few": 2}), "group 'few' is 2: give a list"),
        (lambda: Objective(mlp(3), (X, Y), groups="oltr"), "give train_counts="),
        (lambda: Objective(mlp(3), (X, Y), class_names=["a", "b", "a"]), "class_names has 'a' twice"),
        (lambda: Objective(mlp(3), (X, Y), train_counts=["a", "b", "c"]), "train_counts=.*give one number"),
        (lambda: Objective(mlp(1), (X, HALF), SQUARE, group_by=lambda x: x), "group_by= raised TypeError"),
        (lambda: Objective(mlp(1), (X, HALF), nn.MSELoss), "give 'ce', or a function"),
        (lambda: Objective(mlp(1), (X, HALF), None), "loss=None: give"),
        (lambda: Objective(mlp(1), (X, HALF), SQUARE, group_by={"a": 0}), "group_by= is a dict"),
        (lambda: Objective(Tokens(), (torch.ones(6, 4).long(), torch.ones(6, 4).long()), lambda u, t: F.cross_entropy(
            u.flatten(0, 1), t.flatten(), reduction="none")), r"\(24,\) for 6 samples: .* \.view\(len\(t\), -1\)"),
        (lambda: Objective(mlp(3).forward, (X, Y)), "the model is a method"),
        (lambda: Objective(mlp(1), (X, HALF), SQUARE).confusion(), "are no labels: no answer is right or wrong"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_refused_in_one_line_with_the_remedy(act, message):
    with pytest.raises(UserError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)


def test_a_loss_that_takes_weights_beside_the_outputs_is_refused_with_remedies_that_work():
    """Its values were with the penalty, its curvature without; and torch's mean of weighted classes by Σ w."""
    model, none = mlp(3), functools.partial(F.cross_entropy, reduction="none")

    def penalty():
        return 0.01 * sum(p.square().sum() for p in model.parameters())

    with pytest.raises(UserError, match=r"takes the parameter '0.weight' itself.*adds 2 d to every"):
        Objective(model, (X, Y), lambda u, t: none(u, t) + penalty())

    class WithColumn(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return torch.cat([self.model(x), penalty().expand(len(x), 1)], dim=1)

    plain = Objective(model, (X, Y))
    v = torch.linspace(-1, 1, plain.num_parameters, dtype=plain.dtype)
    found = Objective(WithColumn(), (X, Y), lambda u, t: none(u[:, :3], t) + u[:, 3])
    assert found.loss() == pytest.approx(plain.loss() + float(penalty().detach()), rel=1e-6)
    torch.testing.assert_close(found.hvp(v), plain.hvp(v) + 0.02 * v)

    w = torch.tensor([0.2, 1.0, 3.0], dtype=plain.dtype)
    with pytest.raises(UserError, match=r"reduction='none'; for torch's mean.*weights=w\[y\]"):
        Objective(model, (X, Y), nn.CrossEntropyLoss(weight=w))
    with torch.no_grad():
        expected = nn.CrossEntropyLoss(weight=w)(model(X.to(w)), Y)
    assert Objective(model, (X, Y), weights=w[Y]).loss() == pytest.approx(float(expected), rel=1e-6)


def test_training_counts_make_groups_by_the_convention_of_the_house_unless_they_are_given():
    counts = [100, 99, 20]
    objective = Objective(mlp(3), (X, Y), train_counts=counts)
    assert objective.groups == {"many": (0,), "medium": (1,), "few": (2,)}
    assert objective.provenance()["group_convention"] == "oltr"
    other = Objective(mlp(3), (X, Y), train_counts=counts, groups="99,98")
    assert other.groups == {"many": (0,), "medium": (1,), "few": (2,)}
    assert other.group_convention == "99,98"


@pytest.mark.parametrize(
    "names", [["cat", "dog", "eel"], {1: "dog", 2: "eel", 0: "cat"}, {"eel": 2, "cat": 0, "dog": 1}]
)
def test_names_and_training_counts_by_label_or_name_are_put_in_the_order_of_the_classes(names):
    """As class_to_idx, a Counter of labels and value_counts have them, whose own order is another."""
    labels = pd.Series(np.repeat([2, 0, 1], [200, 50, 3]))
    counts = labels.value_counts()
    for given in (
        counts,
        collections.Counter(labels),
        dict(zip(["eel", "cat", "dog"], counts, strict=True)),
        [50, 3, 200],
    ):
        objective = Objective(mlp(3), (X, Y), class_names=names, train_counts=given)
        assert objective.class_names == ("cat", "dog", "eel") and objective.train_counts.tolist() == [50, 3, 200]
        assert objective.groups == {"many": (2,), "medium": (0,), "few": (1,)}
    assert class_groups(counts, "oltr") == objective.groups and class_order(counts, "stable") == (2, 0, 1)
    images = torch.zeros(6, 1, 2, 2)
    assert sharpness.data.read_images((images, Y), class_names=names, train_counts=counts).train_counts == (50, 3, 200)
    for options, message in [
        ({"train_counts": {0: 5, 2: 3}}, "no class '1'"),
        ({"train_counts": {0: 5, 1: 3, 2: 1, 3: 1}}, "'3', which is no class"),
        ({"class_names": {"a", "b", "c"}}, "class_names is a set"),
        ({"class_names": {1: "a", 2: "b", 3: "c"}}, "all labels from 0 on"),
    ]:
        with pytest.raises(UserError, match=message):
            Objective(mlp(3), (X, Y), **options)
    own = Objective(mlp(3), (X, Y), train_counts=counts, groups={"tail": ["dog", 2]}, class_names=["cat", "dog", "owl"])
    assert own.groups == {"tail": (1, 2)}
    assert own.group_convention is None
    table = sharpness.measure(mlp(3), (X, Y), "loss", train_counts=counts)
    assert table.to_frame()["class"].tolist()[:4] == ["all", "many", "medium", "few"]
    assert sharpness.measure(own, "loss", train_counts=[1, 2, 3]).groups == {"tail": (1, 2)}
    assert sharpness.measure(objective, "loss", train_counts=[1, 2, 300]).groups["many"] == (2,)


def test_data_follow_the_model_as_everybody_types_it():
    model = mlp(3)
    pairs = [(x, int(y)) for x, y in zip(X, Y, strict=True)]
    expected = sharpness.measure(Objective(model, (X, Y)), ("accuracy", "loss")).overall
    for found in [
        sharpness.measure(model, (X, Y), "accuracy,loss"),
        sharpness.measure(model, [X, Y], measures=["accuracy", "loss"]),
        sharpness.measure(model, pairs, ["accuracy", "loss"]),
        sharpness.measure(model, torch.utils.data.TensorDataset(X, Y), "loss, accuracy"),
        sharpness.measure(model, "accuracy,loss", data=(X.numpy(), Y.numpy())),
        sharpness.measure({"mine": model}, (X, Y), "accuracy,loss")["mine"],
    ]:
        np.testing.assert_array_equal(found.overall, expected)
    top = sharpness.eigenvalues(Objective(model, (X, Y)), 2).values
    np.testing.assert_array_equal(sharpness.eigenvalues(model, (X, Y), 2).values, top)
    np.testing.assert_array_equal(sharpness.eigenvalues({"a": model}, pairs, 2)["a"].values, top)
    assert sharpness.random_perturbation(model, (X, Y), [0.1], 2).losses.shape == (1, 2)
    with pytest.raises(UserError, match="no measure and no data set"):
        sharpness.measure(model, "acuracy")
    with pytest.raises(UserError, match="CrossEntropyLoss is neither data nor a measure: give a loss as loss="):
        sharpness.measure(model, (X, Y), nn.CrossEntropyLoss(reduction="none"))
    with pytest.raises(UserError, match="CrossEntropyLoss stands where trace has no loss: give it as loss="):
        sharpness.trace(model, (X, Y), nn.CrossEntropyLoss(reduction="none"))
    with pytest.raises(UserError, match="data are given twice"):
        sharpness.measure(model, (X, Y), data=(X, Y))


def test_probabilities_in_the_place_of_logits_are_told_with_a_remedy_that_is_right(caplog):
    model = mlp(3)
    whole = nn.Sequential(model, nn.Softmax(1))
    Objective(model, (X, Y))
    assert not caplog.records
    Objective(whole, (X, Y))
    assert "cross-entropy takes logits: leave the softmax out, or give output=lambda p: p.log()" in caplog.text
    expected = Objective(model, (X, Y)).loss()
    assert Objective(whole, (X, Y), output=lambda p: p.log()).loss() == pytest.approx(expected, rel=1e-5)
