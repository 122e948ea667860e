"""Models and data that have no curvature to measure: one line that says what and what to do."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sharpness import UserError


def direction(objective):
    return torch.randn(objective.num_parameters, dtype=torch.float64)


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("name", ["ResNet-8", "flattened by view"])
def test_a_model_put_into_training_mode_later_is_refused(build, name, traced):
    network = build(name)
    objective = network.objective()
    v = direction(objective)
    with objective.operator() as operator:
        if traced:
            operator(v)
        network.model.train()
        for act in (
            objective.evaluate,
            objective.loss,
            objective.class_losses,
            objective.gradient,
            lambda: objective.hvp(v),
            lambda: objective.quadratic_forms(v),
            lambda: operator(v),
            lambda: objective.operator().__enter__(),
        ):
            with pytest.raises(UserError, match=r"model\.eval\(\)"):
                act()
    network.model.eval()
    assert torch.isfinite(objective.hvp(v)).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_products_that_are_not_finite_are_refused_and_later_ones_are_right(build, close, value):
    network = build("constants")
    objective = network.objective()
    v = direction(objective)
    with objective.operator() as operator:
        with torch.no_grad():
            old = network.model.fc.weight[0, 0].item()
            network.model.fc.weight[0, 0] = value
        for act in (lambda: objective.hvp(v), lambda: operator(v)):
            with pytest.raises(UserError, match="not finite"):
                act()
        with pytest.raises(UserError, match="before anything was perturbed"):
            objective.check()
        with torch.no_grad():
            network.model.fc.weight[0, 0] = old
        expected = network.hessian_product(objective.parameters, v)
        close(objective.hvp(v), expected)
        close(operator(v), expected)
    assert objective._engine.route.startswith("traced")


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return 2 * g * ctx.saved_tensors[0]


class OnceDifferentiable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return Once.apply(self.fc(x))


class Shortcut(OnceDifferentiable):
    """A path around the function has a second derivative; plain autograd takes it for the whole."""

    def forward(self, x: Tensor) -> Tensor:
        u = self.fc(x)
        return Once.apply(u) + u


class WithoutSecondDerivative(OnceDifferentiable):
    """Torch's own: the backward pass of the margin loss has no derivative."""

    def forward(self, x: Tensor) -> Tensor:
        u = self.fc(x)
        return u + F.multi_margin_loss(u, torch.zeros(len(u), dtype=torch.int64), reduction="none")[:, None]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (OnceDifferentiable, "Once is marked @once_differentiable"),
        (Shortcut, "Once"),
        (WithoutSecondDerivative, "multi_margin_loss"),
    ],
)
def test_an_operation_without_a_second_derivative_is_named(wrap, close, model, name):
    network = wrap(model(), torch.randn(5, 4))
    objective = network.objective()
    v = direction(objective)
    close(objective.gradient(), network.gradient(objective.parameters))
    for act in (
        lambda: objective.hvp(v),
        lambda: objective.hvp(v, kind="ggn"),
        lambda: objective.quadratic_forms(v),
    ):
        with pytest.raises(UserError, match=f"no second derivative.*{name}.*out of scope") as caught:
            act()
        assert "\n" not in str(caught.value)


def test_parameters_after_an_operation_without_a_second_derivative_may_be_probed(wrap, close):
    """The remedy that the message names."""
    model = nn.Sequential(OnceDifferentiable(), nn.Linear(3, 3))
    network = wrap(model, torch.randn(5, 4))
    objective = network.objective(parameters="1.*")
    v = direction(objective)
    close(objective.hvp(v), network.hessian_product(objective.parameters, v))


def test_dropout_that_eval_does_not_stop_is_found_by_the_check(wrap):
    class Noisy(OnceDifferentiable):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(self.fc(x), training=True)

    with pytest.raises(UserError, match="is random, or keeps a state"):
        wrap(Noisy(), torch.randn(5, 4)).objective().check()


def test_a_model_whose_parameters_are_all_frozen_is_refused(build):
    network = build("ResNet-8")
    network.model.requires_grad_(False)
    with pytest.raises(UserError, match="all parameters are frozen"):
        network.objective()


def test_a_class_of_one_sample_has_the_derivatives_of_that_sample(build, close):
    network = build("ResNet-8, cosine")
    objective = network.objective()
    v = direction(objective)
    close(objective.hvp(v, 2), network.hessian_product(objective.parameters, v, rows=torch.tensor([3])))
    close(objective.gradient(2), network.gradient(objective.parameters, rows=torch.tensor([3])))
    assert objective.quadratic_forms(v, 2).shape == (1,)


def test_a_class_without_samples_is_refused(build):
    network = build("ResNet-8")
    objective = network.objective().restrict([0, 1, 2, 4])
    assert np.isnan(objective.class_losses()[2])
    v = direction(objective)
    for act in (
        lambda: objective.hvp(v, 2),
        lambda: objective.gradient(2),
        lambda: objective.quadratic_forms(v, 2),
        lambda: objective.operator(2).__enter__(),
    ):
        with pytest.raises(UserError, match="class 2 has no samples"):
            act()
