"""Weights in several files with an index: read as one file, and refused in one line where files and index disagree."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sharpness import UserError, load_checkpoint
from sharpness.checkpoints import find_checkpoints


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    return tmp_path / "models" / "mine", Net().eval()


def written(folder, model, kind="safetensors", size=0, renamed=None, **changed):
    """The index of a model in two files, in which some entries of the map are changed."""
    folder.mkdir(parents=True)
    stem, save = ("model", save_file) if kind == "safetensors" else ("pytorch_model", torch.save)
    state, where = model.state_dict(), {}
    for i, part in enumerate(("first", "second"), 1):
        name = f"{stem}-0000{i}-of-00002.{kind}"
        mine = {n: t for n, t in state.items() if n.startswith(part)}
        save(mine, folder / name)
        where |= dict.fromkeys(mine, name)
    total = size or sum(t.nbytes for t in state.values())
    index = folder / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": where | (renamed or {}) | changed}))
    return index


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_folder_and_index_are_the_whole_network(folder, kind, caplog):
    folder, model = folder
    index, x = written(folder, model, kind), torch.randn(5, 4)
    for path in (folder, index):
        found = load_checkpoint(path, model=Net)
        assert torch.equal(found.model(x), model(x))
        assert found.label == "mine"
    assert find_checkpoints(folder) == find_checkpoints(folder.parent) == [index]
    assert not caplog.records
    before = found.sha256
    torch.save(model.state_dict(), folder / "optimizer.pt")
    assert find_checkpoints(folder) == [index]
    (part,) = folder.glob("*-00002-of-*")
    with pytest.raises(UserError, match="is one of several files of a model: give their index, .*index.json"):
        load_checkpoint(part, model=Net)
    with torch.no_grad():
        model.second.bias.add_(1)
    (save_file if kind == "safetensors" else torch.save)(
        {n: t for n, t in model.state_dict().items() if "second" in n}, part
    )
    assert load_checkpoint(index, model=Net).sha256 != before


def test_a_wrong_size_is_told_and_allocates_nothing(folder, caplog):
    index = written(*folder, size=2**62)
    assert torch.equal(load_checkpoint(index, model=Net).model.second.bias, folder[1].second.bias)
    assert "total_size is not the 92 bytes of its tensors" in caplog.text


NAME = "model-00001-of-00002.safetensors"


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"first.bias": "../other.safetensors"}, r"names '\.\./other\.safetensors', and its files must lie beside it"),
        ({"first.bias": "/etc/passwd"}, "must lie beside it"),
        ({"first.bias": "..\\other"}, "must lie beside it"),
        ({"first.bias": "C:other"}, "must lie beside it"),
        ({"first.bias": ".."}, "must lie beside it"),
        ({"first.bias": ""}, "must lie beside it"),
        ({"first.bias": "a\nb"}, "must lie beside it"),
        (
            {"first.bias": "model-00003-of-00003.safetensors"},
            "names model-00003.* is not beside it: fetch all of its 3",
        ),
        ({"first.bias": 3}, "without a weight_map"),
        (dict.fromkeys(("first.bias", "first.weight"), "model.safetensors.index.json"), "is JSON"),
        ({"third.bias": NAME}, rf"{NAME} lacks third.bias \(1 in all\)"),
        ({"second.bias": NAME}, f"{NAME} lacks second.bias"),
        ({"first.bias": "model-00002-of-00002.safetensors"}, f"{NAME} holds also first.bias"),
    ],
)
def test_what_does_not_fit_is_one_line(folder, entries, told):
    index = written(*folder, renamed=entries)
    with pytest.raises(UserError, match=told) as caught:
        load_checkpoint(index, model=Net)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "without a weight_map"), ('{"weight_map": {}}', "without a weight_map"), ("{", "is no JSON"),
        ('{"weight_map": {"a": "x", "a": "y"}}', "holds the key 'a' twice"), ('{"a": ' * 10**5, "is nested"),
        ('{"weight_map": {"a": "model"}, "n": 1' + "0" * 10**5 + "}", "an integer of 100,001 digits"),
    ],
)  # fmt: skip
def test_an_index_that_is_none_is_one_line(tmp_path, text, told):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match=told) as caught:
        load_checkpoint(tmp_path, model=Net)
    assert len(str(caught.value)) < 400


def test_parts_that_are_damaged_or_no_files_are_one_line(folder):
    folder, model = folder
    index = written(folder, model)
    part = folder / NAME
    whole = part.read_bytes()
    part.write_bytes(whole[:-3])
    with pytest.raises(UserError, match=f"cannot read .*{NAME}"):
        load_checkpoint(index, model=Net)
    part.unlink()
    os.mkfifo(part)
    with pytest.raises(UserError, match="is no regular file"):
        load_checkpoint(index, model=Net)
    part.unlink()
    torch.save({"first.weight": 3}, part)
    with pytest.raises(UserError, match="holds other things than tensors"):
        load_checkpoint(index, model=Net)
    part.unlink()
    blob = folder.parent / "blob"  # as the hub's cache keeps files
    blob.write_bytes(whole)
    part.symlink_to(blob)
    assert torch.equal(load_checkpoint(index, model=Net).model.first.weight, model.first.weight)
