"""Models of which one part is of an unusual kind: the numbers of plain float64, or one line with the remedy."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpness import Objective, UserError

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(12, 4, generator=GENERATOR, dtype=torch.float64)
Y = torch.arange(12) % 3
BAGS = torch.randint(0, 5, (12, 4), generator=GENERATOR)


class Counted(nn.Module):
    """An integer parameter stands before the weights."""

    def __init__(self):
        super().__init__()
        self.count = nn.Parameter(torch.tensor([1, 2]), requires_grad=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return torch.tanh(self.head(x))


class Graph(nn.Module):
    """A sparse matrix among the buffers, and an embedding with sparse gradients."""

    def __init__(self, sparse=True):
        super().__init__()
        matrix = 0.5 + torch.eye(4, dtype=torch.float64)
        self.register_buffer("mixing", matrix.to_sparse() if sparse else matrix)
        self.embedding, self.head = nn.Embedding(5, 3, sparse=sparse), nn.Linear(4, 3)

    def forward(self, x):
        mixed = torch.mm(self.mixing, x.t()).t()
        return torch.tanh(self.head(mixed)) * self.embedding((x[:, 0] > 0).long())


class Twice(nn.Module):
    """A layer under two names, as a network has that keeps its layers and a sequence of them."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.body = nn.Sequential(self.first, nn.Tanh(), self.first)

    def forward(self, x):
        return torch.tanh(self.body(x))


def means_of_rows(w):
    rows = (BAGS != 2)[:, :, None] * w[BAGS]
    return rows.sum(1) / (BAGS != 2).sum(1).clamp_min(1)[:, None]


def unlike_others():
    torch.manual_seed(0)
    bags = nn.EmbeddingBag(5, 3, padding_idx=2).double()
    twice = Twice().double()
    plain = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).double()
    counted = Counted().double()
    graph, dense = Graph().double(), Graph(sparse=False).double()
    dense.load_state_dict({n: t.to_dense() for n, t in graph.state_dict().items()})
    return {
        "integers before weights": (counted, lambda w, b: torch.tanh(F.linear(X, w, b)), X),
        "a layer under two names": (twice, lambda w, b: torch.tanh(F.linear(torch.tanh(F.linear(X, w, b)), w, b)), X),
        "sparse": (graph, None, X),
        "TorchScript": (torch.jit.script(plain), lambda w, b: torch.tanh(F.linear(X, w, b)), X),
        "torch.compile": (torch.compile(plain, backend="aot_eager"), lambda w, b: torch.tanh(F.linear(X, w, b)), X),
        "bags of rows": (bags, means_of_rows, BAGS),
        "transposed inputs": (plain, lambda w, b: torch.tanh(F.linear(X, w, b)), X.t().contiguous().t()),
    }, dense


