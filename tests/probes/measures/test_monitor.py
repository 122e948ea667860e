"""Sharpness over a training: the right numbers, within the budget, and nothing else changed."""

import copy
import inspect
import json
import shutil
import time

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import sharpness
from sharpness import Monitor, Objective, UserError, critical_radius, eigenvalues, history, measure
from sharpness.cli import main
from sharpness.probes.measures.recorder import Recorder, small_sample


def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(20, 3, generator=generator).double(), torch.tensor([0] * 12 + [1] * 6 + [2] * 2)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 12), nn.BatchNorm1d(12), nn.Dropout(0.5), nn.Linear(12, 3)).double()


def test_numbers_are_those_of_an_objective_and_the_model_is_left_alone():
    model, groups = network().train(), {"many": (0,), "few": (1, 2)}
    model[2].eval()
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    told = []
    monitor = Monitor(model, data(), budget=1.0, samples=20, log=told.append, groups=groups)
    rows = pd.DataFrame(monitor.step(1, lr=0.1, event="begin")).set_index(["measure", "of"])
    assert model.training and model[1].training and not model[2].training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    objective = Objective(model.eval(), data(), groups=groups)
    assert rows.loc[("loss", "all"), "value"] == pytest.approx(objective.loss())
    few = eigenvalues(objective.restrict([*range(12, 20)])).values[0]
    assert rows.loc[("lambda_max", "few"), "value"] == pytest.approx(few, rel=0.02)
    assert told == [monitor.history.to_frame().to_dict("records")] or len(told) == 1
    second = pd.DataFrame(monitor.step(2, lr=0.01)).set_index(["measure", "of"])
    # From the vectors of the last time nothing is left to do.
    assert second.loc["lambda_max"]["products"].max() < rows.loc["lambda_max"]["products"].max()
    ax = monitor.history.plot("lambda_max")
    gids = [line.get_gid() for line in ax.lines]
    assert "stability" in gids and gids.count("event") == 1


