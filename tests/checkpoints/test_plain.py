"""Wrappers, prefixes and averages around one network change nothing; what does not fit is told in one line."""

import threading
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from sharpness import UserError, load_checkpoint
from sharpness.checkpoints import FAMILIES
from sharpness.models import build_model

X = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(5)
    network = build_model("resnet8", 7)
    network(torch.rand(20, 3, 16, 16))
    return network.eval()


@pytest.fixture(scope="module")
def state(network):
    """With the names of akamaster and LDAM."""
    names = {n: n.removeprefix("backbone.").replace("head.", "linear.") for n in network.state_dict()}
    return {names[n]: t for n, t in network.state_dict().items()}


def prefixed(prefix, state):
    return {prefix + n: t for n, t in state.items()}


WRAPPED = {
    "bare": lambda s: s,
    "module.": lambda s: prefixed("module.", s),
    "compiled": lambda s: prefixed("_orig_mod.", s),
    "compiled and parallel": lambda s: prefixed("module._orig_mod.", s),
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model": lambda s: {"model": prefixed("module.", s), "optimizer": {}, "args": None},
    "net": lambda s: {"net": s},
    "lightning": lambda s: {
        "state_dict": prefixed("model.", s), "pytorch-lightning_version": "2.4.0", "epoch": 3,
        "hyper_parameters": {"lr": 0.1}, "callbacks": {}, "loops": {},
    },
    "without counters": lambda s: {n: t for n, t in s.items() if "tracked" not in n},
    "layers compiled and checkpointed": lambda s: {
        n.replace("layer1.", "layer1._orig_mod.").replace("layer2.", "layer2._checkpoint_wrapped_module."): t
        for n, t in s.items()
    },
    "arrays": lambda s: {n: t.numpy() for n, t in s.items()},
    "arrays in an entry": lambda s: {"state_dict": {n: t.numpy() for n, t in s.items()}, "epoch": 3},
    "a key of anybody's": lambda s: {"net_dict": prefixed("module.", s), "acc": 0.7},
    "a dict in a dict": lambda s: {"model": {"state_dict": s}, "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
    "parts": lambda s: {
        "backbone": prefixed("module.", {n: t for n, t in s.items() if "linear" not in n}),
        "classifier": {n.removeprefix("linear."): t for n, t in s.items() if "linear" in n},
    },
    "weights of classes in the loss": lambda s: {
        "state_dict": prefixed("model.", s) | {"criterion.weight": torch.ones(7)}, "pytorch-lightning_version": "2.4.0",
    },
    "mmpretrain": lambda s: {
        "meta": {}, "state_dict": {("head." + n.replace("linear", "fc") if "linear" in n else f"backbone.{n}"): t
                                   for n, t in s.items()},
    },
    "another order": lambda s: {"model_state_dict": dict(reversed(list(s.items())))},
}  # fmt: skip


@pytest.mark.parametrize("how", WRAPPED)
def test_a_wrapper_changes_nothing(tmp_path, network, state, how):
    torch.save(WRAPPED[how](state), tmp_path / "file.pt")
    checkpoint = load_checkpoint(tmp_path / "file.pt")
    assert torch.equal(checkpoint.model(X), network(X))
    assert checkpoint.manifest.model.architecture == "resnet8"
    assert checkpoint.manifest.model.num_classes == 7
    assert checkpoint.label == "file"


def test_safetensors(tmp_path, network, state):
    save_file({n: t.contiguous() for n, t in prefixed("model.", state).items()}, tmp_path / "file.safetensors")
    checkpoint = load_checkpoint(tmp_path / "file.safetensors")
    assert torch.equal(checkpoint.model(X), network(X))
    assert checkpoint.manifest.prefix == "model."


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema"])
def test_averaged_weights_by_choice(tmp_path, network, state, key):
    average = {n: 2 * t if n == "linear.bias" else t for n, t in state.items()}
    content = {
        "state_dict": state,
        "arch": "resnet8",
        key: {"n_averaged": torch.tensor(4)} | prefixed("module.", average),
    }
    torch.save(content, tmp_path / "file.pt")
    path = tmp_path / "file.pt"
    assert torch.equal(load_checkpoint(path).model(X), network(X))
    shifted = load_checkpoint(path, weights="ema").model(X) - network(X)
    assert torch.allclose(shifted, state["linear.bias"].expand_as(shifted), atol=1e-5)
    with pytest.raises(UserError, match="weights='swa'"):
        load_checkpoint(path, weights="swa")


def test_a_shared_beginning_that_is_no_wrapper_stays(tmp_path, state):
    """Seven characters are not what counts."""
    some = {("module." if i % 2 else "") + n: t for i, (n, t) in enumerate(state.items())}
    torch.save(some, tmp_path / "file.pt")
    with pytest.raises(UserError, match="missing|no network"):
        load_checkpoint(tmp_path / "file.pt")


def test_a_network_of_another_kind_takes_weights_as_they_are(tmp_path):
    torch.manual_seed(1)
    theirs = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 9), torch.nn.Tanh(), torch.nn.Linear(9, 4))
    torch.save({"state_dict": prefixed("module.", theirs.state_dict())}, tmp_path / "file.pt")
    with pytest.raises(UserError, match="model="):
        load_checkpoint(tmp_path / "file.pt")
    blank = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 9), torch.nn.Tanh(), torch.nn.Linear(9, 4))
    checkpoint = load_checkpoint(tmp_path / "file.pt", model=blank.train())
    assert torch.equal(checkpoint.model(X), theirs(X))
    assert not checkpoint.model.training


