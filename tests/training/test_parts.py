"""Networks beside the network: the helper of M2m and the module of RSG, from their first epoch to the saved file."""

from dataclasses import replace

import pytest
import torch

from sharpness import load_checkpoint, load_data, train
from sharpness.checkpoints import save_checkpoint
from sharpness.errors import UserError
from sharpness.methods import build_recipe
from sharpness.methods.m2m import MajorToMinor
from sharpness.models import Frozen, build_model
from sharpness.training import epoch as epoch_module, loop as loop_module
from sharpness.training.parts import read_helper
from sharpness.training.state import RunFolder


def beginning(state, prefix):
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


OPTIONS = {"m2m": {"beta": 0.9, "gamma": 0.2, "steps": 2}, "rsg": {}}


@pytest.mark.parametrize("method", OPTIONS)
@pytest.mark.parametrize("more", [{}, {"flatten": ("sam:0.05",)}, {"precision": "bfloat16"}])
def test_the_saved_model_is_the_network_alone(digits, few_digits, tmp_path, method, more):
    data = replace(few_digits, test=digits.test)
    last = train(method, data, tmp_path / "run", epochs=2, snapshots=1, **OPTIONS[method], **more).iloc[-1]
    for path in (tmp_path / "run" / "last.pt", *(tmp_path / "run" / "snapshots").iterdir()):
        names = torch.load(path, weights_only=True)["state_dict"]
        assert {name.split(".")[0] for name in names} == {"backbone", "head"}
    saved = load_checkpoint(tmp_path / "run")
    assert saved.model.auxiliary is None
    with torch.no_grad():
        right = saved.model(digits.test.tensors[0]).argmax(1) == digits.test.labels
    tolerance = 0.02 if "precision" in more else 1e-6
    assert float(right.double().mean()) == pytest.approx(last.accuracy, abs=tolerance)
    label = {"m2m": "M2m", "rsg": "RSG"}[method]
    assert saved.label == label + ("+SAM:0.05" if "flatten" in more else "")
    assert saved.manifest.notes


def test_the_helper_is_a_run_of_cross_entropy_and_stays(digits, tmp_path, weights, identical, states):
    train("ce", digits, tmp_path / "ce", epochs=2, seed=5)
    states.clear()
    train("m2m", digits, tmp_path / "run", epochs=2, seed=5, **OPTIONS["m2m"])
    first, last = states[1], states[-1]
    assert [stage for stage, _ in states] == [0, 0, 1, 1]
    identical(first[1], weights(tmp_path / "ce"))
    identical(beginning(last[1], "auxiliary.network."), weights(tmp_path / "ce"))
    identical({n: t for n, t in last[1].items() if not n.startswith("auxiliary.")}, weights(tmp_path / "run"))


def test_the_second_network_starts_afresh_as_a_function_of_the_seed(digits, monkeypatch, tmp_path):
    starts = []

    def record(stage, run):
        starts.append({name: p.detach().clone() for name, p in run.network.named_parameters()})

    monkeypatch.setattr(loop_module, "run_stage", record)
    monkeypatch.setattr("sharpness.training.run.save_checkpoint", lambda *args: None)
    monkeypatch.setattr(RunFolder, "history", lambda folder: None)
    before = torch.get_rng_state()
    for seed in (1, 1, 2):
        train("m2m", digits, tmp_path / f"run{len(starts)}", epochs=1, seed=seed)
    assert torch.equal(torch.get_rng_state(), before)
    weight = [start["backbone.layer1.0.conv1.weight"] for start in starts]
    assert torch.equal(weight[1], weight[3])
    assert len({tuple(w.flatten()[:3].tolist()) for w in weight}) == 4
    assert all(not name.startswith("auxiliary") for name in starts[1]), "the helper has no parameters"


def test_sampling_and_translation_are_deferred(digits, tmp_path, monkeypatch):
    samplers, translated = [], []
    indices, transform = epoch_module.epoch_indices, MajorToMinor.__call__
    monkeypatch.setattr(epoch_module, "epoch_indices", lambda name, *a: (samplers.append(name), indices(name, *a))[1])

    def record(self, network, batch, images, context):
        translated.append(context.epoch)
        assert network.training
        assert isinstance(network.auxiliary, Frozen)
        return transform(self, network, batch, images, context)

    monkeypatch.setattr(MajorToMinor, "__call__", record)
    train("m2m", digits, tmp_path / "run", epochs=5, batch_size=95, steps=1)
    assert samplers == ["instance"] * 9 + ["inverse_frequency"]
    assert translated == [5] * 4


def test_a_step_of_sam_translates_once(digits, tmp_path, monkeypatch):
    calls = []
    transform = MajorToMinor.draw
    monkeypatch.setattr(MajorToMinor, "draw", lambda *args: (calls.append(1), transform(*args))[1])
    train("m2m", digits, tmp_path / "run", epochs=1, batch_size=95, flatten=("sam",), **OPTIONS["m2m"])
    assert len(calls) == 4


