"""A stranger's network and images, each measured with one command."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from sharpness.cli import cli

MODEL = ("--model", "their_networks:TheirResNet")
QUICK = ("--measures", "accuracy,loss")
CLASSES = ("ant", "bee", "cat")


def assert_measured(found, stranger, losses, right, names):
    assert [found[name]["samples"] for name in names] == [16, 8, 4]
    for measure, values in (("loss", losses), ("accuracy", right.double())):
        assert [found[name][measure] for name in names] == pytest.approx(stranger.by_class(values), rel=1e-4)
        assert found["all"][measure] == pytest.approx(values.double().mean().item(), rel=1e-4)
        errors = [values[stranger.labels == c].double().std().item() / n**0.5 for c, n in enumerate((16, 8, 4))]
        if measure == "accuracy":  # Wilson's interval, at one standard deviation
            shares = zip(stranger.by_class(values), (16, 8, 4), strict=True)
            errors = [(n * p * (1 - p) + 0.25) ** 0.5 / (n + 1) for p, n in shares]
        assert [found[name][f"{measure}_se"] for name in names] == pytest.approx(errors, rel=1e-3, abs=1e-12)


@pytest.mark.parametrize("file", ["wrapped.pth", "bare.pt"])
@pytest.mark.parametrize(
    ("source", "names"), [("pictures", CLASSES), ("list.txt", tuple("012")), ("images.npz", tuple("012"))]
)
def test_a_strangers_resnet_on_their_images(stranger, rows, file, source, names):
    found, said = rows("measure", file, *MODEL, "--images", source, *QUICK)
    assert_measured(found, stranger, *stranger.losses(stranger.network()), names)
    assert [found[name]["train"] for name in names] == [16, 8, 4]
    assert "computed from them" in said and "measuring accuracy, loss of" in said


def test_given_constants_and_counts(stranger, rows):
    constants = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}
    given = [w for k, v in constants.items() for w in (f"--{k}", ",".join(map(str, v)))]
    found, said = rows(
        "measure", "bare.pt", *MODEL, "--images", "pictures", *given, "--train-counts", "counts.json", *QUICK
    )
    assert_measured(found, stranger, *stranger.losses(stranger.network(), **constants), CLASSES)
    assert [found[name]["train"] for name in CLASSES] == [160, 80, 4]
    assert [found[name]["group"] for name in CLASSES] == ["many", "medium", "few"]
    assert "normalised" not in said


def test_all_measures_with_their_errors_and_a_picture(one_format, stranger, capsys, rows, tmp_path):
    found, said = rows(
        "measure", "wrapped.pth", *MODEL, "--images", "pictures", "-o", tmp_path / "t.csv", "--plot", tmp_path / "t"
    )
    measures = {"accuracy", "loss", "lambda_max", "lambda_min", "random_rise", "worst_rise"}
    assert measures | {f"{m}_se" for m in measures} <= set(found["ant"])
    assert all(np.isfinite(found[name][f"{m}_se"]) for name in CLASSES for m in measures)
    assert re.search(r"on 28 samples of 3 classes, about (a second|[\d.]+ (seconds|minutes))$", said, re.MULTILINE)
    assert {p.name for p in tmp_path.iterdir()} == {"t.csv", "t.csv.json", "t.pdf", "t.png", "t.txt"}
    assert list(pd.read_csv(tmp_path / "t.csv")["class"]) == list(found)


def test_arguments_of_their_network(stranger, rows, mistake):
    arguments = ("--model-args", "num_classes=3, width=6", "--images", "pictures", *QUICK)
    found, _ = rows("measure", "wide.pt", *MODEL, *arguments)
    assert_measured(found, stranger, *stranger.losses(stranger.network("wide.pt", width=6)), CLASSES)
    assert "do not fit the model TheirResNet" in mistake("measure", "wide.pt", *MODEL, "--images", "pictures")


def test_a_network_that_is_made_already_is_filled_anew_for_every_file(stranger, rows, tmp_path, monkeypatch):
    (tmp_path / "made_already.py").write_text("import their_networks\nnetwork = their_networks.TheirResNet()\n")
    monkeypatch.syspath_prepend(tmp_path)
    other = {n: -t if n.startswith("fc.") else t for n, t in torch.load("bare.pt").items()}
    torch.save(other, tmp_path / "other.pt")
    files, images = ("bare.pt", tmp_path / "other.pt"), ("--images", "pictures", *QUICK)
    found, _ = rows("measure", *files, "--model", "made_already:network", *images)
    for file, label in zip(files, ("bare", "other"), strict=True):
        alone, _ = rows("measure", file, *MODEL, *images)
        assert {name: row["loss"] for name, row in alone.items()} == {
            name: row["loss"] for (model, name), row in found.items() if model == label
        }
    assert found["bare", "all"]["loss"] != found["other", "all"]["loss"]


def test_numbers_with_channels_last_are_said_to_be(stranger, rows, tmp_path):
    with np.load("images.npz") as file:
        x, y = (file[name] for name in file)
    last = x if x.shape[-1] == 3 else x.transpose(0, 2, 3, 1)
    np.savez(tmp_path / "last.npz", x=(last / 255).astype(np.float32), y=y)
    np.savez(tmp_path / "first.npz", x=(last.transpose(0, 3, 1, 2) / 255).astype(np.float32), y=y)
    first, _ = rows("measure", "bare.pt", *MODEL, "--images", tmp_path / "first.npz", *QUICK)
    said = ("--layout", "channels-last")
    assert rows("measure", "bare.pt", *MODEL, "--images", tmp_path / "last.npz", *said, *QUICK)[0] == first


@pytest.mark.parametrize(("returns", "logits"), [("dict", "logits"), ("tuple", "1"), ("tuple", "-1")])
def test_a_network_that_returns_several_things(stranger, rows, returns, logits):
    measured = ("--images", "images.npz", "--measures", "loss,lambda_max,worst_rise", "--limit-per-class", "2")
    plain, _ = rows("measure", "bare.pt", *MODEL, *measured)
    found, _ = rows("measure", "bare.pt", *MODEL, "--model-args", f"returns={returns}", "--logits", logits, *measured)
    for name, row in plain.items():
        for measure in ("loss", "lambda_max", "worst_rise"):
            assert found[name][measure] == pytest.approx(row[measure], rel=1e-4), (name, measure)


def test_what_their_code_prints_is_not_in_the_table(stranger, rows):
    plain, _ = rows("measure", "bare.pt", *MODEL, "--images", "pictures", *QUICK)
    found, said = rows("measure", "bare.pt", "--model", "their_networks:talks", "--images", "pictures", *QUICK)
    assert found == plain and "three layers" in said


def test_eigenvalues_that_do_not_converge_are_named(stranger, rows):
    asked = ("--images", "pictures", "--measures", "lambda_max", "--max-iterations", "2", "--tol", "1e-6")
    found, said = rows("measure", "bare.pt", *MODEL, *asked)
    assert found["ant"]["lambda_max"] is None
    assert "bare: not converged to tol=1e-06 in max_iterations=2, and left out: eigenvalues of all samples, ant" in said


def test_a_network_that_views_its_images(stranger, rows):
    """The eigenvalue is that of the dense Hessian."""
    model = stranger.networks["Viewed"]()
    model.load_state_dict(torch.load("viewed.pt", weights_only=True))
    model, x = model.double(), stranger.inputs().double()
    names, values = zip(*((n, p.detach()) for n, p in model.named_parameters()), strict=True)

    def loss(flat):
        pieces = flat.split([v.numel() for v in values])
        inside = {n: p.view(v.shape) for n, p, v in zip(names, pieces, values, strict=True)}
        return torch.nn.functional.cross_entropy(torch.func.functional_call(model, inside, (x,)), stranger.labels)

    dense = torch.autograd.functional.hessian(loss, torch.cat([v.flatten() for v in values]))
    found, _ = rows("measure", "viewed.pt", "--model", "their_networks:Viewed", "--images", "pictures")
    assert found["all"]["lambda_max"] == pytest.approx(torch.linalg.eigvalsh(dense)[-1].item(), rel=1e-3)


def test_a_quick_look_counts_classes_by_what_they_have(stranger, rows):
    found, _ = rows("measure", "bare.pt", *MODEL, "--images", "list.txt", "--limit-per-class", "2", *QUICK)
    assert [found[c]["samples"] for c in "012"] == [2, 2, 2]
    shares = np.array([16, 8, 4]) / 28
    assert found["all"]["loss"] == pytest.approx(shares @ [found[c]["loss"] for c in "012"], rel=1e-6)


def test_grey_images_for_a_network_that_takes_grey_ones(stranger, rows, tmp_path):
    torch.save(stranger.networks["grey"]().state_dict(), tmp_path / "grey.pt")
    arguments = ("--model", "their_networks:grey", "--images", "pictures", "--mean", "0.5", "--std", "0.25", *QUICK)
    found, _ = rows("measure", tmp_path / "grey.pt", *arguments)
    assert found["all"]["samples"] == 28


def test_the_commands_of_the_page_parse():
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
    blocks = "".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL)).replace("\\\n", "")
    assert len(blocks.splitlines()) == 8
    for row in blocks.splitlines():
        name, *words = shlex.split(row)[1:]
        cli.commands[name].make_context(name, words)
