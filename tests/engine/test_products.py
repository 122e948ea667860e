"""One product in every way that the engine can make it: scopes, batches, memory, threads, precision, odd scales."""

import pytest
import torch
from torch import nn

from sharpness import Objective
from sharpness.models import build_model

EVERY_KIND = ("hessian", "ggn")


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def direction(objective, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(objective.num_parameters, dtype=torch.float64, generator=generator)


def small_network():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 2, bias=False), nn.BatchNorm2d(2), nn.Tanh(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3),
    )  # fmt: skip


@pytest.mark.parametrize(
    "scope", ["all", "backbone", "classifier", "*.bias", "0.weight", "3.weight", "4.*", "[14].weight", "[14].bias"]
)
def test_the_product_of_a_scope_is_a_block_of_the_dense_hessian(wrap, close, scope):
    torch.manual_seed(0)
    network = wrap(small_network(), torch.randn(5, 2, 5, 5))
    for bn in (network.model[1], network.model[4]):
        nn.init.normal_(bn.weight)
        nn.init.normal_(bn.bias)
    sizes = {n: p.numel() for n, p in network.model.named_parameters()}
    start = torch.cat([p.detach().reshape(-1) for p in network.model.parameters()])

    def loss(w):
        inside = {
            n: piece.view(p.shape)
            for piece, (n, p) in zip(w.split(list(sizes.values())), network.model.named_parameters(), strict=True)
        }
        outputs = torch.func.functional_call(network.model, inside, (network.x,))
        return nn.functional.cross_entropy(outputs, network.y)

    hessian = torch.func.hessian(loss)(start)
    objective = network.objective(parameters=scope)
    rows = torch.cat([torch.full((size,), name in objective.names) for name, size in sizes.items()])
    v = direction(objective)
    assert 0 < objective.num_parameters == int(rows.sum())
    close(objective.hvp(v), hessian[rows][:, rows] @ v)
    close(objective.gradient(), torch.func.grad(loss)(start)[rows])
    with objective.operator() as operator:
        operator(direction(objective, seed=1))
        close(operator(v), hessian[rows][:, rows] @ v)
    assert objective._engine.route.startswith("traced")


@pytest.mark.parametrize("scope", ["backbone", "classifier", "*bn*", "*.weight", "backbone.layer2.0.conv1.weight"])
@pytest.mark.parametrize("head", ["ResNet-8", "ResNet-8, cosine, scaled"])
def test_scopes_of_a_residual_network_are_those_of_plain_autograd(build, close, head, scope):
    network = build(head)
    objective = network.objective(parameters=scope)
    v = direction(objective)
    close(objective.hvp(v), network.hessian_product(objective.parameters, v))
    close(objective.hvp(v, kind="ggn"), network.gauss_newton_product(objective.parameters, v))
    assert objective._engine.route.startswith("traced")


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("name", ["ResNet-8, cosine", "convolution with bias, BatchNorm", "constants", "tied"])
def test_memory_and_batches_never_change_a_product(build, close, name, kind):
    network = build(name)
    found = []
    for batch_size in (1, 3, 5, "auto"):
        objective = network.objective(batch_size=batch_size)
        v = direction(objective)
        found.append(objective.hvp(v, kind=kind))
        for memory in (None, 0, 1e-5):
            objective.memory = memory
            with objective.operator(kind=kind) as operator:
                found += [operator(v), operator(v)]
    for product in found:
        close(product, found[0], tolerance=1e-12)


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize(
    "gamma",
    [[0.0, 1, 1, 1], [0.0, 0, 0, 0], [1e-9, -1, 1, 1], [1e-3, 1, 1, 1], [1.01e-3, -1, 2, 1], [-1, -2, -1, -3]],
    ids=str,
)
def test_any_scale_of_a_folded_batchnorm_is_exact(build, close, gamma, kind):
    """Single products divide by the scale; one that is too small must not be divided by."""
    network = build("convolution with bias, BatchNorm")
    with torch.no_grad():
        network.model[1].weight.copy_(torch.tensor(gamma))
    oracle = network.hessian_product if kind == "hessian" else network.gauss_newton_product
    objective = network.objective()
    v = direction(objective)
    expected = oracle(objective.parameters, v)
    close(objective.hvp(v, kind=kind), expected)
    with objective.operator(kind=kind) as operator:
        close(operator(v), expected)
        close(operator(v), expected)
    assert objective._engine.route.startswith("traced")


