"""Methods, operations, data sets, networks and families of other packages, in Python and on the command line."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sharpness
from sharpness import UserError, load_checkpoint, load_data
from sharpness.checkpoints import FAMILIES
from sharpness.cli import main
from sharpness.data import DATASETS
from sharpness.extensions import imported
from sharpness.flattening import OPERATIONS
from sharpness.methods import METHODS
from sharpness.models import BACKBONES

CODE = """
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn

from sharpness.data import load_digits_lt
from sharpness.checkpoints.families import Family, Reading
from sharpness.checkpoints.manifest import Manifest, Network
from sharpness.flattening import SAM
from sharpness.methods import Recipe
from sharpness.methods.cross_entropy import BASELINE
from sharpness.steps import Loss


@dataclass(frozen=True)
class Squared(Loss):
    \"\"\"(1 - p_y)^2, every sample alike.\"\"\"

    power: float = 2.0

    def terms(self, logits, labels, context):
        right = logits.softmax(dim=1).gather(1, labels[:, None])[:, 0]
        return (1 - right) ** self.power, torch.ones_like(right)


def recipe(longtail, power=2.0):
    return Recipe("squared", "nobody", (replace(BASELINE, loss=Squared(power)),))


recipe.label = "Squared loss"


@dataclass(frozen=True)
class HalfSAM(SAM):
    paper: ClassVar[str] = "nobody"
    deviations: ClassVar[tuple[str, ...]] = ()


def small(imbalance=10.0, profile="exp", subset="ldam_seed0", groups="oltr"):
    data = load_digits_lt(profile, imbalance, subset, groups)
    return replace(data, longtail=replace(data.longtail, dataset="small-lt"))


def network(num_classes, width=16):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Tanh(), nn.Linear(width, num_classes))


class Backbone(nn.Module):
    def __init__(self, in_channels):
        super().__init__()
        self.num_features = 12
        self.layer = nn.Conv2d(in_channels, 12, 8)

    def forward(self, x):
        return self.layer(x).flatten(1).tanh()


def read(content, path, options):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    model.load_state_dict(content["ours"])
    return Reading(model.eval(), Manifest(Network("linear", 10, 1), family="theirs"))


FAMILY = Family("theirs", lambda content: isinstance(content, dict) and "ours" in content, read)
"""
OFFERED = """
[sharpness.methods]
squared = extension_pack:recipe
[sharpness.operations]
half-sam = extension_pack:HalfSAM
[sharpness.datasets]
small-lt = extension_pack:small
[sharpness.models]
flat = extension_pack:Backbone
[sharpness.checkpoints]
theirs = extension_pack:FAMILY
"""


@pytest.fixture
def module(tmp_path_factory, monkeypatch):
    """A module that can be imported and which no installed package offers; what was named of it is forgotten again."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "extension_pack.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{':'.join(p for p in sys.path if p)}")
    yield folder
    for registry in (METHODS, OPERATIONS, DATASETS, BACKBONES, FAMILIES):
        for name in [name for name in registry._things if name not in registry.built_in()]:
            del registry[name]
    sys.modules.pop("extension_pack", None)


@pytest.fixture
def package(module, monkeypatch):
    """The same as an installed package that offers everything of it."""
    info = module / "extension_pack-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extension_pack\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(OFFERED)
    monkeypatch.syspath_prepend(str(module))  # the search path has changed


def forget():
    for registry in (METHODS, BACKBONES):
        for name in [name for name in registry._things if name not in registry.built_in()]:
            del registry[name]
    sys.modules.pop("extension_pack", None)


def test_an_installed_package_extends_everything(package, tmp_path):
    data = load_data("small-lt", imbalance=20)
    assert data.longtail.dataset == "small-lt" and data.longtail.imbalance == 20
    history = sharpness.train(
        "squared", data, tmp_path / "run", epochs=2, model="flat", flatten=("half-sam:0.2",), power=3.0
    )
    assert history.loss.between(0, 1).all()
    forget()
    read = load_checkpoint(tmp_path / "run")
    assert (read.label, read.manifest.method_source) == ("Squared loss+half-sam:0.2", "extension_pack:recipe")
    assert read.manifest.model.source == "extension_pack:Backbone"
    objective = sharpness.checkpoint_objective(read, loss="training")
    with torch.no_grad():
        right = read.model(objective.x.float()).double().softmax(1)[torch.arange(len(objective.y)), objective.y]
    assert objective.loss() == pytest.approx((1 - right).pow(3).mean().item(), rel=1e-6)


