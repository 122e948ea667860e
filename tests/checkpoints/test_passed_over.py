"""Files that hold objects of others' classes: the weights are read, nothing is imported, what is left out is named."""

import functools
import logging
import pickle
import sys
import types
from collections import OrderedDict, defaultdict, deque
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sharpness import Objective, UserError, interpolate, load_checkpoint, plane_through, trajectory
from sharpness.checkpoints import read_safely
from sharpness.untrusted.powers import may_be_passed_over


class Experts(nn.Module):
    """A network that holds what pickles of networks hold: a list of parts, a buffer that is not saved, a tied part."""

    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.heads = nn.ModuleList(nn.Linear(width, 3) for _ in range(2))
        self.again = self.heads[0]
        self.register_buffer("scratch", torch.zeros(2), persistent=False)
        self.act, self.parts = torch.nn.functional.relu, {"sizes": [1, 2]}

    def forward(self, x):
        h = self.act(self.norm(self.conv(x))).mean((2, 3))
        return sum(head(h) for head in self.heads) + self.again(h)


@pytest.fixture
def foreign(monkeypatch):
    """A module that is gone when the file is read, as a repository's own is."""
    module = types.ModuleType("parse_config")
    source = """
from types import SimpleNamespace
class ConfigParser:
    def __init__(self, **more): self.__dict__.update(more)
    def step(self): raise AssertionError("this was run")
class AttrDict(dict):
    def __init__(self, *a, **k): super().__init__(*a, **k); self.__dict__["frozen"] = True
class Args(list): pass
class Touch:
    def __reduce__(self): return touch, ()
def touch(): raise AssertionError("this was run")
"""
    exec(source, module.__dict__)
    for name in ("ConfigParser", "AttrDict", "Args", "Touch", "touch"):
        getattr(module, name).__module__ = "parse_config"
    monkeypatch.setitem(sys.modules, "parse_config", module)
    return module


@pytest.mark.parametrize("legacy", [False, True], ids=["archive", "legacy"])
def test_weights_beside_arrays_of_objects_and_times_are_read(tmp_path, legacy):
    day, model = np.datetime64("2020-01-01"), network()
    content = {
        "state_dict": model.state_dict(),
        "names": np.array(["cat", None], dtype=object),
        "days": [day, day[None]],
    }
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    checkpoint = load_checkpoint(tmp_path / "a.pt", model=Experts)
    assert same(checkpoint, model) and "names (numpy.ndarray)" in " ".join(checkpoint.manifest.notes)
    with pytest.raises(UserError, match="which are neither numbers nor text"):
        read_safely(tmp_path / "a.pt")


def save(content, path):
    torch.save(content, path)
    sys.modules.pop("parse_config", None)
    return path


def network(seed=0):
    torch.manual_seed(seed)
    made = Experts().eval()
    made(torch.randn(8, 1, 6, 6))
    return made


def same(checkpoint, model):
    ours, theirs = checkpoint.model.state_dict(), model.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in theirs)


OTHERS = {
    "RIDE's config": lambda m: m.ConfigParser(
        resume=None, save_dir=Path("saved"), modification=defaultdict(list, a=[1])
    ),
    "Lightning's partials": lambda m: {"optimizer": functools.partial(torch.optim.SGD, lr=0.1), "lr": 0.1},
    "a class": lambda m: {"net": m.ConfigParser, "loss": nn.CrossEntropyLoss},
    "a dict of attributes": lambda m: m.AttrDict(a=1, b=m.AttrDict(c=[1, 2])),
    "a list of its own": lambda m: m.Args([1, 2, 3]),
    "a queue": lambda m: deque([1.0, 2.0], maxlen=3),
    "a scheduler": lambda m: torch.optim.lr_scheduler.StepLR(torch.optim.SGD([torch.zeros(1)], 0.1), 3),
    "a function": lambda m: torch.nn.functional.relu,
    "a call": lambda m: m.Touch(),
    "a bound method": lambda m: {"lambda": m.ConfigParser(a=1).step, "of a dict": m.AttrDict(a=1).copy},
    "a loss": lambda m: nn.BCEWithLogitsLoss(pos_weight=torch.ones(3)),
    "inside a tuple": lambda m: (1, [m.ConfigParser()]),
    "in a set": lambda m: {m.ConfigParser(), 1},
    "a generator of NumPy": lambda m: np.random.default_rng(0),
    "as a key": lambda m: {m.ConfigParser(): 1},
}