def test_a_trained_helper_saves_a_stage_and_is_recorded(digits, tmp_path, states, identical, weights):
    train("ce", digits, tmp_path / "ce", epochs=2)
    states.clear()
    helper = str(tmp_path / "ce")
    train("m2m", digits, tmp_path / "run", epochs=2, seed=1, helper=helper, **OPTIONS["m2m"])
    assert [stage for stage, _ in states] == [0, 0]
    identical(beginning(states[-1][1], "auxiliary.network."), weights(tmp_path / "ce"))
    manifest = load_checkpoint(tmp_path / "run").manifest
    assert manifest.training["helper_sha256"] == load_checkpoint(helper).sha256
    assert manifest.options["helper"] == helper


def test_another_helper_at_the_same_path_is_another_run(digits, tmp_path, killed_after):
    train("ce", digits, tmp_path / "ce", epochs=1)
    asked = {"epochs": 2, "helper": str(tmp_path / "ce" / "last.pt"), "steps": 1}
    with killed_after(1), pytest.raises(KeyboardInterrupt):
        train("m2m", digits, tmp_path / "run", **asked)
    train("ce", digits, tmp_path / "other", epochs=2)
    (tmp_path / "other" / "last.pt").replace(tmp_path / "ce" / "last.pt")
    with pytest.raises(UserError, match=r"different run \(helper_sha256"):
        train("m2m", digits, tmp_path / "run", resume=True, **asked)


@pytest.mark.parametrize("n", [1, 2])
def test_a_run_with_a_trained_helper_resumes_to_the_same_weights(digits, tmp_path, killed_after, weights, identical, n):
    train("ce", digits, tmp_path / "ce", epochs=1)
    asked = {"epochs": 2, "helper": str(tmp_path / "ce"), **OPTIONS["m2m"]}
    train("m2m", digits, tmp_path / "unbroken", **asked)
    with killed_after(n), pytest.raises(KeyboardInterrupt):
        train("m2m", digits, tmp_path / "run", **asked)
    train("m2m", digits, tmp_path / "run", resume=True, **asked)
    identical(weights(tmp_path / "run"), weights(tmp_path / "unbroken"))


def test_a_helper_that_does_not_fit_is_refused_before_a_folder_exists(digits, tmp_path):
    def saved(name, **changes):
        manifest = {"normalization": {"mean": list(digits.train.mean), "std": list(digits.train.std)}} | changes
        path = tmp_path / f"{name}.pt"
        save_checkpoint(
            path, build_model("resnet8", 7 if name == "classes" else 10, 3 if name == "channels" else 1), manifest
        )
        return str(path)

    for path, message in (
        (str(tmp_path / "missing"), "no checkpoint at"),
        (saved("classes"), "is for 7 classes, digits-lt has 10"),
        (saved("channels"), "does not take these images"),
        (saved("statistics", normalization={"mean": [0.5], "std": [0.5]}), "takes images normalised by"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            train("m2m", digits, tmp_path / "run", helper=path)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()
    assert read_helper(build_recipe("m2m", digits.longtail, helper=saved("fits")), digits) is not None
    assert read_helper(build_recipe("m2m", digits.longtail), digits) is None


@pytest.mark.usefixtures("two_groups")
def test_the_pair_classifier_learns_first_and_the_transfer_afterwards(digits, tmp_path, states):
    train("rsg", digits, tmp_path / "run", epochs=3)
    first, second, third = (beginning(state, "auxiliary.") for _, state in states)
    for name in first:
        early, late = not torch.equal(first[name], second[name]), not torch.equal(second[name], third[name])
        expected = {"pairs": (True, False), "transfer": (False, True)}.get(name.split(".")[0], (True, True))
        assert (early, late) == expected, name


def test_rsg_drops_incomplete_batches(digits, tmp_path):
    with pytest.raises(UserError, match="380 images fill no batch of 381"):
        train("rsg", digits, tmp_path / "run", batch_size=381)


def test_rsg_on_equal_classes_is_refused(tmp_path):
    with pytest.raises(UserError, match="take ldam-drw"):
        train("rsg", load_data("digits-lt", imbalance=1), tmp_path / "run", epochs=1)


@pytest.mark.usefixtures("two_groups")
def test_parts_of_a_stage_go_with_it(digits, tmp_path, monkeypatch, states):
    """A second stage without parts trains the network alone."""
    (stage,) = build_recipe("rsg", digits.longtail).stages
    (plain,) = build_recipe("ldam-drw", digits.longtail).stages
    recipe = replace(build_recipe("rsg", digits.longtail), stages=(replace(stage, epochs=1), replace(plain, epochs=1)))
    monkeypatch.setattr(loop_module, "build_recipe", lambda *args, **kwargs: recipe)
    train("rsg", digits, tmp_path / "run")
    assert [bool(beginning(state, "auxiliary.")) for _, state in states] == [True, False]