def test_a_family_of_a_package_reads_its_own_files_and_leaves_those_of_others(package, tmp_path):
    state = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).state_dict()
    torch.save({"ours": state}, tmp_path / "theirs.pt")
    read = load_checkpoint(tmp_path / "theirs.pt")
    assert read.manifest.family == "theirs" and torch.equal(read.model[1].weight, state["1.weight"])
    with pytest.raises(UserError, match="not of family 'theirs'"):
        torch.save(state, tmp_path / "bare.pt")
        load_checkpoint(tmp_path / "bare.pt", family="theirs")


def test_a_broken_family_does_not_keep_others_from_being_read(package, module, tmp_path, caplog):
    (module / "extension_pack.py").write_text("import nothing_of_this_name")
    torch.save({"weights": 3}, tmp_path / "odd.pt")
    with pytest.raises(UserError, match="nor of a family known here"):
        load_checkpoint(tmp_path / "odd.pt")
    assert "passed over: family 'theirs' of extension_pack: importing extension_pack:FAMILY raised" in caplog.text


@pytest.mark.parametrize("name", ["network", "Backbone"])
def test_a_network_of_ones_own_is_trained_resumed_and_read(name, module, tmp_path, monkeypatch):
    import extension_pack

    data, factory = load_data("digits-lt"), getattr(extension_pack, name)
    whole = tmp_path / "whole"
    sharpness.train("ce", data, whole, epochs=3, model=factory)
    weights = load_checkpoint(whole).model.state_dict()
    assert all(torch.isfinite(t).all() for t in weights.values())

    def stops(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        saved = sharpness.training.state.RunFolder.save
        patched.setattr(
            sharpness.training.state.RunFolder,
            "save",
            lambda folder, state: (saved(folder, state), len(state.history) == 2 and stops()),
        )
        with pytest.raises(KeyboardInterrupt):
            sharpness.train("ce", data, tmp_path / "cut", epochs=3, model=factory)
    sharpness.train("ce", data, tmp_path / "cut", epochs=3, model=f"extension_pack:{name}", resume=True)
    again = load_checkpoint(tmp_path / "cut").model.state_dict()
    assert weights.keys() == again.keys() and all(torch.equal(weights[key], again[key]) for key in weights)

    forget()
    with pytest.raises(UserError, match=f"add --model extension_pack:{name} if you trust it, in Python") as refused:
        load_checkpoint(whole)
    assert "extension_pack" not in sys.modules and "\n" not in str(refused.value)
    read = load_checkpoint(whole, model=f"extension_pack:{name}")
    assert all(torch.equal(weights[key], tensor) for key, tensor in read.model.state_dict().items())


def test_a_function_that_has_changed_is_another_run(tmp_path):
    data = load_data("digits-lt")
    widths = iter((8, 9, 8))

    def make(num_classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, w := next(widths)), nn.Linear(w, num_classes))

    try:
        sharpness.train("ce", data, tmp_path / "run", epochs=1, model=make)
        with pytest.raises(UserError, match="holds a different run .network_sha256"):
            sharpness.train("ce", data, tmp_path / "run", epochs=1, model=make)
        widths = iter((8, 8))
        read = load_checkpoint(tmp_path / "run")
        x = torch.randn(3, 1, 8, 8)
        state = read.model.state_dict()
        first = F.linear(x.flatten(1), *[v for k, v in state.items() if ".1." in k])
        expected = F.linear(first, *[v for k, v in state.items() if ".2." in k])
        assert torch.allclose(read.model(x), expected, atol=1e-6)
    finally:
        for name in BACKBONES.added():
            del BACKBONES[name]


