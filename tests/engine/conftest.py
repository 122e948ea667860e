"""Small float64 networks of every kind that the engine meets, and derivatives of them by autograd alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from sharpness import Objective
from sharpness.models import BACKBONES, CifarResNet, FrozenTrunk, build_model

LABELS = torch.tensor([0, 1, 0, 2, 1])


@dataclass
class Network:
    """A model with inputs and labels of three classes; the last class has one sample."""

    model: nn.Module
    x: Tensor
    y: Tensor
    output: Callable[[Any], Tensor] | None = None

    def objective(self, **options: Any) -> Objective:
        return Objective(self.model, (self.x, self.y), num_classes=3, output=self.output, **options)

    def outputs(self, rows: Tensor | None = None) -> Tensor:
        returned = self.model(self.x if rows is None else self.x[rows])
        return returned if self.output is None else self.output(returned)

    def loss(self, weights: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
        rows = torch.arange(len(self.y)) if rows is None else rows
        a = torch.ones(len(self.y), dtype=torch.float64) if weights is None else weights
        values = F.cross_entropy(self.outputs(rows), self.y[rows], reduction="none")
        return (a[rows] * values).sum() / a[rows].sum()

    def gradient(self, parameters: list[Tensor], **options: Any) -> Tensor:
        """By one plain backward pass."""
        return flat(torch.autograd.grad(self.loss(**options), parameters))

    def hessian_product(self, parameters: list[Tensor], v: Tensor, **options: Any) -> Tensor:
        """By two plain backward passes through the model as it is, weight normalisation written out."""
        with sdpa_kernel(SDPBackend.MATH), pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "_weight_norm", normalised)
            first = torch.autograd.grad(self.loss(**options), parameters, create_graph=True)
            return flat(torch.autograd.grad(flat(first) @ v, parameters, materialize_grads=True))

    def gauss_newton_product(self, parameters: list[Tensor], v: Tensor) -> Tensor:
        """``mean_i J_i' (diag p_i - p_i p_i') J_i v`` with one backward pass for each row of the Jacobians."""
        u = self.outputs()
        rows = [
            flat(torch.autograd.grad(e, parameters, retain_graph=True, materialize_grads=True)) for e in u.flatten()
        ]
        jacobian = torch.stack(rows).view(*u.shape, -1)
        slope = jacobian @ v
        p = u.detach().softmax(1)
        bent = p * slope - p * (p * slope).sum(1, keepdim=True)
        return torch.einsum("nck,nc->k", jacobian, bent) / len(u)


def normalised(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """``g v / |v|``; the function of torch has a wrong second derivative on a CPU."""
    return g * v / v.square().sum([i for i in range(v.ndim) if i != dim % v.ndim], keepdim=True).sqrt()


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def images(channels: int = 2, size: int = 6, rank: int = 2) -> Tensor:
    return torch.randn(len(LABELS), channels, *[size] * rank, dtype=torch.float64)


class Block(nn.Module):
    """A residual block that adds in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn(self.conv(x))
        out += x
        return F.relu(out, inplace=True)


class PreActivation(nn.Module):
    """BatchNorm and ReLU before the convolution, and a sum that nothing follows but the next BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(torch.relu(self.bn(x)))


class Dense(nn.Module):
    """A layer that hands on its input beside what it made of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, 2, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.bn(x)))], 1)


class Skip(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Viewed(nn.Module):
    """Features of more than one pixel, flattened by ``view`` as VGG and LeNet do."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Linear(36, 5), nn.ReLU(True), nn.Dropout(), nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.classifier(x.view(x.size(0), -1))


class SharedConvolution(nn.Module):
    """One convolution used twice, under two BatchNorms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.bn1, self.bn2 = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        self.fc = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv(x)))
        return self.fc(F.relu(self.bn2(self.conv(x))).mean((2, 3)))


class TwiceUsed(nn.Module):
    """A convolution whose output goes to a BatchNorm and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.fc((torch.sigmoid(self.bn(x)) + x).mean((2, 3)))


class SelfAttention(nn.Module):
    def __init__(self, unbind: bool = False) -> None:
        super().__init__()
        self.unbind = unbind
        self.qkv, self.out = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.unbind:
            n, tokens, _ = x.shape
            q, k, v = self.qkv(x).reshape(n, tokens, 3, 2, 2).permute(2, 0, 3, 1, 4).unbind(0)
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, 4)
        else:
            q, k, v = self.qkv(x).chunk(3, dim=-1)
            mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.mean(1))


class HandTakenAttention(SelfAttention):
    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).chunk(3, dim=-1)
        return self.out(F.scaled_dot_product_attention(parts[0], parts[1], parts[2]).mean(1))


class Multihead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm, self.out = (
            nn.MultiheadAttention(4, 2, batch_first=True),
            nn.LayerNorm(4),
            nn.Linear(4, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        mixed, _ = self.attention(x, x, x)
        return self.out(self.norm(x + mixed).mean(1))


class Words(nn.Module):
    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embedding, self.hidden = nn.Embedding(7, 4), nn.Linear(4, 4)
        self.out = nn.Linear(4, 7 if tied else 3, bias=False)
        if tied:
            self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.hidden(self.embedding(x).mean(1))))[:, :3]


class Unused(nn.Module):
    """Parameters that nothing reads, in a layer of its own and beside one that is read."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.idle, self.spare = nn.Linear(4, 3), nn.Linear(4, 3), nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(x))


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc, self.side = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        z = torch.tanh(self.body(x))
        return self.side(z), {"logits": self.fc(z)}


