"""Lanczos against dense eigenvalues and scipy's eigsh, on spectra that break naive implementations."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh

from sharpness import UserError
from sharpness.curvature.lanczos import lanczos, lanczos_memory
from sharpness.curvature.recurrence import extremes

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


def true_residuals(matrix, found):
    vectors = found.vectors.double().numpy()
    return np.linalg.norm(vectors @ matrix - found.values[:, None] * vectors, axis=1)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-6])
@pytest.mark.parametrize(("k", "which"), [(1, "both"), (2, "both"), (4, "LA"), (3, "SA")])
def test_residuals_are_those_of_the_operator_itself(name, tol, k, which, symmetric):
    """Loose tolerances make pairs of the first run that a later run, orthogonal to them, must account for."""
    matrix = symmetric(SPECTRA[name])
    found = lanczos(operator(matrix), len(matrix), k, which, tol=tol)
    scale = np.abs(SPECTRA[name]).max()
    np.testing.assert_allclose(found.residuals, true_residuals(matrix, found), rtol=1e-9, atol=1e-13 * scale)
    assert (found.residuals <= tol * scale + 1e-13 * scale).all()
    assert found.converged.all()
    gram = found.vectors @ found.vectors.T
    torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.float64), rtol=0, atol=1e-12)


def test_residuals_of_earlier_pairs_do_not_spoil_those_of_later_ones(symmetric):
    """What a run leaves over comes back, summed over its pairs, in every pair that a later run finds."""
    values = np.r_[np.linspace(4, 5, 8), np.linspace(4, 5, 8), np.linspace(-1, 1, 100)]
    matrix = symmetric(values)
    for seed in range(15):
        generator = torch.Generator().manual_seed(seed)
        assert lanczos(operator(matrix), 116, 8, tol=0.03, generator=generator).converged.all()


def test_residuals_of_what_has_not_converged_are_true_as_well(symmetric):
    matrix = symmetric(np.linspace(-1, 1, 200))
    found = lanczos(operator(matrix), 200, 3, "both", max_iterations=12)
    assert not found.converged.any()
    assert found.products == 12
    np.testing.assert_allclose(found.residuals, true_residuals(matrix, found), rtol=1e-10)


@pytest.mark.parametrize("noise", [0.0, 1e-5, 1e-4])
def test_residuals_in_float32_see_the_errors_of_the_products(noise, symmetric):
    values = np.r_[20.0, 12.0, 9.0, 8.5, np.linspace(-2, 2, 300)]
    dense = torch.as_tensor(symmetric(values), dtype=torch.float32)
    wrong = noise * 20 * torch.randn(304, 304, generator=torch.Generator().manual_seed(0)) / 304**0.5
    found = lanczos(lambda v: (dense + wrong) @ v, 304, 4, "LA", dtype=torch.float32)
    vectors = found.vectors.double()
    exact = vectors @ (dense + wrong).double().T - torch.as_tensor(found.values)[:, None] * vectors
    np.testing.assert_allclose(found.residuals, exact.norm(dim=1).numpy(), rtol=1e-2, atol=3e-7 * 20)
    assert found.converged.all()
    np.testing.assert_allclose(found.values, values[:4], atol=20 * (1e-4 + noise))


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


@pytest.mark.parametrize(("k", "which"), [(1, "LA"), (2, "both"), (3, "SA")])
def test_products_are_counted_and_none_is_spent_on_residuals(k, which, symmetric):
    dense = torch.as_tensor(symmetric(np.linspace(-1, 2, 50)))
    calls, reported, seen = [], [], []
    found = lanczos(
        lambda v: (calls.append(v), dense @ v)[1], 50, k, which, callback=reported.append, checkpoint=seen.append
    )
    assert found.products == len(calls) == sum(reported) == len(seen)
    vectors = torch.stack(calls)
    assert torch.linalg.matrix_rank(vectors[: seen[-1].space.steps]) == min(len(calls), seen[-1].space.steps)


def test_a_run_that_only_confirms_is_shorter_than_a_full_one(symmetric):
    """Beyond a wide gap nothing needs to be resolved: the bound for random starts ends the run."""
    values = np.r_[10.0, 9.5, 9.0, np.linspace(-0.1, 1, 500)]
    matrix = symmetric(values)
    runs = []
    found = lanczos(operator(matrix), 503, 3, "LA", tol=1e-8, checkpoint=lambda s: runs.append(s.runs))
    np.testing.assert_allclose(found.values, [10, 9.5, 9], rtol=1e-9)
    assert set(runs) == {0, 1}
    assert runs.count(1) <= 12


def test_repeated_eigenvalues_are_found_for_every_start(symmetric):
    """The run that confirms ends early with a chance of error of 1e-6: no seed may miss a copy."""
    values = np.r_[5.0, 5.0, 4.0, np.linspace(-3, 3, 60), -6.0, -6.0]
    matrix = symmetric(values)
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        found = lanczos(operator(matrix), len(values), 2, "both", tol=1e-4, generator=generator)
        np.testing.assert_allclose(found.values, [5, 5, -6, -6], rtol=1e-6)


def test_a_good_start_saves_products_and_a_wrong_one_misses_nothing(symmetric):
    values = np.r_[np.linspace(0, 1, 300), 1.2]
    matrix = symmetric(values)
    vectors = torch.as_tensor(np.linalg.eigh(matrix)[1].T.copy())
    cold = lanczos(operator(matrix), 301, tol=1e-6)
    warm = lanczos(operator(matrix), 301, tol=1e-6, start=3 * vectors[-1])
    wrong = lanczos(operator(matrix), 301, tol=1e-6, start=vectors[100])
    assert warm.products < cold.products
    np.testing.assert_allclose([cold.values[0], warm.values[0], wrong.values[0]], 1.2, rtol=1e-9)


def test_memory_is_that_of_the_basis(symmetric):
    states = []
    lanczos(operator(symmetric(np.linspace(0, 1, 300))), 300, tol=1e-14, max_iterations=30, checkpoint=states.append)
    basis = sum(block.nbytes for block in states[-1].space.blocks)
    assert len(states) == 30
    assert lanczos_memory(300, 30) == basis + 2 * 300 * 8
    assert lanczos_memory(300, 30, torch.float32) == lanczos_memory(300, 30) // 2


def test_float32_reaches_its_own_accuracy(symmetric):
    values = np.r_[np.linspace(-1, 1, 60), 8.0]
    dense = torch.as_tensor(symmetric(values), dtype=torch.float32)
    found = lanczos(lambda v: dense @ v, 61, 1, "both", dtype=torch.float32)
    np.testing.assert_allclose(found.values, [8.0, -1.0], rtol=5e-3)
    assert found.converged.all()


def test_a_product_that_overflows_is_reported():
    with pytest.raises(FloatingPointError, match="product 1"):
        lanczos(lambda v: v * torch.inf, 5)


BAD = [
    {"k": 0},
    {"which": "LM"},
    {"tol": 0.0},
    {"max_iterations": 0},
    {"dtype": torch.float16},
    {"start": torch.ones(4)},
    {"start": torch.zeros(5)},
    {"start": torch.full((5,), torch.nan)},
]


@pytest.mark.parametrize("options", BAD, ids=str)
def test_bad_settings_are_refused(options):
    with pytest.raises(UserError):
        lanczos(lambda v: v, 5, **options)


@pytest.mark.parametrize("low", [-2.0, -0.5])
def test_a_small_residual_near_the_null_space_is_not_taken_for_an_end_of_the_spectrum(low):
    """A random vector is nearly in the null space of such a matrix: a residual of 0.05 comes with a value near 0."""
    spectrum = 0.05 * torch.randn(50_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    spectrum[0], spectrum[1] = 100.0, low
    pairs = lanczos(lambda v: spectrum * v, len(spectrum), which="both", tol=1e-3)
    assert pairs.converged.all()
    np.testing.assert_allclose(pairs.values, [100.0, low], rtol=0.02)
    cut = lanczos(lambda v: spectrum * v, len(spectrum), which="both", tol=1e-3, max_iterations=4)
    assert not cut.converged[1]


@pytest.mark.parametrize("find", [lanczos, extremes])
def test_in_a_small_space_an_end_is_found_that_the_start_vector_hardly_holds(find):
    start = torch.randn(43, generator=torch.Generator().manual_seed(0), dtype=torch.float64)  # as a run draws it
    last = torch.randn(43, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    last -= (1 - 1e-9) * (last @ start) / (start @ start) * start
    vectors = torch.linalg.qr(torch.column_stack([last, torch.eye(43, dtype=torch.float64)]))[0][:, :43]
    values = torch.cat([torch.tensor([-0.895, -0.79, 1.0]), torch.linspace(0, 0.01, 40)]).double()
    matrix = vectors @ torch.diag(values) @ vectors.T
    found = find(lambda v: matrix @ v, 43, which="both")
    np.testing.assert_allclose(found.values, [1.0, -0.895], rtol=5e-3)
