"""Networks whose values meet again later: whatever is fused or overwritten, losses are the module's own."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness import Objective
from sharpness.engine.evaluation import Evaluation
from sharpness.engine.folded import Folded
from sharpness.models import Frozen

CLASSES = 3


def block(inputs: int, outputs: int, kernel: int = 3, **options) -> nn.Sequential:
    options = {"padding": kernel // 2, "bias": False, **options}
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, **options), nn.BatchNorm2d(outputs))


class Network(nn.Module):
    """Five convolutions with BatchNorm, which :meth:`features` connects in some way."""

    channels, made = 4, 4

    def __init__(self) -> None:
        super().__init__()
        c = self.channels
        self.stem, self.a, self.b, self.c, self.d = block(3, c), block(c, c), block(c, c), block(c, c), block(c, c)
        self.fc = nn.Linear(self.made, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))

    def features(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class LateSum(Network):
    """A convolution of a value that another sum, computed before the convolution's own, might overwrite."""

    def features(self, x):
        x = F.relu(self.stem(x))
        h = F.relu(self.a(x))
        late, early = self.b(x), self.c(h)
        first = F.relu(early + x)
        return F.relu(late + h) + first


class LateReLU(Network):
    def features(self, x):
        x = F.relu(self.stem(x))
        late, early = self.b(x), self.c(F.relu(self.a(x)))
        first = F.relu(early + x)
        return F.relu(late) * first


class Flattened(Network):
    """A view of the shortcut that is read after the sum."""

    def features(self, x):
        x = F.relu(self.stem(x))
        flat = x.flatten(2)
        y = F.relu(self.b(F.relu(self.a(x))) + x)
        return y + flat.mean(2)[:, :, None, None]


class Sliced(Network):
    def features(self, x):
        x = F.relu(self.stem(x))
        half = x[:, 2:]
        y = F.relu(self.b(F.relu(self.a(x))) + x)
        return y + half.mean((1, 2, 3), keepdim=True)


class Chunked(Network):
    def features(self, x):
        x = F.relu(self.stem(x))
        one, other = x.chunk(2, 1)
        y = self.b(F.relu(self.a(x))) + x
        return F.relu(y) + torch.cat([other, one], 1)


class ShortcutAgain(Network):
    """A shortcut that a later layer reads once more."""

    def features(self, x):
        x = F.relu(self.stem(x))
        y = F.relu(self.a(x) + x)
        z = F.relu(self.b(y) + x)
        return self.c(z) + x + y


class SumTwiceUsed(Network):
    def features(self, x):
        x = F.relu(self.stem(x))
        y = self.b(F.relu(self.a(x))) + x
        return self.c(F.relu(y)) + y


class InPlaceSum(Network):
    def features(self, x):
        x = F.relu(self.stem(x), inplace=True)
        y = self.b(F.relu_(self.a(x)))
        y += x
        return F.relu(y, inplace=True)


class TwoConvolutions(Network):
    """A downsampling shortcut."""

    def __init__(self):
        super().__init__()
        self.down = block(4, 4, 1, stride=2)
        self.b = block(4, 4, stride=2)

    def features(self, x):
        x = F.relu(self.stem(x))
        y = F.relu(self.b(F.relu(self.a(x))) + self.down(x))
        return F.relu(self.c(y) + self.d(y))


class InputShortcut(Network):
    channels, made = 3, 3

    def features(self, x):
        return F.relu(self.stem(x) + x) + x


class Doubled(Network):
    def features(self, x):
        z = self.stem(x)
        z = z + z
        y = self.a(F.relu(z))
        return F.relu(y + y) + F.relu(z)


class ReLUTwiceUsed(Network):
    def features(self, x):
        r = F.relu(self.stem(x))
        return self.a(r) * torch.sigmoid(self.b(r)) + r


class ConvolutionTwiceUsed(Network):
    def features(self, x):
        z = self.stem(x)
        return F.relu(z) + F.relu(-z) + self.a(z)


class Excited(Network):
    """Squeeze and excitation, as a product and as a broadcast sum."""

    def __init__(self):
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

    def features(self, x):
        x = self.a(F.relu(self.stem(x)))
        s = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1))))
        x = x * torch.sigmoid(s)
        return F.relu(self.b(x) + s)


