"""Curvature, random and worst-case rises of losses for which they can be written down."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpness import Objective, eigenvalues, random_perturbation, trace, worst_case
from sharpness.methods.ldam import LDAM
from sharpness.steps import Context

LABELS = np.array([0] * 12 + [1] * 5 + [2] * 3)
ROWS = [("all", None), *((str(c), c) for c in range(3))]


def features(width=4, seed=0):
    return np.random.default_rng(seed).standard_normal((len(LABELS), width))


def linear(x, outputs, loss, seed=0, **options):
    """A linear model without bias, whose flat weight is (outputs, features)."""
    model = nn.Linear(x.shape[1], outputs, bias=False).double()
    weight = torch.from_numpy(np.random.default_rng(seed + 1).standard_normal((outputs, x.shape[1])))
    model.weight.data.copy_(weight)
    data = torch.from_numpy(x), torch.from_numpy(LABELS)
    return Objective(model, data, loss=loss, num_classes=3, **options), weight.numpy()


def squared(outputs, targets):
    return (outputs[:, 0] - targets).square()


def logistic(outputs, targets):
    return F.binary_cross_entropy_with_logits(outputs[:, 0], (targets > 0).double(), reduction="none")


def softmax(u):
    e = np.exp(u - u.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def of_outputs(p):
    """diag(p) - p p' of every sample, (n, C, C)."""
    return np.einsum("nc,cd->ncd", p, np.eye(p.shape[1])) - np.einsum("nc,nd->ncd", p, p)


def mean_kron(blocks, x, weights):
    """The weighted mean of blocks (n, C, C) kron x x'."""
    return sum(a * np.kron(b, np.outer(v, v)) for a, b, v in zip(weights, blocks, x, strict=True)) / weights.sum()


def check_rows(objective, hessian_of, width):
    """Largest and smallest eigenvalues overall and per class, and traces, against ``hessian_of(rows)``."""
    exact = [hessian_of(np.ones(len(LABELS), bool)), *(hessian_of(c == LABELS) for c in range(3))]
    ends = [np.linalg.eigvalsh(h)[[-1, 0]] for h in exact]
    np.testing.assert_allclose(eigenvalues(objective, which="both", tol=1e-9).values, ends[0], rtol=1e-7, atol=1e-9)
    per_class = eigenvalues(objective, which="both", per_class=True, tol=1e-9)
    np.testing.assert_allclose(per_class.values, ends[1:], rtol=1e-7, atol=1e-9)
    estimate = trace(objective, per_class=True, draws=60)
    for value, error, h in zip(
        [*estimate.overall, *estimate.values[0]],
        [*estimate.overall_standard_errors, *estimate.standard_errors[0]],
        exact,
        strict=True,
    ):
        assert abs(value - np.trace(h)) <= 4 * error + 1e-9 * width


@pytest.mark.parametrize("weighted", [False, True])
def test_linear_regression_has_twice_the_second_moment_of_its_inputs(weighted):
    x = features()
    a = np.random.default_rng(3).uniform(0.2, 5, len(x)) if weighted else np.ones(len(x))
    objective, _ = linear(x, 1, squared, weights=torch.from_numpy(a))
    check_rows(objective, lambda rows: 2 * (x[rows].T * a[rows]) @ x[rows] / a[rows].sum(), 4)


def test_logistic_regression_weighs_inputs_by_p_times_one_minus_p():
    x = features()
    objective, weight = linear(x, 1, logistic)
    p = 1 / (1 + np.exp(-x @ weight[0]))
    check_rows(objective, lambda rows: (x[rows].T * (p * (1 - p))[rows]) @ x[rows] / rows.sum(), 4)


def test_softmax_regression_is_a_mean_of_kronecker_products():
    x = features()
    objective, weight = linear(x, 3, "ce")
    blocks = of_outputs(softmax(x @ weight.T))
    check_rows(objective, lambda rows: mean_kron(blocks[rows], x[rows], np.ones(rows.sum())), 12)


class Scaled(nn.Module):
    """Logits ``scale x W'``: a cosine head without its normalisation, which the scale does not touch."""

    def __init__(self, weight, scale):
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.from_numpy(weight)), scale

    def forward(self, x):
        return self.scale * x @ self.weight.T


