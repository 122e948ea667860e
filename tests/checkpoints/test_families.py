"""Every family's container, synthesised in miniature, against a forward pass written out here on its state dict."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sharpness import Objective, UserError, load_checkpoint

C, X = 5, torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


class State(dict):
    """Random weights by name."""

    def __init__(self, seed=0):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def random(self, name, *shape):
        self[name] = torch.randn(*shape, generator=self.generator, dtype=torch.float64) * (2 / shape[-1]) ** 0.5
        return self

    def conv(self, name, outputs, inputs, size, bias=False):
        self.random(f"{name}.weight", outputs, inputs, size, size)
        self[f"{name}.weight"] /= (inputs * size) ** 0.5
        return self.random(f"{name}.bias", outputs) if bias else self

    def norm(self, name, planes):
        for part in ("weight", "bias", "running_mean", "running_var"):
            self[f"{name}.{part}"] = torch.rand(planes, generator=self.generator, dtype=torch.float64) + 0.5
        self[f"{name}.num_batches_tracked"] = torch.tensor(7)
        return self


def norm(s, x, name):
    shaped = [s[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")]
    return (x - shaped[0]) / torch.sqrt(shaped[1] + 1e-5) * shaped[2] + shaped[3]


def cifar_state(blocks=(1, 1, 1), width=4, seed=0):
    s = State(seed).conv("conv1", width, 3, 3).norm("bn1", width)
    planes = width
    for g, count in enumerate(blocks):
        for b in range(count):
            name, out = f"layer{g + 1}.{b}", width * 2**g
            s.conv(f"{name}.conv1", out, planes, 3).norm(f"{name}.bn1", out)
            s.conv(f"{name}.conv2", out, out, 3).norm(f"{name}.bn2", out)
            planes = out
    return s


def cifar_features(s, x, blocks=(1, 1, 1), append=False):
    x = norm(s, F.conv2d(x, s["conv1.weight"], padding=1), "bn1").clamp_min(0)
    for g, count in enumerate(blocks):
        for b in range(count):
            name, stride = f"layer{g + 1}.{b}", 2 if g and not b else 1
            out = norm(s, F.conv2d(x, s[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1").clamp_min(0)
            out = norm(s, F.conv2d(out, s[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if stride == 2:
                x = x[:, :, ::2, ::2]
                zeros = torch.zeros_like(x)
                half = zeros[:, : x.shape[1] // 2]
                x = torch.cat([x, zeros] if append else [half, x, half], dim=1)
            x = (out + x).clamp_min(0)
    return x.flatten(2).mean(2)


def large_state(blocks, bottleneck, groups=1, size=7, width=4, inner=None):
    inner = inner or width
    s = State(1).conv("conv1", width, 3, size).norm("bn1", width)
    planes = width
    for g, count in enumerate(blocks):
        for b in range(count):
            name, mid, wide = f"layer{g + 1}.{b}", width * 2**g, inner * 2**g
            out = 4 * mid if bottleneck else mid
            if bottleneck:
                s.conv(f"{name}.conv1", wide, planes, 1).norm(f"{name}.bn1", wide)
                s.conv(f"{name}.conv2", wide, wide // groups, 3).norm(f"{name}.bn2", wide)
                s.conv(f"{name}.conv3", out, wide, 1).norm(f"{name}.bn3", out)
            else:
                s.conv(f"{name}.conv1", mid, planes, 3).norm(f"{name}.bn1", mid)
                s.conv(f"{name}.conv2", mid, mid, 3).norm(f"{name}.bn2", mid)
            if b == 0 and (g or planes != out):
                s.conv(f"{name}.downsample.0", out, planes, 1).norm(f"{name}.downsample.1", out)
            planes = out
    return s


def large_features(s, x, blocks, bottleneck, groups=1, size=7):
    x = F.conv2d(x, s["conv1.weight"], stride=2 if size == 7 else 1, padding=size // 2)
    x = norm(s, x, "bn1").clamp_min(0)
    if size == 7:
        x = F.max_pool2d(x, 3, 2, 1)
    for g, count in enumerate(blocks):
        for b in range(count):
            n, stride, kept = f"layer{g + 1}.{b}", 2 if g and not b else 1, x
            if bottleneck:
                out = norm(s, F.conv2d(x, s[f"{n}.conv1.weight"]), f"{n}.bn1").clamp_min(0)
                out = F.conv2d(out, s[f"{n}.conv2.weight"], stride=stride, padding=1, groups=groups)
                out = norm(s, F.conv2d(norm(s, out, f"{n}.bn2").clamp_min(0), s[f"{n}.conv3.weight"]), f"{n}.bn3")
            else:
                out = F.conv2d(x, s[f"{n}.conv1.weight"], stride=stride, padding=1)
                out = F.conv2d(norm(s, out, f"{n}.bn1").clamp_min(0), s[f"{n}.conv2.weight"], padding=1)
                out = norm(s, out, f"{n}.bn2")
            if f"{n}.downsample.0.weight" in s:
                kept = norm(s, F.conv2d(x, s[f"{n}.downsample.0.weight"], stride=stride), f"{n}.downsample.1")
            x = (out + kept).clamp_min(0)
    return x.flatten(2).mean(2)


def cosine(z, w, s):
    return s * (z / z.norm(dim=1, keepdim=True)) @ (w / w.norm(dim=0))


def linear(z, w, b):
    return z @ w.T + b


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def check(path, expected, **options):
    checkpoint = load_checkpoint(path, **options)
    assert not checkpoint.model.training
    with torch.no_grad():
        assert torch.allclose(checkpoint.model(X), expected, rtol=0, atol=1e-10)
    return checkpoint


def saved(tmp_path, content, name="file.pth"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


def family_a(state, **more):
    extra = {"optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, **more}
    return {"epoch": 200, "arch": "resnet32", "state_dict": state, "best_acc1": torch.tensor(77.03), **extra}


HEAD = State(9).random("weight", C, 16).random("bias", C)
COSINE = State(8).random("weight", 16, C)["weight"]


@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
@pytest.mark.parametrize("scale", [None, 12.5])
def test_a_with_a_normalised_head(tmp_path, prefix, scale):
    s = cifar_state()
    path = saved(tmp_path, family_a(prefixed(prefix, {**s, "linear.weight": COSINE, "RSG.centre": torch.ones(2)})))
    checkpoint = check(path, cosine(cifar_features(s, X), COSINE, scale or 30), scale=scale)
    m = checkpoint.manifest
    assert (m.model.head, m.model.scale, m.head_layout) == ("cosine", scale or 30, "[d, C]")
    assert (m.prefix, m.epoch, m.stage, m.accuracy["accuracy"]) == (prefix, 200, 1, pytest.approx(0.7703))


def test_a_with_a_linear_head_and_from_its_folder(tmp_path):
    s = cifar_state((2, 1, 2))
    folder = tmp_path / "cifar10_resnet32_CE_None_exp_0.01_0"
    folder.mkdir()
    content = {**s, "linear.weight": HEAD["weight"], "linear.bias": HEAD["bias"]}
    saved(folder, family_a(content), "ckpt.best.pth.tar")
    features = cifar_features(s, X, (2, 1, 2))
    checkpoint = check(folder, linear(features, HEAD["weight"], HEAD["bias"]))
    assert checkpoint.manifest.imbalance == 100
    assert checkpoint.label == folder.name
    with pytest.raises(UserError, match="linear"):
        load_checkpoint(folder, scale=30)


def test_a_square_head_without_bias_is_normalised(tmp_path):
    s, w = cifar_state(), State(4).random("weight", 16, 16)["weight"]
    check(saved(tmp_path, family_a({**s, "linear.weight": w})), cosine(cifar_features(s, X), w, 30))


def test_a_precision_of_the_file_is_kept(tmp_path):
    s = cifar_state()
    single = {n: t.float() if t.is_floating_point() else t for n, t in {**s, "linear.weight": COSINE}.items()}
    model = load_checkpoint(saved(tmp_path, family_a(single))).model
    assert torch.allclose(model(X.float()).double(), cosine(cifar_features(s, X), COSINE, 30), atol=1e-4, rtol=1e-5)


def test_a_without_counts_of_batches(tmp_path):
    s = cifar_state()
    old = {n: t for n, t in s.items() if not n.endswith("num_batches_tracked")}
    check(saved(tmp_path, family_a({**old, "linear.weight": COSINE})), cosine(cifar_features(s, X), COSINE, 30))


@pytest.mark.parametrize("scale", [None, 25.0])
def test_gcl_in_two_files(tmp_path, scale):
    s, second = cifar_state(), State(5).random("weight", 16, C)["weight"]
    first = saved(tmp_path, family_a(prefixed("module.", {**s, "linear.weight": COSINE})))
    head = saved(tmp_path, family_a({"module.weight": second}), "head.pth")
    checkpoint = check(first, cosine(cifar_features(s, X), second, scale or 20), stage2=head, scale=scale)
    assert (checkpoint.manifest.stage, checkpoint.manifest.model.scale) == (2, scale or 20)
    with pytest.raises(UserError, match="classifier alone.*stage2="):
        load_checkpoint(head)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("stage", [1, 2])
def test_b_with_numpy_scalars(tmp_path, prefix, stage):
    s, factor = cifar_state(), State(6).random("f", 1, C)["f"]
    content = {
        "epoch": 3, "state_dict_model": prefixed(prefix, s), "best_acc1": torch.tensor(80.0),
        "state_dict_classifier": prefixed(prefix + "fc.", HEAD), "its_ece": np.float64(0.1),
    }  # fmt: skip
    expected = linear(cifar_features(s, X), HEAD["weight"], HEAD["bias"])
    if stage == 2:
        content["state_dict_lws_model"] = prefixed(prefix, {"learned_norm": factor})
        expected = factor * expected
    m = check(saved(tmp_path, content), expected).manifest
    assert (m.stage, m.model.head) == (stage, "linear" if stage == 1 else "linear+lws")


BLOCKS = (1, 2, 1, 3)


@pytest.fixture
def places():
    """Backbone, its last block apart, and features."""
    s = large_state(BLOCKS, True)
    last = "layer4.2."
    body = {n: t for n, t in s.items() if not n.startswith(last)}
    block = {n.removeprefix(last): t for n, t in s.items() if n.startswith(last)}
    return prefixed("module.", body), block, large_features(s, X, BLOCKS, True)


@pytest.mark.parametrize("outer", ["", "module.", "module.layer5.", "module.block."])
def test_b_with_a_block_apart(tmp_path, places, outer):
    body, block, z = places
    head = State(2).random("module.fc.weight", C, 128).random("module.fc.bias", C)
    parts = {"state_dict_model": body, "state_dict_block": prefixed(outer, block), "state_dict_classifier": dict(head)}
    check(saved(tmp_path, parts), linear(z, head["module.fc.weight"], head["module.fc.bias"]))


@pytest.mark.parametrize("name", ["module.weight", "module.fc.weight"])
def test_i_tells_its_stage_by_a_spelling(tmp_path, places, name):
    body, block, z = places
    block, w = prefixed("module.layer5.", block), State(2).random("w", 128, C)["w"]
    content = {"model_state_dict": body, "classifier_state_dict": {name: w}, "best_acc1": 40.0}
    first = saved(tmp_path, content | {"block_state_dict": block})
    second = saved(tmp_path, content | {"state_dict_block": block, "best_acc1": 41.0}, "second.pth")
    assert check(first, cosine(z, w, 30)).manifest.stage == 1
    assert check(second, cosine(z, w, 15)).manifest.stage == 2
    check(second, cosine(z, w, 25), scale=25)
    other = saved(tmp_path, content | {"classifier_state_dict": {name: torch.ones_like(w)}}, "other.pth")
    assert check(other, cosine(z, w, 15), stage2=second).manifest.accuracy == {"accuracy": 0.41}


@pytest.mark.parametrize(
    ("blocks", "bottleneck", "groups"), [((1, 1, 1, 1), False, 1), ((1, 2, 1, 1), True, 1), ((1, 1, 2, 1), True, 4)]
)
@pytest.mark.parametrize("key", ["state_dict_best", "state_dict"])
def test_c(tmp_path, blocks, bottleneck, groups, key):
    s = large_state(blocks, bottleneck, groups, inner=8 if groups > 1 else None)
    z = large_features(s, X, blocks, bottleneck, groups)
    head = State(2).random("fc.weight", C, z.shape[1]).random("fc.bias", C)
    parts = {"feat_model": prefixed("module.", s), "classifier": prefixed("module.", head)}
    content = {"epoch": 90, key: parts, "best_acc": 0.4, "best_epoch": 80, "centroids": None}
    expected = linear(z, head["fc.weight"], head["fc.bias"])
    path = saved(tmp_path, content)
    assert check(path, expected).manifest.accuracy == {"accuracy": 0.4}
    scales = State(3).random("scales", C)["scales"]
    second = saved(tmp_path, {key: {"classifier": {**parts["classifier"], "module.scales": scales}}}, "second.pth")
    assert check(path, scales * expected, stage2=second).manifest.model.head == "linear+lws"


LARGER = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
PLAIN = (1, 1, 1, 1)


def oltr_state(attention, layer):
    """A backbone of 32 planes, with 2x2 maps of LARGER, and OLTR's own parts."""
    s, planes = large_state(PLAIN, False), 32
    if attention:
        for name in ("g", "theta", "phi"):
            s.conv(f"modulatedatt.{name}", 16, planes, 1, True)
        s.conv("modulatedatt.conv_mask", planes, 16, 1)
        s.random("modulatedatt.fc_spatial.weight", 4, 4 * planes).random("modulatedatt.fc_spatial.bias", 4)
    if layer:
        s.random("fc_add.weight", 6, planes).random("fc_add.bias", 6)
    return s


