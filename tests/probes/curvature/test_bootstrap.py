"""Intervals over samples: how often they cover what other samples would give."""

import numpy as np
import pytest
import torch
from torch import nn

from sharpness import Objective, UserError, eigenvalues, trace
from sharpness.curvature.operator import random_signs
from sharpness.probes.curvature.resampling import mean_interval, projected_ends

RESAMPLES = 200
REPETITIONS = 200


def covers(bounds, truth):
    return bounds[0] <= truth <= bounds[1]


@pytest.mark.parametrize("weighted", [False, True])
def test_intervals_of_a_mean_cover_it_in_95_percent_of_samples(weighted):
    """Of exponential values; with weights, of the ratio of expectations."""
    random = np.random.default_rng(0)
    covered = 0
    truth = 1.75 / 1.25 if weighted else 1.0  # E a^2 / E a of a uniform on [0.5, 2]
    for seed in range(REPETITIONS):
        a = random.uniform(0.5, 2, 80) if weighted else np.ones(80)
        q = random.exponential(a)
        covered += covers(mean_interval(q, a, RESAMPLES, seed), truth)
    assert 0.90 <= covered / REPETITIONS <= 0.99


def test_intervals_are_deterministic_and_scale_with_their_values():
    q, a = np.random.default_rng(1).exponential(size=30), np.ones(30)
    one = mean_interval(q, a, RESAMPLES, 5)
    assert one == mean_interval(q, a, RESAMPLES, 5) != mean_interval(q, a, RESAMPLES, 6)
    np.testing.assert_allclose(mean_interval(-2 * q, a, RESAMPLES, 5), -2 * np.array(one[::-1]), rtol=1e-12)


def test_a_sample_of_weight_near_zero_does_not_count():
    q, a = np.array([1.0, 2.0, 3.0, 1e6]), np.array([1.0, 1.0, 1.0, 1e-300])
    assert mean_interval(q[:3], a[:3], 999, 0)[1] == 3
    assert mean_interval(q, a, 999, 0)[0] == 1


def inputs(width, n, random):
    """Of mean square 1."""
    return torch.from_numpy(random.uniform(-(3**0.5), 3**0.5, (n, width)))


def regression(x):
    """Squared loss of x (n, width), whose Hessian is 2 I in the population."""
    n, width = x.shape
    y = torch.zeros(n, dtype=torch.int64)
    model = nn.Linear(width, 1, bias=False).double()
    return Objective(model, (x, y), loss=lambda u, t: u[:, 0].square(), batch_size=n)


def test_intervals_of_an_eigenvalue_cover_that_of_the_population():
    """Those that are solved from the second derivatives 2 x'x; the probe's are the same."""
    random = np.random.default_rng(2)
    covered = 0
    for repetition in range(REPETITIONS):
        x = inputs(1, 60, random)
        forms = 2 * x.numpy()[:, :, None] ** 2
        found = projected_ends(forms, np.ones(60), "LA", 1, RESAMPLES, seed=0)
        low, high = np.quantile(found, [0.025, 0.975])
        covered += covers((low, high), 2.0)
        if repetition < 10:
            result = eigenvalues(regression(x), bootstrap=RESAMPLES, keep_vectors=False)
            assert (result.lower[0], result.upper[0]) == pytest.approx((low, high), rel=1e-10)
    assert 0.90 <= covered / REPETITIONS <= 0.99


def test_intervals_of_a_trace_cover_that_of_the_population():
    """z' (2 I) z is the trace for all signs z, so that samples are the only source of error.

    Those of z' (2 x x') z, written out here; the probe's are the same.
    """
    random, generator = np.random.default_rng(3), torch.Generator().manual_seed(0)
    signs = torch.stack([random_signs(3, generator, torch.float64, torch.device("cpu")) for _ in range(2)])
    covered = 0
    for repetition in range(REPETITIONS):
        x = inputs(3, 200, random)
        forms = 2 * (x @ signs.T).square().mean(dim=1).numpy()
        low, high = mean_interval(forms, np.ones(200), RESAMPLES, seed=0)
        covered += covers((low, high), 6.0)
        if repetition < 10:
            result = trace(regression(x), draws=2, bootstrap=RESAMPLES)
            assert (result.overall_lower[0], result.overall_upper[0]) == pytest.approx((low, high), rel=1e-10)
    assert 0.90 <= covered / REPETITIONS <= 0.99


def build(case, **options):
    return Objective(case.model, (case.x, case.y), case.loss, num_classes=3, **options)


def test_intervals_contain_the_value_that_they_belong_to(case):
    objective = build(case)
    for per_class in (False, True):
        result = eigenvalues(objective, 1, "both", per_class, bootstrap=RESAMPLES)
        assert result.lower.shape == result.upper.shape == result.values.shape
        assert (result.lower <= result.upper).all()
    result = trace(objective, per_class=True, draws=4, bootstrap=RESAMPLES)
    for low, value, high in (
        (result.lower, result.values, result.upper),
        (result.overall_lower, result.overall, result.overall_upper),
    ):
        assert (low <= value + 1e-9).all() and (value <= high + 1e-9).all()


def test_intervals_of_all_samples_do_not_depend_on_the_rows(case):
    """The samples of a case are sorted by class, so that resamples are the same ones."""
    objective = build(case)
    rows, whole = (trace(objective, c, draws=4, bootstrap=RESAMPLES) for c in (True, False))
    np.testing.assert_allclose(rows.overall_lower, whole.overall_lower, rtol=1e-8)
    np.testing.assert_allclose(rows.overall_upper, whole.overall_upper, rtol=1e-8)