BROKEN = {
    "missing": (lambda s: {n: t for n, t in s.items() if n != "layer2.0.bn1.weight"}, "1 missing .layer2.0.bn1.weight"),
    "unexpected": (lambda s: s | {"layer1.0.se.weight": torch.ones(2)}, "1 unexpected .layer1.0.se.weight"),
    "beside": (lambda s: s | {"projector.weight": torch.ones(2)}, "1 unexpected entries: projector.weight"),
    "shape": (lambda s: s | {"layer3.0.bn2.bias": torch.ones(3)}, "of another shape .layer3.0.bn2.bias"),
    "no head": (lambda s: {n: t for n, t in s.items() if "linear" not in n}, "no classifier"),
    "two heads": (lambda s: s | {"fc.weight": torch.ones(7, 64)}, "2 classifiers"),
    "other features": (lambda s: s | {"linear.weight": torch.ones(7, 63)}, "63"),
    "a gap": (lambda s: s | {"layer9999.9999.conv1.weight": torch.ones(1)}, "no network known here"),
    "empty convolution": (lambda s: s | {"conv1.weight": torch.ones(0, 3, 3, 3)}, "no network known here"),
    "a huge promise": (
        lambda s: s | {"conv1.weight": torch.ones(1).expand(10**6, 3, 3, 3), "bn1.weight": torch.ones(1).expand(10**6)},
        "describes a network of|cannot read",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_does_not_fit_is_told_in_one_line(tmp_path, state, how):
    change, message = BROKEN[how]
    torch.save(change(dict(state)), tmp_path / "file.pt")
    with pytest.raises(UserError, match=message) as caught:
        load_checkpoint(tmp_path / "file.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "mislas"}, "not of family 'mislas'"),
        ({"family": "resnet"}, "unknown family 'resnet'"),
        ({"num_classes": 10}, "num_classes=10.*has 7"),
        ({"scale": 30}, "linear"),
        ({"weights": "best"}, "unknown weights 'best'"),
        ({"weights": "ema"}, "weights='ema'"),
        ({"stage2": "file.pt"}, "stage2="),
    ],
)
def test_options_that_do_not_apply_are_refused(tmp_path, state, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    torch.save(state, "file.pt")
    with pytest.raises(UserError, match=message):
        load_checkpoint("file.pt", **options)


def test_reading_leaves_the_global_generator_alone(tmp_path, state):
    torch.save(state, tmp_path / "file.pt")
    before = torch.get_rng_state()
    load_checkpoint(tmp_path / "file.pt")
    assert torch.equal(torch.get_rng_state(), before)


def test_names_that_were_cut_by_their_saver_are_recognised(tmp_path, state):
    cut = {n[7:]: t for n, t in state.items()}
    torch.save({"state_dict": cut, "best_acc1": 70.0}, tmp_path / "file.pt")
    with pytest.raises(UserError, match="first 7 characters"):
        load_checkpoint(tmp_path / "file.pt")


@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_a_given_network_may_have_names_like_a_wrapper(tmp_path, prefix):
    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(48, 4)

        def forward(self, x):
            return self.net(x[:, :, :4, :4].flatten(1))

    theirs = Theirs()
    torch.save(prefixed(prefix, theirs.state_dict()), tmp_path / "file.pt")
    checkpoint = load_checkpoint(tmp_path / "file.pt", model=Theirs())
    assert torch.equal(checkpoint.model(X), theirs(X))
    assert checkpoint.manifest.prefix == prefix


class Nest(torch.nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.body = torch.nn.Linear(48, width)

    def forward(self, x):
        return self.body(x[:, :, :4, :4].flatten(1))


KEPT = Nest()
GIVEN = {"instance": Nest(), "class": Nest, "function": lambda: KEPT, "name": f"{__name__}:KEPT"}


@pytest.mark.parametrize("how", GIVEN)
def test_every_checkpoint_fills_a_network_of_its_own(tmp_path, how):
    before = {n: t.clone() for n, t in KEPT.state_dict().items()}
    states = []
    for i in range(2):
        torch.manual_seed(i)
        states.append(Nest().state_dict())
        torch.save(states[-1], tmp_path / f"{i}.pt")
    read = [load_checkpoint(tmp_path / f"{i}.pt", model=GIVEN[how]).model for i in range(2)]
    for model, state in zip(read, states, strict=True):
        assert all(torch.equal(model.state_dict()[n], t) for n, t in state.items())
    assert all(torch.equal(KEPT.state_dict()[n], t) for n, t in before.items())


BESIDE = {
    "loss": {"loss_fn.weight": torch.ones(7), "lr": torch.tensor(0.1)},
    "part of another": {"teacher.body.weight": torch.ones(4, 48)},
    "longer start": {"network.body.weight": torch.ones(4, 48)},
}


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("prefix", ["net.", "module.net.", "anything.model."])
def test_a_given_network_is_found_among_other_entries(tmp_path, prefix, beside):
    theirs = Nest()
    content = prefixed("module." * prefix.startswith("module."), BESIDE[beside]) | prefixed(prefix, theirs.state_dict())
    torch.save({"state_dict": content, "pytorch-lightning_version": "2.1.0"}, tmp_path / "file.ckpt")
    checkpoint = load_checkpoint(tmp_path / "file.ckpt", model=Nest)
    assert torch.equal(checkpoint.model(X), theirs(X))
    assert checkpoint.manifest.prefix == prefix
    (note,) = [n for n in checkpoint.manifest.notes if "entries outside" in n]
    assert note.startswith(f"{len(BESIDE[beside])} entries outside {prefix} ") and next(iter(BESIDE[beside])) in note


def test_a_given_network_that_is_there_twice_or_not_at_all_is_told(tmp_path):
    state = Nest().state_dict()
    torch.save(prefixed("net.", state) | prefixed("teacher.", state), tmp_path / "twice.pt")
    with pytest.raises(UserError, match=r"all weights of Nest 2 times \(net\., teacher\.\)"):
        load_checkpoint(tmp_path / "twice.pt", model=Nest)
    torch.save(prefixed("net.", state | {"body.extra": torch.ones(1)}), tmp_path / "more.pt")
    with pytest.raises(UserError, match=r"1 unexpected .body.extra.*state\['net.' \+ n\] for n in"):
        load_checkpoint(tmp_path / "more.pt", model=Nest)
    torch.save(prefixed("net.", {"body.weight": state["body.weight"]}), tmp_path / "less.pt")
    with pytest.raises(UserError, match="1 missing .body.bias"):
        load_checkpoint(tmp_path / "less.pt", model=Nest)


@pytest.mark.parametrize("option", [{"scale": 20.0}, {"num_classes": 4}])
def test_what_a_given_network_settles_is_refused(tmp_path, option):
    torch.save(Nest().state_dict(), tmp_path / "file.pt")
    with pytest.raises(UserError, match=f"{next(iter(option))}.*the network for .*file.pt is given"):
        load_checkpoint(tmp_path / "file.pt", model=Nest, **option)


def example(classes, **more):
    """What PyTorch's ImageNet example and the scripts made from it write, with a linear head."""
    torch.manual_seed(3)
    state = {n.removeprefix("backbone."): t for n, t in build_model("resnet8", classes).state_dict().items()}
    state = {n.replace("head.", "linear."): t for n, t in state.items()}
    return {
        "epoch": 9,
        "arch": "resnet8",
        "state_dict": state,
        "best_acc1": torch.tensor(70.0),
        "optimizer": {},
        **more,
    }


def test_an_example_of_pytorch_is_nobodys_family(tmp_path):
    torch.save(example(10), tmp_path / "model_best.pth.tar")
    manifest = load_checkpoint(tmp_path / "model_best.pth.tar").manifest
    assert (manifest.family, manifest.dataset, manifest.subset) == ("plain state_dict", None, None)
    assert (manifest.epoch, manifest.accuracy) == (9, {"accuracy": pytest.approx(0.7)})
    assert any("--family ldam" in note for note in manifest.notes)
    named = load_checkpoint(tmp_path / "model_best.pth.tar", family="ldam").manifest
    assert (named.dataset, named.subset["subset"]) == ("cifar10-lt", "ldam_seed0")


def test_a_folder_named_as_ldams_code_does_tells_the_family(tmp_path):
    (folder := tmp_path / "cifar10_resnet8_CE_None_exp_0.01_0").mkdir()
    torch.save(example(10), folder / "ckpt.best.pth.tar")
    manifest = load_checkpoint(folder).manifest
    assert (manifest.dataset, manifest.imbalance) == ("cifar10-lt", 100)
    large = build_model("resnet18", 10)
    state = {n.removeprefix("backbone.").replace("head.", "fc."): t for n, t in large.state_dict().items()}
    torch.save(example(10, state_dict=state), folder / "ckpt.best.pth.tar")
    assert load_checkpoint(folder).manifest.dataset is None, "its networks for large images are not LDAM's"


def test_a_linear_head_without_bias_is_nobodys_family(tmp_path):
    content = example(10)
    del content["state_dict"]["linear.bias"]
    torch.save(content, tmp_path / "file.pt")
    manifest = load_checkpoint(tmp_path / "file.pt").manifest
    assert (manifest.family, manifest.head_layout) == ("plain state_dict", "[C, d]")


def test_a_guessed_normalisation_is_called_a_guess(tmp_path, state):
    for classes, guessed in ((10, True), (7, False)):
        torch.save(example(classes)["state_dict"], tmp_path / "file.pt")
        manifest = load_checkpoint(tmp_path / "file.pt").manifest
        assert (manifest.normalization is not None) is guessed
        assert any(f"guess from the number of classes ({classes})" in n for n in manifest.notes) is guessed


def test_a_network_that_cannot_be_copied_is_told(tmp_path):
    torch.save(Nest().state_dict(), tmp_path / "file.pt")
    held = Nest()
    held.lock = threading.Lock()
    with pytest.raises(UserError, match="model Nest cannot be copied .TypeError: cannot pickle"):
        load_checkpoint(tmp_path / "file.pt", model=held)


def test_a_reader_that_stumbles_over_a_file_says_so(tmp_path, state, monkeypatch):
    def stumbles(*args):
        raise KeyError("momentum")

    torch.save(state, tmp_path / "file.pt")
    monkeypatch.setitem(FAMILIES, "plain", replace(FAMILIES["plain"], read=stumbles))
    with pytest.raises(
        UserError, match="file.pt looks like a file of family 'plain' and does not.*KeyError: 'momentum'"
    ):
        load_checkpoint(tmp_path / "file.pt")


@pytest.mark.parametrize("head", ["linear", "cosine", "linear+lws", "cosine+lws"])
def test_the_bare_state_of_our_own_network(tmp_path, head):
    torch.manual_seed(0)
    ours = build_model("resnet14", 6, head=head).eval()
    if head.endswith("lws"):
        torch.nn.init.uniform_(ours.head.factor)
    torch.save(ours.state_dict(), tmp_path / "file.pt")
    checkpoint = load_checkpoint(tmp_path / "file.pt")
    assert torch.equal(checkpoint.model(X), ours(X))
    assert checkpoint.manifest.model.head == head


@pytest.mark.parametrize("odd", [10**400, float("nan"), float("inf"), "ten", None, True, torch.ones(3), [1]])
def test_odd_values_beside_the_weights_are_unknown(tmp_path, state, odd):
    torch.save({"state_dict": state, "epoch": odd, "best_acc1": odd}, tmp_path / "file.pt")
    manifest = load_checkpoint(tmp_path / "file.pt").manifest
    assert (manifest.epoch, manifest.accuracy) == (None, {})


def test_counters_of_batchnorm_may_be_missing_from_files_of_a_network_given(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).eval()
    torch.save({k: v for k, v in model.state_dict().items() if "tracked" not in k}, tmp_path / "old.pt")
    read = load_checkpoint(tmp_path / "old.pt", model=model).model
    assert torch.equal(read(torch.eye(2)), model(torch.eye(2)))
    with pytest.raises(UserError, match="no checkpoint at .*: File name too long"):
        load_checkpoint(tmp_path / ("x" * 300))
    with pytest.raises(UserError, match="give its path, not a bytes"):
        load_checkpoint(b"a.pt")
