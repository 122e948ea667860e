"""Gradients and products of every kind of network against plain autograd in float64."""

import numpy as np
import torch


def test_gradient_and_products_are_those_of_plain_autograd(network, close):
    objective = network.objective(batch_size=2)
    v = torch.randn(objective.num_parameters, dtype=torch.float64)
    parameters = objective.parameters
    close(objective.gradient(), network.gradient(parameters))
    assert objective._engine.route.startswith("traced"), objective._engine.route
    products = {
        "hessian": network.hessian_product(parameters, v),
        "ggn": network.gauss_newton_product(parameters, v),
    }
    for kind, expected in products.items():
        close(objective.hvp(v, kind=kind), expected)
        with objective.operator(kind=kind) as operator:
            operator(torch.randn_like(v))
            close(operator(v), expected)


def test_quadratic_forms_are_those_of_every_samples_hessian(network):
    objective = network.objective()
    v = torch.randn(objective.num_parameters, dtype=torch.float64)
    expected = [
        float(v @ network.hessian_product(objective.parameters, v, rows=torch.tensor([i])))
        for i in range(len(network.y))
    ]
    forms = objective.quadratic_forms(v)
    np.testing.assert_allclose(forms, expected, rtol=1e-8, atol=1e-10 * np.abs(expected).max())