class Constants(nn.Module):
    """Buffers, plain tensors and numbers beside the parameters, and a parameter under a function."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.randn(2, 1, 1))
        self.mask = torch.rand(3, dtype=torch.float64)
        self.log_scale = nn.Parameter(torch.randn(()))
        self.conv, self.fc = nn.Conv2d(2, 3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = F.relu(self.conv((x - self.mean) / 2.5)).mean((2, 3)) * self.mask
        return self.log_scale.exp() * self.fc(z)


class Gated(nn.Module):
    """Detached values, a sum over one value twice, and broadcast sums."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Linear(4, 4), nn.Linear(4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.a(x)
        z = z.detach() * torch.sigmoid(z) + self.b(x)
        return self.fc(z + z)


def convolutional(*layers: nn.Module, channels: int = 3, rank: int = 2) -> nn.Module:
    pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[rank - 1](1)
    return nn.Sequential(*layers, pool, nn.Flatten(), nn.Linear(channels, 3))


def hooked() -> nn.Module:
    model = convolutional(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))
    model[0].register_forward_hook(lambda module, inputs, output: output * 2)
    model[4].register_forward_pre_hook(lambda module, inputs: (inputs[0].tanh(),))
    return model


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    model[2].weight = model[0].weight
    return model


def weight_norm() -> nn.Module:
    norm = nn.utils.parametrizations.weight_norm
    return convolutional(norm(nn.Conv2d(2, 3, 3)), nn.BatchNorm2d(3), nn.ReLU(), norm(nn.Conv2d(3, 3, 3)))


