"""What stages leave of a network: trained in two epochs, killed anywhere, reloaded; every re-balancing method."""

import json
import math

import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from sharpness import checkpoint_objective, load_checkpoint, train
from sharpness.methods import build_recipe
from sharpness.methods.changes import NewHead
from sharpness.models import build_model
from sharpness.training import loop as loop_module, run as run_module
from sharpness.training.loop import enter, entry_context, make_optimizer
from sharpness.training.state import RunFolder, epoch_generator

#: Method, options, epochs of its stages.
RUNS = {
    "ce-drw": ("ce-drw", {}, (2,)),
    "re-weighted": ("ce-drw", {"deferred": False}, (2,)),
    "focal": ("focal", {}, (2,)),
    "balanced-softmax": ("balanced-softmax", {}, (2,)),
    "decoupled": ("balanced-softmax", {"decoupled": True}, (2, 2)),
    "logit-adjustment": ("logit-adjustment", {}, (2,)),
    "post-hoc": ("logit-adjustment", {"posthoc": True}, (2, 0)),
    "crt": ("crt", {}, (2, 2)),
    "lws": ("lws", {}, (2, 2)),
    "tau-norm": ("tau-norm", {}, (2, 0)),
}
DEATHS = [(run, n) for run, (_, _, epochs) in RUNS.items() for n in range(1, sum(max(1, e) for e in epochs) + 1)]


@pytest.fixture
def start(digits, shorten):
    def run(name, out, **more):
        method, options, epochs = RUNS[name]
        shorten(method, *epochs)
        return train(method, digits, out, seed=2, batch_size=95, **options, **more)

    return run


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return {}, tmp_path_factory


@pytest.fixture
def finished(start, kept):
    """The folder of a run that nobody interrupted, and its snapshots, made once a name."""
    folders, factory = kept

    def get(name):
        if name not in folders:
            out = factory.mktemp(name) / "run"
            start(name, out, snapshots=1)
            folders[name] = out
        return folders[name]

    return get


def snapshot(run, epochs):
    return torch.load(run / "snapshots" / f"epoch-{epochs:04d}.pt", weights_only=True)["state_dict"]


@pytest.mark.every(3)
@pytest.mark.parametrize(("name", "n"), DEATHS)
def test_a_run_killed_after_any_save_ends_in_the_same_weights(
    start, finished, tmp_path, killed_after, weights, identical, name, n
):
    expected = finished(name)
    with killed_after(n), pytest.raises(KeyboardInterrupt):
        start(name, tmp_path / "run")
    history = start(name, tmp_path / "run", resume=True)
    identical(weights(tmp_path / "run"), weights(expected))
    pd.testing.assert_frame_equal(history, pd.read_csv(expected / "history.csv"), check_exact=True)


@pytest.mark.parametrize("name", RUNS)
def test_the_checkpoint_returns_the_logits_of_the_run(digits, finished, monkeypatch, start, tmp_path, name):
    expected, networks = finished(name), []
    save = run_module.save_checkpoint
    monkeypatch.setattr(
        run_module, "save_checkpoint", lambda path, n, *more: (networks.append(n), save(path, n, *more))
    )
    start(name, tmp_path / "run")
    x = digits.test.tensors[0][:50]
    with torch.no_grad():
        # Training is in channels-last, which adds up in another order.
        logits = networks[-1].to(memory_format=torch.contiguous_format).eval()(x)
        loaded = load_checkpoint(tmp_path / "run")
        assert torch.equal(loaded.model(x), logits)
        assert torch.equal(load_checkpoint(expected).model(x), logits)
    last = pd.read_csv(expected / "history.csv").iloc[-1]
    with torch.no_grad():
        right = loaded.model(digits.test.tensors[0]).argmax(1) == digits.test.labels
    assert last.accuracy == pytest.approx(float(right.double().mean()))
    assert loaded.manifest.accuracy["accuracy"] == last.accuracy


@pytest.mark.parametrize("name", RUNS)
def test_probes_take_the_loss_it_was_trained_with(finished, name):
    plain = checkpoint_objective(str(finished(name)))
    trained = checkpoint_objective(str(finished(name)), loss="training")
    assert math.isfinite(plain.loss())
    assert math.isfinite(trained.loss())
    changed = name not in ("crt", "lws", "tau-norm")
    assert (trained.loss() != pytest.approx(plain.loss(), rel=1e-6)) is changed


def test_the_classifier_alone_is_trained_anew(finished):
    """Not even BatchNorm's counters move in the second stage."""
    for name in ("crt", "decoupled"):
        before, after = snapshot(finished(name), 2), snapshot(finished(name), 4)
        assert before.keys() == after.keys()
        for key in before:
            assert torch.equal(before[key], after[key]) is key.startswith("backbone."), key


