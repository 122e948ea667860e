"""Networks whose second derivative autograd gets wrong: the right products, or a refusal that names the layer."""

import logging

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import sharpness
from sharpness import Objective, UserError


class Forgetful(torch.autograd.Function):
    """``x sigmoid(x)``, whose backward reads a number from the forward pass that has no graph."""

    @staticmethod
    def forward(ctx, x):
        s = torch.sigmoid(x)
        ctx.save_for_backward(x, s)
        return x * s

    @staticmethod
    def backward(ctx, g):
        x, s = ctx.saved_tensors
        return g * (s + x * s * (1 - s))


class Careful(Forgetful):
    """The same, with a backward that can be differentiated."""

    @staticmethod
    def backward(ctx, g):
        x, _ = ctx.saved_tensors
        s = torch.sigmoid(x)
        return g * (s + x * s * (1 - s))


class Mistaken(Forgetful):
    @staticmethod
    def backward(ctx, g):
        x, s = ctx.saved_tensors
        return g * (s + 2 * x * s * (1 - s))


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return -g


class Rounded(torch.autograd.Function):
    """A straight-through estimator."""

    @staticmethod
    def forward(ctx, x):
        return torch.round(8 * x) / 8

    @staticmethod
    def backward(ctx, g):
        return g


class Apply(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x)


class Opaque(nn.Module):
    """Control flow by values keeps torch.fx from looking inside."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if x.sum() < 1e30 else x


def mlp(act: nn.Module, other: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), act, nn.Linear(6, 6), other or nn.Tanh(), nn.Linear(6, 3))


def data(dtype=torch.float32) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(20, 5, dtype=dtype), torch.arange(20) % 3


def dense(objective: Objective, forward) -> Tensor:
    """The Hessian in float64 of ``forward(parameters by name, x)``, by ``torch.func``."""
    shapes = [p.shape for p in objective.parameters]
    x = objective.x.double()

    def loss(w: Tensor) -> Tensor:
        pieces = w.split([s.numel() for s in shapes])
        inside = {n: p.view(s) for n, p, s in zip(objective.names, pieces, shapes, strict=True)}
        return F.cross_entropy(forward(inside, x), objective.y)

    return torch.func.hessian(loss)(torch.cat([p.detach().double().reshape(-1) for p in objective.parameters]))


def same_as(model: nn.Module):
    """The parameters of one model in another of the same make-up, by their order."""
    model = model.double()
    names = [n for n, _ in model.named_parameters()]
    return lambda p, x: torch.func.functional_call(model, dict(zip(names, p.values(), strict=True)), (x,))


@pytest.mark.parametrize("opaque", [False, True])
@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm], ids=["new", "old"])
@pytest.mark.filterwarnings("ignore")
def test_weight_norm_has_the_hessian_of_its_formula(norm, opaque):
    torch.manual_seed(0)
    model = nn.Sequential(norm(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 3))
    objective = Objective(Opaque(model) if opaque else model, data())

    def forward(p, x):
        g, v = (
            next(t for n, t in p.items() if n.endswith(ends)) for ends in (("original0", "_g"), ("original1", "_v"))
        )
        rest = [t for n, t in p.items() if not n.endswith(("original0", "original1", "_g", "_v"))]
        (weight,) = (t for t in rest if t.ndim == 2)
        hidden, out = (next(t for t in rest if t.shape == (size,)) for size in (4, 3))
        return F.linear(torch.tanh(F.linear(x, g * v / v.square().sum(1, keepdim=True).sqrt(), hidden)), weight, out)

    hessian = dense(objective, forward)
    v = torch.randn(objective.num_parameters)
    np.testing.assert_allclose(objective.hvp(v), hessian @ v.double(), rtol=1e-4, atol=1e-5)
    with objective.operator() as operator:
        operator(torch.randn_like(v))
        np.testing.assert_allclose(operator(v), hessian @ v.double(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(objective.quadratic_forms(v).mean(), v.double() @ hessian @ v.double(), rtol=1e-4)
    found, values = sharpness.eigenvalues(objective, which="both", max_iterations=43), torch.linalg.eigvalsh(hessian)
    np.testing.assert_allclose([found.smallest, found.largest], [values[0], values[-1]], rtol=1e-3)


def test_a_function_that_forgets_a_term_gets_the_right_product_where_torch_fx_sees_through_it():
    objective = Objective(mlp(Apply(Forgetful)), data())
    hessian = dense(objective, same_as(mlp(nn.SiLU())))
    v = torch.randn(objective.num_parameters)
    np.testing.assert_allclose(objective.hvp(v), hessian @ v.double(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(objective.quadratic_forms(v).mean(), v.double() @ hessian @ v.double(), rtol=1e-4)


@pytest.mark.parametrize("other", [nn.Tanh(), nn.ReLU()], ids=["smooth", "kinks"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_function_that_forgets_a_term_is_refused_by_name(other, dtype):
    objective = Objective(Opaque(mlp(Apply(Forgetful), other)).to(dtype), data(dtype))
    v = torch.randn(objective.num_parameters, dtype=dtype)
    for act in (objective.hvp, objective.quadratic_forms):
        with pytest.raises(UserError, match=r"'Forgetful' in layer 'inner\.1' \(Apply\) is wrong.*parameters=") as told:
            act(v)
        assert "\n" not in str(told.value)
    with pytest.raises(UserError, match="Forgetful"):
        sharpness.eigenvalues(objective)
    assert torch.isfinite(objective.gradient()).all()
    behind = Objective(Opaque(mlp(Apply(Forgetful), other)).to(dtype), data(dtype), parameters="inner.4.*")
    assert torch.isfinite(behind.hvp(torch.randn(behind.num_parameters, dtype=dtype))).all()


def test_the_loss_is_named_where_its_second_derivative_is_wrong():
    objective = Objective(nn.Linear(5, 3), data(), loss=lambda u, y: Forgetful.apply(u).square().sum(1))
    with pytest.raises(UserError, match="second derivative of the loss is wrong"):
        objective.hvp(torch.randn(objective.num_parameters))


def test_a_function_that_can_be_differentiated_twice_is_not_refused():
    objective = Objective(Opaque(mlp(Apply(Careful))), data())
    hessian = dense(objective, same_as(mlp(nn.SiLU())))
    v = torch.randn(objective.num_parameters)
    np.testing.assert_allclose(objective.hvp(v), hessian @ v.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("function", [Mistaken, Reversed])
def test_a_gradient_that_is_not_the_derivative_is_refused(function):
    objective = Objective(mlp(Apply(function)), data())
    v = torch.randn(objective.num_parameters)
    for act in (objective.gradient, lambda: objective.hvp(v), lambda: objective.hvp(v, kind="ggn")):
        with pytest.raises(UserError, match=rf"gradient of autograd\.Function '{function.__name__}' in layer '1'"):
            act()


def test_a_straight_through_estimator_is_told_and_followed(caplog, close):
    objective = Objective(mlp(Apply(Rounded)).double(), data(torch.float64))
    v = torch.randn(objective.num_parameters, dtype=torch.float64)
    with caplog.at_level(logging.WARNING, logger="sharpness"):
        found = objective.hvp(v)
    assert [r.getMessage() for r in caplog.records if "straight-through" in r.getMessage()]
    value = F.cross_entropy(objective.model(objective.x), objective.y)
    first = torch.autograd.grad(value, objective.parameters, create_graph=True)
    slope = torch.cat([g.reshape(-1) for g in first]) @ v
    close(found, torch.cat([t.reshape(-1) for t in torch.autograd.grad(slope, objective.parameters)]))


def zeroed(*layers: int) -> nn.Module:
    model = mlp(nn.ReLU(), nn.ReLU())
    for i in layers:
        nn.init.zeros_(model[i].weight)
        nn.init.zeros_(model[i].bias)
    return model


def scaled(factor: float, act: nn.Module) -> nn.Module:
    model = mlp(act, nn.ReLU())
    with torch.no_grad():
        model[4].weight.mul_(factor)
    return model


class Single(nn.Module):
    """Rounds its outputs to float32, whatever it computes in."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp(nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).float()


