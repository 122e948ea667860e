"""Trainings whose batches are cut into shards end in the same weights, however many processes share them."""

import functools
import json
import os
import signal
import sys

import pytest
import torch

from sharpness import load_data, train
from sharpness.cli import main
from sharpness.data import ImageSet, LongTailData
from sharpness.data.digits import digit_pools
from sharpness.engine import distributed
from sharpness.errors import UserError
from sharpness.methods import METHODS
from sharpness.methods.m2m import MajorToMinor
from sharpness.models import BACKBONES, CifarResNet
from sharpness.steps import PlainStep
from sharpness.training import epoch

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
V = 4
#: What runs in a process of its own: a call of a function of this file.
CALL = """
import sys
sys.path.insert(0, sys.argv[1])
import test_shards
sys.exit(eval("test_shards." + sys.argv[2])(*sys.argv[3:]))
"""
HERE = os.path.dirname(__file__)
#: A rule; a loss that draws, with mixup; gathered features; parameters without a gradient, and shards of other sizes.
QUICK = [("ldam-drw", ("sam",), {}), ("gcl", (), {}), ("cc-sam", (), {}), ("rsg", (), {})]
RULES = ("sam", "asam", "gp", "mp:0.01:draws=3", "imbsam", "focal-sam", "rwsam", "fs-dgpm", "swa:0", "sn", "pof")
EVERY = [
    *((method, (), {}) for method in METHODS),
    *(("ldam-drw", (rule,), {}) for rule in RULES),
    *(("gcl", (rule,), {}) for rule in ("sam", "fs-dgpm", "pof", "swa:0")),
    *(("cc-sam", (), o) for o in ({"scope": "all"}, {"scope": "last_block"}, {"released_code": True})),
    *(("cc-sam", (), {"mode": mode}) for mode in ("direction", "magnitude")),
    ("cc-sam", ("pof",), {}),
    ("mislas", ("fs-dgpm",), {"shift_batchnorm": True}),
    ("m2m", ("sam", "swa:0"), {"beta": 0.9, "gamma": 0.2, "steps": 2}),
    ("rsg", ("sam", "sn"), {}),
    ("balanced-softmax", (), {"decoupled": True}),
]


def in_float64():
    """In a process of its own: networks, images and all that is made of them, on a narrow network."""
    torch.set_default_dtype(torch.float64)
    BACKBONES["resnet8"] = BACKBONES["resnet10-cifar"] = functools.partial(CifarResNet, 8, width=4)
    normalize = ImageSet.normalize
    ImageSet.normalize = lambda images, x: normalize(images, x).double()


def few_images(name):
    if name != "digits-lt":
        return load_data(name, data_root=os.environ["GLYPHS"], size=16)
    pool, test = digit_pools()
    return LongTailData.from_pool(
        "digits-lt", pool, test.subset(list(range(0, len(test), 5))), class_names=tuple("0123456789"), profile="exp",
        imbalance=20, subset="ldam_seed0", groups="oltr", n_max=40, augmentation="crop", padding=1,
        default_model="resnet8",
    )  # fmt: skip


def train_all(cases, name, out):
    in_float64()
    distributed.start()
    data = few_images(name)
    for i, (method, flatten, options) in enumerate(eval(cases)):
        train(
            method, data, f"{out}/{i}", epochs=2, flatten=flatten, seed=1, batch_size=32, device="cpu",
            precision="float32", shards=V, **options,
        )  # fmt: skip
    distributed.stop()


def train_m2m(way, out):
    """Translate in the last two of ten epochs; write down what was prepared and how many batches were changed."""
    in_float64()
    distributed.start()
    prepare, translate, seen = MajorToMinor.for_epoch, MajorToMinor.__call__, {"prepared": 0, "changed": 0}

    def prepared(self, *given):
        seen["prepared"] += 1
        return prepare(self, *given) if way == "folded" else self

    def translated(self, network, batch, *given):
        made = translate(self, network, batch, *given)
        seen["changed"] += not torch.equal(made.x, batch.x)
        return made

    MajorToMinor.for_epoch, MajorToMinor.__call__ = prepared, translated
    train(
        "m2m", few_images("digits-lt"), f"{out}/run", epochs=10, seed=1, batch_size=32, device="cpu",
        precision="float32", shards=V, beta=0.9, gamma=0.2, steps=2,
    )  # fmt: skip
    with open(f"{out}/{distributed.rank()}.json", "w") as file:
        json.dump(seen, file)
    distributed.stop()


def command(dies, *arguments):
    """``sharpness train``, of which process ``dies`` ends in its second epoch."""
    in_float64()
    original, epochs = epoch.run_epoch, []

    def run(*given):
        epochs.append(1)
        if len(epochs) == 2 and os.environ["RANK"] == dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*given)

    sys.modules["sharpness.training.loop"].run_epoch = run
    return main(list(arguments))


def weights(folder):
    return torch.load(folder / "last.pt", weights_only=True)["state_dict"]