@pytest.mark.parametrize(
    "name",
    [
        "integers before weights",
        "a layer under two names",
        "sparse",
        "TorchScript",
        "torch.compile",
        "bags of rows",
        "transposed inputs",
    ],
)
def test_loss_gradient_and_product_are_those_of_the_plain_formula(name):
    models, dense = unlike_others()
    model, outputs, x = models[name]
    objective = Objective(model, (x, Y))
    start = torch.cat([p.detach().reshape(-1) for p in objective.parameters])
    shapes = [p.shape for p in objective.parameters]

    def loss(flat):
        pieces = [v.view(s) for v, s in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True)]
        if outputs is None:
            moved = dict(zip(objective.names, pieces, strict=True))
            return F.cross_entropy(torch.func.functional_call(dense, moved, (X,)), Y)
        return F.cross_entropy(outputs(*pieces), Y)

    v = torch.randn(len(start), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    hessian = torch.func.hessian(loss)(start)
    assert objective.loss() == pytest.approx(float(loss(start)), rel=1e-9)
    torch.testing.assert_close(objective.gradient(), torch.func.grad(loss)(start))
    torch.testing.assert_close(objective.hvp(v), hessian @ v)
    with objective.operator() as operator:
        torch.testing.assert_close(operator(v), hessian @ v)
    assert float(objective.quadratic_forms(v).mean()) == pytest.approx(float(v @ hessian @ v), rel=1e-6)
    assert torch.equal(torch.cat([p.detach().reshape(-1) for p in model.parameters() if p.requires_grad]), start)
    assert len(objective.identity) == len(objective.model_sha256()) - 52


class Fourier(nn.Module):
    """A filter in the frequency domain: complex numbers made of a real parameter, in float32."""

    def __init__(self):
        super().__init__()
        self.filter = nn.Parameter(torch.randn(3, 2, generator=GENERATOR))

    def forward(self, x):
        return torch.fft.irfft(torch.fft.rfft(x) * torch.view_as_complex(self.filter), n=4)[:, :3]


def test_complex_numbers_inside_a_network_of_float32():
    """The inverse transform of four numbers by its sum of cosines and sines."""
    objective = Objective(Fourier(), (X.float(), Y))
    x, t = X.float().double(), torch.arange(4).double()
    angle = torch.pi / 2 * t[:, None] * t[:3]

    def loss(w):
        real, imaginary = x @ angle.cos(), -x @ angle.sin()
        real, imaginary = real * w[:, 0] - imaginary * w[:, 1], real * w[:, 1] + imaginary * w[:, 0]
        weights = torch.tensor([1.0, 2, 1], dtype=torch.float64) / 4
        return F.cross_entropy((real * weights @ angle.cos().T - imaginary * weights @ angle.sin().T)[:, :3], Y)

    start, v = objective.parameters[0].detach().double(), torch.randn(6)
    hessian = torch.func.hessian(loss)(start).reshape(6, 6)
    assert objective.loss() == pytest.approx(float(loss(start)), rel=1e-6)
    torch.testing.assert_close(objective.hvp(v).double(), hessian @ v.double(), rtol=1e-4, atol=1e-6)
    with objective.operator() as operator:
        torch.testing.assert_close(operator(v).double(), hessian @ v.double(), rtol=1e-4, atol=1e-6)


def test_a_sparse_parameter_is_refused_with_the_dense_one():
    model = nn.Linear(4, 3)
    model.weight = nn.Parameter(model.weight.detach().to_sparse())
    with pytest.raises(UserError, match=r"'weight' of Linear is sparse.*w\.to_dense\(\)"):
        Objective(model, (X.float(), Y))


class Stateful(nn.Linear):
    """Its state has something that is no tensor."""

    def get_extra_state(self):
        return {"version": 3}

    def set_extra_state(self, state):
        pass


def test_a_state_with_more_than_tensors_has_the_digest_of_its_tensors():
    plain, stateful = nn.Linear(4, 3), Stateful(4, 3)
    nn.Module.load_state_dict(stateful, plain.state_dict(), strict=False)
    found, expected = (Objective(m, (X, Y)) for m in (stateful, plain))
    assert found.model_sha256() == expected.model_sha256() and found.check().mean == expected.check().mean


def test_weights_with_other_unsaved_buffers_are_another_model():
    def masked(value):
        model = nn.Linear(4, 3)
        model.register_buffer("mask", torch.full((3,), value), persistent=False)
        for p in model.parameters():
            nn.init.ones_(p)
        return Objective(model, (X, Y)).model_sha256()

    assert masked(1.0) == masked(1.0) != masked(2.0)


class Capacity(nn.Linear):
    """Of a batch it serves the first eight samples alone, as experts of limited capacity do."""

    def forward(self, x):
        return super().forward(x) * (torch.arange(len(x)) < 8)[:, None]


def test_a_loss_that_depends_on_the_place_in_the_batch_is_refused_by_every_probe():
    objective = Objective(Capacity(4, 3).double(), (X, Y), batch_size=12)
    with pytest.raises(UserError, match=r"of sample \d+ is .* depending on its place in its batch"):
        objective.check()


class Returns(nn.Linear):
    """Returns something else than a tensor."""

    def __init__(self, wrap):
        super().__init__(4, 3, dtype=torch.float64)
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(super().forward(x))


def test_weights_of_a_layer_under_two_names_are_left_in_their_precision():
    model = Twice()
    parameter, before = model.first.weight, model.first.weight.detach().clone()
    Objective(model, (X.float(), Y), num_classes=4).check()
    assert model.first.weight is parameter and torch.equal(parameter, before)


class Complex(nn.Linear):
    """Complex weights."""

    def __init__(self):
        super().__init__(4, 3, dtype=torch.complex64)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (lambda: Returns(lambda u: {"logits": u}), {}, r"a dict of logits: .* output=lambda r: r\['logits'\]"),
        (lambda: Returns(lambda u: (u, None)), {}, r"a tuple of 2: .* output=lambda r: r\[0\] .*\(8, 3\), NoneType$"),
        (
            lambda: Returns(lambda u: {"feat": u, "logits": u[:, None], "output": u}),
            {},
            r"output=lambda r: r\['output'\] ",  # RIDE: logits are those of its experts apart
        ),
        (lambda: Returns(lambda u: SimpleNamespace(h=u, logits=u)), {}, "output=lambda r: r.logits$"),
        (
            lambda: Returns(lambda u: u[:1]),
            {},
            r"shape \(1, 3\) for 8 samples: let it return one row for each",
        ),
        (lambda: Returns(lambda u: None), {}, "a NoneType: let its forward pass return the outputs"),
        (lambda: Returns(lambda u: {"u": u}), {"output": lambda r: r["v"]}, "raised KeyError: 'v' on the dict of u"),
        (lambda: Returns(lambda u: {"u": u}), {"output": "u"}, r"output='u': .*r\['u'\]"),
        (Complex, {}, "'weight' of Complex has complex numbers: .*view_as_real"),
        (lambda: nn.LazyLinear(3), {}, r"has no shape yet: call the model on a few inputs first"),
        (lambda: nn.Linear(4, 3, device="meta"), {}, "no values: load the weights first"),
        (lambda: nn.Linear(4, 3), {"parameters": ["weight"]}, "one pattern of names"),
        (lambda: nn.Linear(4, 3), {"num_classes": 3.0}, "num_classes=3.0: give an integer"),
        (lambda: nn.Linear(4, 3), {"batch_size": True}, "batch_size=True"),
        (lambda: nn.Linear(4, 3), {"weights": "balanced"}, "weights are a str"),
        (lambda: nn.Linear(4, 3), {"weights": torch.full((12,), 1e60, dtype=torch.float64)}, "positive and finite"),
    ],
)
def test_what_cannot_be_measured_is_told_in_one_line(model, options, message):
    with pytest.raises(UserError, match=message) as caught:
        Objective(model(), (X, Y), **options)
    assert "\n" not in str(caught.value)


def test_the_remedies_for_lazy_and_exported_models_work():
    lazy = nn.LazyLinear(3)
    lazy(X.float()[:2])
    assert Objective(lazy, (X, Y)).num_parameters == 15
    integers = torch.randint(0, 256, (12, 4), dtype=torch.uint8)
    with pytest.raises(UserError, match=r"inputs are uint8: .*x\.float\(\) / 255"):
        Objective(lazy, (integers, Y))
    assert Objective(lazy, (integers.float() / 255, Y)).num_samples == 12
