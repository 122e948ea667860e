"""The basis stays orthonormal, and the recurrence holds, where naive Lanczos loses both."""

import numpy as np
import pytest
import torch

from sharpness.curvature.krylov import Krylov, inner, length

SPECTRA = {
    "outlier": np.r_[np.linspace(0, 1, 90), 1e6],
    "geometric": np.geomspace(1e-12, 1, 60),
    "clusters": np.r_[1 + 1e-7 * np.arange(30), -1 - 1e-7 * np.arange(30)],
}


def grown(matrix, steps, locked=None, dtype=torch.float64):
    dense = torch.as_tensor(matrix, dtype=dtype)
    start = torch.randn(len(matrix), dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(dtype)
    space = Krylov.starting_at(start, locked)
    while space.steps < steps and not space.exhausted:
        space.extend(dense @ space.last)
    return space


def basis(space):
    return torch.cat([space.locked, *space.blocks])[: len(space.locked) + space.rows].double().numpy()


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_basis_is_orthonormal_to_the_last_vector(name, dtype, symmetric):
    rows = basis(grown(symmetric(SPECTRA[name]), 1000, dtype=dtype))
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), rtol=0, atol=30 * torch.finfo(dtype).eps)


def test_the_recurrence_holds_for_any_locked_rows(symmetric):
    """Random locked rows are as far from eigenvectors as can be."""
    matrix = symmetric(np.linspace(-2, 5, 50))
    locked = torch.linalg.qr(torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))[0].T
    space = grown(matrix, 12, locked.contiguous())
    theta, s = space.ritz()
    vectors = space.combine(s).numpy()
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(12), atol=1e-13)
    np.testing.assert_allclose(vectors @ locked.T.numpy(), 0, atol=1e-13)
    true = np.linalg.norm(vectors @ matrix - theta[:, None] * vectors, axis=1)
    np.testing.assert_allclose(space.residuals(theta, s), true, rtol=1e-12)


def test_an_invariant_space_is_exhausted(symmetric):
    space = grown(symmetric(np.r_[np.zeros(40), 1, 2, 3]), 1000)
    assert space.steps == 4
    np.testing.assert_allclose(space.ritz()[0], [0, 1, 2, 3], atol=1e-14)


def test_long_float32_vectors_have_unit_length():
    """Summed in float32, the squares of 20 million numbers are off in the third digit."""
    v = torch.randn(20_000_000, generator=torch.Generator().manual_seed(0))
    assert length(v) == pytest.approx(float(v.double().norm()), rel=1e-6)
    assert inner(v[None], v)[0] == pytest.approx(float(v.double() @ v.double()), rel=1e-6)
