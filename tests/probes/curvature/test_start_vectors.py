"""Start vectors from the gradient: what they are near to, and that what they lack is found all the same."""

import numpy as np
import pytest
import torch
from torch import nn

import sharpness
from sharpness import Objective, eigenvalues
from sharpness.probes.curvature.row_eigenvalues import start_vector


@pytest.mark.parametrize("loss", [0.3, -0.3])
def test_of_a_product_of_two_layers_the_tilted_gradient_is_the_eigenvector_that_bends_down(loss):
    """L = (u v - 1 - loss)^2 / 2 at u = v = 1: the gradient is -loss (1, 1), the other eigenvector (1, -1)."""
    hessian = torch.tensor([[1.0, 1.0 - loss], [1.0 - loss, 1.0]], dtype=torch.float64)
    values, vectors = torch.linalg.eigh(hessian)
    gradient = torch.full((2,), -loss, dtype=torch.float64)
    tilted = start_vector(gradient, [1, 1], "SA") - start_vector(gradient, [1, 1], "LA")
    other = vectors[:, 0] if loss > 0 else vectors[:, int(values.argmin())]
    assert abs(float(tilted @ other)) == pytest.approx(1)


def test_the_tilt_is_orthogonal_to_the_gradient_and_of_the_same_length():
    generator = torch.Generator().manual_seed(0)
    sizes = [4, 1, 7, 3]
    g = torch.randn(sum(sizes), generator=generator, dtype=torch.float64)
    along = start_vector(g, sizes, "LA")
    tilted = start_vector(5 * g, sizes, "both") - along
    torch.testing.assert_close(along, g / g.norm())
    assert float(tilted @ along) == pytest.approx(0, abs=1e-14)
    assert float(tilted.norm()) == pytest.approx(1)


@pytest.mark.parametrize("g", [torch.zeros(3), torch.tensor([1.0, torch.nan, 0.0])])
def test_without_a_gradient_there_is_none(g):
    assert start_vector(g, [2, 1], "both") is None


@pytest.mark.parametrize("sizes", [[12], [11, 1], [1, 11]])
def test_a_gradient_in_one_layer_has_no_tilt(sizes):
    g = torch.randn(12, generator=torch.Generator().manual_seed(0))
    for layer in range(len(sizes)):
        alone = [piece if i == layer else 0 * piece for i, piece in enumerate(g.split(sizes))]
        one = torch.cat(alone).double()
        torch.testing.assert_close(start_vector(one, sizes, "SA"), one / one.norm())


class Shifted(nn.Module):
    """The loss w' A w / 2 at w = v."""

    def __init__(self, v):
        super().__init__()
        self.w = nn.Parameter(torch.as_tensor(v.copy()))

    def forward(self, x):
        return (0.5 * torch.einsum("i,nij,j->n", self.w, x, self.w))[:, None]


@pytest.mark.parametrize("position", [3, 150])
def test_ends_are_found_where_the_gradient_is_an_eigenvector_between_them(symmetric, position):
    """At w = v the gradient is A v: as bad a start as there is."""
    values = np.r_[-4.0, np.linspace(-0.1, 0.1, 300), 2.9, 3.0]
    matrix = symmetric(values)
    v = np.linalg.eigh(matrix)[1][:, -position]
    data = torch.as_tensor(matrix)[None], torch.zeros(1, dtype=torch.int64)
    objective = Objective(Shifted(v), data, loss=lambda outputs, y: outputs[:, 0])
    found = eigenvalues(objective, which="both")
    np.testing.assert_allclose(found.values, [3.0, -4.0], rtol=5e-3)
    assert found.converged.all()
    assert eigenvalues(objective).values[0] == pytest.approx(3.0, rel=5e-3)


def test_a_run_on_attention_starts_from_a_gradient_whose_record_has_second_derivatives():
    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.head = torch.nn.Linear(4, 12), torch.nn.Linear(4, 3)

        def forward(self, x):
            q, k, v = self.qkv(x)[:, None].chunk(3, -1)
            return self.head(torch.nn.functional.scaled_dot_product_attention(q, k, v)[:, 0].mean(1))

    torch.manual_seed(0)
    objective = sharpness.Objective(Attention().eval(), (torch.randn(12, 5, 4), torch.arange(12) % 3))
    found = sharpness.eigenvalues(objective, which="both")
    dense = torch.stack([objective.hvp(e) for e in torch.eye(objective.num_parameters)])
    ends = torch.linalg.eigvalsh((dense + dense.T) / 2)[[-1, 0]]
    assert abs(found.values - ends.numpy()).max() < 1e-3 * float(ends[0])
