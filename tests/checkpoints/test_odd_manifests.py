"""Manifests of our checkpoints with odd values in every field: each command ends in one line."""

import re

import pytest
import torch

from sharpness import checkpoint_objective, load_data, train
from sharpness.cli import main
from sharpness.errors import UserError

pytestmark = pytest.mark.usefixtures("shallow_resnet8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shallow_resnet8):
    out = tmp_path_factory.mktemp("trained")
    train("ldam-drw", load_data("digits-lt"), out / "run", epochs=1, seed=1)
    return out / "run" / "last.pt"


def content(path):
    """What an earlier version wrote, whose files have no checksum."""
    return {k: v for k, v in torch.load(path, weights_only=True).items() if k != "checksum"}


ODD = [None, "x", -1, 2**70, float("nan"), float("inf"), [], {}, [None], {"x": None}, True, "\x1b[2J"]


@pytest.mark.every(3)
@pytest.mark.parametrize(
    "field",
    ["method", "label", "options", "stages", "card", "notes", "training", "longtail", "data_sha256", "normalization",
     "accuracy", "epoch", "loss", "paper", "flattening", "family", "head_readings", "class_order"],
)  # fmt: skip
def test_odd_fields_of_a_manifest_end_in_one_line(tmp_path, trained, field, capsys):
    """All commands that read manifests, of a file without and with the field."""
    whole = content(trained)
    others = {k: v for k, v in whole["manifest"].items() if k != field}
    for number, odd in enumerate([*ODD, "missing"]):
        path = tmp_path / f"{number}.pt"
        torch.save({**whole, "manifest": others if odd == "missing" else {**others, field: odd}}, path)
        assert main(["inspect", str(path)]) in (0, 2)
        told = capsys.readouterr().err.strip()
        assert told.count("\n") == 0 and "Traceback" not in told
        for loss in ("ce", "training"):
            try:
                checkpoint_objective(path, loss=loss, limit_per_class=1)
            except UserError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize("parent", ["longtail", "training", "normalization", "accuracy"])
def test_odd_values_inside_a_manifest_end_in_one_line(tmp_path, trained, parent, capsys):
    whole = content(trained)
    values = whole["manifest"][parent]
    # Every class has an accuracy: that of one stands for all.
    for field in (name for name in values if not re.fullmatch("accuracy_class_[1-9]", name)):
        others = {k: v for k, v in values.items() if k != field}
        for number, odd in enumerate([*ODD, "missing"]):
            path = tmp_path / f"{number}.pt"
            inside = others if odd == "missing" else {**others, field: odd}
            torch.save({**whole, "manifest": {**whole["manifest"], parent: inside}}, path)
            assert main(["inspect", str(path)]) in (0, 2), (field, odd)
            assert capsys.readouterr().err.strip().count("\n") == 0
            try:
                checkpoint_objective(path, loss="training", limit_per_class=1)
            except UserError as error:
                assert "\n" not in str(error)
