"""Heads of foreign files: what they were trained as, told by family, layout or the user, against logits written out."""

import math
from dataclasses import astuple

import numpy as np
import pytest
import torch

from sharpness import UserError, load_checkpoint
from sharpness.cli import main
from sharpness.models import build_model

X = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
KINDS = ("linear", "cosine")
B = torch.tensor([0.3, -0.2, 0.1, 0.5, -0.4], dtype=torch.float64)


@pytest.fixture(scope="module")
def body():
    torch.manual_seed(5)
    model = build_model("resnet8", 5).double()
    model(torch.rand(20, 3, 16, 16, dtype=torch.float64))
    return model.backbone.eval()


def rows(classes=5):
    generator = torch.Generator().manual_seed(classes)
    return torch.randn(classes, 64, generator=generator, dtype=torch.float64) * torch.arange(1, classes + 1)[:, None]


def right(body, kind, w, scale, b=0.0):
    """Logits of rows w (C, d), sample by sample."""
    logits = []
    for z in body(X).detach():
        length = [z.norm() if kind in ("cosine", "unit-features") else 1.0] * len(w)
        sizes = [v.norm() if kind in ("cosine", "unit-weights") else 1.0 for v in w]
        logits.append(torch.stack([(z * v).sum() / (n * m) for v, n, m in zip(w, length, sizes, strict=True)]))
    return scale * (torch.stack(logits) + b)


def plain(body, entries):
    return {"state_dict": {**body.state_dict(), **entries}}


#: Containers by family, of a head's name and entries; LDAM's as its file of the second stage, too.
FAMILIES = {
    "plain": lambda s, h: {**s, **{f"head.{n}": t for n, t in h.items()}},
    "ldam": lambda s, h: {
        "state_dict": {**s, **{f"linear.{n}": t for n, t in h.items()}},
        "best_acc1": 1.0,
        "arch": "r",
    },
    "mislas": lambda s, h: {"state_dict_model": s, "state_dict_classifier": {f"fc.{n}": t for n, t in h.items()}},
    "oltr": lambda s, h: {"state_dict_best": {"feat_model": s, "classifier": {f"fc.{n}": t for n, t in h.items()}}},
    "swa": lambda s, h: {"state_dict": {**s, **{f"fc.{n}": t for n, t in h.items()}}, "swa_state_dict": s},
    "gcl-places": lambda s, h: {"model_state_dict": s, "classifier_state_dict": h},
    "imbsam": lambda s, h: {f"encoder.{n}": t for n, t in {**s, **{f"fc.{n}": t for n, t in h.items()}}.items()},
    "bagoftricks": lambda s, h: {
        "state_dict": {
            **{f"module.backbone.{n}": t for n, t in s.items()},
            **{f"module.classifier.{n}": t for n, t in h.items()},
        },
        "best_result": 0.78,
        "best_epoch": 190,
    },
}


@pytest.fixture
def read(tmp_path, body):
    def load(family, entries, **options):
        torch.save(FAMILIES[family](body.state_dict(), entries), tmp_path / "file.pth")
        checkpoint = load_checkpoint(tmp_path / "file.pth", **options)
        with torch.no_grad():
            return checkpoint.model(X), checkpoint.manifest

    return load


