"""What a finished run's checkpoint says of itself, and what ``sharpness inspect`` prints of it."""

import pytest

from sharpness import load_checkpoint, train
from sharpness.checkpoints import save_checkpoint
from sharpness.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory, digits):
    out = tmp_path_factory.mktemp("card") / "run"
    train("mislas", digits, out, epochs=1, flatten=("sam:0.1", "sn", "pof"))
    return out


def test_the_manifest_names_operations_stages_and_deviations(run):
    saved = load_checkpoint(run)
    assert saved.label == "MiSLAS+SAM:0.1+SN+PoF"
    assert [line.partition(":")[0] for line in saved.manifest.flattening] == [
        "SAM(rho=0.1)", "SpectralNormalization()", "PoF(gamma=2.0, share=0.25, lr=0.00016)",
    ]  # fmt: skip
    names = [card["stage"] for card in saved.manifest.card]
    assert names == ["mixup", "label-aware smoothing", "post-training of the backbone"]
    assert saved.manifest.training["flatten"] == ["sam:0.1", "sn", "pof"]
    notes = " ".join(saved.manifest.notes)
    for told in (
        "ceil(N / batch)",
        "spectral normalisation",
        "1 epochs instead of 200",
        "batches of 32 instead of 128",
    ):
        assert told in notes


def test_inspect_prints_a_block_for_every_stage(run, capsys):
    assert main(["inspect", str(run)]) == 0
    printed = capsys.readouterr().out
    for i, stage in enumerate(load_checkpoint(run).manifest.card, start=1):
        block = printed[printed.index(f"stage {i} ") :].splitlines()
        assert block[0].split(maxsplit=2)[2] == stage["stage"]
        told = {line.split(maxsplit=1)[0]: line for line in block[1 : len(stage)]}
        assert all(told[about].endswith(words) and told[about].startswith("    ") for about, words in stage.items()
                   if about in told)  # fmt: skip
        assert {"loss", "step", "data", "optimiser", "schedule", "trained"} <= told.keys()
    assert "batches of 32 instead of 128" in printed and "Foret et al." in printed


def test_a_file_older_than_the_card_shows_what_it_has(run, tmp_path, capsys):
    saved = load_checkpoint(run)
    old = {k: v for k, v in saved.manifest.to_dict().items() if k not in ("card", "flattening", "model")}
    save_checkpoint(tmp_path / "old.pt", saved.model, old)
    assert main(["inspect", str(tmp_path / "old.pt")]) == 0
    printed = capsys.readouterr().out
    assert "LabelAwareSmoothing(head=0.1, tail=0.0)" in printed and "sam:0.1; sn; pof" in printed
