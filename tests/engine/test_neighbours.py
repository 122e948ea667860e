"""A sample's loss that depends on the samples beside it is refused, by the model or by the loss; rounding is not."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sharpness
from sharpness import Objective, UserError
from sharpness.models import build_model


class BatchStatistics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 6, 3), nn.Linear(6, 3)
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("variance", torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        z = F.batch_norm(self.conv(x), self.mean, self.variance, training=self.training)
        return self.fc(torch.relu(z).mean((2, 3)))


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Mixed(nn.Module):
    """What a function makes of the outputs of a linear layer."""

    def __init__(self, mix) -> None:
        super().__init__()
        self.fc, self.mix = nn.Linear(5, 3), mix

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.fc(x))


def contrastive(u: Tensor, y: Tensor) -> Tensor:
    z = F.normalize(u)
    alike = (y[:, None] == y) & ~torch.eye(len(y), dtype=torch.bool)
    others = (z @ z.T / 0.1).masked_fill(torch.eye(len(y), dtype=torch.bool), -1e9)
    return -(others.log_softmax(1) * alike).sum(1) / alike.sum(1).clamp_min(1)


def ce(u: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(u, y, reduction="none")


LOSSES = {
    "supervised contrast": contrastive,
    "times the batch": lambda u, y: ce(u, y) * len(y),
    "centred": lambda u, y: ce(u, y) - ce(u, y).mean(),
    "weighed by counts of the batch": lambda u, y: ce(u, y) / torch.bincount(y, minlength=3)[y],
    "the mean for everyone": lambda u, y: ce(u, y).mean().expand(len(y)),
}
MODELS = {
    "a layer": (nn.Sequential(nn.Linear(5, 4), Centred(), nn.Linear(4, 3)), r"layer '1' \(Centred\) mixes samples"),
    "softmax over the batch": (Mixed(lambda z: z.softmax(0)), r"the model \(Mixed\) itself mixes samples"),
    "only the order counts": (Mixed(lambda z: z + z.roll(1, 0)), r"the model \(Mixed\) itself mixes samples"),
}


def data(n: int = 20, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(n, 5, dtype=dtype), torch.arange(n) % 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [2, 3, 20])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_mixes_samples_is_refused_by_layer(name, n, dtype):
    model, message = MODELS[name]
    with pytest.raises(UserError, match=message) as told:
        Objective(model.to(dtype), data(n, dtype), num_classes=3)
    assert "\n" not in str(told.value)


class Counting(nn.Module):
    """An integer parameter stands before the weights, and outputs take a little of their mean over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.count = nn.Parameter(torch.tensor([1, 2]), requires_grad=False)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.fc(x)
        return outputs + 5e-3 * outputs.mean(0)


def test_integers_before_the_weights_allow_no_more_rounding():
    with pytest.raises(UserError, match=r"the model \(Counting\) itself mixes samples"):
        Objective(Counting(), data())


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_that_mixes_samples_is_refused(name):
    with pytest.raises(UserError, match="the loss function mixes samples"):
        Objective(nn.Linear(5, 3), data(), loss=LOSSES[name])


def test_statistics_of_the_batch_are_refused_with_the_remedy_that_works():
    torch.manual_seed(0)
    model, x, y = BatchStatistics(), torch.randn(20, 1, 6, 6), torch.arange(20) % 3
    for batch_size in (1, 8, "auto"):
        with pytest.raises(UserError, match=r"call model\.eval\(\)"):
            Objective(model, (x, y), batch_size=batch_size)
    assert torch.equal(model.mean, torch.zeros(6)) and torch.equal(model.variance, torch.ones(6))
    model.eval()
    losses = [Objective(model, (x, y), batch_size=b).loss() for b in (1, 8, "auto")]
    assert losses == pytest.approx([float(ce(model(x), y).double().mean())] * 3, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_rounding_that_differs_with_the_batch_is_no_mixing(dtype, scale):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 300), nn.ReLU(), nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 3)).to(dtype)
    with torch.no_grad():
        model[4].weight.mul_(scale)
    Objective(model, data(64, dtype))


def test_a_deep_network_and_squeezed_batches_are_no_mixing():
    torch.manual_seed(0)
    Objective(build_model("resnet32", 10, 3).eval(), (torch.randn(16, 3, 32, 32), torch.arange(16) % 10))
    Objective(Mixed(lambda z: z.squeeze()), data())
    Objective(nn.Linear(5, 3), data(1), num_classes=3)


def straight_through(x: Tensor, quantise: nn.Module) -> Tensor:
    """Rounded to the fixed levels of a fake quantisation, with the slope 1 between the first and the last level."""
    along = (-1, *[1] * (x.ndim - 1)) if quantise.ch_axis == 0 and len(quantise.scale) > 1 else (1,) * x.ndim
    scale, zero = quantise.scale.view(along), quantise.zero_point.view(along)
    levels = x / scale + zero
    assert ((levels - levels.floor() - 0.5).abs() > 1e-5).all(), "no number that rounding in float32 may move"
    inside = ((levels.round() >= quantise.quant_min) & (levels.round() <= quantise.quant_max)).to(x.dtype)
    rounded = (levels.round().clamp(quantise.quant_min, quantise.quant_max) - zero) * scale
    return x * inside + (rounded - x * inside).detach()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("version", [0, 1], ids=["FakeQuantize", "FusedMovingAvgObsFakeQuantize"])
