"""The ends of a spectrum without a basis: those of the dense matrix, though copies of eigenvectors return."""

import numpy as np
import pytest
import torch

from sharpness.curvature import krylov
from sharpness.curvature.recurrence import extremes

#: An end far from the rest, as of a trained network, a bulk, and a negative end.
SPECTRUM = np.r_[np.linspace(-0.05, 0.1, 180), np.linspace(1, 5, 18), 40.0, -3.0]


@pytest.fixture(scope="module")
def matrix():
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(200, 200)))
    return torch.from_numpy(rotation * SPECTRUM @ rotation.T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("which", "ends"), [("LA", [40.0]), ("SA", [-3.0]), ("both", [40.0, -3.0])])
def test_both_ends_are_those_of_the_dense_matrix(matrix, which, ends, dtype):
    found = extremes(lambda v: matrix.to(dtype) @ v, 200, which, dtype=dtype, tol=1e-4)
    assert found.converged.all() and found.products < 60
    np.testing.assert_allclose(found.values, ends, rtol=5e-4)
    assert (found.residuals <= 1e-4 * 40).all()


def test_copies_of_an_eigenvector_that_return_do_not_move_the_ends(matrix):
    """Two hundred steps of float32, long after orthogonality is lost: the smaller end is still sought."""
    found = extremes(lambda v: matrix.float() @ v, 200, "both", dtype=torch.float32, tol=1e-7, max_iterations=150)
    np.testing.assert_allclose(found.values, [40.0, -3.0], rtol=1e-5)


def test_a_space_that_is_exhausted_is_the_whole_answer():
    found = extremes(lambda v: torch.tensor([2.0, 2.0, -1.0], dtype=v.dtype) * v, 3, "both")
    np.testing.assert_allclose(found.values, [2.0, -1.0])
    assert found.converged.all() and found.products == 2


@pytest.mark.parametrize("size", [7, 65_536, 150_000])
@pytest.mark.parametrize("width", [(), (2,)])
def test_inner_products_of_all_pieces_at_once_are_those_of_numpy(size, width):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(8, size, generator=generator)[:3]
    v = torch.randn(size, *width, generator=generator)
    expected = rows.double().numpy() @ v.double().numpy()
    np.testing.assert_allclose(krylov._at_once(rows, v).numpy(), expected, atol=2e-3)
    np.testing.assert_allclose(krylov.inner(rows, v), expected, atol=2e-3)
