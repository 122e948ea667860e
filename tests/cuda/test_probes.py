"""Every probe on another device than the CPU: the same random numbers, and the CPU's answers to rounding.

In float64, where rounding is far below what any mistake of a device would make.
"""

import copy
from collections import Counter

import numpy as np
import pytest
import torch

from sharpness import (
    Objective,
    characteristic_radius,
    eigenvalues,
    interpolate,
    line,
    measure,
    plane,
    plane_through,
    random_perturbation,
    spectral_density,
    trace,
    trajectory_plane,
    worst_case,
)
from sharpness.clusters.parcel import parcelled
from sharpness.engine.evaluation import Evaluation
from sharpness.engine.operator import CurvatureOperator
from sharpness.probes.landscapes.named_directions import named_directions

#: What a probe is, with settings that keep it small.
PROBES = {
    "both ends per class": lambda o: eigenvalues(o, 2, "both", per_class=True, max_iterations=40),
    "errors of an end": lambda o: eigenvalues(o, per_class=True, standard_errors=True),
    "ends of Gauss-Newton": lambda o: eigenvalues(o, per_class=True, kind="ggn"),
    "end per layer": lambda o: eigenvalues(o, per_layer=True),
    "density": lambda o: spectral_density(o, per_class=True, draws=2, steps=4),
    "trace": lambda o: trace(o, per_class=True, draws=3),
    "trace, sketched": lambda o: trace(o, estimator="hutch++", draws=9),
    "trace per layer": lambda o: trace(o, per_layer=True, draws=3),
    "trace of samples": lambda o: trace(o, per_class=True, draws=3, bootstrap=100),
    "random": lambda o: random_perturbation(o, radii=(0.05, 0.1), draws=2),
    "random on a sphere": lambda o: random_perturbation(o, (0.05,), 2, None, distribution="sphere"),
    "worst case": lambda o: worst_case(o),
    "worst case, steps": lambda o: worst_case(o, steps=3, adaptive=True),
    "worst case of parts": lambda o: worst_case(o, norm="linf", rho=1e-3, m=4),
    "line": lambda o: line(o, (-1, 1, 5)),
    "line of the gradient": lambda o: line(o, (0, 1, 3), "gradient"),
    "plane": lambda o: plane(o, (-1, 1, 4), (-1, 1, 3)),
    "plane, adaptive": lambda o: plane(o, (-1, 1, 9), (-1, 1, 9), adaptive=0.05),
    "plane, mixed": lambda o: plane(o, (-1, 1, 3), (-1, 1, 3), "gradient+gaussian"),
    "plane of eigenvectors": lambda o: plane(o, (-1, 1, 3), (-1, 1, 3), "hessian"),
    "radius": lambda o: characteristic_radius(o),
    "measure": lambda o: measure(o, "accuracy, loss, lambda_max, lambda_min, trace, random_rise, worst_rise"),
}


@pytest.mark.parametrize("name", PROBES)
def test_answers_are_those_of_the_cpu(name, objectives, agree):
    on_cpu, on_device = objectives()
    agree(PROBES[name](on_device), PROBES[name](on_cpu), 1e-6)


def test_resampled_ends(objectives, agree):
    on_cpu, on_device = objectives(parameters="classifier")
    agree(*(eigenvalues(o, which="both", per_class=True, bootstrap=100) for o in (on_device, on_cpu)), 1e-6)


