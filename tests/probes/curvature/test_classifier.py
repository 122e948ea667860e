"""The last layer in closed form, against dense Hessians of a network that is written out."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian

from sharpness import Objective, eigenvalues, measure, trace
from sharpness.models.heads import CosineHead
from sharpness.objective.coordinates import filter_scales
from sharpness.probes.curvature import class_support, classifier, row_eigenvalues

CLASSES, FEATURES = 4, 6
PRODUCTS = row_eigenvalues.Rows.map


class Net(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.body = nn.Linear(3, FEATURES)
        self.head = head

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))


HEADS = {
    "linear": lambda: nn.Linear(FEATURES, CLASSES),
    "no bias": lambda: nn.Linear(FEATURES, CLASSES, bias=False),
    "cosine": lambda: CosineHead(FEATURES, CLASSES, 5.0),
}


def objective_of(head, **options):
    """Class 0 has more images than features, class 3 a single one."""
    torch.manual_seed(0)
    net = Net(HEADS[head]()).double().eval()
    with torch.no_grad():
        net.head.weight.mul_(1.7)
    y = torch.tensor([0] * 9 + [1] * 4 + [2] * 2 + [3])
    x = torch.randn(len(y), 3).double()
    weights = torch.linspace(0.5, 2, len(y)).double()
    return Objective(net, (x, y), parameters="classifier", weights=weights, groups={"few": (2, 3)}, **options)


def dense(objective, members, temperature=1.0):
    """D H D of the mean loss of some classes, by torch, in the order of the parameters."""
    names, sizes = objective.names, [p.shape for p in objective.parameters]
    rows = np.flatnonzero(np.isin(objective.classes.numpy(), members))
    x, y, a = objective.x[rows], objective.y[rows], objective.weights[rows]

    def loss(flat):
        parts = flat.split([s.numel() for s in sizes])
        outputs = functional_call(
            objective.model, {n: p.view(s) for n, p, s in zip(names, parts, sizes, strict=True)}, (x,)
        )
        return (nn.functional.cross_entropy(outputs / temperature, y, reduction="none") * a).sum() / a.sum()

    found = hessian(loss)(torch.cat([p.detach().reshape(-1) for p in objective.parameters])).detach()
    units = filter_scales(objective) if objective.coordinates == "filter" else torch.ones(len(found)).double()
    return units[:, None] * found * units


@pytest.fixture(autouse=True)
def closed(monkeypatch):
    """Products are not made: the closed form answers."""
    monkeypatch.setattr(row_eigenvalues.Rows, "map", lambda *_, **__: pytest.fail("products"))


@pytest.mark.parametrize("coordinates", ["plain", "filter"])
@pytest.mark.parametrize("head", list(HEADS))
def test_eigenvalues_of_every_class_are_those_of_the_dense_hessian(head, coordinates):
    objective = objective_of(head).in_coordinates(coordinates)
    found = eigenvalues(objective, 2, "both", per_class=True, tol=1e-9, keep_vectors=True)
    for c in range(CLASSES):
        matrix = dense(objective, [c])
        exact = torch.linalg.eigvalsh(matrix).flip(0).numpy()
        np.testing.assert_allclose(found.values[c], [*exact[:2], *exact[-2:]], atol=1e-8 * abs(exact).max())
        vectors, matrix = found.vectors[c], matrix.numpy()
        np.testing.assert_allclose(vectors @ vectors.T, np.eye(4), atol=1e-6)
        np.testing.assert_allclose(vectors @ matrix, found.values[c][:, None] * vectors, atol=1e-6 * abs(exact).max())
    groups = eigenvalues(objective, per_group=True, tol=1e-9)
    top = torch.linalg.eigvalsh(dense(objective, [2, 3]))[-1]
    assert groups.values[0, 0] == pytest.approx(float(top), rel=1e-8)
    assert eigenvalues(objective, tol=1e-9).values[0] == pytest.approx(
        float(torch.linalg.eigvalsh(dense(objective, range(CLASSES)))[-1]), rel=1e-8
    )


@pytest.mark.parametrize(("head", "coordinates"), [("linear", "filter"), ("no bias", "plain"), ("cosine", "plain")])
def test_many_classes_of_which_few_have_the_probability(head, coordinates, monkeypatch):
    """The others count by one dimension a sample; answers are those of all, and so are vectors and parts by image."""
    torch.manual_seed(1)
    scale = {"linear": 20.0, "no bias": 20.0, "cosine": 1.0}[head]
    made = {"linear": nn.Linear(5, 60), "no bias": nn.Linear(5, 60, bias=False), "cosine": CosineHead(5, 60, 60.0)}[
        head
    ]
    net = nn.Sequential()
    net.body, net.head = nn.Linear(3, 5), made
    net = net.double().eval()
    with torch.no_grad():
        net.head.weight.mul_(scale)
    y = torch.tensor([0, 0, 0, 7, 7, 7, 7, 7, 7, 7])
    x = 2 * torch.randn(len(y), 3).double()
    objective = Objective(
        net,
        (x, y),
        parameters="classifier",
        num_classes=60,
        weights=torch.linspace(0.5, 2, len(y)).double(),
        logits=1.5,
    ).in_coordinates(coordinates)
    used = []
    original = class_support.Support.suffices
    monkeypatch.setattr(class_support.Support, "suffices", lambda *given: (used.append(original(*given)), used[-1])[1])
    found = eigenvalues(objective, 2, per_class=True, tol=1e-3, keep_vectors=True, standard_errors=True)
    assert used and used[-1]
    monkeypatch.setattr(classifier, "supports", lambda *_: ())
    whole = eigenvalues(objective, 2, per_class=True, tol=1e-9, standard_errors=True)
    for c in (0, 7):
        matrix = dense(objective, [c], 1.5)
        exact = torch.linalg.eigvalsh(matrix).flip(0)[:2].numpy()
        # Lanczos at a residual of 1e-3 of the value leaves an error of its square over the gap.
        np.testing.assert_allclose(found.values[c], exact, rtol=1e-4)
        np.testing.assert_allclose(whole.values[c], exact, rtol=1e-9)
        v = torch.from_numpy(found.vectors[c]).double()
        apart = (v @ matrix - torch.from_numpy(found.values[c])[:, None] * v).norm(dim=1).numpy()
        assert (apart <= 1.01 * found.residuals[c] + 1e-9 * exact[0]).all()
        np.testing.assert_allclose((v @ v.T).numpy(), np.eye(2), atol=1e-6)
    known = [0, 7]
    np.testing.assert_allclose(found.standard_errors[known, 0], whole.standard_errors[known, 0], rtol=1e-2)


def test_rows_of_more_probabilities_than_fit_are_done_by_products(monkeypatch):
    objective = objective_of("linear")
    closed = eigenvalues(objective, per_class=True, tol=1e-9).values
    monkeypatch.setattr(row_eigenvalues, "memory_budget", lambda _: 4 * 8 * 9 * CLASSES - 1)
    monkeypatch.setattr(row_eigenvalues.Rows, "map", PRODUCTS)
    monkeypatch.setattr(row_eigenvalues, "layer_eigenpairs", lambda *_, **__: pytest.fail("closed form"))
    np.testing.assert_allclose(eigenvalues(objective, per_class=True, tol=1e-9).values, closed, rtol=1e-8)


def test_vectors_have_the_precision_of_the_model():
    """Of which their size is told beforehand."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, FEATURES), nn.Linear(FEATURES, CLASSES))
    found = eigenvalues(net, (torch.randn(8, 3), torch.arange(8) % 4), options={"parameters": "classifier"})
    assert found.vectors.dtype == np.float32 and found.values.dtype == np.float64