class BroadcastConvolution(Network):
    """A sum in which the convolution is the smaller one."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Conv2d(4, 4, 1)

    def features(self, x):
        x = F.relu(self.stem(x))
        return F.relu(self.gate(x.mean((2, 3), keepdim=True)) + x)


class ConstantSum(Network):
    """Convolutions to which a parameter, a buffer, or what is made of them is added."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 4, 6, 6))
        self.register_buffer("shift", torch.randn(1, 4, 6, 6))

    def features(self, x):
        x = F.relu(self.stem(x) + self.position)
        return F.relu(self.a(x) + self.shift) + self.b(x) + self.position * self.shift


class Concatenated(Network):
    made = 12

    def __init__(self):
        super().__init__()
        self.b, self.c = block(8, 4), block(12, 4)

    def features(self, x):
        x = F.relu(self.stem(x))
        x = torch.cat([x, F.relu(self.a(x))], 1)
        return torch.cat([x, F.relu(self.b(x))], 1)


class Inception(Network):
    made = 12

    def features(self, x):
        x = F.relu(self.stem(x))
        return torch.cat([F.relu(self.a(x)), F.max_pool2d(self.b(x), 3, 1, 1), F.avg_pool2d(x, 3, 1, 1)], 1)


class Activations(Network):
    def features(self, x):
        x = F.relu6(self.stem(x))
        x = F.hardswish(self.a(x)) + x
        x = F.gelu(self.b(x)) + x
        return F.silu(self.c(x)) * F.hardsigmoid(x) + F.leaky_relu(self.d(x), 0.1)