@pytest.mark.parametrize("passes", [0, 1, 3])
def test_observers_of_quantisation_are_named_and_put_back(passes, version, request):
    """Also before they have seen anything, when their buffers are empty, and where they have settled."""
    torch.manual_seed(0)
    x, y = data()
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm", version)
    model = torch.ao.quantization.prepare_qat(model.train())
    for _ in range(passes):
        model(x)
    model.eval()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    kind = request.node.callspec.id.split("-")[-1]
    with pytest.raises(UserError, match=rf"layer '[0-2].*' \({kind}\) updates its state .*disable_observer"):
        Objective(model, (x, y))
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("version", [0, 1], ids=["FakeQuantize", "FusedMovingAvgObsFakeQuantize"])
def test_a_quantised_network_has_the_curvature_that_training_sees(version):
    torch.manual_seed(0)
    x, y = data()
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm", version)
    model = torch.ao.quantization.prepare_qat(model.train())
    model(x)
    model.eval().apply(torch.ao.quantization.disable_observer)
    for module in model.modules():  # the largest weight of a channel is half a level off the last one, exactly
        if hasattr(module, "fake_quant_enabled"):
            observer = module.activation_post_process
            observer.min_val.mul_(1.03), observer.max_val.mul_(1.03)
            for kept, made in zip((module.scale, module.zero_point), module.calculate_qparams(), strict=True):
                kept.copy_(made)
    model(x)  # the fused ones choose their levels in every pass
    before = {n: t.clone() for n, t in model.state_dict().items()}
    objective = Objective(model, (x, y))
    found = sharpness.eigenvalues(objective)
    parameters = [p.detach().double() for p in model.parameters()]
    sizes = [p.numel() for p in parameters]

    def loss(flat: Tensor) -> Tensor:
        w, b, w2, b2 = (v.view(p.shape) for v, p in zip(flat.split(sizes), parameters, strict=True))
        h = F.linear(x.double(), straight_through(w, model[0].weight_fake_quant), b)
        h = straight_through(h, model[0].activation_post_process).relu()
        u = F.linear(h, straight_through(w2, model[2].weight_fake_quant), b2)
        return F.cross_entropy(straight_through(u, model[2].activation_post_process), y)

    flat = torch.cat([p.flatten() for p in parameters])
    expected = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))
    assert objective.loss() == pytest.approx(float(loss(flat)), rel=1e-5)
    assert found.largest == pytest.approx(float(expected[-1]), rel=5e-3)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


class Observed(nn.Module):
    """Scales by the largest input so far, which it keeps in a buffer that counts no version, or in an attribute."""

    def __init__(self, attribute: bool) -> None:
        super().__init__()
        if attribute:
            self.largest = torch.zeros(())
        else:
            self.register_buffer("largest", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.largest.data.copy_(torch.maximum(self.largest, x.detach().abs().max()))
        return x / self.largest


@pytest.mark.parametrize("attribute", [False, True])
def test_a_state_that_every_pass_changes_is_named_and_put_back(attribute):
    model = nn.Sequential(nn.Linear(5, 4), Observed(attribute), nn.Linear(4, 3)).eval()
    with pytest.raises(UserError, match=r"layer '1' \(Observed\) updates its state in every pass"):
        Objective(model, data())
    assert float(model[1].largest) == 0


class Switched(nn.Linear):
    """Normalises by the batch, or has a wrong derivative, only behind a gate that is a weight or a setting."""

    def __init__(self):
        super().__init__(4, 3, dtype=torch.float64)
        self.register_buffer("gate", torch.tensor(0.0))
        self.batchwise = False

    def forward(self, x):
        outputs = super().forward(x)
        if self.batchwise or float(self.gate) > 0:
            outputs = outputs - outputs.mean(0)
        return outputs


@pytest.mark.parametrize("change", [lambda m: m.gate.fill_(1.0), lambda m: setattr(m, "batchwise", True)])
def test_a_model_that_is_changed_after_its_objective_was_made_is_examined_again(change):
    model = Switched()
    objective = Objective(model, (torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3), batch_size=6)
    objective.check()
    change(model)
    with pytest.raises(UserError, match="depends on which others are in its batch"):
        objective.check()


@pytest.mark.parametrize("check", [True, False])
def test_a_way_through_the_model_that_a_buffer_chooses_is_traced_again(check):
    class Gated(nn.Linear):
        def __init__(self):
            super().__init__(4, 3, dtype=torch.float64)
            self.register_buffer("gate", torch.tensor(0.0))

        def forward(self, x):
            outputs = super().forward(x)
            return outputs**2 if float(self.gate) > 0 else torch.tanh(outputs)

    torch.manual_seed(0)
    model = Gated()
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3
    objective = Objective(model, (x, y))
    v, start = torch.ones(15, dtype=torch.float64), torch.cat([p.detach().flatten() for p in model.parameters()])
    for gate, act in ((0.0, torch.tanh), (1.0, torch.square)):
        model.gate.fill_(gate)
        if check:
            objective.check()

        def loss(w, act=act):
            return F.cross_entropy(act(F.linear(x, w[:12].view(3, 4), w[12:])), y)

        torch.testing.assert_close(objective.hvp(v), torch.func.hessian(loss)(start) @ v)