def test_batchnorm_follows_the_sampler_if_asked(digits, shorten, tmp_path):
    shorten("lws", 1, 1)
    train("lws", digits, tmp_path / "run", snapshots=1, shift_batchnorm=True)
    before, after = snapshot(tmp_path / "run", 1), snapshot(tmp_path / "run", 2)
    moved = {key.rpartition(".")[2] for key in before if key.startswith("backbone.")
             and not torch.equal(before[key], after[key])}  # fmt: skip
    assert moved == {"running_mean", "running_var", "num_batches_tracked"}


def test_the_factors_alone_are_learnt(finished):
    before, after = snapshot(finished("lws"), 2), snapshot(finished("lws"), 4)
    assert after.keys() - before.keys() == {"head.factor", "head.head.weight", "head.head.bias"}
    for key, tensor in before.items():
        assert torch.equal(after[key.replace("head.", "head.head.")], tensor), key
    assert (after["head.factor"] != 1).all()


def test_the_optimiser_holds_what_is_trainable_and_nesterov(digits):
    for method, expected in (("lws", ["head.factor"]), ("crt", ["head.weight", "head.bias"])):
        stage = build_recipe(method, digits.longtail).stages[1]
        network = build_model("resnet8", 10, 1)
        enter(stage, network, entry_context(stage, digits, 0, 1))
        optimizer = make_optimizer(stage, network)
        names = {p: name for name, p in network.named_parameters()}
        assert [names[p] for g in optimizer.param_groups for p in g["params"]] == expected
        assert not any(g["nesterov"] for g in optimizer.param_groups)
    (stage,) = build_recipe("logit-adjustment", digits.longtail).stages
    assert all(g["nesterov"] for g in make_optimizer(stage, build_model("resnet8", 10, 1)).param_groups)


def test_a_new_classifier_is_drawn_from_the_seed_and_the_stage(digits):
    stage = build_recipe("crt", digits.longtail).stages[1]
    heads = {}
    for key in ((0, 1), (0, 1), (1, 1), (0, 2)):
        network = build_model("resnet8", 10, 1)
        enter(stage, network, entry_context(stage, digits, *key))
        heads.setdefault(key, []).append(network.head.weight.detach().clone())
    assert torch.equal(*heads[0, 1])
    assert len({tuple(found[0].flatten().tolist()) for found in heads.values()}) == 3
    alone = build_model("resnet8", 10, 1)
    counts = torch.tensor(digits.train_counts)
    NewHead()(alone, loop_module.Context(counts, 0, 22, epoch_generator(0, 1, 0)))
    assert torch.equal(alone.head.weight, heads[0, 1][0])


def test_normalised_rows_are_those_of_the_trained_ones(finished):
    before, after = snapshot(finished("tau-norm"), 2), snapshot(finished("tau-norm"), 3)
    assert torch.allclose(after["head.weight"], F.normalize(before["head.weight"], dim=1), rtol=1e-5)
    assert not after["head.bias"].any()
    for key in before:
        assert key.startswith("head.") or torch.equal(before[key], after[key])


def test_post_hoc_logits_are_those_of_the_training_less_the_priors(digits, finished):
    run = finished("post-hoc")
    x = digits.test.tensors[0][:50]
    priors = torch.tensor(digits.train_counts).double() / len(digits.train)
    with torch.no_grad():
        before = load_checkpoint(run / "snapshots" / "epoch-0002.pt").model(x)
        after = load_checkpoint(run).model(x)
    assert torch.allclose(after.double(), before.double() - priors.log(), rtol=1e-4, atol=1e-5)
    unadjusted = checkpoint_objective(str(run / "snapshots" / "epoch-0002.pt")).loss()
    assert checkpoint_objective(str(run), loss="training").loss() == pytest.approx(unadjusted, rel=1e-5)


@pytest.mark.parametrize("name", ["post-hoc", "tau-norm"])
def test_a_stage_without_epochs_has_a_row_and_a_snapshot_of_its_own(finished, identical, weights, name):
    run = finished(name)
    history = pd.read_csv(run / "history.csv")
    assert list(history.epoch) == [1, 2, 0]
    last = history.iloc[-1]
    assert last.lr == 0
    assert math.isnan(last.loss)
    assert last.test_loss != history.test_loss[1]
    assert sorted(p.name for p in (run / "snapshots").iterdir()) == [f"epoch-{e:04d}.pt" for e in range(4)]
    identical(snapshot(run, 3), weights(run))
    assert json.loads((run / "run.json").read_text())["epochs"] == [2, 0]


def test_a_stage_without_epochs_is_tested_once_however_often_a_run_is_resumed(
    start, finished, tmp_path, killed_after, monkeypatch
):
    """Killed after the stage's own save, before the result is written."""
    with killed_after(3), pytest.raises(KeyboardInterrupt):
        start("tau-norm", tmp_path / "run")

    def dying(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunFolder, "finish", dying)
        patch.setattr(run_module, "save_checkpoint", dying)
        start("tau-norm", tmp_path / "run", resume=True)
    history = start("tau-norm", tmp_path / "run", resume=True)
    assert len(history) == 3