def difference(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def agree(cases, name, in_two_processes, tmp_path):
    for processes in (1, 2, 4):
        in_two_processes(CALL, HERE, "train_all", repr(cases), name, tmp_path / str(processes), processes=processes)
    for i, case in enumerate(cases):
        one, *others = (weights(tmp_path / str(n) / str(i)) for n in (1, 2, 4))
        assert all(t.dtype == torch.float64 for t in one.values() if t.is_floating_point())
        for other in others:
            assert difference(one, other) < 1e-10, case


def test_three_methods_and_a_rule_do_not_depend_on_the_number_of_processes(in_two_processes, tmp_path):
    agree(QUICK, "digits-lt", in_two_processes, tmp_path)


def test_a_transform_is_prepared_once_an_epoch_and_changes_no_number(in_two_processes, tmp_path):
    """Folded networks translate as the networks themselves do, whichever process holds a shard."""
    found = {}
    for way, processes in (("plain", 1), ("folded", 1), ("folded", 2)):
        out = tmp_path / f"{way}{processes}"
        out.mkdir()
        in_two_processes(CALL, HERE, "train_m2m", way, out, processes=processes)
        found[way, processes] = weights(out / "run")
        seen = [json.loads((out / f"{rank}.json").read_text()) for rank in range(processes)]
        assert [one["prepared"] for one in seen] == [2] * processes
        assert sum(one["changed"] for one in seen) > 0
    assert difference(found["folded", 1], found["plain", 1]) < 1e-10
    assert difference(found["folded", 2], found["plain", 1]) < 1e-10


@pytest.mark.distributed
@pytest.mark.parametrize("name", ["digits-lt", "glyphs-lt"])
@pytest.mark.parametrize("part", range(6))
def test_no_method_and_no_rule_does(in_two_processes, tmp_path, part, name):
    if name == "glyphs-lt" and "GLYPHS" not in os.environ:
        pytest.skip("GLYPHS names no folder of sharpness data make glyphs-lt")
    agree(EVERY[part::6], name, in_two_processes, tmp_path)


@pytest.mark.distributed
def test_a_lost_process_ends_all_in_one_line_and_others_go_on(in_two_processes, tmp_path):
    """Killed as one of two, resumed by four: the weights are those of one that nobody killed."""
    run = ["train", "--method", "ce", "--epochs", "3", "--shards", str(V), "--batch-size", "64", "--device", "cpu"]
    given = [CALL, HERE, "command"]
    first, second = in_two_processes(*given, "1", *run, "--out", tmp_path / "killed", end=False)
    second.killed()
    first.process.join(60)
    assert first.process.exitcode == 2
    (line,) = first.errors().splitlines()
    assert "another process of this command has ended" in line
    assert "--resume" in line
    in_two_processes(*given, "none", *run, "--out", tmp_path / "killed", "--resume", processes=4)
    in_two_processes(*given, "none", *run, "--out", tmp_path / "whole", processes=1)
    assert difference(weights(tmp_path / "killed"), weights(tmp_path / "whole")) < 1e-10


def test_a_run_in_shards_says_so_and_is_another_run(few_digits, tmp_path):
    train("ce", few_digits, tmp_path / "cut", epochs=1, batch_size=32, shards=4)
    manifest = torch.load(tmp_path / "cut" / "last.pt", weights_only=True)["manifest"]
    assert "batches of 32 in 4 shards, of which BatchNorm sees one" in str(manifest)
    with pytest.raises(UserError, match=r"different run \(shards is 4, asked for None\)"):
        train("ce", few_digits, tmp_path / "cut", epochs=1, batch_size=32)
    train("ce", few_digits, tmp_path / "whole", epochs=1, batch_size=32)
    assert "shards" not in (tmp_path / "whole" / "run.json").read_text()
    assert difference(weights(tmp_path / "cut"), weights(tmp_path / "whole")) > 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shards": 0}, "shards=0: give an integer, at least 1"),
        ({"shards": 9, "batch_size": 16}, "shards=9: batches of 16 .* batch_size=18 or more, or shards=8 or fewer"),
        ({"shards": 80, "batch_size": 500}, "shards=80: 131 training images .*: give shards=65 or fewer"),
    ],
)
def test_shards_that_batches_do_not_give_are_refused(few_digits, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        train("ce", few_digits, tmp_path / "run", epochs=1, **options)
    assert not (tmp_path / "run").exists()


def test_processes_that_do_not_divide_the_shards_are_refused(few_digits, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    for shards, remedy in ((1, r"shards=3 \(--shards 3\).* 1 processes"), (4, r"shards=6 .* 1 or 2 or 4 processes")):
        with pytest.raises(UserError, match=f"3 processes cannot share {shards} shard.*: give {remedy}"):
            train("ce", few_digits, tmp_path / "run", epochs=1, shards=shards, batch_size=32)


def test_a_rule_that_takes_whole_batches_is_refused(few_digits, tmp_path, monkeypatch):
    monkeypatch.setattr(PlainStep, "sharded", False)
    with pytest.raises(UserError, match="PlainStep takes whole batches: give shards=1"):
        train("ce", few_digits, tmp_path / "run", epochs=1, shards=2, batch_size=32)


def test_a_command_without_work_to_share_is_refused_under_torchrun(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(distributed, "start", lambda: None)
    assert main(["evaluate", "runs/ce/last.pt"]) == 2
    assert capsys.readouterr().err == (
        "sharpness: sharpness evaluate has nothing for 2 processes to share: start it without torchrun\n"
    )
