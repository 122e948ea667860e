"""Networks of several inputs, by place or by name: every probe gives what it gives of one packed by hand."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.utils.data import DataLoader

import sharpness
from sharpness import Objective, UserError

N, C = 19, 3


class Text(nn.Module):
    """Integers, truth values and real numbers of different shapes."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Embedding(300, 4), nn.BatchNorm1d(6)
        self.fc = nn.Linear(6, C)

    def forward(self, input_ids, mask, extra, scale=None):
        k = mask[..., None].to(self.embed.weight.dtype)
        h = (self.embed(input_ids) * k).sum(1) / k.sum(1)
        h = torch.tanh(self.norm(torch.cat([h, extra], 1)))
        return self.fc(h if scale is None else h * scale[:, None])


class Packed(nn.Module):
    """The same network for one tensor, taken apart by hand."""

    def __init__(self, m):
        super().__init__()
        self.m = m

    def forward(self, x):
        return self.m(x[:, :5].long(), x[:, 5:10] > 0.5, x[:, 10:12], x[:, 12])


def inputs():
    g = torch.Generator().manual_seed(0)
    mask = torch.rand(N, 5, generator=g) > 0.3
    mask[:, 0] = True
    ids, extra = torch.randint(250, 300, (N, 5), generator=g), torch.randn(N, 2, generator=g)
    return {"input_ids": ids, "mask": mask, "extra": extra, "scale": torch.rand(N, generator=g)}


def network(dtype=torch.float64):
    torch.manual_seed(1)
    model = Text().to(dtype).train()
    parts = {n: t.to(dtype) if t.is_floating_point() else t for n, t in inputs().items()}
    model(**parts)
    return model.eval()


Y = torch.arange(N) % C
ROWS = [{**{n: t[i] for n, t in inputs().items()}, "labels": int(Y[i]), "id": i} for i in range(N)]
WAYS = {
    "dict": lambda: (inputs(), Y),
    "tuple": lambda: (tuple(inputs().values()), Y),
    "rows": lambda: ROWS,
    "loader": lambda: DataLoader(ROWS, batch_size=4),
    "columns": lambda: {**inputs(), "labels": Y},
    "pairs": lambda: [(inputs_of(i), int(Y[i])) for i in range(N)],
    "batches": lambda: [(inputs_of(slice(i, i + 4)), Y[i : i + 4]) for i in range(0, N, 4)],
}


def inputs_of(i):
    return {n: t[i] for n, t in inputs().items()}


def pair(way="dict", **options):
    model = network()
    by_hand = torch.cat([t.double().reshape(N, -1) for t in inputs().values()], 1)
    return Objective(model, WAYS[way](), **options), Objective(Packed(network()), (by_hand, Y), **options)


@pytest.mark.parametrize("way", WAYS)
def test_the_hessian_is_the_dense_one(way):
    objective = Objective(model := network(), WAYS[way]())
    weights = {n: p.detach() for n, p in model.named_parameters()}
    given = {n: t.double() if t.is_floating_point() else t for n, t in inputs().items()}

    def loss(flat):
        pieces = flat.split([weights[n].numel() for n in objective.names])
        moved = {n: d.view_as(weights[n]) for n, d in zip(objective.names, pieces, strict=True)}
        out = functional_call(model, {**weights, **moved}, (), given)
        return nn.functional.cross_entropy(out, Y)

    flat = torch.cat([weights[n].flatten() for n in objective.names])
    dense = torch.func.hessian(loss)(flat)
    v = torch.randn(len(flat), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(objective.hvp(v), dense @ v, rtol=1e-8, atol=1e-10)
    largest = sharpness.eigenvalues(objective, tol=1e-6).largest
    assert largest == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-4)


PROBES = {
    "eigenvalues per class": lambda o: sharpness.eigenvalues(o, per_class=True).values,
    "trace": lambda o: sharpness.trace(o, draws=3).values,
    "density": lambda o: sharpness.spectral_density(o).to_frame().select_dtypes("number"),
    "line": lambda o: sharpness.line(o, (-1, 1, 5)).class_losses,
    "plane": lambda o: sharpness.plane(o, (-1, 1, 3), (-1, 1, 3), adaptive=None).losses,
    "hessian directions": lambda o: sharpness.line(o, (-1, 1, 3), "hessian").losses,
    "random": lambda o: sharpness.random_perturbation(o, radii=[0.1], draws=2).to_frame().select_dtypes("number"),
    "worst case": lambda o: sharpness.worst_case(o, rho=0.1).to_frame().select_dtypes("number"),
    "measure": lambda o: sharpness.measure(o).values,
    "confusion": lambda o: o.confusion(),
    "quadratic forms": lambda o: o.quadratic_forms(torch.ones(o.num_parameters)),
}


@pytest.mark.parametrize("probe", PROBES)
def test_every_probe_gives_what_it_gives_by_hand(probe):
    ours, theirs = (np.asarray(PROBES[probe](o)) for o in pair(batch_size=7))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)


def test_recalibrated_statistics_are_those_by_hand():
    ours, theirs = (sharpness.line(o, (-1, 1, 3)).losses for o in pair(batchnorm="recalibrate"))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_integers_stay_exact_whatever_the_precision_of_products(precision):
    model = network(torch.float32)
    objective = Objective(model, (inputs(), Y))
    losses = sharpness.line(objective, (-1e-3, 1e-3, 3), precision=precision).losses
    np.testing.assert_allclose(losses, objective.loss(), rtol=2e-2)


def test_one_class_and_a_function_of_inputs():
    objective, by_hand = pair()
    assert objective.restrict(1).loss() == pytest.approx(by_hand.restrict(1).loss(), rel=1e-12)
    parted = Objective(network(), WAYS["dict"](), group_by=lambda x, y: (x["scale"] > 0.5).tolist())
    assert parted.class_samples.tolist() == [
        int((inputs()["scale"] <= 0.5).sum()),
        int((inputs()["scale"] > 0.5).sum()),
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: ({**inputs(), "scale": torch.rand(3)}, Y), r"give one label per input"),
        (lambda: ({"input_ids": inputs()["input_ids"]}, Y), r"Text raised TypeError: .*missing 2 required"),
        (lambda: ({**inputs(), "input_ids": inputs()["input_ids"] + 2**53}, Y), "model.double"),
    ],
)
def test_what_does_not_go_together_is_told(data, message):
    with pytest.raises(UserError, match=message) as caught:
        Objective(network(torch.float32), data())
    assert "\n" not in str(caught.value)


def test_large_integers_are_exact_where_the_remedy_is_taken():
    class Hash(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, C)

        def forward(self, ids, x):
            return self.fc(x * (ids % 7)[:, None])

    torch.manual_seed(0)
    ids, x = torch.randint(2**40, 2**41, (N,)), torch.randn(N, 2)
    with pytest.raises(UserError, match=r"input number 0 has integers above 16,777,216.*model.double\(\)"):
        Objective(Hash(), ((ids, x), Y))
    model = Hash().double()
    expected = nn.functional.cross_entropy(model(ids, x.double()), Y)
    assert Objective(model, ((ids, x), Y)).loss() == pytest.approx(float(expected.detach()), rel=1e-12)
