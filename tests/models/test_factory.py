"""A stranger's model is found by name, made, and filled with weights that fit to the last key."""

import sys

import pytest
import torch
from torch import nn

from sharpness.errors import UserError
from sharpness.models.factory import load_weights, model_from

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, depth=2, width=4):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(width, width) for _ in range(depth)])

    def forward(self, x):
        return self.layers(x)

    @classmethod
    def deep(cls):
        return cls(7)

def small(width=4):
    import helper_of_{name}
    return Net(1, width * helper_of_{name}.FACTOR)

def fails(depth):
    raise RuntimeError(f"depth {{depth}} is odd\\nand a second line")

def scripted():
    return torch.jit.script(nn.Linear(2, 2))

instance = Net(3)
number = 3
nothing = lambda: None
"""


@pytest.fixture
def name(tmp_path, monkeypatch, request):
    """A module in the current directory, with one that it imports when it is called."""
    name = f"strangers_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(CODE.format(name=name))
    (tmp_path / f"helper_of_{name}.py").write_text("FACTOR = 2\n")
    (tmp_path / f"broken_{name}.py").write_text("import torch\nraise OSError('no such disk')\n")
    (tmp_path / f"needy_{name}.py").write_text("import a_module_that_is_nowhere\n")
    monkeypatch.chdir(tmp_path)
    return name


@pytest.mark.parametrize(
    ("path", "arguments", "layers"),
    [
        ("Net", None, 2),
        ("Net", {"depth": 5, "width": 3}, 5),
        ("small", {"width": 6}, 1),
        ("instance", None, 3),
        ("Net.deep", None, 7),
    ],
)
def test_classes_functions_and_instances_are_found(name, path, arguments, layers):
    before = list(sys.path)
    model = model_from(f"{name}:{path}", arguments)
    assert isinstance(model, nn.Module) and not model.training
    assert len(model.layers) == layers
    assert sys.path == before


def test_python_objects_do_as_well():
    model = nn.Linear(2, 3)
    assert model_from(model) is model
    assert model_from(nn.Linear, {"in_features": 2, "out_features": 5}).out_features == 5
    assert model_from(lambda: model) is model


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("resnet", "write it as package.module:factory"),
        ("a:", "write it as package.module:factory"),
        (":b", "write it as package.module:factory"),
        ("./nets/mine.py:f", "name a module, nets.mine:f, from the folder"),
        ("a_module_that_is_nowhere:f", "no module a_module_that_is_nowhere here"),
        ("{name}.inner:f", r"no module {name}\.inner here"),
        ("needy_{name}:f", "importing needy_{name} needs a_module_that_is_nowhere: install it"),
        ("broken_{name}:f", "importing broken_{name} raised OSError: no such disk"),
        ("{name}:Nett", "{name} has no 'Nett', it has Net, small"),
        ("{name}:Net.wide", r"{name}\.Net has no 'wide'"),
        ("{name}:number", "a int is neither a model nor a function that makes one"),
        ("{name}:nothing", "returned a NoneType: return a torch.nn.Module"),
        ("{name}:scripted", "is TorchScript"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_what_names_no_model_is_told(name, source, message):
    with pytest.raises(UserError, match=message.format(name=name)) as caught:
        model_from(source.format(name=name))
    assert "\n" not in str(caught.value)


def test_code_that_parses_arguments_on_import_gets_its_defaults(name, tmp_path, monkeypatch):
    parses = "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument({!r}, default=3, type=int)\n"
    parses += "args = parser.parse_args()\nimport torch\nNet = lambda: torch.nn.Linear(2, args.width)\n"
    for kind, argument in (("optional", "--width"), ("required", "width")):
        (tmp_path / f"{kind}_{name}.py").write_text(parses.format(argument))
    monkeypatch.setattr(sys, "argv", given := ["sharpness", "measure", "a.pt", "--model", f"optional_{name}:Net"])
    assert model_from(f"optional_{name}:Net").out_features == 3
    with pytest.raises(UserError, match="raised SystemExit 2: put what runs as a program under if __name__"):
        model_from(f"required_{name}:Net")
    with pytest.raises(UserError, match="raised SystemExit done"):
        model_from(lambda: sys.exit("done"))
    assert sys.argv is given


@pytest.mark.parametrize(
    ("path", "arguments", "message"),
    [
        ("fails", {"depth": 3}, r"fails\(depth=3\) raised RuntimeError: depth 3 is odd$"),
        ("Net", {"dept": 3}, r"Net\(dept=3\) raised TypeError: .*unexpected keyword argument 'dept'"),
        ("fails", {}, "raised TypeError: .*missing 1 required positional argument"),
        ("instance", {"depth": 3}, "is made already and takes no arguments: leave depth out"),
    ],
)
def test_what_its_arguments_do_not_fit_is_told(name, path, arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        model_from(f"{name}:{path}", arguments)
    assert "\n" not in str(caught.value)


def test_wrappers_of_a_network_that_is_given_are_taken_off():
    plain = nn.Linear(2, 3)
    for wrapped in (nn.DataParallel(plain), torch.compile(plain), nn.DataParallel(torch.compile(plain))):
        assert model_from(wrapped) is plain


def network():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def test_weights_arrive():
    given, model = network(), network()
    assert load_weights(model, given.state_dict()) is model
    for key, value in given.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)


def test_counters_may_lack():
    state = {k: v for k, v in network().state_dict().items() if not k.endswith("num_batches_tracked")}
    load_weights(network(), state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("3.bias"), r"1 missing \(3\.bias\)$"),
        (lambda s: s.update(extra=torch.ones(1)), r"1 unexpected \(extra\)$"),
        (
            lambda s: s.update({"3.weight": torch.ones(5, 8)}),
            r"1 of another shape \(3\.weight is 5x8, the model's 3x8\)",
        ),
        (
            lambda s: s.update({"3.bias": torch.ones(3) * 1j}),
            r"3\.bias is complex64, the model's float32",
        ),
        (lambda s: s.update({"3.bias": torch.ones(3, dtype=torch.int8)}), r"3\.bias is int8, the model's float32"),
        (lambda s: s.update({"epoch": 3}), "epoch hold no tensors: give the state_dict itself"),
        (lambda s: s.update({"a\nb": torch.ones(1)}), r"1 unexpected \(a\?b\)$"),
        (lambda s: s.update({7: torch.ones(1)}), "7 hold no tensors"),
        (lambda s: s.clear(), r"8 missing \(0\.weight, 0\.bias, 1\.weight, 1\.bias and 4 more\)$"),
        (lambda s: [s.update({f"module.{k}": s.pop(k)}) for k in list(s)], r"8 missing .*; 9 unexpected"),
    ],
    ids=[
        "missing",
        "unexpected",
        "shape",
        "complex",
        "integers",
        "no tensor",
        "two lines",
        "number",
        "nothing",
        "prefix",
    ],
)
def test_weights_that_do_not_fit_are_listed_and_change_nothing(change, message):
    model, state = network(), dict(network().state_dict())
    change(state)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(UserError, match=message) as caught:
        load_weights(model, state, where="weights.pth")
    assert str(caught.value).startswith("weights.pth") and "\n" not in str(caught.value)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
