"""What a file is, and whether its answers are what they should be."""

from pathlib import Path

import pytest

import sharpness
from sharpness.cli import main
from sharpness.models.hubs import Published
from sharpness.registries import HUBS

MODEL = ("--model", "their_networks:TheirResNet")


@pytest.fixture
def page(capsys):
    """The facts that inspect prints, by name."""

    def call(*arguments):
        code = main(["inspect", *map(str, arguments)])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        lines = captured.out.splitlines()
        width = lines[0].index(lines[0].split()[1])
        return {line[:width].strip(): line[width:].strip() for line in lines}

    return call


def test_the_accuracy_of_a_run_of_ours_is_the_recorded_one(run, page):
    recorded = sharpness.load_checkpoint(run).manifest.accuracy["accuracy"]
    facts = page(run, "--accuracy")
    assert facts["accuracy now"].startswith(f"{100 * recorded:.2f} % of ")
    assert "of the test split" in facts["accuracy now"] and "another order" not in facts.get("suspicious", "")
    assert facts["accuracy"].startswith(f"all {100 * recorded:.1f} %")
    assert "accuracy now" not in page(run)


@pytest.mark.parametrize("option", [("--split", "train"), ("--limit-per-class", "3")])
def test_every_option_of_data_has_the_accuracy_measured(run, page, option):
    assert option[1] in page(run, *option)["accuracy now"] or option[0] == "--limit-per-class"


def test_weights_of_a_library_are_downloaded_without_data_to_measure(stranger, capsys):
    asked = []

    class Library:
        def make(self, name, num_classes, in_channels, **arguments):
            return stranger.network()

        def published(self, name, download):
            asked.append((name, download))
            return Published(stranger.network(), 3, (0.5,) * 3, (0.5,) * 3, 8, 8)

    HUBS.register("elsewhere", Library())
    try:
        assert main(["inspect", "elsewhere:net", "--download"]) == 0
    finally:
        del HUBS["elsewhere"]
    assert set(asked) == {("net", True)} and "accuracy now" not in capsys.readouterr().out


def test_a_strangers_file(stranger, page):
    facts = page("wrapped.pth", *MODEL)
    assert facts["model"].startswith("TheirResNet, ") and facts["epoch"] == "3"
    assert facts["family"] == "plain state_dict" and facts["accuracy"] == "not recorded"
    measured = page("wrapped.pth", *MODEL, "--images", "pictures")
    _, right = stranger.losses(stranger.network())
    assert right.float().mean() > 0.9
    assert measured["accuracy now"].startswith(f"{100 * right.double().mean():.2f} % of 28 samples of the images given")
    assert "suspicious" not in measured


def test_another_order_of_the_classes_is_told(stranger, page):
    remark = page("bare.pt", *MODEL, "--images", "rotated.txt")["suspicious"]
    _, right = stranger.losses(stranger.network())
    mean = sum(stranger.by_class(right.double())) / 3
    assert f"with the classes in another order {100 * mean:.1f} % would be right" in remark


def test_a_wrong_normalisation_is_told(stranger, page):
    facts = page("bare.pt", *MODEL, "--images", "pictures", "--mean", "0.9,0.9,0.9", "--std", "0.02,0.02,0.02")
    assert "near chance" in facts["suspicious"] and "normalisation" in facts["suspicious"]


def test_several_files_are_parted_by_a_line(stranger, capsys):
    assert main(["inspect", "bare.pt", "wrapped.pth", *MODEL]) == 0
    first, second = capsys.readouterr().out.split("\n\n")
    assert "bare.pt" in first and "wrapped.pth" in second


def test_an_order_of_the_classes_can_be_given(stranger, page):
    """The same images under rotated labels: a list in a file undoes it, a name that knows no such order does not."""
    Path("order.json").write_text("[1, 2, 0]")
    _, right = stranger.losses(stranger.network())
    mean = f"mean of the classes {100 * sum(stranger.by_class(right.double())) / 3:.2f} %"
    facts = page("bare.pt", *MODEL, "--images", "rotated.txt", "--class-order", "order.json")
    other = page("bare.pt", *MODEL, "--images", "rotated.txt", "--class-order", "label")
    Path("order.json").write_text("[2, 0, 1]")
    back = page("bare.pt", *MODEL, "--images", "rotated.txt", "--class-order", "order.json")
    assert [mean in f["accuracy now"] for f in (facts, other, back)].count(True) == 1
    assert mean not in other["accuracy now"] and other["class order"] == "label order"
    assert facts["class order"] == "as given: 1, 2, 0"