def oltr_features(s, monkeypatch):
    """Sample by sample and position by position, on the maps before the pooling."""
    with monkeypatch.context() as context:
        context.setattr(torch.Tensor, "mean", lambda x, axis: x)
        maps = large_features(s, LARGER, PLAIN, False)
    rows = []
    for m in maps:
        if "modulatedatt.g.weight" in s:
            g, theta, phi = (
                s[f"modulatedatt.{n}.weight"][:, :, 0, 0] @ m + s[f"modulatedatt.{n}.bias"][:, None]
                for n in ("g", "theta", "phi")
            )
            attended = torch.stack([g @ torch.softmax(theta[:, i] @ phi, 0) for i in range(4)], dim=1)
            mask = s["modulatedatt.conv_mask.weight"][:, :, 0, 0] @ attended
            spatial = s["modulatedatt.fc_spatial.weight"] @ m.flatten() + s["modulatedatt.fc_spatial.bias"]
            m = m + torch.softmax(spatial, 0) * mask
        z = m.sum(1) / 4
        rows.append((s["fc_add.weight"] @ z + s["fc_add.bias"]).clamp_min(0) if "fc_add.weight" in s else z)
    return torch.stack(rows)


def meta_embedding(head, centroids, features, scale):
    """Sample by sample: memory, selector, reachability, embedding, and the cosine classifier with its squashed norm."""
    logits = []
    for z in features:
        memory = torch.softmax(head["fc_hallucinator.weight"] @ z + head["fc_hallucinator.bias"], 0) @ centroids
        selector = torch.tanh(head["fc_selector.weight"] @ z + head["fc_selector.bias"])
        reach = 10 / min(((z - c) ** 2).sum() ** 0.5 for c in centroids)
        v = reach * (z + selector * memory)
        length = (v**2).sum() ** 0.5
        v = length / (1 + length) * v / length
        logits.append([scale * v @ w / (w**2).sum() ** 0.5 for w in head["cosnorm_classifier.weight"]])
    return torch.tensor(logits, dtype=torch.float64)