def test_curvature_of_ldam_grows_with_the_square_of_its_scale_where_probabilities_are_the_same():
    x, counts = features(), torch.tensor([12, 5, 3])
    cosines = np.random.default_rng(5).standard_normal((3, 4)) / 5

    def objective(scale, weight, margin):
        loss = LDAM(scale=scale, max_margin=margin)
        data = torch.from_numpy(x), torch.from_numpy(LABELS)
        return Objective(Scaled(weight, scale), data, loss=lambda u, y: loss.terms(u, y, Context(counts, 1, 1))[0])

    small, large = objective(2.0, 15 * cosines, 7.5), objective(30.0, cosines, 0.5)
    assert small.loss() == pytest.approx(large.loss(), rel=1e-12)
    for per_class in (False, True):
        low, high = (eigenvalues(o, 2, per_class=per_class, tol=1e-9).values for o in (small, large))
        np.testing.assert_allclose(high, 15**2 * low, rtol=1e-7, atol=1e-9)
    margin = 0.5 * (counts.numpy() / 3.0) ** -0.25
    p = softmax(30 * (x @ cosines.T - margin * np.eye(3)[LABELS]))
    h = 30**2 * mean_kron(of_outputs(p), x, np.ones(len(x)))
    assert eigenvalues(large, tol=1e-9).values[0] == pytest.approx(np.linalg.eigvalsh(h)[-1], rel=1e-7)


class CosineHead(nn.Module):
    def __init__(self, scale):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(3, 4, dtype=torch.float64, generator=generator))
        self.scale = scale

    def forward(self, x):
        return self.scale * F.normalize(x) @ F.normalize(self.weight).T


@pytest.mark.parametrize("scale", [1.0, 16.0])
def test_the_gauss_newton_part_of_a_cosine_head_is_the_squared_scale_times_that_of_its_cosines(scale):
    x = torch.from_numpy(features())
    head = CosineHead(scale)
    objective = Objective(head, (x, torch.from_numpy(LABELS)))
    jacobian = torch.func.jacrev(lambda w: torch.func.functional_call(CosineHead(1.0), {"weight": w}, (x,)))(
        head.weight.detach()
    ).reshape(len(x), 3, 12)
    p = softmax(head(x).detach().numpy())
    exact = scale**2 * np.einsum("nci,ncd,ndj->ij", jacobian, of_outputs(p), jacobian) / len(x)
    found = eigenvalues(objective, 3, kind="ggn", tol=1e-9).values
    np.testing.assert_allclose(found, np.linalg.eigvalsh(exact)[::-1][:3], rtol=1e-7)


