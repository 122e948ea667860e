"""Another augmentation than the data set's own: what runs, folders, cards and comparisons tell of it."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from sharpness import load_checkpoint, train
from sharpness.cli import main
from sharpness.errors import UserError
from sharpness.probes.shared.as_objective import labelled_checkpoints
from sharpness.probes.shared.trainings import trainings
from sharpness.training import epoch

STRONG = "autoaugment-cutout"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, digits):
    """Cross-entropy as usual and augmented strongly, two seeds each."""
    root = tmp_path_factory.mktemp("augmented")
    for seed in (0, 1):
        train("ce", digits, root / f"usual-{seed}", epochs=1, seed=seed)
        train("ce", digits, root / f"strong-{seed}", epochs=1, seed=seed, augmentation=STRONG)
    return root


def test_batches_are_augmented_by_what_is_asked_for(digits, tmp_path, monkeypatch):
    seen = []
    batches = epoch.augment_batches
    monkeypatch.setattr(epoch, "augment_batches", lambda *given: seen.append(given[2]) or batches(*given))
    train("ce", digits, tmp_path / "a", epochs=1, augmentation="none")
    assert set(seen) == {"none"}
    seen.clear()
    train("ce", digits.augmented(STRONG), tmp_path / "b", epochs=1)
    assert set(seen) == {STRONG}


def test_another_augmentation_trains_other_weights_and_the_usual_one_by_name_the_same(runs, digits, tmp_path):
    usual, strong = (load_checkpoint(runs / name).model.state_dict() for name in ("usual-0", "strong-0"))
    assert any(not torch.equal(usual[k], strong[k]) for k in usual)
    train("ce", digits, tmp_path / "named", epochs=1, augmentation="crop")
    assert (tmp_path / "named" / "run.json").read_text() == (runs / "usual-0" / "run.json").read_text()
    named = load_checkpoint(tmp_path / "named").model.state_dict()
    assert all(torch.equal(usual[k], named[k]) for k in usual)


def test_a_usual_run_does_not_record_its_augmentation_so_that_older_ones_stay_valid(runs):
    assert "augmentation" not in json.loads((runs / "usual-0" / "run.json").read_text())
    assert json.loads((runs / "strong-0" / "run.json").read_text())["augmentation"] == STRONG


@pytest.mark.parametrize(("folder", "asked"), [("usual-0", STRONG), ("strong-0", None), ("strong-0", "none")])
def test_a_folder_of_another_augmentation_is_refused(runs, digits, folder, asked):
    with pytest.raises(UserError, match="different run .augmentation is"):
        train("ce", digits, runs / folder, epochs=1, augmentation=asked)


def test_without_a_folder_the_name_tells_it(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train("ce", digits, epochs=1, augmentation=STRONG)
    assert main(["train", "--method", "ce", "--epochs", "1", "--augmentation", "none"]) == 0
    found = sorted(path.name for path in Path("runs").iterdir())
    assert found == ["digits-lt-ce-autoaugment-cutout-seed0", "digits-lt-ce-none-seed0"]


def test_an_unknown_augmentation_is_refused(digits, tmp_path, capsys):
    with pytest.raises(UserError, match="cutmix.*autoaugment-cutout"):
        train("ce", digits, tmp_path / "a", augmentation="cutmix")
    assert main(["train", "--method", "ce", "--augmentation", "cutmix", "--out", str(tmp_path / "a")]) != 0
    assert "cutmix" in capsys.readouterr().err and not (tmp_path / "a").exists()


def test_label_and_card_name_it(runs, capsys):
    usual, strong = (load_checkpoint(runs / name) for name in ("usual-0", "strong-0"))
    assert (usual.label, strong.label) == ("CE", "CE (autoaugment-cutout)")
    assert [c.manifest.card[0]["augmented"] for c in (usual, strong)] == ["by crop", "by autoaugment-cutout"]
    main(["inspect", str(runs / "strong-0")])
    assert "by autoaugment-cutout" in capsys.readouterr().out


def test_runs_of_another_augmentation_are_another_label(runs):
    found = labelled_checkpoints([runs])
    assert {label: len(entry) for label, entry in found.items()} == {"CE": 2, "CE (autoaugment-cutout)": 2}
    with pytest.raises(UserError, match="trainings of augmentation"):
        trainings({"CE": [runs / "usual-0", runs / "strong-1"]})


def test_a_study_has_its_own_folders_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--study", "flattening", "--methods", "ce", "--operations", "none,swa", "--seeds", "0", "--epochs", "1"]
    options += ["--limit-per-class", "1", "--jobs", "1", "--augmentation", STRONG, "--measures", "random_rise"]
    assert main(["figures", *options]) == 0
    assert "autoaugment-cutout" in capsys.readouterr().out
    folder = Path("runs/flattening/digits-lt-ce-autoaugment-cutout-seed0")
    assert load_checkpoint(folder).label == "CE (autoaugment-cutout)"
    assert list(Path("out/digits-lt").iterdir()) == [Path("out/digits-lt") / STRONG]
    assert len(pd.read_csv(folder / "history.csv")) == 1