def test_a_bound_of_what_is_left_out_holds_at_every_level(monkeypatch):
    """Eigenvalues of fewer and fewer classes differ from those of all by no more than is said."""
    torch.manual_seed(2)
    layer = classifier.LastLayer(
        torch.randn(6, 4).double(), torch.zeros(30, 4).double(), 4 * torch.randn(30).double(), torch.ones(30).double(),
        torch.zeros(30).double(), 1.0, 0.7, torch.arange(6) % 2, 1.3, torch.rand(6).double() + 0.1,
    )  # fmt: skip
    samples, p = torch.arange(6), layer.probabilities(slice(None))
    monkeypatch.setattr(class_support, "ERROR", 1.0)
    monkeypatch.setattr(class_support, "LEVELS", (0.3, 0.1, 0.03, 0.01))
    shares = layer.weights / layer.weights.sum()
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    z = torch.cat([layer.features, torch.full((6, 1), 0.7).double()], dim=1)
    matrix = torch.einsum("n,ncd,nk,nl->ckdl", shares / 1.3**2, inner, z, z).reshape(150, 150)
    exact = float(torch.linalg.eigvalsh(matrix)[-1])
    levels = list(class_support.supports(layer, samples, p, False))
    assert len(levels) >= 2
    for support in levels:
        span = classifier.Span(layer, samples, p, True, support)
        value = float(span.eigenpairs(1, "LA", False, tol=1e-9).values[0])
        bound = support.coupling * support.rest / (value * (value - support.rest))
        assert -1e-12 < exact - value < bound
        own = torch.stack([span.product(e) for e in torch.eye(span.size).double()])
        np.testing.assert_allclose(own, own.T, atol=1e-14)