def resnet(head: str) -> nn.Module:
    """All layers of ResNet-8, with a quarter of the planes: no product hangs on them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "resnet8", functools.partial(CifarResNet, 8, width=4))
        return build_model("resnet8", 3, 2, head=head)


def frozen_trunk() -> nn.Module:
    """Everything before the last block has its weights as buffers, BatchNorm included."""
    trunk = FrozenTrunk((1, 2), False, 2, width=2, stem="cifar")
    return nn.Sequential(trunk, nn.Linear(trunk.num_features, 3))


def conv(*args: Any, then: nn.Module | None = None, **options: Any) -> nn.Module:
    after = then if then is not None else nn.ReLU()
    return convolutional(nn.Conv2d(2, 4, 3, **options), nn.BatchNorm2d(4), after, nn.Conv2d(4, 3, 1))


Factory = Callable[[], tuple[Any, ...]]

NETWORKS: dict[str, Factory] = {
    "frozen trunk": lambda: (frozen_trunk(), images()),
    "softmax regression": lambda: (nn.Linear(4, 3), torch.randn(5, 4)),
    "ResNet-8": lambda: (resnet("linear"), images()),
    "ResNet-8, cosine": lambda: (resnet("cosine"), images()),
    "ResNet-8, cosine, scaled": lambda: (resnet("cosine+lws"), images()),
    "ResNet-8, linear, scaled": lambda: (resnet("linear+lws"), images()),
    "convolution with bias, BatchNorm": lambda: (conv(), images()),
    "BatchNorm without affine": lambda: (
        convolutional(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, affine=False), nn.ReLU(), nn.Conv2d(3, 3, 2)),
        images(),
    ),
    "grouped": lambda: (conv(groups=2), images()),
    "depthwise": lambda: (
        convolutional(nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4), nn.ReLU6(), nn.Conv2d(4, 3, 1)),
        images(),
    ),
    "dilated": lambda: (conv(dilation=2, padding=2), images()),
    "strided": lambda: (conv(stride=(2, 1), padding=(0, 1), bias=False), images()),
    "pointwise, strided": lambda: (
        convolutional(
            nn.Conv2d(2, 4, 1, stride=2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 1, stride=(1, 2), groups=2),
            channels=4,
        ),
        images(),
    ),
    "1d": lambda: (
        convolutional(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 3, 3), rank=1),
        images(rank=1),
    ),
    "3d": lambda: (
        convolutional(nn.Conv3d(2, 2, 2), nn.BatchNorm3d(2), nn.ReLU(), nn.Conv3d(2, 3, 2), rank=3),
        images(size=4, rank=3),
    ),
    "padding same": lambda: (conv(padding="same"), images()),
    "padding reflect": lambda: (conv(padding=1, padding_mode="reflect"), images()),
    "pre-activation": lambda: (
        convolutional(nn.Conv2d(2, 3, 3), PreActivation(), PreActivation(), nn.BatchNorm2d(3), nn.ReLU()),
        images(),
    ),
    "concatenation": lambda: (convolutional(Dense(2), Dense(4), nn.BatchNorm2d(6), nn.ReLU(), channels=6), images()),
    "sum in place": lambda: (convolutional(nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), Block(), Block()), images()),
    "BatchNorm after linear": lambda: (
        nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)),
        torch.randn(5, 4),
    ),
    "leaky ReLU": lambda: (conv(then=nn.LeakyReLU(0.2, inplace=True)), images()),
    "GELU": lambda: (conv(then=nn.GELU()), images()),
    "SiLU": lambda: (conv(then=nn.SiLU(inplace=True)), images()),
    "PReLU": lambda: (conv(then=nn.PReLU(4)), images()),
    "max-pool": lambda: (conv(then=nn.MaxPool2d(2)), images()),
    "LayerNorm": lambda: (
        convolutional(nn.Conv2d(2, 3, 3), nn.LayerNorm([3, 4, 4]), nn.ReLU(), nn.Conv2d(3, 3, 3)),
        images(),
    ),
    "GroupNorm": lambda: (
        convolutional(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 3, 3)),
        images(),
    ),
    "flattened by view": lambda: (Viewed(), images()),
    "convolution used twice": lambda: (SharedConvolution(), images()),
    "convolution beside its BatchNorm": lambda: (TwiceUsed(), images()),
    "transposed convolution": lambda: (
        convolutional(nn.ConvTranspose2d(2, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3)),
        images(size=3),
    ),
    "tied": lambda: (tied(), torch.randn(5, 4)),
    "weight norm": lambda: (weight_norm(), images()),
    "hooks": lambda: (hooked(), images()),
    "attention, hand-taken chunks": lambda: (HandTakenAttention(), torch.randn(5, 3, 4)),
    "multi-head attention": lambda: (Multihead(), torch.randn(5, 3, 4)),
    "transformer layer": lambda: (
        nn.Sequential(
            nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, activation="gelu"), nn.Flatten(), nn.Linear(12, 3)
        ),
        torch.randn(5, 3, 4),
    ),
    "embedding": lambda: (Words(), torch.randint(0, 7, (5, 4))),
    "embedding, tied": lambda: (Words(tied=True), torch.randint(0, 7, (5, 4))),
    "a tuple, output=": lambda: (Several(), torch.randn(5, 4), lambda r: r[1]["logits"]),
    "Sequential with a skip": lambda: (
        convolutional(nn.Conv2d(2, 3, 3), Skip(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())),
        images(),
    ),
    "unused parameters": lambda: (Unused(), torch.randn(5, 4)),
    "constants": lambda: (Constants(), images()),
    "detached, doubled, broadcast": lambda: (Gated(), torch.randn(5, 4)),
    "attention, chunks": lambda: (SelfAttention(), torch.randn(5, 3, 4)),
    "attention, unbind": lambda: (SelfAttention(unbind=True), torch.randn(5, 3, 4)),
}


def unsettle(model: nn.Module) -> None:
    """Statistics, scales and shifts of BatchNorm that are not those of a fresh layer."""
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.running_mean.normal_(std=0.3)
            m.running_var.uniform_(0.5, 2)
            if m.affine:
                nn.init.normal_(m.weight)
                nn.init.normal_(m.bias)


def make_network(name: str) -> Network:
    torch.manual_seed(3)
    model, x, *output = NETWORKS[name]()
    unsettle(model)
    return Network(model.double().eval(), x.double() if x.is_floating_point() else x, LABELS, *output)


@pytest.fixture(params=list(NETWORKS))
def network(request: pytest.FixtureRequest) -> Network:
    return make_network(request.param)


@pytest.fixture
def build() -> Callable[[str], Network]:
    """A factory: a network by its name in the table."""
    return make_network


@pytest.fixture
def wrap() -> Callable[..., Network]:
    """A factory: a network of a model and inputs for it."""
    return lambda model, x: Network(model.double().eval(), x.double() if x.is_floating_point() else x, LABELS)


@pytest.fixture
def close() -> Callable[..., None]:
    """Two vectors agree to a share of the larger one's norm."""

    def check(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
        difference = float((found.double() - expected.double()).norm())
        assert difference <= tolerance * float(expected.norm()), f"{difference:.2e} of {float(expected.norm()):.2e}"

    return check
