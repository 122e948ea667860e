"""The open long-tailed protocol against its fixture, a transcription of its code, and scikit-learn."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score, roc_curve
from torch import nn

from sharpness import Objective, load_data
from sharpness.cli import main
from sharpness.cli.subjects import crop_of
from sharpness.data import ImageSet
from sharpness.errors import UserError
from sharpness.probes.open_set.evaluation import evaluate_open_set, open_images, transform_of
from sharpness.probes.open_set.protocol import Scored, auroc, calibration_error, f_measure, fpr_at_95_tpr, rejecting

KINDS = ("oltr-2020", "oltr-2019")


def published(preds, labels, kind):
    """The loop of OLTR's utils.py (``F_measure`` with ``openset=True``), with the older condition for oltr-2019."""
    true_pos = false_pos = false_neg = 0.0
    for i in range(len(labels)):
        true_pos += 1 if preds[i] == labels[i] and labels[i] != -1 else 0
        older = kind == "oltr-2019" and preds[i] == -1
        false_pos += 1 if preds[i] != labels[i] and labels[i] != -1 and not older else 0
        false_neg += 1 if preds[i] != labels[i] and labels[i] == -1 else 0
    precision = true_pos / (true_pos + false_pos)
    recall = true_pos / (true_pos + false_neg)
    return 2 * ((precision * recall) / (precision + recall + 1e-12))


def test_the_fixture():
    preds, labels = [0, 1, -1, 2, -1, 3], [0, 2, 1, -1, -1, 3]
    assert [round(f_measure(preds, labels, kind), 4) for kind in KINDS] == [0.5714, 0.6667]