@pytest.mark.parametrize("legacy", [False, True], ids=["archive", "legacy"])
@pytest.mark.parametrize("kind", OTHERS)
def test_weights_beside_foreign_objects_are_read(tmp_path, foreign, kind, legacy):
    model = network()
    content = {"state_dict": nn.DataParallel(model).state_dict(), "epoch": 3, "config": OTHERS[kind](foreign)}
    if legacy and kind in ("a class", "a loss"):
        pytest.skip("of a network's part the old format keeps the source, which nothing passes over")
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    sys.modules.pop("parse_config")
    checkpoint = load_checkpoint(tmp_path / "a.pt", model=Experts)
    assert same(checkpoint, model) and checkpoint.manifest.epoch == 3
    named = any("config (" in note or "under config" in note for note in checkpoint.manifest.notes)
    assert named != (kind in ("a dict of attributes", "a list of its own", "a queue"))  # these are plain then
    assert "parse_config" not in sys.modules
    with pytest.raises(UserError, match="nothing in it was run: save the weights alone"):
        read_safely(tmp_path / "a.pt")


def test_what_was_passed_over_is_named(tmp_path, foreign, caplog):
    path = save({"state_dict": network().state_dict(), "config": foreign.ConfigParser()}, tmp_path / "a.pt")
    with caplog.at_level(logging.INFO, "sharpness"):
        notes = load_checkpoint(path, model=Experts).manifest.notes
    assert any("config (parse_config.ConfigParser)" in note for note in notes)
    assert "config (parse_config.ConfigParser)" in caplog.text


WHOLE = {
    "alone": lambda m: m,
    "in a dict": lambda m: {"model": m, "epoch": 1},
    "parallel": nn.DataParallel,
    "in half precision": lambda m: {"net": m.half()},
}


@pytest.mark.parametrize("how", WHOLE)
def test_a_whole_network_gives_its_weights(tmp_path, how):
    torch.save(WHOLE[how](model := network()), tmp_path / "whole.pt")
    assert same(load_checkpoint(tmp_path / "whole.pt", model=Experts), model.float())


def test_the_weights_of_a_whole_network_are_what_its_state_dict_holds(tmp_path):
    torch.save(model := network(), tmp_path / "whole.pt")
    read = read_safely(tmp_path / "whole.pt", foreign=True)
    assert list(read) == list(model.state_dict())


@pytest.mark.parametrize(
    "name",
    [
        "os.system", "posix.mkdir", "builtins.eval", "builtins.getattr", "subprocess.run", "pickle.loads", "torch.load",
        "numpy.savetxt", "json.loads", "functools.reduce", "importlib.import_module", "dill.loads", "torch.hub.load",
        "joblib.load", "requests.get", "a name made up while loading", "a.\x1b[2J", "nt.system", "torch.jit.load",
    ],
)  # fmt: skip
def test_what_can_act_ends_the_reading(name):
    assert not may_be_passed_over(name)


def test_nothing_that_torch_would_make_itself_is_passed_over():
    from torch._weights_only_unpickler import _get_allowed_globals

    assert not [name for name in _get_allowed_globals() if may_be_passed_over(name)]


def test_a_weight_cannot_be_made_of_a_foreign_object(tmp_path, foreign):
    class Weight:
        def __reduce__(self):
            return torch._utils._rebuild_parameter, (foreign.ConfigParser(), True, OrderedDict())

    with pytest.raises(UserError, match="cannot read .*: it "):
        load_checkpoint(save({"state_dict": {"w": Weight()}}, tmp_path / "a.pt"), model=Experts)


def test_a_network_that_holds_itself_is_refused(tmp_path):
    model = network()
    model._modules["inner"] = nn.Sequential()
    model._modules["inner"]._modules["0"] = model
    torch.save(model, tmp_path / "a.pt")
    with pytest.raises(UserError, match="nested more than 100 levels deep"):
        load_checkpoint(tmp_path / "a.pt", model=Experts)


def test_a_network_of_far_more_modules_than_the_file_is_long_is_refused(tmp_path):
    inner = nn.Sequential()
    for _ in range(40):
        inner = nn.Sequential(inner, inner)
    torch.save(inner, tmp_path / "a.pt")
    with pytest.raises(UserError, match="far more modules than it holds"):
        load_checkpoint(tmp_path / "a.pt", model=Experts)