@pytest.mark.every(5)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["linear", "cosine", "unit-features", "unit-weights"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_what_is_given_decides_for_every_family_and_shape(read, body, family, kind, transposed, bias):
    w = rows()
    entries = {"weight": w.T.contiguous() if transposed else w} | ({"bias": B} if bias else {})
    for scale in (None, 7.5):
        logits, manifest = read(family, entries, head=kind, scale=scale)
        usual = 30.0 if kind == "cosine" else 1.0
        torch.testing.assert_close(logits, right(body, kind, w, scale or usual, B if bias else 0.0))
        assert manifest.model.head == kind and not manifest.head_readings
        assert manifest.head_layout == ("[d, C]" if transposed else "[C, d]")


def open_notes(manifest):
    return [note for note in manifest.notes if "does not tell whether it is linear or normalised" in note]


def test_a_file_that_leaves_it_open_says_so(read, body, caplog):
    logits, manifest = read("plain", {"weight": rows()})
    torch.testing.assert_close(logits, right(body, "linear", rows(), 1.0))
    (note,) = open_notes(manifest)
    assert "taken as linear" in note and [r.kind for r in manifest.head_readings] == ["linear", "cosine"]
    assert [r.getMessage() for r in caplog.records if note in r.getMessage()] and "file.pth" in caplog.text
    caplog.clear()
    logits, manifest = read("plain", {"weight": rows().T.contiguous()})
    torch.testing.assert_close(logits, right(body, "cosine", rows(), 30.0))
    assert "taken as cosine" in open_notes(manifest)[0] and caplog.text


def test_a_scale_alone_says_that_a_head_without_bias_is_normalised(read, body, caplog):
    logits, manifest = read("plain", {"weight": rows()}, scale=12.0)
    torch.testing.assert_close(logits, right(body, "cosine", rows(), 12.0))
    assert not open_notes(manifest) and not caplog.text
    with pytest.raises(UserError, match="has a bias, as linear ones do: give head='cosine'"):
        read("plain", {"weight": rows(), "bias": B}, scale=12.0)


@pytest.mark.parametrize(
    ("family", "transposed", "kind"),
    [("bagoftricks", False, "cosine"), ("ldam", True, "cosine"), ("gcl-places", True, "cosine")],
)
def test_what_a_familys_code_does_settles_it(read, body, caplog, family, transposed, kind):
    w = rows()
    logits, manifest = read(family, {"weight": w.T.contiguous() if transposed else w})
    torch.testing.assert_close(logits, right(body, kind, w, 30.0))
    assert not open_notes(manifest) and not caplog.text
    assert any("logit scale is not in the file: 30 is the usual one" in note for note in manifest.notes)


def test_bagoftricks_linear_heads_have_a_bias(read, body):
    logits, manifest = read("bagoftricks", {"fc.weight": rows(), "fc.bias": B, "scales": 2 * B + 3})
    torch.testing.assert_close(logits, (2 * B + 3) * (right(body, "linear", rows(), 1.0) + B))
    assert manifest.model.head == "linear+lws" and manifest.accuracy == {"accuracy": 0.78}
    assert not any("head" in note for note in manifest.notes)


@pytest.mark.parametrize(("family", "transposed"), [("plain", False), ("ldam", True), ("gcl-places", True)])
def test_a_square_head(read, body, family, transposed):
    w = rows(64)
    logits, manifest = read(family, {"weight": w})
    expected = right(body, "cosine", w.T, 30.0) if transposed else right(body, "linear", w, 1.0)
    torch.testing.assert_close(logits, expected)
    assert bool(open_notes(manifest)) == (family == "plain")
    for layout, read_as in (("[C, d]", w), ("[d,C]", w.T)):
        for kind in ("linear", "cosine"):
            logits, manifest = read(family, {"weight": w}, head=f"{kind} {layout}")
            torch.testing.assert_close(logits, right(body, kind, read_as, 30.0 if kind == "cosine" else 1.0))
            assert not open_notes(manifest)
    if family == "plain":
        readings = [astuple(r) for r in read(family, {"weight": w})[1].head_readings]
        assert {(kind, layout) for kind, layout, _ in readings} == {
            (k, at) for k in ("linear", "cosine") for at in ("[C, d]", "[d, C]")
        }


@pytest.mark.parametrize(
    ("name", "value", "scale"),
    [
        ("head.sigma", 17.5, 17.5),
        ("scale", 16.0, 16.0),
        ("head.s", 24.0, 24.0),
        ("logit_scale", math.log(100), 100.0),
        ("logit_scale", 25.0, 25.0),
        ("head.temperature", 0.05, 20.0),
        ("tau", 0.1, 10.0),
    ],
)
def test_a_scale_that_the_file_keeps_is_taken(tmp_path, body, name, value, scale):
    state = {**body.state_dict(), "head.weight": rows(), name: torch.tensor([value]).double()}
    torch.save(state, tmp_path / "f.pth")
    checkpoint = load_checkpoint(tmp_path / "f.pth")
    torch.testing.assert_close(checkpoint.model(X), right(body, "cosine", rows(), scale))
    assert any(
        "holds a logit scale" in note and "is taken and held fixed" in note for note in checkpoint.manifest.notes
    )
    given = load_checkpoint(tmp_path / "f.pth", scale=3.0)
    torch.testing.assert_close(given.model(X), right(body, "cosine", rows(), 3.0))
    linear = load_checkpoint(tmp_path / "f.pth", head="linear")
    torch.testing.assert_close(linear.model(X), right(body, "linear", rows(), scale))


def test_a_kept_scale_that_is_none(tmp_path, body):
    torch.save({**body.state_dict(), "head.weight": rows(), "head.s": torch.tensor(-2.0)}, tmp_path / "f.pth")
    with pytest.raises(UserError, match=r"head.s = -2, which is no scale"):
        load_checkpoint(tmp_path / "f.pth")


@pytest.mark.parametrize("new", [False, True])
def test_weight_normalisation_is_undone(tmp_path, body, new):
    head = torch.nn.Linear(64, 5).double()
    wrapped = torch.nn.utils.parametrizations.weight_norm(head) if new else torch.nn.utils.weight_norm(head)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            parameter.mul_(1.7)
    state = {**body.state_dict(), **{f"fc.{n}": t for n, t in wrapped.state_dict().items()}}
    torch.save(state, tmp_path / "f.pth")
    checkpoint = load_checkpoint(tmp_path / "f.pth")
    torch.testing.assert_close(checkpoint.model(X), wrapped(body(X)))
    assert any("weight_norm" in note for note in checkpoint.manifest.notes)


def test_what_is_no_head(read, tmp_path):
    for head, told in (
        ("normalised", "unknown head 'normalised': choose one of linear, cosine"),
        ("cosine [d]", "unknown layout of head"),
        ("cosine [d, C]", r"stored as \[C, d\]: leave that out"),
    ):
        with pytest.raises(UserError, match=told):
            read("plain", {"weight": rows()}, head=head)
    network = torch.nn.Linear(2, 3)
    torch.save(network.state_dict(), tmp_path / "own.pth")
    with pytest.raises(UserError, match=r"head \(--head\): the network for .* is given, which settles that"):
        load_checkpoint(tmp_path / "own.pth", model=network, head="linear")


def test_readings_of_a_checkpoint(tmp_path, body):
    torch.save(plain(body, {"classifier.weight": rows(), "classifier.scales": B + 2}), tmp_path / "f.pth")
    found = load_checkpoint(tmp_path / "f.pth").readings()
    assert list(found) == ["linear", "cosine, scale 30"]
    for name, kind, scale in (("linear", "linear", 1.0), ("cosine, scale 30", "cosine", 30.0)):
        torch.testing.assert_close(found[name].model(X), (B + 2) * right(body, kind, rows(), scale))
    assert load_checkpoint(tmp_path / "f.pth", head="linear").readings() == {}


def test_inspect_shows_what_each_reading_gives(tmp_path, body, capsys):
    """Labels are the answers of the cosine head, which the file does not tell from a linear one."""
    images = torch.randint(0, 256, (60, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    features = body(images.double() / 255).detach()
    # Rows that differ in length alone win every product, and hardly any angle.
    w = features[:5] * torch.tensor([1, 2, 4, 8, 16])[:, None]
    unit = torch.nn.functional.normalize
    cosines, products = unit(features) @ unit(w).T, features @ w.T
    labels = cosines.argmax(1)
    np.savez(tmp_path / "images.npz", x=images.numpy(), y=labels.numpy())
    torch.save(plain(body, {"classifier.weight": w}), tmp_path / "f.pth")
    (tmp_path / "counts.json").write_text("[5, 4, 3, 2, 1]")
    arguments = ["inspect", str(tmp_path / "f.pth"), "--images", str(tmp_path / "images.npz"), "--mean", "0,0,0"]
    arguments += ["--std", "1,1,1", "--train-counts", str(tmp_path / "counts.json")]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    told = {kind: next(line for line in captured.out.splitlines() if line.startswith(f"as {kind}")) for kind in KINDS}
    for kind, logits in (("linear", products), ("cosine", 30 * cosines)):
        right = (logits.argmax(1) == labels).double().mean()
        assert f"{100 * right:.2f} %, loss {torch.nn.functional.cross_entropy(logits, labels):.4g}" in told[kind]
    assert (products.argmax(1) == labels).double().mean() < 0.5
    assert captured.err.count("does not tell whether it is linear or normalised") == 1
    assert "with its head read as cosine, scale 30 100.0 % would be right: --head 'cosine'" in captured.out
    assert main([*arguments, "--head", "cosine"]) == 0
    captured = capsys.readouterr()
    assert "100.00 %" in captured.out and "as linear" not in captured.out and "does not tell" not in captured.err


def test_counters_of_thop_are_left_out(tmp_path, body):
    """``thop.profile`` leaves two buffers in every module; a network that has such buffers itself keeps them."""
    state = {**body.state_dict(), "fc.weight": rows(), "fc.bias": B}
    modules = {name.rpartition(".")[0] for name in state} | {""}
    counters = {f"{m}.{n}".lstrip("."): torch.zeros(1).double() for m in modules for n in ("total_ops", "total_params")}
    torch.save({"state_dict": {f"module.{n}": t for n, t in {**state, **counters}.items()}}, tmp_path / "f.pth")
    checkpoint = load_checkpoint(tmp_path / "f.pth")
    torch.testing.assert_close(checkpoint.model(X), right(body, "linear", rows(), 1.0, B))
    assert any(f"{len(counters)} counters that thop.profile left" in note for note in checkpoint.manifest.notes)
    network = torch.nn.Linear(2, 3)
    torch.save({**network.state_dict(), "total_ops": torch.ones(1)}, tmp_path / "own.pth")
    read = load_checkpoint(tmp_path / "own.pth", model=torch.nn.Linear(2, 3))
    assert torch.equal(read.model.weight, network.weight) and "thop" in str(read.manifest.notes)
    network.register_buffer("total_ops", torch.full((1,), 5.0))
    torch.save(network.state_dict(), tmp_path / "own.pth")
    read = load_checkpoint(tmp_path / "own.pth", model=network)
    assert read.model.total_ops == 5 and "thop" not in str(read.manifest.notes)