@pytest.fixture
def oltr_head():
    head = State(2).random("fc_hallucinator.weight", C, 6).random("fc_hallucinator.bias", C)
    head.random("fc_selector.weight", 6, 6).random("fc_selector.bias", 6)
    return head.random("cosnorm_classifier.weight", C, 6), State(3).random("c", C, 6)["c"]


@pytest.mark.parametrize(("attention", "layer"), [(True, False), (False, True), (True, True)])
def test_c_with_oltrs_parts_of_the_backbone(tmp_path, monkeypatch, attention, layer):
    s = oltr_state(attention, layer)
    z = oltr_features(s, monkeypatch)
    head = State(2).random("fc.weight", C, z.shape[1]).random("fc.bias", C)
    parts = {"feat_model": prefixed("module.", s), "classifier": prefixed("module.", head)}
    model = load_checkpoint(saved(tmp_path, {"state_dict_best": parts, "centroids": None})).model
    assert torch.allclose(model(LARGER), linear(z, head["fc.weight"], head["fc.bias"]), rtol=0, atol=1e-10)
    if attention:
        with pytest.raises(
            UserError, match=r"maps of 2x2 and gets 1x1: give images of 64x64 pixels, size=64 \(--size\)"
        ):
            model(X)


@pytest.mark.parametrize("scale", [None, 10.0])
def test_c_with_a_meta_embedding(tmp_path, monkeypatch, oltr_head, scale):
    s, (head, centroids) = oltr_state(True, True), oltr_head
    expected = meta_embedding(head, centroids, oltr_features(s, monkeypatch), scale or 16)
    parts = {"feat_model": prefixed("module.", s), "classifier": prefixed("module.", head)}
    path = saved(tmp_path, {"state_dict_best": parts, "centroids": centroids, "best_acc": 0.35})
    checkpoint = load_checkpoint(path, scale=scale)
    assert torch.allclose(checkpoint.model(LARGER), expected, rtol=0, atol=1e-10)
    m = checkpoint.manifest
    assert (m.model.head, m.model.scale, m.model.num_classes) == ("meta-embedding", scale or 16, C)
    assert (m.stage, m.head_layout, m.accuracy) == (2, "[C, d]", {"accuracy": 0.35})
    assert any("the logit scale is not in the file: 16" in n for n in m.notes) is (scale is None)
    first = State(5).random("fc.weight", C, 6).random("fc.bias", C)
    one = saved(tmp_path, {"state_dict_best": {**parts, "classifier": prefixed("module.", first)}}, "one.pth")
    two = saved(tmp_path, {"state_dict_best": {"classifier": parts["classifier"]}, "centroids": centroids}, "two.pth")
    assert torch.allclose(load_checkpoint(one, stage2=two, scale=scale).model(LARGER), expected, rtol=0, atol=1e-10)