SPECTRA = {
    "repeated": [3.0, 3.0, 3.0, 1.0, 1.0, 0.5, -2.0, -2.0],
    "negative": [2.0, 1.0, 0.0, -1.0, -40.0, -40.0, -50.0, -50.0],
    "rank-deficient": [5.0, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    "negative definite": [-1.0, -2.0, -2.0, -3.0, -4.0, -5.0, -5.0, -9.0],
    "multiple of the identity": [2.0] * 8,
}


@pytest.fixture(params=SPECTRA)
def spectrum(request):
    return np.array(SPECTRA[request.param])


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("which", ["LA", "SA", "both"])
def test_a_quadratic_has_the_eigenvalues_of_its_matrix_as_often_as_they_occur(quadratic, symmetric, spectrum, which, k):
    result = eigenvalues(quadratic(symmetric(spectrum)), k, which, tol=1e-9)
    wanted = {"LA": spectrum[:k], "SA": spectrum[-k:], "both": np.r_[spectrum[:k], spectrum[-k:]]}[which]
    np.testing.assert_allclose(result.values, wanted, atol=1e-7)
    assert result.converged.all()
    np.testing.assert_allclose(result.vectors @ result.vectors.T, np.eye(len(wanted)), atol=1e-9)


def test_a_quadratic_has_the_trace_of_its_matrix(quadratic, symmetric, spectrum):
    objective = quadratic(symmetric(spectrum))
    for estimator in ("hutchinson", "hutch++"):
        found = trace(objective, draws=60, estimator=estimator)
        assert abs(found.overall[0] - spectrum.sum()) <= 4 * found.overall_standard_errors[0] + 1e-9


def test_the_trace_of_a_diagonal_matrix_is_exact_and_so_is_hutchpp_of_a_low_rank(quadratic, symmetric):
    diagonal = trace(quadratic(np.diag(SPECTRA["negative"])), draws=2)
    assert diagonal.overall[0] == pytest.approx(sum(SPECTRA["negative"]), rel=1e-12)
    assert diagonal.overall_standard_errors[0] == pytest.approx(0, abs=1e-12)
    low_rank = trace(quadratic(symmetric(SPECTRA["rank-deficient"])), draws=9, estimator="hutch++")
    assert low_rank.overall[0] == pytest.approx(10, rel=1e-9)


@pytest.mark.parametrize(("name", "c"), ROWS)
def test_of_a_linear_model_with_cross_entropy_hessian_and_gauss_newton_are_the_same(name, c):
    objective, _ = linear(features(), 3, "ce")
    v = torch.from_numpy(np.random.default_rng(8).standard_normal(12))
    assert torch.allclose(objective.hvp(v, c), objective.hvp(v, c, kind="ggn"), rtol=1e-10, atol=1e-12)
    for which in ("LA", "SA"):
        part = objective if c is None else objective.restrict(c)
        hessian, ggn = (eigenvalues(part, 2, which, kind=kind, tol=1e-9).values for kind in ("hessian", "ggn"))
        np.testing.assert_allclose(hessian, ggn, atol=1e-8)


def dense_ggn(case):
    """The mean over samples of J' (second derivative of the loss in the outputs) J, by torch.func."""
    parameters = {n: p.detach() for n, p in case.model.named_parameters()}
    buffers = dict(case.model.named_buffers())

    def outputs(flat):
        pieces = flat.split([p.numel() for p in parameters.values()])
        inside = {n: q.view_as(p) for q, (n, p) in zip(pieces, parameters.items(), strict=True)}
        return torch.func.functional_call(case.model, {**inside, **buffers}, (case.x,))

    flat = torch.cat([p.reshape(-1) for p in parameters.values()])
    jacobian = torch.func.jacrev(outputs)(flat)
    u = outputs(flat)
    inner = torch.stack([
        torch.func.hessian(lambda one, i=i: case.function(one[None], case.y[i : i + 1])[0])(u[i]) for i in range(len(u))
    ])  # fmt: skip
    return torch.einsum("nci,ncd,ndj->ij", jacobian, inner, jacobian) / len(u)


def test_the_gauss_newton_part_is_positive_and_that_of_the_jacobian(case):
    objective = Objective(case.model, (case.x, case.y), case.loss, num_classes=3)
    exact = dense_ggn(case)
    eye = torch.eye(len(exact), dtype=torch.float64)
    with objective.operator(kind="ggn") as operator:
        found = torch.stack([operator(v) for v in eye])
    assert torch.allclose(found, exact, rtol=1e-9, atol=1e-11 * (1 + float(exact.abs().max())))
    ends = eigenvalues(objective, which="both", kind="ggn", tol=1e-9).values
    size = np.linalg.eigvalsh(exact.numpy())[-1]
    assert ends[0] == pytest.approx(size, rel=1e-7, abs=1e-12)
    assert ends[1] >= -1e-9 * size


def first(outputs, targets):
    return outputs[:, 0]


#: The largest rise of g'w in the ball, by norm and whether it is scaled by |w|.
DUAL = {
    ("l2", False): lambda g, w: np.linalg.norm(g),
    ("linf", False): lambda g, w: abs(g).sum(),
    ("l2", True): lambda g, w: np.linalg.norm(w * g),
    ("linf", True): lambda g, w: abs(w * g).sum(),
}


@pytest.mark.parametrize(("norm", "adaptive"), DUAL)
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_worst_case_of_a_linear_loss_is_the_dual_norm_of_its_gradient(norm, adaptive, steps, weighted):
    """Of all samples and of every class; with batches of one it is the weighted mean over samples of theirs."""
    x, rho = features(), 0.3
    a = np.random.default_rng(3).uniform(0.2, 5, len(x)) if weighted else np.ones(len(x))
    objective, weight = linear(x, 1, first, weights=torch.from_numpy(a))
    size = DUAL[norm, adaptive]
    plain = worst_case(objective, rho, steps, norm, adaptive)
    single = worst_case(objective, rho, steps, norm, adaptive, m=1)
    for _, c in ROWS:
        rows = np.ones(len(x), bool) if c is None else c == LABELS
        whole, one = (r.overall if c is None else r.values[:, c] for r in (plain, single))
        assert whole[2] == pytest.approx(rho * size(a[rows] @ x[rows] / a[rows].sum(), weight[0]), rel=1e-9)
        of_samples = [rho * size(v, weight[0]) for v in x[rows]]
        assert one[2] == pytest.approx(a[rows] @ of_samples / a[rows].sum(), rel=1e-9)
        assert one[2] >= whole[2]


@pytest.mark.parametrize("values", [SPECTRA["repeated"], SPECTRA["rank-deficient"], [8.0, 1.0, 0.5], [2.0, -1.0, -9.0]])
def test_the_worst_case_at_a_stationary_point_is_half_the_squared_radius_times_the_top_eigenvalue(
    quadratic, symmetric, values
):
    """The gradient there is exactly zero: one step stays, more leave it by a random one."""
    objective = quadratic(symmetric(values), at_minimum=True)
    result = worst_case(objective, rho=0.4, steps=300)
    assert result.of("worst_rise") == pytest.approx(0.4**2 / 2 * values[0], rel=1e-3)
    assert result.of("worst_rise") <= 0.4**2 / 2 * values[0] * (1 + 1e-12)
    assert worst_case(objective, rho=0.4).of("worst_rise") == 0


def test_the_worst_case_at_a_maximum_is_no_rise(quadratic, symmetric):
    for norm in ("l2", "linf"):
        objective = quadratic(symmetric(SPECTRA["negative definite"]), at_minimum=True)
        assert worst_case(objective, 0.4, 20, norm).of("worst_rise") == 0


def test_the_worst_case_of_every_class_at_its_minimum_is_that_of_its_own_matrix(quadratic, symmetric):
    """The overall value is that of the mean matrix, hence at most the mean over classes; so is every m between."""
    matrices = np.stack([symmetric([4.0, 1.0, 0.5, 0.1], seed) for seed in range(6)])
    labels, rho = [0, 0, 0, 1, 1, 2], 0.2
    objective = quadratic(matrices, labels, at_minimum=True)
    result = worst_case(objective, rho, 200)
    for c in range(3):
        mean = matrices[np.array(labels) == c].mean(axis=0)
        assert result.values[2, c] == pytest.approx(rho**2 / 2 * np.linalg.eigvalsh(mean)[-1], rel=1e-3)
    assert result.of("worst_rise") == pytest.approx(
        rho**2 / 2 * np.linalg.eigvalsh(matrices.mean(axis=0))[-1], rel=1e-3
    )
    assert worst_case(objective, rho, 200, m=1).of("worst_rise") == pytest.approx(rho**2 / 2 * 4, rel=1e-3)


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_worst_case_at_the_minimum_of_least_squares_is_that_of_its_scaled_hessian(adaptive):
    r"""``(x' w - y)^2`` at w with residual zero: :math:`\rho^2 / 2` times the top eigenvalue of T (2 X'X / n) T."""
    random, rho = np.random.default_rng(1), 0.3
    w = random.standard_normal(4)
    across = random.standard_normal((len(LABELS), 4))
    x = across + np.outer((LABELS - across @ w) / (w @ w), w)
    model = nn.Linear(4, 1, bias=False).double()
    model.weight.data.copy_(torch.from_numpy(w[None]))
    objective = Objective(model, (torch.from_numpy(x), torch.from_numpy(LABELS)), loss=squared, num_classes=3)
    assert objective.loss() < 1e-20
    t = np.diag(abs(w)) if adaptive else np.eye(4)
    result = worst_case(objective, rho, 200, adaptive=adaptive)
    for _, c in ROWS:
        rows = np.ones(len(x), bool) if c is None else c == LABELS
        exact = rho**2 / 2 * np.linalg.eigvalsh(t @ (2 * x[rows].T @ x[rows] / rows.sum()) @ t)[-1]
        found = result.of("worst_rise") if c is None else result.values[2, c]
        assert found == pytest.approx(exact, rel=1e-3)
        assert found <= exact * (1 + 1e-9)


def test_random_rises_of_every_class_are_half_the_trace_of_its_hessian():
    """At the minimum of least squares there is no other term; each mean lies within four exact standard errors."""
    x, sigma, draws = features(), 0.4, 1000
    model = nn.Linear(4, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    data = torch.from_numpy(x), torch.from_numpy(LABELS)
    objective = Objective(model, data, loss=lambda u, y: u[:, 0].square(), num_classes=3)
    result = random_perturbation(objective, [sigma], draws, normalization=None)
    for _, c in ROWS:
        rows = np.ones(len(x), bool) if c is None else c == LABELS
        h = 2 * x[rows].T @ x[rows] / rows.sum()
        standard_error = (sigma**4 / 2 * np.trace(h @ h) / draws) ** 0.5
        assert abs(result.rise(c)[0][0] - sigma**2 / 2 * np.trace(h)) < 4 * standard_error
        assert result.rise(c)[1][0] == pytest.approx(standard_error, rel=0.2)