def test_scales_near_the_smallest_that_is_divided_by_keep_float32_exact(build, close):
    network = build("convolution with bias, BatchNorm")
    with torch.no_grad():
        network.model[1].weight.copy_(torch.tensor([1.1e-3, 1.0, -1.0, 0.5]))
        network.model[1].bias.fill_(3.0)
    objective = network.objective()
    v = direction(objective)
    expected = network.hessian_product(objective.parameters, v)
    network.model.float()
    close(network.objective().hvp(v.float()), expected, tolerance=1e-3)


@pytest.mark.parametrize("depth", [20, 32])
def test_float32_products_of_deep_residual_networks_are_near_those_of_float64(wrap, close, depth):
    torch.manual_seed(0)
    network = wrap(build_model(f"resnet{depth}", 3, 2), torch.randn(5, 2, 8, 8))
    double = network.objective()
    v = direction(double)
    expected = network.hessian_product(double.parameters, v)
    network.model.float()
    single = network.objective()
    close(single.hvp(v.float()), expected, tolerance=1e-3)
    with single.operator() as operator:
        close(operator(v.float()), expected, tolerance=1e-3)


@pytest.mark.parametrize("name", ["ResNet-8, cosine", "transformer layer"])
def test_the_number_of_threads_does_not_change_a_bit(build, threads, name):
    objective = build(name).objective(batch_size=2)
    v = direction(objective)
    found = []
    for number in (1, 2):
        threads(number)
        with objective.operator() as operator:
            found.append((objective.gradient(), objective.hvp(v), operator(v), operator(v)))
        assert torch.get_num_threads() == number
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


def test_the_number_of_threads_is_put_back_when_the_loss_raises(build, threads):
    def faulty(u, y):
        if u.shape[0] == 1:
            raise KeyError("one sample")
        return nn.functional.cross_entropy(u, y, reduction="none")

    objective = build("constants").objective(batch_size=2, loss=faulty)
    threads(2)
    for act in (lambda: objective.hvp(direction(objective)), objective.gradient):
        with pytest.raises(KeyError):
            act()
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("name", ["GroupNorm", "LayerNorm", "transposed convolution", "weight norm"])
def test_batches_in_threads_leave_the_modules_of_a_model_alone(build, close, threads, name):
    """Modules without rules of their own are called with tensors swapped in, which two threads must not do at once."""
    network = build(name)
    many = Objective(
        network.model, (network.x.repeat(12, *[1] * (network.x.ndim - 1)), network.y.repeat(12)), batch_size=1
    )
    before = [(n, id(p)) for n, p in network.model.named_parameters()]
    v = direction(many)
    expected = network.hessian_product(many.parameters, v)
    threads(4)
    for _ in range(8):
        close(many.hvp(v), expected)
        assert [(n, id(p)) for n, p in network.model.named_parameters()] == before


@pytest.mark.parametrize("name", ["ResNet-8", "max-pool", "3d"])
def test_a_channels_last_model_has_the_same_products(build, close, name):
    network = build(name)
    objective = network.objective()
    v = direction(objective)
    expected = network.hessian_product(objective.parameters, v)
    rank = network.x.ndim
    network.model.to(memory_format=torch.channels_last if rank == 4 else torch.channels_last_3d)
    close(objective.hvp(v), expected)
    close(network.objective().hvp(v), expected)
    close(objective.gradient(), network.gradient(objective.parameters))


def test_products_need_no_grad_mode(build, close):
    network = build("ResNet-8")
    objective, other = network.objective(), network.objective()
    v = direction(objective)
    expected = network.hessian_product(objective.parameters, v)
    gradient = network.gradient(objective.parameters)
    with torch.no_grad():
        close(objective.hvp(v), expected)
        close(other.gradient(), gradient)
        assert objective._engine.route.startswith("traced")


def test_weights_and_classes_are_followed_through_batchnorm(build, close):
    network = build("ResNet-8, cosine, scaled")
    weights = torch.tensor([1.0, 0.25, 4.0, 2.0, 0.5], dtype=torch.float64)
    objective = network.objective(weights=weights, batch_size=2)
    v = direction(objective)
    for c in (None, 0, 1, 2):
        rows = torch.arange(5) if c is None else (network.y == c).nonzero()[:, 0]
        options = {"weights": weights, "rows": rows}
        close(objective.hvp(v, c), network.hessian_product(objective.parameters, v, **options))
        close(objective.gradient(c), network.gradient(objective.parameters, **options))
        forms = objective.quadratic_forms(v, c)
        mean = float(weights[rows] @ torch.as_tensor(forms) / weights[rows].sum())
        assert mean == pytest.approx(float(v @ objective.hvp(v, c)), rel=1e-9)