def test_the_centroids_of_a_meta_embedding_are_no_weights_and_it_has_curvature(tmp_path, oltr_head):
    s, (head, centroids) = oltr_state(False, True), oltr_head
    parts = {"feat_model": prefixed("module.", s), "classifier": prefixed("module.", head)}
    model = load_checkpoint(saved(tmp_path, {"state_dict_best": parts, "centroids": centroids})).model
    objective = Objective(model, (X, torch.arange(4)), num_classes=C, parameters="classifier")
    assert objective.num_parameters == sum(t.numel() for t in head.values())
    v = torch.randn(objective.num_parameters, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights, step = list(model.head.parameters()), 1e-5
    gradients = []
    for sign in (1, -1):
        moves = [
            sign * step * d.view_as(p) for p, d in zip(weights, v.split([p.numel() for p in weights]), strict=True)
        ]
        for p, move in zip(weights, moves, strict=True):
            p.data += move
        gradients.append(objective.gradient())
        for p, move in zip(weights, moves, strict=True):
            p.data -= move
    difference = (gradients[0] - gradients[1]) / (2 * step)
    assert torch.allclose(objective.hvp(v), difference, rtol=1e-5, atol=1e-7) and difference.norm() > 1e-3


def test_a_meta_embedding_that_does_not_fit_is_told(tmp_path, oltr_head):
    s, (head, centroids) = oltr_state(False, True), oltr_head
    parts = {"feat_model": prefixed("module.", s), "classifier": prefixed("module.", head)}
    with pytest.raises(UserError, match=r"no 'centroids'.*final_model_checkpoint\.pth"):
        load_checkpoint(saved(tmp_path, {"epoch": 3, "state_dict": parts}))
    with pytest.raises(UserError, match="centroids is 4x6, the model's 5x6"):
        load_checkpoint(saved(tmp_path, {"state_dict_best": parts, "centroids": centroids[:4]}))
    del parts["classifier"]["module.cosnorm_classifier.weight"]
    with pytest.raises(UserError, match="lacks the weight of a part of OLTR's network"):
        load_checkpoint(saved(tmp_path, {"state_dict_best": parts, "centroids": centroids}))


def test_d_appends_its_zeros(tmp_path):
    s = cifar_state((2, 1, 1))
    names = {"conv1.": "conv_1_3x3.", "bn1.": "bn_1.", ".conv_1_3x3.": ".conv_a.", ".bn_1.": ".bn_a.",
             ".conv2.": ".conv_b.", ".bn2.": ".bn_b.", "layer": "stage_"}  # fmt: skip
    theirs = {}
    for name, tensor in s.items():
        for old, new in names.items():
            name = name.replace(old, new)
        theirs[name] = tensor
    assert "stage_1.0.conv_a.weight" in theirs
    net = {**theirs, "linear.weight": HEAD["weight"], "linear.bias": HEAD["bias"]}
    path = saved(tmp_path, {"net": net, "optimizer": {}, "acc": 69.13, "epoch": 180, "rng_state": torch.ByteTensor(8)})
    features = cifar_features(s, X, (2, 1, 1), append=True)
    m = check(path, linear(features, HEAD["weight"], HEAD["bias"])).manifest
    assert (m.family, m.extra["input_range"], m.epoch) == ("M2m", [0, 1], 180)


def test_a_net_beside_the_state_of_a_generator_is_not_of_m2m(tmp_path):
    """Mixup's published code writes both, with networks whose shortcuts put zeros on either side."""
    s = cifar_state((2, 1, 1))
    net = {**s, "linear.weight": HEAD["weight"], "linear.bias": HEAD["bias"]}
    path = saved(tmp_path, {"net": net, "acc": 69.13, "epoch": 180, "rng_state": torch.ByteTensor(8)})
    m = check(path, linear(cifar_features(s, X, (2, 1, 1)), HEAD["weight"], HEAD["bias"])).manifest
    assert (m.family != "M2m", m.subset) == (True, None)


def test_e_leaves_dead_blocks_out(tmp_path):
    blocks = (2, 2, 1)
    s = cifar_state(blocks)
    dead = {
        f"{kind}_block.{n.removeprefix('layer3.0.')}": t
        for kind in ("cb", "rb")
        for n, t in s.items()
        if n.startswith("layer3.0.")
    }
    content = prefixed("module.", {**s, **dead, **prefixed("classifier.fc.", HEAD)})
    checkpoint = check(saved(tmp_path, content), linear(cifar_features(s, X, blocks), HEAD["weight"], HEAD["bias"]))
    assert set(checkpoint.manifest.unused_parameters) == set(dead)
    live = [t for n, t in {**s, **HEAD}.items() if "running" not in n and "tracked" not in n]
    assert Objective(checkpoint.model, (X, torch.arange(4))).num_parameters == sum(t.numel() for t in live)


def test_f_has_no_pooling_in_its_stem(tmp_path):
    blocks = (1, 2, 1, 1)
    s = large_state(blocks, False, size=3)
    head = State(2).random("fc.weight", C, 32).random("fc.bias", C)
    expected = linear(large_features(s, X, blocks, False, size=3), head["fc.weight"], head["fc.bias"])
    assert check(saved(tmp_path, prefixed("encoder.", {**s, **head})), expected).manifest.family == "ImbSAM"


def wide_state(biased, names):
    s = State(1).conv("conv1", 4, 3, 3, biased)
    planes = 4
    for g in range(3):
        out = 8 * 2**g
        n = f"layer{g + 1}.{names}0"
        s.norm(f"{n}.bn1", planes).conv(f"{n}.conv1", out, planes, 3, biased)
        s.norm(f"{n}.bn2", out).conv(f"{n}.conv2", out, out, 3, biased).conv(f"{n}.shortcut.0", out, planes, 1, biased)
        planes = out
    return s.norm("bn_out" if names else "bn1", planes)


def wide_features(s, x, names):
    x = F.conv2d(x, s["conv1.weight"], s.get("conv1.bias"), padding=1)
    for g in range(3):
        n, step = f"layer{g + 1}.{names}0", 2 if g else 1
        out = norm(s, x, f"{n}.bn1").clamp_min(0)
        out = F.conv2d(out, s[f"{n}.conv1.weight"], s.get(f"{n}.conv1.bias"), padding=1)
        out = norm(s, out, f"{n}.bn2").clamp_min(0)
        out = F.conv2d(out, s[f"{n}.conv2.weight"], s.get(f"{n}.conv2.bias"), stride=step, padding=1)
        x = out + F.conv2d(x, s[f"{n}.shortcut.0.weight"], s.get(f"{n}.shortcut.0.bias"), stride=step)
    return norm(s, x, "bn_out" if names else "bn1").clamp_min(0).flatten(2).mean(2)


def test_g_has_two_sets_of_weights(tmp_path):
    s, head = wide_state(True, ""), State(2).random("linear.weight", C, 32).random("linear.bias", C)
    average = {n: t if t.ndim == 0 else 1.1 * t for n, t in {**s, **head}.items()}
    content = {"epoch": 161, "state_dict": {**s, **head}, "swa_state_dict": average, "swa_n": np.int64(4)}
    path = saved(tmp_path, content)
    for weights, state in (("model", {**s, **head}), ("swa", average)):
        expected = linear(wide_features(state, X, ""), state["linear.weight"], state["linear.bias"])
        check(path, expected, weights=weights)
    with pytest.raises(UserError, match="weights='ema'"):
        load_checkpoint(path, weights="ema")
    alone = saved(tmp_path, {"swa_state_dict": average}, "alone.pth")
    check(alone, expected, weights="swa")
    with pytest.raises(UserError, match="lacks 'state_dict'.*--weights swa"):
        load_checkpoint(alone)


def test_h_in_two_files_that_find_each_other(tmp_path):
    s, head = wide_state(False, "num_"), State(2).random("0.weight", C, 32).random("0.bias", C)
    fet = saved(tmp_path, {"param": dict(s)}, "fet_50.pth")
    expected = linear(wide_features(s, X, "num_"), head["0.weight"], head["0.bias"])
    with pytest.raises(UserError, match="stage2="):
        load_checkpoint(fet)
    clf = saved(tmp_path, {"param": prefixed("classifiers.", head)}, "clf_50.pth")
    check(fet, expected)
    check(clf, expected)
    check(fet, expected, stage2=clf)