@pytest.mark.parametrize("head", list(HEADS))
def test_traces_are_exact_at_a_temperature_and_so_are_errors_over_images(head, monkeypatch):
    objective = objective_of(head, logits=2.5)
    found = trace(objective, per_class=True)
    exact = [float(dense(objective, [c], 2.5).trace()) for c in range(CLASSES)]
    np.testing.assert_allclose(found["trace"].values, exact, rtol=1e-9)
    assert found.overall[0] == pytest.approx(float(dense(objective, range(CLASSES), 2.5).trace()), rel=1e-9)
    assert found.over == ("images",) and np.isnan(found["trace"].standard_errors[3])
    largest = measure(objective, "lambda_max, trace, soft_rank", tol=1e-9)
    tops = [float(torch.linalg.eigvalsh(dense(objective, [c], 2.5))[-1]) for c in range(CLASSES)]
    np.testing.assert_allclose(largest["lambda_max"].values, tops, rtol=1e-8)
    np.testing.assert_allclose(largest["soft_rank"].values, np.array(exact) / tops, rtol=1e-8)
    # Errors over images are those of products.
    with monkeypatch.context() as patch:
        patch.setattr(row_eigenvalues.Rows, "map", PRODUCTS)
        patch.setattr(row_eigenvalues.LastLayer, "of", lambda _: None)
        other = eigenvalues(objective, per_class=True, tol=1e-9, standard_errors=True)
    own = eigenvalues(objective, per_class=True, tol=1e-9, standard_errors=True)
    np.testing.assert_allclose(own.standard_errors, other.standard_errors, rtol=1e-5)
    np.testing.assert_allclose(own.top_share, other.top_share, rtol=1e-5)


def test_the_gauss_newton_part_of_a_cosine_layer_has_no_negative_end():
    objective = objective_of("cosine")
    found = eigenvalues(objective, 1, "both", kind="ggn", tol=1e-9)
    (jacobian,) = torch.autograd.functional.jacobian(
        lambda w: functional_call(objective.model, {"head.weight": w}, (objective.x,)),
        (objective.parameters[0].detach(),),
    )
    j = jacobian.reshape(len(objective.x), CLASSES, -1)
    j, p = j.detach(), torch.softmax(objective.outputs(), dim=1)
    s = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    matrix = torch.einsum("nck,ncd,ndl,n->kl", j, s, j, objective.weights / objective.weights.sum())
    exact = torch.linalg.eigvalsh(matrix)
    assert found.values[0] == pytest.approx(float(exact[-1]), rel=1e-8) and abs(found.values[1]) < 1e-10


def test_other_losses_and_scopes_have_none():
    whole = objective_of("linear")
    assert row_eigenvalues.LastLayer.of(whole) is not None

    def ce(u, t):
        return u.square().sum(dim=1)

    some = {"output": lambda u: u[:, : CLASSES - 1]}  # of the classes of another data set, or beside a rejection
    for options in ({"parameters": "all"}, {"loss": lambda u, t: u.square().sum(dim=1)}, {"loss": ce}, some):
        y = whole.y.clamp(max=CLASSES - 2) if options is some else whole.y
        other = Objective(whole.model, (whole.x, y), **{"parameters": "classifier", **options})
        assert row_eigenvalues.LastLayer.of(other) is None