@pytest.mark.every(3)
@pytest.mark.parametrize("weighted", [False, True])
def test_every_resample_is_solved_again(case, weighted):
    """The ends are those of dense Hessians of the resamples, up to what the Krylov space leaves out."""
    a = torch.linspace(0.5, 3, len(case.y), dtype=torch.float64) if weighted else torch.ones(len(case.y)).double()
    result = eigenvalues(build(case, weights=a), 1, "both", per_class=True, bootstrap=RESAMPLES, seed=4)
    for c in range(3):
        members = (case.y == c).nonzero().squeeze(1)
        hessians = np.stack([case.dense(rows=torch.arange(len(case.y)) == i)[2].numpy() for i in members])
        weights = a[members].numpy()
        counts = np.random.default_rng(4).multinomial(len(members), np.full(len(members), 1 / len(members)), RESAMPLES)
        drawn = counts * weights
        solved = np.linalg.eigvalsh(np.tensordot(drawn / drawn.sum(axis=1, keepdims=True), hessians, 1))[:, [-1, 0]]
        expected = np.quantile(solved, [0.025, 0.975], axis=0)
        np.testing.assert_allclose([result.lower[c], result.upper[c]], expected, rtol=0.1, atol=1e-8)


@pytest.mark.parametrize(
    ("samples", "activation"), [(5, nn.Tanh), (10, nn.ReLU), pytest.param(20, nn.Tanh, marks=pytest.mark.slow)]
)
def test_ends_of_the_interval_are_within_a_tenth_of_full_solutions(samples, activation):
    """Of a trained network with far more parameters than the basis has vectors, for images of unlike influence."""
    generator = torch.Generator().manual_seed(samples)
    x = torch.randn(200, 24, generator=generator, dtype=torch.float64)
    y = (x[:, :4] @ torch.randn(4, 4, generator=generator, dtype=torch.float64)).argmax(dim=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(24, 10), activation(), nn.Linear(10, 8), activation(), nn.Linear(8, 4)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    chosen = (y == 1).nonzero().squeeze(1)[:samples]
    objective = Objective(model.eval(), (x[chosen], y[chosen]), num_classes=4)
    result = eigenvalues(objective, 1, "both", bootstrap=RESAMPLES, seed=1)
    names, shapes = zip(*((n, p.shape) for n, p in model.named_parameters()), strict=True)

    def loss(w, i):
        pieces = w.split([shape.numel() for shape in shapes])
        inside = {n: piece.reshape(shape) for n, piece, shape in zip(names, pieces, shapes, strict=True)}
        return nn.functional.cross_entropy(torch.func.functional_call(model, inside, (x[i : i + 1],)), y[i : i + 1])

    w = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    hessians = [torch.func.hessian(loss)(w, int(i)).numpy() for i in chosen]
    counts = np.random.default_rng(1).multinomial(samples, np.full(samples, 1 / samples), RESAMPLES) / samples
    solved = [np.linalg.eigvalsh(np.tensordot(drawn, np.stack(hessians), 1))[[-1, 0]] for drawn in counts]
    expected = np.quantile(solved, [0.025, 0.975], axis=0)
    np.testing.assert_allclose([result.lower, result.upper], expected, rtol=0.1)


def test_the_share_of_the_most_influential_image_is_told(case):
    objective = Objective(
        nn.Linear(1, 1, bias=False).double(),
        (torch.tensor([[3.0], [1.0], [1.0]]).double(), torch.zeros(3, dtype=torch.int64)),
        loss=lambda u, t: u[:, 0].square(),
    )
    result = eigenvalues(objective, standard_errors=True)
    assert result.top_share[0] == pytest.approx(9 / 11)
    assert result.to_frame().top_share[0] == result.top_share[0]
    assert any("one image makes half of v'Hv or more: all (largest: 82 %)" in note for note in result.notes)


def test_along_a_direction_that_no_image_sees_nobody_has_a_share(case):
    """The same shift of all biases changes no softmax: the smallest eigenvalue of a linear classifier is 0."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 4, dtype=torch.float64, generator=generator)
    objective = Objective(nn.Linear(4, 3).double(), (x, torch.arange(12) % 3))
    result = eigenvalues(objective, which="both", standard_errors=True)
    assert 0 < result.top_share[0] < 1
    assert abs(result.values[1]) < 1e-9
    assert np.isnan(result.top_share[1])


def test_one_sample_has_no_interval():
    assert np.isnan(mean_interval(np.array([1.0]), np.ones(1), RESAMPLES, 0)).all()
    objective = Objective(nn.Linear(3, 3).double(), (torch.randn(5, 3), torch.tensor([0, 0, 2, 0, 0])))
    for result in (
        eigenvalues(objective, per_class=True, bootstrap=RESAMPLES),
        trace(objective, per_class=True, draws=2, bootstrap=RESAMPLES),
    ):
        values, low, high = (a.reshape(-1) for a in (result.values, result.lower, result.upper))
        assert np.isfinite([values[2], low[0], high[0]]).all()
        assert np.isnan([*low[1:], *high[1:]]).all()


@pytest.mark.parametrize("probe", [eigenvalues, trace])
@pytest.mark.parametrize("resamples", [99, 1, -1])
def test_too_few_resamples_are_refused_before_anything_is_computed(probe, resamples):
    objective = Objective(nn.Linear(3, 3), (torch.randn(4, 3), torch.tensor([0, 1, 2, 0])), loss=_counted)
    _counted.calls = 0
    with pytest.raises(UserError, match=f"bootstrap={resamples}"):
        probe(objective, bootstrap=resamples)
    assert not _counted.calls


def _counted(outputs, targets):
    _counted.calls = getattr(_counted, "calls", 0) + 1
    return nn.functional.cross_entropy(outputs, targets, reduction="none")