@pytest.mark.parametrize("kind", KINDS)
def test_f_is_that_of_the_published_loop(kind):
    random = np.random.default_rng(0)
    for _ in range(30):
        labels = random.integers(-1, 4, 40)
        preds = np.where(random.random(40) < 0.6, labels, random.integers(-1, 4, 40))
        assert f_measure(preds, labels, kind) == pytest.approx(published(preds, labels, kind), abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_what_divides_by_zero_there_is_zero(kind):
    assert f_measure([-1, -1, -1], [0, 1, -1], kind) == 0
    assert f_measure([1, 0], [0, 1], kind) == 0
    assert f_measure([0, 1], [0, 1], kind) == 1


def test_no_open_set_and_no_rejection_is_not_sklearns_macro_f1():
    labels, preds = [0, 0, 0, 1], [0, 0, 1, 1]
    assert f_measure(preds, labels, "oltr-2020") == pytest.approx(2 * 0.75 / 1.75)
    assert f1_score(labels, preds, average="macro") != pytest.approx(2 * 0.75 / 1.75)


def test_a_score_at_the_threshold_is_accepted():
    assert rejecting(np.array([0.1, 0.0999]), np.array([3, 4]), 0.1).tolist() == [3, -1]


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_and_fpr_are_sklearns(ties):
    random = np.random.default_rng(1)
    for n in (20, 37, 100):
        known, unknown = random.normal(1, 1, n), random.normal(0, 1, 50)
        if ties:
            known, unknown = known.round(), unknown.round()
        truth, scores = np.r_[np.ones(n), np.zeros(50)], np.r_[known, unknown]
        assert auroc(known, unknown) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
        fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
        assert fpr_at_95_tpr(known, unknown) == pytest.approx(fpr[np.argmax(tpr >= 0.95 - 1e-12)])


def test_the_calibration_error_is_a_sum_over_bins():
    random = np.random.default_rng(2)
    scores = np.r_[random.random(200), 1.0, 1 / 15]
    right = random.random(202) < scores
    expected = 0.0
    for b in range(15):
        inside = (scores > b / 15) & (scores <= (b + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - scores[inside].mean())
    assert calibration_error(scores, right) == pytest.approx(expected)


def test_groups_are_means_over_classes_after_rejection():
    logits = np.log(np.array([[0.9, 0.05, 0.05], [0.4, 0.35, 0.25], [0.1, 0.8, 0.1], [0.1, 0.2, 0.7], [0.2, 0.2, 0.6]]))
    labels = np.array([0, 0, 1, 2, 1])
    scored = Scored.of(logits, labels, logits[:2], {"many": (0,), "few": (1, 2), "medium": ()})
    closed, rejected = scored.closed(), scored.at(0.5)
    assert closed["accuracy"] == 0.8
    assert closed["accuracy_many"] == 1
    assert closed["accuracy_few"] == 0.75
    assert closed["balanced_accuracy"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert rejected["accuracy"] == 0.6
    assert rejected["accuracy_many"] == 0.5
    assert rejected["open_accuracy"] == 0.5
    assert np.isnan(rejected["accuracy_medium"])


def test_zoo_against_a_folder(tmp_path, capsys, pictures, cifar_like):
    """From the command line: the numbers are those of the network called directly."""
    root, model = cifar_like
    table, sweep = tmp_path / "t.json", tmp_path / "s.csv"
    command = ["evaluate", "zoo:gcl", "--images", str(root), "--open", str(pictures / "open")]
    command += ["--size", "32", "--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2", "--threshold", "0.2"]
    assert main([*command, "-o", str(table), "--sweep", str(sweep), "--plot", str(tmp_path / "p.pdf")]) == 0
    told = capsys.readouterr().out
    assert "accepted most of the open set: c0 (as " in told
    (row,) = json.loads(table.read_text())["rows"]
    from sharpness.data import read_images

    x, y = read_images(root, size=32, mean=(0.5,) * 3, std=(0.2,) * 3).tensors
    opened = read_images(pictures / "open", size=32, mean=(0.5,) * 3, std=(0.2,) * 3).tensors[0]
    with torch.no_grad():
        p, q = (model(t).double().softmax(1).max(1) for t in (x, opened))
    assert row["accuracy"] == pytest.approx((p.indices == y).double().mean().item())
    assert row["open_accuracy"] == pytest.approx((q.values < 0.2).double().mean().item())
    accepted = (p.values >= 0.2) & (p.indices == y)
    assert row["rejected_accuracy"] == pytest.approx(accepted.double().mean().item())
    assert row["auroc"] == pytest.approx(roc_auc_score(np.r_[np.ones(len(p.values)), np.zeros(len(q.values))],
                                                       np.r_[p.values, q.values]))  # fmt: skip
    read = pd.read_csv(sweep)
    assert read.accuracy.iloc[0] == pytest.approx(row["accuracy"])
    assert read.open_accuracy.iloc[-1] == pytest.approx(1.0)
    assert read.f_oltr_2020.iloc[-1] == 0
    assert (tmp_path / "p.png").is_file()


@pytest.fixture(scope="module")
def cifar_like(tmp_path_factory):
    """Ten classes of three random pictures each, and a network of the zoo."""
    from PIL import Image

    from sharpness.checkpoints import load_checkpoint

    root, random = tmp_path_factory.mktemp("ten"), np.random.default_rng(5)
    for c in range(10):
        (root / str(c)).mkdir()
        for i in range(3):
            Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / str(c) / f"{i}.png")
    return root, load_checkpoint("zoo:gcl").model


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--open", "nowhere"], "there is no open set nowhere: give a folder, a list of 'path -1' lines, or cifar100"),
        (["--open", "x", "--threshold", "1.5"], "--threshold 1.5: give a probability from 0 to 1"),
        ([], "have no open part: name an open set with --open"),
    ],
)
def test_wrong_open_sets(options, told, cifar_like, capsys):
    root, _ = cifar_like
    images = ["--images", str(root), "--size", "32", "--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2"]
    assert main(["evaluate", "zoo:gcl", *images, *options]) == 2
    assert told in capsys.readouterr().err


def test_the_known_threshold_is_a_probability():
    with pytest.raises(UserError, match="F-measure"):
        f_measure([0], [0], "macro")