def test_a_network_of_far_longer_names_than_the_file_is_refused(tmp_path):
    name, model = "n" * 2**20, nn.Linear(1, 1)
    for _ in range(80):
        outer = nn.Linear(1, 1)
        outer._modules[name] = model
        model = outer
    torch.save(model, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size < 2**21
    with pytest.raises(UserError, match="unfolds into far more than it holds"):
        load_checkpoint(tmp_path / "a.pt", model=Experts)


def test_too_many_classes_end_the_reading(tmp_path):
    pickled = b"\x80\x02]" + b"".join(f"cmine\nClass{i}\n".encode() + b")\x81a" for i in range(100)) + b"."
    path = tmp_path / "a.pt"
    magic = pickle.dumps(torch.serialization.MAGIC_NUMBER, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    path.write_bytes(magic + pickled + pickle.dumps([], 2))
    with pytest.raises(UserError, match="mine.Class64"):
        load_checkpoint(path)


class Lift(nn.Module):
    def __init__(self, frozen=True):
        super().__init__()
        self.image_encoder = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)).requires_grad_(not frozen)
        self.tuner = nn.ModuleDict({"down": nn.Linear(5, 2), "up": nn.Linear(2, 5)})
        self.head = nn.Linear(5, 3, bias=False)

    def forward(self, x):
        h = self.image_encoder(x)
        return self.head(h + self.tuner["up"](self.tuner["down"](h)))


PARTS = {
    "parts": lambda m: {"tuner": m.tuner.state_dict(), "head": m.head.state_dict(), "epoch": 3},
    "parallel parts": lambda m: {k: nn.DataParallel(getattr(m, k)).state_dict() for k in ("tuner", "head")},
    "what is trained": lambda m: {n: p for n, p in m.named_parameters() if p.requires_grad},
    "in a state_dict": lambda m: {"state_dict": {f"module.{n}": p for n, p in m.named_parameters() if p.requires_grad}},
    "all parts": lambda m: {k: c.state_dict() for k, c in m.named_children()},
}


@pytest.mark.parametrize("how", PARTS)
def test_what_a_file_leaves_out_must_be_frozen_and_stays(tmp_path, how):
    torch.manual_seed(1)
    model, base = Lift().eval(), Lift().eval()
    base.image_encoder.load_state_dict(model.image_encoder.state_dict())
    torch.save(PARTS[how](model), tmp_path / "a.pt")
    checkpoint = load_checkpoint(tmp_path / "a.pt", model=base)
    assert same(checkpoint, model)
    assert any("frozen entries" in note for note in checkpoint.manifest.notes) == (how != "all parts")


def test_a_part_that_is_not_frozen_must_be_there(tmp_path):
    torch.save(PARTS["parts"](Lift()), tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"missing.*image_encoder.*requires_grad_\(False\)"):
        load_checkpoint(tmp_path / "a.pt", model=lambda: Lift(frozen=False))
    load_checkpoint(tmp_path / "a.pt", model=Lift)  # the remedy
    with pytest.raises(UserError, match="parts of a network .tuner, head.: give the network that takes them"):
        load_checkpoint(tmp_path / "a.pt")


def test_an_average_alone_is_no_part(tmp_path):
    model = network()
    torch.save({"ema": model.state_dict(), "epoch": 2}, tmp_path / "a.pt")
    assert same(load_checkpoint(tmp_path / "a.pt", model=Experts, weights="ema"), model)
    with pytest.raises(UserError, match="holds no weights='model': choose one of ema"):
        load_checkpoint(tmp_path / "a.pt", model=Experts)


def test_files_of_ones_own_network_are_steps_and_ends(tmp_path):
    data = torch.randn(12, 1, 6, 6), torch.arange(12) % 3
    models = [network(s) for s in range(4)]
    files = [tmp_path / f"model_{i}.pth" for i in range(4)]
    for model, path in zip(models, files, strict=True):
        torch.save({"state_dict": nn.DataParallel(model).state_dict(), "epoch": 1}, path)
    objective = Objective(models[-1], data, batchnorm="recalibrate")
    before = {n: m.training for n, m in objective.model.named_modules()}
    assert torch.equal(trajectory(objective, files).vectors, trajectory(objective, models).vectors)
    settings = {"points": 3, "adaptive": None}
    ours = plane_through(objective, files[0], files[1], names="abc", **settings)
    theirs = plane_through(objective, models[0], models[1], names="abc", **settings)
    assert (ours.losses == theirs.losses).all()
    ends = [interpolate(objective, end, (0, 1, 3), names="ab").losses for end in (files[0], models[0])]
    assert (ends[0] == ends[1]).all()
    assert before == {n: m.training for n, m in objective.model.named_modules()}


def test_a_file_of_another_network_is_told(tmp_path):
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "other.pth")
    objective = Objective(network(), (torch.randn(12, 1, 6, 6), torch.arange(12) % 3))
    with pytest.raises(UserError, match="do not fit the model Experts"):
        interpolate(objective, tmp_path / "other.pth")
