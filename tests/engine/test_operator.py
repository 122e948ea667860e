"""An operator for many products: what it counts, keeps and frees, and that it never uses residuals of other weights."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from sharpness import Objective, UserError


def direction(objective):
    return torch.randn(objective.num_parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_it_counts_products_and_knows_its_size(build):
    objective = build("ResNet-8").objective()
    with objective.operator(1) as operator:
        assert (operator.size, operator.samples, operator.products) == (objective.num_parameters, 2, 0)
        for _ in range(3):
            operator(direction(objective))
    assert operator.products == 3
    assert "traced" in repr(operator)


@pytest.mark.parametrize(
    "change", [lambda v: v[:-1], lambda v: v[None], lambda v: torch.cat([v, v]), lambda v: v.sum()]
)
def test_a_vector_of_another_shape_is_refused_and_not_counted(build, change):
    objective = build("constants").objective()
    with objective.operator() as operator:
        with pytest.raises(UserError, match=rf"needs \({operator.size},\)"):
            operator(change(direction(objective)))
        assert operator.products == 0


def test_an_unknown_kind_is_refused(build):
    objective = build("constants").objective()
    with pytest.raises(UserError, match="unknown kind of curvature 'fisher'"):
        objective.hvp(direction(objective), kind="fisher")


def test_the_product_is_linear_and_comes_in_the_dtype_of_the_model(build, close):
    network = build("constants")
    objective = network.objective()
    v = direction(objective)
    with objective.operator() as operator:
        close(operator(2 * v - 3), 2 * operator(v) - 3 * operator(torch.ones_like(v)), tolerance=1e-12)
        assert operator(v.float()).dtype == torch.float64
        assert not operator(torch.zeros_like(v)).any()
    network.model.float()
    network.model.mask = network.model.mask.float()
    assert network.objective().hvp(v).dtype == torch.float32


def sgd(network, objective):
    optimizer = torch.optim.SGD(network.model.parameters(), lr=0.3, momentum=0.9)
    network.loss().backward()
    optimizer.step()
    optimizer.zero_grad()


def load(network, objective):
    network.model.load_state_dict({n: t * 1.5 for n, t in network.model.state_dict().items()})


def in_place(network, objective):
    with torch.no_grad():
        objective.parameters[0].view(-1)[0].add_(0.1)


def by_data(network, objective):
    for p in network.model.parameters():
        p.data.mul_(1.2)


def by_new_data(network, objective):
    flat = nn.utils.parameters_to_vector(network.model.parameters())
    nn.utils.vector_to_parameters(flat * 1.1, network.model.parameters())


def statistics(network, objective):
    network.model[1].running_var.mul_(2)


def attribute(network, objective):
    network.model[1].eps = 0.5


def hook(network, objective):
    network.model[0].register_forward_hook(lambda module, inputs, output: output.tanh())


@pytest.mark.parametrize("change", [sgd, load, in_place, by_data, by_new_data, statistics, attribute, hook])
@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_residuals_of_other_weights_are_never_used(build, close, change, kind):
    network = build("convolution with bias, BatchNorm")
    objective = network.objective(batch_size=2)
    v = direction(objective)
    oracle = network.hessian_product if kind == "hessian" else network.gauss_newton_product
    with objective.operator(kind=kind) as operator:
        before = operator(v)
        change(network, objective)
        expected = oracle(objective.parameters, v)
        assert float((before - expected).norm()) > 1e-6 * float(expected.norm())
        close(operator(v), expected)
        close(operator(v), expected)
    close(objective.hvp(v, kind=kind), expected)
    close(objective.gradient(), network.gradient(objective.parameters))
    assert objective._engine.route.startswith("traced")


class Combining(nn.Module):
    """Normalises by hand, and computes with buffers and a frozen parameter alone before the input comes in."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.gain = nn.Parameter(torch.rand(6), requires_grad=False)
        for name in ("mean", "var", "mask"):
            self.register_buffer(name, torch.rand(6) + 0.5)
        self.register_buffer("order", torch.randperm(6))
        self.register_buffer("shift", torch.tensor(0.3))

    def forward(self, x):
        z = (self.first(x) - self.mean) / (self.var + 1e-5).sqrt()
        scale = self.mask[self.order] * self.gain.exp() * (self.mask > 0.9)
        for i in range(len(self.mask) - self.mask.shape[0] + self.mask.size(0) // 6):
            scale = scale + i + self.shift * self.var
        return self.last(torch.tanh(z * scale.view(1, -1)))


def scaled(name):
    def change(model):
        with torch.no_grad():
            model.get_parameter(name).mul_(2) if name == "gain" else model.get_buffer(name).mul_(2)

    return change


COMBINED = {
    "state": lambda model: model.load_state_dict(
        {n: t * 1.5 if t.is_floating_point() else t.flip(0) for n, t in model.state_dict().items()}
    ),
    "order": lambda model: model.order.copy_(model.order.flip(0)),
    **{name: scaled(name) for name in ("mean", "var", "mask", "gain", "shift")},
}


@pytest.mark.parametrize("change", COMBINED)
def test_what_is_computed_from_buffers_alone_follows_them(wrap, close, change):
    torch.manual_seed(0)
    network = wrap(Combining(), torch.randn(5, 4))
    objective = network.objective()
    v = direction(objective)
    before, gradient = objective.hvp(v), objective.gradient()
    COMBINED[change](network.model)
    fresh = network.objective()
    for kind in ("hessian", "ggn"):
        close(objective.hvp(v, kind=kind), fresh.hvp(v, kind=kind))
    close(objective.hvp(v), network.hessian_product(objective.parameters, v))
    close(objective.gradient(), fresh.gradient())
    close(objective.gradient(), network.gradient(objective.parameters))
    assert float((before - fresh.hvp(v)).norm()) > 1e-3 * float(before.norm())
    assert float((gradient - fresh.gradient()).norm()) > 1e-3 * float(gradient.norm())
    with objective.operator() as operator:
        operator(v)
        COMBINED[change](network.model)
        close(operator(v), network.hessian_product(objective.parameters, v))
    assert objective._engine.route.startswith("traced") and "_tensor_constant0" not in vars(network.model)


def test_inside_at_products_are_those_of_the_moved_weights_and_afterwards_of_the_old(build, close):
    network = build("ResNet-8, cosine")
    objective = network.objective()
    v = direction(objective)
    with objective.operator() as operator:
        before = operator(v)
        with objective.at(0.05 * torch.ones_like(v)):
            close(operator(v), network.hessian_product(objective.parameters, v))
        assert torch.equal(operator(v), before)


def test_a_changed_logit_scale_is_seen_by_products_as_it_is_by_the_loss(build, close):
    network = build("ResNet-8, cosine")
    objective = network.objective()
    v = direction(objective)
    with objective.operator() as operator:
        objective.gradient(), operator(v)
        network.model.rescale(5.0)
        close(objective.gradient(), network.gradient(objective.parameters))
        close(operator(v), network.hessian_product(objective.parameters, v))
        close(objective.hvp(v), network.hessian_product(objective.parameters, v))


@pytest.mark.parametrize("traced", [True, False])
def test_parameters_that_were_replaced_are_refused(build, traced):
    network = build("softmax regression")
    objective = network.objective()
    v = direction(objective)
    if traced:
        objective.hvp(v)
    network.model.load_state_dict({n: 2 * t for n, t in network.model.state_dict().items()}, assign=True)
    for act in (lambda: objective.hvp(v), objective.gradient):
        with pytest.raises(UserError, match="build the Objective again"):
            act()


def test_memory_is_kept_within_the_budget_and_freed_at_the_end(build, close):
    network = build("ResNet-8")
    whole = network.objective(batch_size=1)
    v = direction(whole)
    with whole.operator() as operator:
        assert operator.kept_bytes == 0
        expected = operator(v)
        everything = operator.kept_bytes
    assert operator.kept_bytes == 0
    assert everything > 5 * network.x[0].numel() * 8
    part = network.objective(batch_size=1, memory=0.5 * everything / 2**30)
    with part.operator() as operator:
        for _ in range(2):
            assert torch.equal(operator(v), expected)
            assert 0 < operator.kept_bytes <= everything // 2
    with network.objective(batch_size=1, memory=0).operator() as operator:
        close(operator(v), expected, tolerance=1e-12)
        assert operator.kept_bytes == 0


def test_memory_is_freed_when_the_body_raises(build):
    objective = build("ResNet-8").objective()
    with pytest.raises(KeyError), objective.operator() as operator:
        operator(direction(objective))
        assert operator.kept_bytes > 0
        raise KeyError
    assert operator.kept_bytes == 0


def test_a_first_product_that_was_cut_short_does_not_spoil_the_next(build, close):
    """The gradient, which a cosine head or a bias before BatchNorm needs, is learned in the first product."""
    network = build("ResNet-8, cosine, scaled")
    passes = []

    def interrupted(u, y):
        passes.append(len(y))
        if len(passes) == stop:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(u, y, reduction="none")

    stop = 0
    objective = network.objective(batch_size=2, loss=interrupted)
    v = direction(objective)
    expected = objective.hvp(v)
    with objective.operator() as operator:
        passes.clear()
        stop = 3
        with pytest.raises(KeyboardInterrupt):
            operator(v)
        assert operator.products == operator.kept_bytes == 0
        stop = 0
        close(operator(v), expected, tolerance=1e-12)
        close(operator(v), expected, tolerance=1e-12)


def test_residuals_make_later_products_without_another_forward_pass(build):
    network = build("ResNet-8")
    passes = []

    def counted(u, y):
        passes.append(len(y))
        return nn.functional.cross_entropy(u, y, reduction="none")

    objective = Objective(network.model, (network.x, network.y), loss=counted, num_classes=3)
    with objective.operator() as operator:
        operator(direction(objective))
        before = len(passes)
        operator(direction(objective))
        assert len(passes) == before


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
@pytest.mark.parametrize("memory", [0, None])
def test_the_gradient_is_the_plain_one_and_changes_no_product(build, close, kind, memory):
    network = build("ResNet-8, cosine, scaled")
    objective = network.objective(batch_size=2, memory=memory)
    v = direction(objective)
    with objective.operator(kind=kind) as operator:
        expected = operator(v)
    with objective.operator(kind=kind) as operator:
        close(operator.gradient(), network.gradient(objective.parameters), tolerance=1e-12)
        assert operator.products == 0
        for _ in range(2):
            close(operator(v), expected, tolerance=1e-12)
        sgd_step = 1e-3 * operator.gradient()
        with objective.at(-sgd_step):
            close(operator.gradient(), network.gradient(objective.parameters), tolerance=1e-12)
            close(operator(v), objective.hvp(v, kind=kind), tolerance=1e-12)


def test_the_first_product_after_the_gradient_makes_no_pass_of_its_own(build):
    network = build("ResNet-8")
    passes = []

    def counted(u, y):
        passes.append(len(y))
        return nn.functional.cross_entropy(u, y, reduction="none")

    objective = Objective(network.model, (network.x, network.y), loss=counted, num_classes=3)
    with objective.operator() as operator:
        operator.gradient()
        before = len(passes)
        operator(direction(objective))
        assert len(passes) == before


def test_a_gradient_that_was_cut_short_does_not_spoil_the_products(build, close):
    network = build("ResNet-8, cosine, scaled")
    passes = []

    def interrupted(u, y):
        passes.append(len(y))
        if len(passes) == stop:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(u, y, reduction="none")

    stop = 0
    objective = network.objective(batch_size=2, loss=interrupted)
    v = direction(objective)
    expected = objective.hvp(v)
    with objective.operator() as operator:
        passes.clear()
        stop = 3
        with pytest.raises(KeyboardInterrupt):
            operator.gradient()
        assert operator.kept_bytes == 0
        stop = 0
        close(operator(v), expected, tolerance=1e-12)


def test_a_process_may_end_with_an_operator_open():
    """Cleaning up while the interpreter ends must not compute anything: torch aborts."""
    program = (
        "import contextlib, torch, sharpness\n"
        "objective = sharpness.Objective(torch.nn.Linear(4, 3), (torch.randn(9, 4), torch.arange(9) % 3))\n"
        "operator = contextlib.ExitStack().enter_context(objective.operator())\n"
        "stack = contextlib.ExitStack()\n"
        "operator = stack.enter_context(objective.operator())\n"
        "operator(torch.randn(15))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_rows_are_the_products_one_by_one(case, kind):
    objective = Objective(case.model, (case.x, case.y), case.loss, num_classes=3)
    vectors = torch.randn(5, objective.num_parameters, generator=torch.Generator().manual_seed(3)).double()
    vectors[0] = torch.eye(objective.num_parameters)[-1]  # the bias of an output, where both kinds may agree
    with objective.operator(kind=kind) as operator:
        found, expected = operator.rows(vectors), torch.stack([operator(v) for v in vectors])
        assert operator.products == 10
        assert operator.rows(vectors[:0]).shape == (0, objective.num_parameters)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    if kind == "hessian":
        torch.testing.assert_close(found, vectors @ case.dense()[2], rtol=1e-8, atol=1e-10)


class OneByOne(torch.autograd.Function):
    """x squared, whose derivative looks at a number, which has no vectorised form."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x * g if float(g.sum()) is not None else None


def test_rows_of_an_operation_without_a_vectorised_derivative():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 3).double()

        def forward(self, x):
            return OneByOne.apply(self.inner(x))

    torch.manual_seed(0)
    objective = Objective(Model(), (torch.randn(6, 4).double(), torch.tensor([0, 1, 2, 0, 1, 2])))
    vectors = torch.eye(15).double()
    with objective.operator() as operator:
        found = operator.rows(vectors)
        torch.testing.assert_close(found, torch.stack([operator(v) for v in vectors]), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found, found.T)