RIGHT = {
    "head of zeros": lambda: zeroed(4),
    "zeros at kinks": lambda: zeroed(2, 4),
    "all zeros": lambda: zeroed(0, 2, 4),
    "saturated": lambda: scaled(1e3, nn.GELU()),
    "huge": lambda: scaled(1e8, nn.ReLU()),
    "tiny": lambda: scaled(1e-8, nn.Softplus(threshold=0.1)),
    "no curvature of its own": lambda: nn.Linear(5, 3),
    "hardtanh": lambda: mlp(nn.Hardtanh(), nn.ReLU6()),
    "outputs in float32": lambda: Single(),
    "dead units": lambda: nn.Sequential(nn.Linear(5, 50, bias=False), nn.ReLU(), nn.Linear(50, 3)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("opaque", [False, True])
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_network_is_never_refused(name, opaque, dtype, caplog):
    torch.manual_seed(2)
    model = RIGHT[name]().to(dtype)
    x, y = data(dtype)
    x[::2, 1:] = 0
    objective = Objective(Opaque(model) if opaque else model, (x, y))
    v = torch.randn(objective.num_parameters, dtype=dtype)
    with caplog.at_level(logging.INFO, logger="sharpness"):
        for kind in ("hessian", "ggn"):
            assert torch.isfinite(objective.hvp(v, kind=kind)).all()
    assert objective._engine.route.startswith("double backward" if opaque else "traced")
    assert not any("derivative of" in r.getMessage() for r in caplog.records)


class Checkpointed(nn.Module):
    """Runs a part again in the backward pass, where it sees the module's own weights."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.a, self.fc = nn.Linear(5, 4), nn.Linear(4, 3)
        self.b = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(checkpoint(self.b, self.a(x), use_reentrant=self.reentrant))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_activation_checkpointing_changes_no_product(dtype):
    torch.manual_seed(0)
    model = Checkpointed(reentrant=False).to(dtype)
    objective = Objective(model, data(dtype))
    plain = nn.Sequential(model.a, *model.b, model.fc)
    own = dict(model.named_parameters())
    names = {id(p): n for n, p in plain.named_parameters()}

    def forward(p, x):
        return torch.func.functional_call(plain, {names[id(own[n])]: t for n, t in p.items()}, (x,))

    hessian = dense(objective, forward)
    v = torch.randn(objective.num_parameters, dtype=dtype)
    np.testing.assert_allclose(objective.hvp(v), hessian @ v.double(), rtol=1e-4, atol=1e-5)


def test_checkpointing_without_a_gradient_is_refused_in_one_line():
    with pytest.raises(UserError, match="use_reentrant=False") as told:
        Objective(Checkpointed(reentrant=True), data())
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_values_are_the_same_where_gradients_are_switched_off(context):
    model = mlp(nn.GELU())
    expected = Objective(model, data())
    v = torch.randn(expected.num_parameters)
    with context():
        found = Objective(model, data())
        u = v.clone()
        np.testing.assert_array_equal(found.hvp(u), expected.hvp(u))
        np.testing.assert_array_equal(found.gradient(), expected.gradient())
        np.testing.assert_array_equal(found.quadratic_forms(u), expected.quadratic_forms(u))