@pytest.mark.parametrize(
    ("method", "options", "told"),
    [
        ("ldam-drw", {}, "is whole and the method has a cosine head: let the factory take no num_classes"),
        ("crt", {}, "trains the head alone, and model .* is whole"),
        ("ce", {"flatten": ("sn",)}, "normalises the weights of backbone and head"),
        ("ce", {"flatten": ("pof",)}, "trains the backbone alone"),
    ],
)
def test_a_whole_network_is_refused_at_once_where_the_head_is_needed(module, tmp_path, method, options, told):
    with pytest.raises(UserError, match=told):
        sharpness.train(method, load_data("digits-lt"), tmp_path / "run", model="extension_pack:network", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", list(METHODS.built_in()))
@pytest.mark.parametrize("name", ["network", "Backbone"])
def test_every_method_trains_a_network_of_ones_own_or_says_in_one_line_why_not(module, tmp_path, method, name):
    try:
        history = sharpness.train(
            method, load_data("digits-lt"), tmp_path / "run", epochs=1, model=f"extension_pack:{name}", batch_size=64
        )
        assert history.test_loss.notna().all()
    except UserError as error:
        assert "\n" not in str(error) and ("num_features" in str(error) or "groups of blocks" in str(error))
        assert name == "network" or method == "rsg"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (nn.Linear(2, 2), "a Linear is not a function or class that makes a network anew"),
        (lambda num_classes: nn.Flatten(), r"returned \(2, 64\) for 2 images: return logits \(2, 10\)"),
        (lambda num_classes: nn.Linear(3, num_classes), "does not take images of 1 x 8 x 8: it raised RuntimeError"),
        (lambda: nn.Flatten(), "has no num_features"),
        (lambda num_classes: 3, "returned a int: return a torch.nn.Module"),
    ],
)
def test_what_is_no_network_for_the_data_is_told_in_one_line(make, told, tmp_path):
    with pytest.raises(UserError, match=told) as refused:
        sharpness.train("ce", load_data("digits-lt"), tmp_path / "run", model=make)
    assert "\n" not in str(refused.value)
    for name in BACKBONES.added():
        del BACKBONES[name]


def test_a_name_inside_of_what_has_no_names_is_told_in_one_line():
    with pytest.raises(UserError, match="math.pi has no 'x', it has nothing to call"):
        imported("math:pi.x", "model", "package.module:factory")


def test_a_card_names_a_method_that_reading_never_imports(module, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--method", "extension_pack:recipe", "--epochs", "1", "--out", "run"]) == 0
    forget()
    command = ["measure", "run", "--measures", "loss", "--loss", "training", "--limit-per-class", "4"]
    assert main(command) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "add --method extension_pack:recipe if you trust it" in said and "extension_pack" not in sys.modules
    assert main([*command, "--method", "extension_pack:recipe"]) == 0
    assert "measuring loss of Squared loss" in capsys.readouterr().err
    forget()
    assert main(["measure", "run", "--measures", "loss", "--method", "extension_pack:recipe"]) == 2
    assert "add --loss training" in capsys.readouterr().err
    with pytest.raises(UserError, match="add --method extension_pack:recipe"):
        sharpness.checkpoint_objective("run", loss="training")


def test_the_command_line_lists_what_is_installed_and_imports_none_of_it(package):
    code = (
        "import sys; from sharpness.cli import main; main(['train', '--help']); "
        "assert not {'torch', 'extension_pack'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    told = " ".join(shown.split())
    assert "Installed: squared." in told and "Installed: half-sam." in told and "Installed: small-lt." in told


@pytest.mark.usefixtures("forked_pools")
def test_workers_find_a_method_by_its_place_and_what_was_registered(module, tmp_path):
    import extension_pack

    from sharpness.studies import make_flattening_study

    METHODS.register("mine", extension_pack.recipe)
    METHODS.register("nowhere", lambda longtail: extension_pack.recipe(longtail))
    small = {"epochs": 1, "model": extension_pack.Backbone, "draws": 2, "max_iterations": 3, "limit_per_class": 2}
    data = load_data("digits-lt")
    methods = ("extension_pack:recipe", "mine")
    make_flattening_study(data, methods, ("none", "sam"), (0,), tmp_path / "out", tmp_path / "runs", jobs=2, **small)
    assert len(list((tmp_path / "runs").rglob("last.pt"))) == 4
    with pytest.raises(UserError, match="method 'nowhere' is defined where other processes do not find it"):
        make_flattening_study(
            data, ("nowhere", "ce"), ("none", "sam"), (0,), tmp_path / "out2", tmp_path / "runs", jobs=2, **small
        )