def test_settings_of_an_objective(objectives, agree):
    weights = torch.linspace(0.5, 2, 23)
    for options in ({"weights": weights, "batch_size": 5}, {"parameters": "*layer3*"}, {"parameters": "classifier"}):
        on_cpu, on_device = objectives(**options)
        agree(on_device.gradient().cpu(), on_cpu.gradient())
        v = torch.randn(on_cpu.num_parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        agree(on_device.hvp(v).cpu(), on_cpu.hvp(v))
        agree(on_device.quadratic_forms(v, 1), on_cpu.quadratic_forms(v, 1))
        agree(on_device.evaluate(), on_cpu.evaluate())
        assert np.array_equal(on_device.confusion(), on_cpu.confusion())
    on_cpu, on_device = objectives(batchnorm="recalibrate")
    agree(line(on_device, (-1, 1, 3)), line(on_cpu, (-1, 1, 3)))


def test_data_may_lie_on_the_device(problem, device, agree):
    """As labels, and as targets that are none."""
    model, x, y = problem
    for where in ("cpu", device):
        moved = copy.deepcopy(model).to(where), x.to(where), y.to(where)
        labelled = Objective(moved[0], moved[1:], weights=torch.ones(23).to(where))
        numbers = Objective(moved[0], (moved[1], moved[2].double()), lambda u, t: (u.sum(1) - t) ** 2, group_by=y % 2)
        found = [labelled.evaluate(), numbers.evaluate(), labelled.restrict(1).gradient().cpu(), labelled.data_sha256]
        found += [numbers.gradient(1).cpu(), labelled.matched(3).loss(), numbers.data_sha256]
        if where == "cpu":
            expected = found
    for ours, theirs in zip(found, expected, strict=True):
        if isinstance(theirs, str):
            assert ours == theirs
        else:
            agree(ours, theirs)


@pytest.mark.parametrize("names", ["gaussian", "gradient+gaussian", "hessian", "gradient+hessian"])
def test_directions_are_those_of_the_cpu(names, objectives, agree):
    on_cpu, on_device = objectives()
    ours, theirs = (named_directions(o, names, 2).vectors for o in (on_device, on_cpu))
    if names == "gaussian":
        assert torch.equal(ours.cpu(), theirs), "the numbers are drawn on the CPU"
    agree(ours.cpu(), theirs, 1e-4 if "hessian" in names else 1e-9)


def test_between_models(problem, objectives, agree):
    """Lines and planes through models that lie on the CPU."""
    on_cpu, on_device = objectives()
    model, *_ = problem
    state = model.state_dict()
    others = []
    for seed in (1, 2):
        generator = torch.Generator().manual_seed(seed)
        others.append(dict(state))
        for name, p in model.named_parameters():
            others[-1][name] = p.detach() * (1 + 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    for probe in (
        lambda o: interpolate(o, others[0], (0, 1, 3)),
        lambda o: plane_through(o, *others, points=3),
        lambda o: trajectory_plane(o, others, points=3),
    ):
        agree(probe(on_device), probe(on_cpu))


@pytest.mark.parametrize(
    "call, owner",
    [
        (lambda o, folder: eigenvalues(o, per_class=True, tol=1e-8, resume=folder), CurvatureOperator),
        (lambda o, folder: plane(o, (-1, 1, 4), (-1, 1, 4), resume=folder), Evaluation),
    ],
    ids=["eigenvalues", "plane"],
)
def test_interrupted_work_goes_on(call, owner, objectives, tmp_path, agree, monkeypatch):
    """What lay on the device is in the files, and comes back to where it was."""
    monkeypatch.setattr("sharpness.probes.shared.work.INTERVAL", 0.0)
    on_device = objectives()[1]
    counts, compute = Counter(), owner.__call__

    def counted(self, *args):
        counts["made"] += 1
        if counts["made"] == counts["limit"]:
            raise KeyboardInterrupt
        return compute(self, *args)

    monkeypatch.setattr(owner, "__call__", counted)
    whole = call(on_device, None)
    needed = counts["made"]
    counts.update(made=-needed, limit=needed // 2)
    with pytest.raises(KeyboardInterrupt):
        call(on_device, tmp_path / "work")
    counts.update(made=-counts["made"], limit=-counts["limit"])
    agree(call(on_device, tmp_path / "work"), whole, 1e-12)
    assert counts["made"] < needed, "what was done is not done again"


def test_float32_is_float32(objectives, agree):
    """Not the ten bits of mantissa that tensor cores round single precision to."""
    on_cpu, on_device = objectives(torch.float32)
    exact = objectives()[0]
    agree(on_device.evaluate().loss, exact.evaluate().loss, 2e-6)
    agree(on_device.gradient().cpu(), exact.gradient(), 1e-5)
    v = torch.randn(on_cpu.num_parameters, generator=torch.Generator().manual_seed(1))
    agree(on_device.hvp(v).cpu(), exact.hvp(v.double()), 1e-4)
    agree(eigenvalues(on_device, per_class=True).values, eigenvalues(exact, per_class=True).values, 1e-4)
    ours, theirs = (plane(o, (-1, 1, 3), (-1, 1, 3)) for o in (on_device, exact))
    agree(ours.losses, theirs.losses, 1e-5)
    agree(ours.class_losses, theirs.class_losses, 1e-5)


def test_equal_calls_are_equal_to_the_last_bit(objectives):
    on_device = objectives(torch.float32)[1]
    v = torch.ones(on_device.num_parameters)
    for call in (
        lambda: on_device.gradient().cpu(),
        lambda: on_device.hvp(v).cpu(),
        lambda: torch.tensor(on_device.evaluate().loss),
        lambda: torch.tensor(line(on_device, (-1, 1, 3)).losses),
    ):
        assert torch.equal(call(), call())


def test_bfloat16(objectives):
    on_cpu, on_device = objectives(torch.float32)
    exact, reduced = (
        plane(on_cpu, (-1, 1, 3), (-1, 1, 3)),
        plane(on_device, (-1, 1, 3), (-1, 1, 3), precision="bfloat16"),
    )
    assert reduced.precision == "bfloat16"
    np.testing.assert_allclose(reduced.losses, exact.losses, rtol=0.02)


@pytest.mark.parametrize("shared", [True, False], ids=["file", "carried"])
def test_models_are_sent_to_workers_from_any_device(objectives, agree, tmp_path, shared):
    """As tensors of the CPU, which every worker can read."""
    on_cpu, on_device = objectives()
    with parcelled(on_device, tmp_path if shared else None) as parcel:
        received = parcel.open()
    there = "cuda" if torch.cuda.is_available() else "cpu"
    assert {t.device.type for t in (*received.model.parameters(), *received.model.buffers(), received.y)} == {there}
    agree(received.evaluate(), on_cpu.evaluate())
    agree(received.gradient().cpu(), on_cpu.gradient())