def test_an_open_set_of_another_size_is_refused():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    known = Objective(model, (torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 0, 1])))
    unknown = ImageSet(torch.zeros(2, 3, 6, 6, dtype=torch.uint8), torch.tensor([0, 0]), (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(UserError, match="are 6 x 6 and the test images 8 x 8"):
        evaluate_open_set("model", known, unknown, ["a", "b"])


class ReturnsMore(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(48, 3)

    def forward(self, x):
        return {"features": x, "logits": self.layer(x.flatten(1))}


def test_the_outputs_of_a_model_that_returns_more_are_extracted_for_the_open_set_too():
    torch.manual_seed(0)
    model = ReturnsMore().eval()
    images = torch.randint(0, 256, (14, 3, 4, 4), dtype=torch.uint8)
    with torch.no_grad():
        logits = model.layer(((images / 255 - 0.5) / 0.5).flatten(1))
    labels = logits[:9].argmax(1)
    labels[0] = (labels[0] + 1) % 3  # a temperature fits
    known = ImageSet(images[:9], labels, (0.5,) * 3, (0.5,) * 3)
    unknown = ImageSet(images[9:], torch.zeros(5, dtype=torch.int64), (0.5,) * 3, (0.5,) * 3)
    objective = Objective(model, known, output=lambda returned: returned["logits"])
    p = logits.softmax(1).amax(1)
    found = evaluate_open_set("model", objective, unknown, ["a"] * 5).scored
    np.testing.assert_allclose(found.scores, p[:9], rtol=1e-5)
    np.testing.assert_allclose(found.open_scores, p[9:], rtol=1e-5)


CORNER = """
import torch


class Corner(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.eye(3))

    def forward(self, x):
        return x[:, :, :24, :24].mean((2, 3)) @ self.weight
"""


@pytest.mark.parametrize(("wrong", "resize"), [(False, []), (True, ["--resize", "230"])])
def test_a_copy_of_the_test_images_is_told_apart_by_chance(wrong, resize, tmp_path, monkeypatch, capsys):
    """A network sees the frame of an image, of which a closer crop would show less; with or without a temperature."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (tmp_path / "corner_network.py").write_text(CORNER)
    torch.save({"weight": torch.eye(3)}, tmp_path / "corner.pt")
    for c in range(3):
        for i in range(3):
            picture = np.full((240, 250, 3), 40 * i, dtype=np.uint8)
            picture[16:-16, 16:-16, c] = 150 + 40 * i  # the class is the colour of the inside
            picture[:16] = 20 * (i + c)
            folder = tmp_path / "images" / f"c{(c + (wrong and i == 0)) % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / f"{c}{i}.png")
    command = ["evaluate", "corner.pt", "--model", "corner_network:Corner", "--images", "images", *resize]
    assert main([*command, "--size", "224", "--open", "images", "-o", "table.json"]) == 0
    (row,) = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert row["auroc"] == pytest.approx(0.5) and (row["accuracy"] == 1) == (not wrong)
    assert (row["temperature"] is None) == (row["auroc_at_temperature"] is None) == (not wrong)
    assert ("temperature are empty: no temperature fits" in capsys.readouterr().err) == (not wrong)


@pytest.mark.parametrize("crop", [{"size": 6, "resize": 8}, {"size": 8}, {}])
@pytest.mark.parametrize("prepared", [False, True])
def test_open_images_are_cropped_as_listed_and_as_prepared_ones(crop, prepared, pictures, tmp_path):
    options = [text for name, value in crop.items() for text in (f"--{name}", str(value))]
    if prepared:
        assert main(["data", "prepare", "--data-root", str(pictures), *options, "-o", str(tmp_path / "p")]) == 0
    data = load_data("list", root=tmp_path / "p") if prepared else load_data("list", root=pictures, **crop)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    known = Objective(model, data.test, num_classes=4)
    again, names = open_images(str(pictures / "test"), transform_of(known))
    both = [sorted(image.numpy().tobytes() for image in one.images[:]) for one in (data.test, again)]
    assert len(names) == 12 and both[0] == both[1]


def test_open_images_of_a_grey_network_are_grey_and_others_are_refused_by_their_channels(pictures):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    images, labels = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    known = Objective(model, ImageSet(images, labels, (0.5,), (0.5,)))
    unknown, names = open_images(str(pictures / "open"), transform_of(known))
    assert unknown.images.shape == (4, 1, 8, 8)
    assert len(evaluate_open_set("model", known, unknown, names).scored.open_scores) == 4
    coloured = ImageSet(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 0]), (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(UserError, match="the open set has 3 channels and the test images 1"):
        evaluate_open_set("model", known, coloured, ["a", "b"])


@pytest.mark.parametrize(
    ("given", "found"),
    [({}, {"size": 224, "resize": 232}), ({"size": 96}, {"size": 96}), ({"images": None}, {})],
)
def test_files_are_cropped_as_a_library_does_unless_told_otherwise(given, found):
    manifest = SimpleNamespace(extra={"size": 224, "resize": 232})
    network = SimpleNamespace(manifest=manifest, path="torchvision:resnet50")
    assert crop_of({"a": network}, {"images": "folder", "size": None, "resize": None, **given}) == found