class Inverted(Network):
    """A depthwise separable block between point-wise ones, with a skip."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = block(4, 8, 1), block(8, 8, groups=8), block(8, 4, 1)

    def features(self, x):
        x = F.relu6(self.stem(x))
        return x + self.c(F.relu6(self.b(F.relu6(self.a(x)))))


class Geometry(Network):
    def __init__(self):
        super().__init__()
        self.a = block(4, 4, dilation=2, padding=2, groups=2, bias=True)
        self.b = block(4, 4, stride=(2, 1), padding=(1, 1))
        self.c = nn.Sequential(nn.Conv2d(4, 4, (1, 3), padding=(0, 1)), nn.BatchNorm2d(4, affine=False))

    def features(self, x):
        x = F.relu(self.stem(x))
        return F.relu(self.c(F.relu(self.b(F.relu(self.a(x) + x)))))


class Skips(nn.Sequential):
    def forward(self, x):
        return F.relu(super().forward(x) + x)


class Nested(Network):
    def __init__(self):
        super().__init__()
        self.skips = nn.Sequential(Skips(Skips(block(4, 4), nn.ReLU()), block(4, 4)), nn.Identity(), Skips(block(4, 4)))

    def features(self, x):
        return self.skips(F.relu(self.stem(x)))


class SharedLayer(Network):
    """One convolution and its BatchNorm three times, each added to what it was given."""

    def features(self, x):
        x = F.relu(self.stem(x))
        for _ in range(3):
            x = F.relu(self.a(x) + x)
        return x


class TiedConvolutions(Network):
    """Two convolutions with one weight, under BatchNorms of their own."""

    def __init__(self):
        super().__init__()
        self.b[0].weight = self.a[0].weight

    def features(self, x):
        x = F.relu(self.stem(x))
        return F.relu(self.b(F.relu(self.a(x))) + x)


class PixelAttention(Network):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Conv2d(4, 12, 1)

    def features(self, x):
        x = F.relu(self.stem(x))
        q, k, v = self.qkv(x).flatten(2).chunk(3, 1)
        weights = torch.softmax(q.transpose(1, 2) @ k / 2, dim=-1)
        return F.relu(self.a((v @ weights.transpose(1, 2)).reshape(x.shape)) + x)


class Convolutions1d(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.bn = nn.Conv1d(2, 4, 3), nn.Conv1d(4, 4, 3, padding=1, bias=False), nn.BatchNorm1d(4)
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x):
        x = F.relu(self.a(x.flatten(2)[:, :2]))
        return self.fc(F.relu(self.bn(self.b(x)) + x).mean(2))


class Dense(nn.Module):
    """A convolution that is the result: logits of every pixel."""

    def __init__(self):
        super().__init__()
        self.body, self.out = block(3, 4), nn.Conv2d(4, CLASSES, 1)

    def forward(self, x):
        return self.out(F.relu(self.body(x)))


class DenseSum(Dense):
    def forward(self, x):
        return self.out(F.relu(self.body(x))) + x


class Text(nn.Module):
    """An embedding, then convolutions over tokens as images, with a late sum."""

    def __init__(self):
        super().__init__()
        self.embedding, self.late = nn.Embedding(11, 5), LateSum()
        self.late.stem = block(1, 4)

    def forward(self, x):
        return self.late(self.embedding(x)[:, None])


NETWORKS = [
    LateSum, LateReLU, Flattened, Sliced, Chunked, ShortcutAgain, SumTwiceUsed, InPlaceSum, TwoConvolutions,
    InputShortcut, Doubled, ReLUTwiceUsed, ConvolutionTwiceUsed, Excited, BroadcastConvolution, ConstantSum,
    Concatenated, Inception, Activations, Inverted, Geometry, Nested, SharedLayer, TiedConvolutions, PixelAttention,
    Convolutions1d, Dense, DenseSum, Text,
]  # fmt: skip


def pixelwise(outputs: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(outputs, y[:, None, None].expand(-1, *outputs.shape[2:]), reduction="none").mean((1, 2))


def loss_of(kind: type):
    return pixelwise if kind in (Dense, DenseSum) else "ce"


def make(kind: type, dtype: torch.dtype = torch.float64):
    torch.manual_seed(5)
    model = kind().double()
    x = torch.randint(0, 11, (9, 6)) if kind is Text else torch.randn(9, 3, 6, 6, dtype=torch.float64)
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.running_mean.normal_(std=0.3)
            m.running_var.uniform_(0.5, 2)
            if m.affine:
                nn.init.normal_(m.weight)
                nn.init.normal_(m.bias)
    return model.to(dtype).eval(), x.to(dtype) if x.is_floating_point() else x, torch.arange(9) ** 2 % CLASSES


def by_hand(kind: type, names: list[str], d: Tensor) -> np.ndarray:
    """Class losses of a fresh module whose parameters have been moved one by one, in float64."""
    model, x, y = make(kind)
    parameters = [model.get_parameter(name) for name in names]
    with torch.no_grad():
        for p, piece in zip(parameters, d.split([p.numel() for p in parameters]), strict=True):
            p.add_(piece.view_as(p))
        outputs = model(x)
        loss = loss_of(kind)
        values = F.cross_entropy(outputs, y, reduction="none") if loss == "ce" else loss(outputs, y)
    return np.array([float(values[y == c].mean()) if (y == c).any() else np.nan for c in range(CLASSES)])


def displacements(objective):
    generator = torch.Generator().manual_seed(1)
    return 0.1 * torch.randn(2, objective.num_parameters, dtype=torch.float64, generator=generator)


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.every(3)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=["f64", "f32"])
@pytest.mark.parametrize("kind", NETWORKS, ids=lambda k: k.__name__)
def test_losses_are_those_of_the_module_moved_by_hand(kind, dtype, tolerance, threads):
    model, x, y = make(kind, dtype)
    objective = Objective(model, (x, y), loss_of(kind), num_classes=CLASSES, batch_size=4)
    evaluation = objective.evaluation()
    assert isinstance(evaluation, Evaluation)
    seen = []
    for j in (0, 1, 0, 1):
        d = displacements(objective)[j]
        found = evaluation(d.to(dtype)).class_means
        expected = by_hand(kind, objective.names, d)
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.nanmax(expected))
        seen.append(found)
    np.testing.assert_array_equal(seen[:2], seen[2:])


@pytest.mark.parametrize("scope", ["backbone", "classifier", "*a.*"])
@pytest.mark.parametrize("kind", [LateSum, Flattened, ShortcutAgain, SumTwiceUsed, SharedLayer, TwoConvolutions])
def test_what_the_fixed_layers_hand_on_is_never_overwritten(kind, scope):
    model, x, y = make(kind, torch.float32)
    objective = Objective(model, (x, y), num_classes=CLASSES, batch_size=4, parameters=scope)
    evaluation = objective.evaluation()
    assert isinstance(evaluation, Evaluation)
    first = evaluation(displacements(objective)[0].float()).class_means
    for d in displacements(objective):
        found = evaluation(d.float()).class_means
        with objective.at(d.float()):
            expected = objective.class_losses()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.nanmax(expected))
    np.testing.assert_array_equal(evaluation(displacements(objective)[0].float()).class_means, first)


def by_inputs(model, x: Tensor) -> Tensor:
    """The gradient of a function of the outputs by the inputs, by autograd."""
    x = x.detach().requires_grad_()
    outputs = model(x)
    (gradient,) = torch.autograd.grad((outputs * torch.linspace(-1, 2, outputs.numel()).view_as(outputs)).sum(), x)
    return gradient


IMAGES = [kind for kind in NETWORKS if kind is not Text]


@pytest.mark.every(3)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=["f64", "f32"])
@pytest.mark.parametrize("frozen", [False, True], ids=["parameters", "buffers"])
@pytest.mark.parametrize("kind", IMAGES, ids=lambda k: k.__name__)
def test_derivatives_by_inputs_are_those_of_the_module_at_its_present_weights(kind, frozen, dtype, tolerance):
    model, x, _ = make(kind, dtype)
    own = Frozen(model) if frozen else model
    folded = Folded(own, x[:4], dtype)
    exact, wide, _ = make(kind)
    for _ in range(2):
        exact.load_state_dict((own.network if frozen else own).state_dict())
        found, expected = by_inputs(folded.now(), x), by_inputs(exact, wide)
        assert found.dtype is dtype
        assert float((found - expected).norm() / expected.norm()) < tolerance
        with torch.no_grad():
            assert not folded.now()(x).requires_grad
            for tensor in own.state_dict().values():
                if tensor.is_floating_point():
                    tensor.mul_(1.1)


@pytest.mark.parametrize("kind", IMAGES, ids=lambda k: k.__name__)
def test_derivatives_by_inputs_in_bfloat16_are_as_exact_as_with_autocast(kind):
    """For most images: where an activation is near zero, rounding decides whether a ReLU passes it on."""
    (exact, wide, _), (model, x, _) = make(kind), make(kind, torch.float32)
    expected = by_inputs(exact, wide).flatten(1)

    def usual(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(x).float()

    def error(function):
        difference = by_inputs(function, x).flatten(1) - expected
        return float((difference.norm(dim=1) / expected.norm(dim=1)).nanmedian())  # some have a gradient of zero

    assert error(Folded(model, x[:4], torch.bfloat16).now()) < max(0.02, 2 * error(usual))


@pytest.mark.parametrize("kind", NETWORKS, ids=lambda k: k.__name__)
def test_bfloat16_is_near_and_the_same_every_time(kind):
    """8 bits: a rounding error of 0.4 % in every layer."""
    model, x, y = make(kind, torch.float32)
    objective = Objective(model, (x, y), loss_of(kind), num_classes=CLASSES, batch_size=4)
    evaluation = objective.evaluation("bfloat16")
    assert isinstance(evaluation, Evaluation)
    d = displacements(objective)[0]
    found, expected = evaluation(d.float()).class_means, by_hand(kind, objective.names, d)
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.05 * max(1.0, np.nanmax(expected)))
    np.testing.assert_array_equal(evaluation(d.float()).class_means, found)


def test_a_tied_weight_moves_in_both_places_once():
    model, x, y = make(TiedConvolutions)
    objective = Objective(model, (x, y), num_classes=CLASSES)
    names = [n for n in objective.names if n.endswith("0.weight")]
    assert names.count("a.0.weight") == 1
    assert "b.0.weight" not in names
    d = displacements(objective)[0]
    np.testing.assert_allclose(
        objective.evaluation()(d).class_means, by_hand(TiedConvolutions, objective.names, d), rtol=1e-10
    )


def test_a_frozen_parameter_stays_where_it_is():
    model, x, y = make(ShortcutAgain)
    everything = Objective(model, (x, y), num_classes=CLASSES)
    d = displacements(everything)[0]
    sizes = {n: p.numel() for n, p in zip(everything.names, everything.parameters, strict=True)}
    frozen = "a.0.weight"
    model.get_parameter(frozen).requires_grad_(False)
    rest = Objective(model, (x, y), num_classes=CLASSES)
    assert rest.names == [n for n in everything.names if n != frozen]
    pieces = dict(zip(sizes, d.split(list(sizes.values())), strict=True))
    moved = torch.cat([pieces[n] for n in rest.names])
    pieces[frozen] = torch.zeros_like(pieces[frozen])
    expected = by_hand(ShortcutAgain, everything.names, torch.cat(list(pieces.values())))
    np.testing.assert_allclose(rest.evaluation()(moved).class_means, expected, rtol=1e-10)
