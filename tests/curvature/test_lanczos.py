"""Lanczos against dense eigenvalues and scipy's eigsh, on spectra that break naive implementations."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh

from sharpness import UserError
from sharpness.curvature import lanczos

SPECTRA = {
    "spread": np.linspace(-3, 5, 40),
    "one outlier": np.r_[np.linspace(-0.1, 0.1, 80), 10],
    "negative dominant": np.r_[-50, np.linspace(0, 1, 60)],
    "rank deficient": np.r_[np.zeros(50), 1.0, 4.0],
    "repeated at the top": np.r_[7.0, 7.0, np.linspace(-1, 1, 30)],
    "tiny": 1e-9 * np.linspace(-2, 3, 30),
    "one by one": np.array([-2.5]),
}


def operator(matrix):
    dense = torch.as_tensor(matrix)
    return lambda v: dense @ v


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("k", [1, 3])
def test_both_ends_are_those_of_the_dense_spectrum(name, k, symmetric):
    values = np.sort(SPECTRA[name])[::-1]
    matrix = symmetric(values)
    found = lanczos(operator(matrix), len(values), k, "both", tol=1e-9, max_iterations=len(values))
    number = min(len(values), 2 * k)
    expected = values if number == len(values) else np.r_[values[:k], values[-k:]]
    np.testing.assert_allclose(found.values, expected, rtol=1e-6, atol=1e-8 * np.abs(values).max())
    assert found.converged.all()


@pytest.mark.parametrize("which", ["LA", "SA"])
def test_one_end_agrees_with_eigsh(which, symmetric):
    matrix = symmetric(np.random.default_rng(1).standard_normal(200))
    expected = np.sort(eigsh(matrix, k=4, which=which, return_eigenvectors=False, tol=1e-12))[::-1]
    found = lanczos(operator(matrix), 200, 4, which, tol=1e-9)
    np.testing.assert_allclose(found.values, expected, rtol=1e-8)


def test_residuals_are_those_of_the_returned_pairs(symmetric):
    matrix = symmetric(np.random.default_rng(2).standard_normal(120))
    found = lanczos(operator(matrix), 120, 2, "both", tol=1e-2)
    for value, vector, residual in zip(found.values, found.vectors.numpy(), found.residuals, strict=True):
        assert np.linalg.norm(matrix @ vector - value * vector) == pytest.approx(residual, rel=1e-9)
        assert residual <= 1e-2 * np.abs(found.values).max() * 1.01
    gram = found.vectors @ found.vectors.T
    torch.testing.assert_close(gram, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-10)


def test_a_long_run_has_no_ghost_copies(symmetric):
    """Without re-orthogonalisation the outlier would be found several times."""
    values = np.r_[np.linspace(0, 1, 150), 100.0]
    found = lanczos(operator(symmetric(values)), 151, 3, "LA", tol=1e-12, max_iterations=151)
    np.testing.assert_allclose(found.values, np.sort(values)[::-1][:3], rtol=1e-9)


@pytest.mark.parametrize("multiplicity", [2, 3])
def test_a_repeated_eigenvalue_of_a_low_rank_operator_is_found_as_often_as_it_occurs(multiplicity, symmetric):
    values = np.r_[np.full(multiplicity, 5.0), np.zeros(20)]
    found = lanczos(operator(symmetric(values)), len(values), multiplicity, "LA")
    np.testing.assert_allclose(found.values, 5.0, rtol=1e-10)


def test_the_zero_operator_has_zero_eigenvalues():
    found = lanczos(torch.zeros_like, 10, 2, "both")
    assert found.values.tolist() == [0.0] * 4
    assert found.converged.all()


def test_what_has_not_converged_is_flagged(symmetric):
    found = lanczos(operator(symmetric(np.linspace(0, 1, 300))), 300, 1, "LA", tol=1e-10, max_iterations=5)
    assert not found.converged.any()
    assert found.residuals[0] > 1e-10


def test_products_are_counted(symmetric):
    calls = []
    product = operator(symmetric(np.linspace(-1, 2, 50)))
    found = lanczos(lambda v: product(v), 50, 1, "both", callback=calls.append)
    assert found.products == sum(calls)


def test_float32_reaches_its_own_accuracy(symmetric):
    values = np.r_[np.linspace(-1, 1, 60), 8.0]
    dense = torch.as_tensor(symmetric(values), dtype=torch.float32)
    found = lanczos(lambda v: dense @ v, 61, 1, "both", dtype=torch.float32)
    np.testing.assert_allclose(found.values, [8.0, -1.0], rtol=5e-3)
    assert found.converged.all()


def test_a_product_that_overflows_is_reported():
    with pytest.raises(FloatingPointError, match="product 1"):
        lanczos(lambda v: v * torch.inf, 5)


@pytest.mark.parametrize("options", [{"k": 0}, {"which": "LM"}, {"tol": 0.0}])
def test_bad_settings_are_refused(options):
    with pytest.raises(UserError):
        lanczos(lambda v: v, 5, **options)