class ByHand(nn.Module):
    """Normalises by running statistics that it keeps itself."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(12))
        self.register_buffer("var", torch.ones(12))

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.1)
            self.var.lerp_(x.detach().var(0), 0.1)
        return (x - self.mean) / (self.var + 1e-5).sqrt()


def test_statistics_that_a_network_keeps_itself_are_those_of_every_step():
    torch.manual_seed(0)
    model, (x, y) = nn.Sequential(nn.Linear(3, 12), ByHand(), nn.Tanh(), nn.Linear(12, 3)).double(), data()
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    monitor, found = Monitor(model, (3 * x, y), budget=1.0, measures="lambda_max", samples=20), []
    for epoch in (1, 2, 3):
        for _ in range(10):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model.train()(3 * x), y).backward()
            optimizer.step()
        found.append(monitor.step(epoch)[0]["value"])
        expected = eigenvalues(Objective(model.eval(), (3 * x, y))).values[0]
        assert found[-1] == pytest.approx(expected, rel=0.02)
    assert min(abs(a / b - 1) for a, b in zip(found, found[1:], strict=False)) > 0.02


def test_a_model_in_half_precision_is_measured_at_the_weights_of_every_step():
    model, given = network().bfloat16().eval(), tuple(t.float() if t.is_floating_point() else t for t in data())
    monitor = Monitor(model, given, budget=1.0, samples=20, measures="loss")
    for epoch in (1, 2, 3):
        value = monitor.step(epoch)[0]["value"]
        assert value == pytest.approx(Objective(copy.deepcopy(model).float(), given).loss(), rel=1e-5)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(3)


def test_a_model_in_full_precision_keeps_its_objective():
    monitor = Monitor(network(), data(), budget=1.0, measures="loss")
    monitor.step(1)
    first = monitor._objective
    monitor.step(2)
    assert monitor._objective is first


def test_a_small_sample_weighs_classes_by_their_size():
    objective = small_sample(Objective(network().eval(), data()), 3)
    assert objective.class_samples.tolist() == [3, 3, 2]
    np.testing.assert_allclose(objective.class_weights, [12, 6, 2])


class Clock:
    """A clock that a test moves: training takes 10 seconds an epoch, a measurement 3."""

    now = 0.0

    def __call__(self):
        return self.now


def test_the_budget_is_kept_whatever_a_measurement_takes(monkeypatch):
    clock = Clock()
    monitor = Monitor(network().eval(), data(), budget=0.1, measures="loss", clock=clock)
    rows = monitor.recorder.rows

    def slow(*given):
        clock.now += 3
        return rows(*given)

    monkeypatch.setattr(monitor.recorder, "rows", slow)
    shares = []
    for epoch in range(1, 21):
        clock.now += 10
        if monitor.step(epoch):
            shares.append(monitor.share)
    assert max(shares[1:]) <= 0.1 and monitor.measured >= 6
    assert monitor.history.share == shares[-1]
    assert set(monitor.history.to_frame()["epoch"]) < set(range(1, 21))


def test_the_budget_is_kept_by_the_clock_of_a_real_training():
    """Time in the monitor and in all, measured apart from it; margins for a machine that others share."""
    model, (x, y), budget = network(), data(), 0.2
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    monitor = Monitor(model, (x, y), budget=budget, measures="loss")
    begin, within = time.perf_counter(), 0.0
    while (monitor.measured < 3 or time.perf_counter() - begin < 0.5) and time.perf_counter() - begin < 30:
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        before = time.perf_counter()
        monitor.step()
        within += time.perf_counter() - before
    share = within / (time.perf_counter() - begin)
    assert monitor.measured >= 3, "a budget is there to be used"
    assert share < 2 * budget and share == pytest.approx(monitor.share, abs=0.1)


def test_a_resumed_monitor_goes_on():
    model = network().eval()
    first = Monitor(model, data(), budget=1.0, every=2, measures="loss,lambda_max")
    assert first.step(1) and first.step(2) is None
    second = Monitor(model, data(), budget=1.0, every=2, measures="loss,lambda_max")
    second.load_state_dict(first.state_dict())
    assert second.step(3)
    assert sorted(set(second.history.to_frame()["epoch"])) == [1, 3] and second.elapsed > first.spent
    products = second.history.to_frame().query("measure == 'lambda_max'").groupby("epoch")["products"].max()
    assert products[3] < products[1]


def test_data_that_can_be_read_once_serve_other_parameters_too():
    model, (x, y) = network().eval(), data()
    monitor = Monitor(model, iter([(x[:10], y[:10]), (x[10:], y[10:])]), budget=1.0, samples=20, measures="loss")
    expected = pytest.approx(Objective(model, (x, y)).loss())
    for trained in (True, False):
        model[0].weight.requires_grad_(trained)
        assert monitor.step()[0]["value"] == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [({"budget": 0}, "budget=0"), ({"every": 0}, "every=0"), ({"samples": 0}, "samples=0"), ({"measures": "x"}, "'x'")],
)
def test_settings_out_of_range_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        Monitor(network(), data(), **given)
    with pytest.raises(UserError, match="nothing was measured"):
        Monitor(network(), data()).history.plot()


@pytest.mark.usefixtures("shallow_resnet8")
def test_snapshots_of_a_run_have_a_history(tmp_path, capsys):
    run = tmp_path / "run"
    sharpness.train("ce-drw", sharpness.load_data("digits-lt"), run, epochs=3, snapshots=1)
    found = history(run, "loss,lambda_max", samples=2)
    frame = found.to_frame()
    assert sorted(set(frame["epoch"])) == [0, 1, 2, 3] and set(frame["of"]) == {"all", "many", "medium", "few"}
    last = frame[(frame["epoch"] == 3) & (frame["measure"] == "loss") & (frame["of"] == "all")]["value"].item()
    objective = small_sample(sharpness.checkpoint_objective(sharpness.load_checkpoint(run)), 2)
    assert last == pytest.approx(objective.loss(), rel=1e-5)
    assert main(["history", str(run), "--measures", "loss", "--limit-per-class", "1", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 4 * 4
    options = {option.name: option.default for option in sharpness.cli.history.params}
    usual = {name: one.default for name, one in inspect.signature(history).parameters.items()}
    assert options["limit_per_class"] == usual["samples"]
    assert all(options[name] == usual[name] for name in ("tol", "max_iterations", "seed"))
    with pytest.raises(UserError, match="holds no snapshots"):
        history(tmp_path)
    _last_updates(run, tmp_path, capsys)


def _last_updates(run, tmp_path, capsys):
    """Critical radii along the last update of a run: of its result, of a snapshot, and of its first one."""
    kept = [sharpness.load_checkpoint(run / "snapshots" / f"epoch-000{n}.pt") for n in range(4)]
    weights = [torch.cat([p.detach().ravel() for p in one.model.parameters()]) for one in kept]
    for file, at, move in (
        ("last.pt", 3, weights[3] - weights[2]),
        ("snapshots/epoch-0002.pt", 2, weights[2] - weights[1]),
        ("snapshots/epoch-0000.pt", 0, weights[1] - weights[0]),
    ):
        assert (
            main(["measure", str(run / file), "--limit-per-class", "2", *["--measures", "update_radius", "--json"]])
            == 0
        )
        found = pd.DataFrame(json.loads(capsys.readouterr().out)).set_index("class")["update_radius"]
        expected = critical_radius(sharpness.checkpoint_objective(kept[at], limit_per_class=2), "update", update=move)
        assert found["all"] == pytest.approx(expected.of("update"), rel=1e-5)
    # An unfinished run: the state follows its only snapshot.
    cut = tmp_path / "cut" / "snapshots"
    cut.mkdir(parents=True)
    shutil.copy(run / "snapshots" / "epoch-0001.pt", cut)
    torch.save({"model": kept[2].model.state_dict()}, cut.parent / "state.pt")
    expected = critical_radius(
        sharpness.checkpoint_objective(kept[1], limit_per_class=2), "update", update=weights[2] - weights[1]
    )
    assert critical_radius(cut / "epoch-0001.pt", "update", options={"limit_per_class": 2}).of(
        "update"
    ) == pytest.approx(expected.of("update"))
    (cut.parent / "state.pt").unlink()
    with pytest.raises(UserError, match="train with --snapshots N"):
        measure(cut / "epoch-0001.pt", "update_radius")
    with pytest.raises(UserError, match="no snapshots of its run"):
        critical_radius(network().eval(), data=data(), directions="update")
    assert "update_radius" not in measure(network().eval(), data(), "all", trace_draws=2, max_iterations=5).names


def test_settings_of_eigenvalues_and_the_seed_are_those_of_all_measures():
    model, settings = network().eval(), {"tol": 0.3, "max_iterations": 30, "seed": 5}
    recorder = Recorder("lambda_min,random_rise", **settings)
    objective = Objective(model, data(), groups={"many": (0,), "few": (1, 2)})
    found = {row["measure"]: row["value"] for row in recorder.rows(objective, 1) if row["of"] == "all"}
    table = measure(objective, "lambda_min,random_rise", **settings)
    assert found == {name: float(table[name].of(None)) for name in ("lambda_min", "random_rise")}
    assert found != {name: float(measure(objective, name)[name].of(None)) for name in found}
