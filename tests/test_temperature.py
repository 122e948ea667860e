"""Logits at a model's own temperature: closed forms, a minimum found otherwise, and models of known confidence."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import nn
from torch.nn import functional as F

import sharpness
from sharpness import Objective, UserError
from sharpness.checkpoints import Manifest, save_checkpoint
from sharpness.cli import main
from sharpness.models import build_model
from sharpness.objective import Description
from sharpness.objective.temperature import temperature_of_logits


def drawn(n=600, classes=4, temperature=1.7, seed=0):
    """Logits, and labels drawn from their softmax at a temperature."""
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, classes, generator=g, dtype=torch.float64)
    return logits, torch.multinomial(torch.softmax(logits / temperature, 1), 1, generator=g).squeeze(1)


class Louder(nn.Module):
    """A linear network whose logits are multiplied by a factor that is no weight."""

    def __init__(self, factor):
        super().__init__()
        self.linear, self.factor = nn.Linear(3, 4).double(), factor
        with torch.no_grad():
            for p, seed in zip(self.parameters(), (1, 2), strict=True):
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)))

    def forward(self, x):
        return self.factor * self.linear(x)


def samples(n, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=g, dtype=torch.float64)
    with torch.no_grad():
        p = torch.softmax(Louder(1.0)(x) / 0.8, 1)
    return x, torch.multinomial(p, 1, generator=g).squeeze(1)


def test_the_temperature_is_where_the_weighted_cross_entropy_is_least():
    logits, labels = drawn()
    weights = torch.linspace(0.5, 3, len(labels), dtype=torch.float64)
    found, _ = temperature_of_logits(logits, labels, weights)

    def loss(log_t):
        return float((weights * F.cross_entropy(logits / math.exp(log_t), labels, reduction="none")).sum())

    assert found == pytest.approx(math.exp(minimize_scalar(loss, (-1, 1), tol=1e-10).x), rel=1e-6)


def test_its_error_is_the_spread_over_fresh_labels_and_shrinks_as_one_over_the_root():
    found = np.array([temperature_of_logits(*drawn(n=400, seed=s)) for s in range(120)])
    assert found[:, 0].mean() == pytest.approx(1.7, abs=3 * found[:, 0].std() / 120**0.5 + 0.02)
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(ddof=1), rel=0.25)  # a spread of 120 is known to 7 %
    few, many = temperature_of_logits(*drawn(200))[1], temperature_of_logits(*drawn(3200))[1]
    assert few / many == pytest.approx(4, rel=0.25)


@pytest.mark.parametrize("factor", [0.25, 3.7])
def test_a_factor_of_the_logits_is_the_factor_of_the_temperature_and_changes_no_measure(factor):
    probed, held_out = samples(60, 3), samples(500, 4)
    one, other = (Objective(Louder(f), probed, logits="temperature", held_out=held_out) for f in (1.0, factor))
    assert other.temperature.value == pytest.approx(factor * one.temperature.value, rel=1e-9)
    assert other.temperature.standard_error == pytest.approx(factor * one.temperature.standard_error, rel=1e-7)
    tables = [sharpness.measure(o, radius=0.3, draws=2, tol=1e-8) for o in (one, other)]
    np.testing.assert_allclose(tables[0].values, tables[1].values, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(tables[0].standard_errors, tables[1].standard_errors, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(one.gradient(2), other.gradient(2), rtol=1e-9, atol=1e-12)
    plain = Objective(Louder(factor), probed)
    assert plain.loss() != pytest.approx(one.loss(), rel=1e-3), "at its own confidence it is another loss"
    assert plain.evaluate().accuracy == other.evaluate().accuracy


def test_a_given_temperature_is_the_loss_of_divided_logits():
    x, y = samples(40, 5)
    objective = Objective(Louder(1.0), (x, y), logits=2.5)
    with torch.no_grad():
        losses = F.cross_entropy(Louder(1.0)(x) / 2.5, y, reduction="none")
    assert objective.loss() == pytest.approx(float(losses.mean()), rel=1e-12)
    assert objective.restrict(1).loss() == pytest.approx(float(losses[y == 1].mean()), rel=1e-12)
    assert objective.temperature.value == 2.5 and math.isnan(objective.temperature.standard_error)


@pytest.mark.parametrize("prepared", [False, True])
def test_held_out_labels_may_be_names_or_prepared_samples(prepared):
    names, probed, held_out = ["d", "a", "c", "b"], samples(60, 3), samples(500, 4)
    expected = Objective(Louder(1.0), probed, logits="temperature", held_out=held_out).temperature.value

    def named(x, y):
        return x, [names[c] for c in y.tolist()]

    others = Description(num_classes=4).prepare(held_out) if prepared else named(*held_out)
    objective = Objective(Louder(1.0), named(*probed), class_names=names, logits="temperature", held_out=others)
    assert objective.temperature.value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_a_temperature_may_be_a_number_of_numpy(kind):
    assert Objective(Louder(1.0), samples(20, 0), logits=kind(2)).temperature.value == 2.0


def test_results_tell_the_temperature_and_plain_logits_are_not_compared_with_it(caplog):
    probed, held_out = samples(40, 3), samples(300, 4)
    own = Objective(Louder(1.0), probed, logits="temperature", held_out=held_out)
    table = sharpness.measure(own, "loss")
    t = own.temperature
    assert table.provenance["temperature"] == t.value and table.provenance["temperature_se"] == t.standard_error
    assert any("300 held-out images" in line for line in table.notes)
    plain = Objective(Louder(1.0), probed)
    with pytest.raises(UserError, match="logits is calibrated and temperature"):
        sharpness.measure({"plain": plain, "own": own}, "loss")
    caplog.clear()
    assert Objective(Louder(1.0), probed, logits="temperature").temperature.images == "probed images"
    assert "held_out" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"logits": "soft"}, "unknown logits 'soft'"),
        ({"logits": 0.0}, "temperature 0.0: give a positive"),
        ({"logits": True}, "logits=True"),
        ({"held_out": samples(9, 0)}, "leave it out"),
        ({"logits": 2.0, "held_out": samples(9, 0)}, "leave it out"),
    ],
)
def test_what_is_no_temperature_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        Objective(Louder(1.0), samples(20, 0), **options)


def test_images_that_tell_no_temperature_are_refused():
    x, _ = samples(30, 0)
    with torch.no_grad():
        outputs = Louder(1.0)(x)
    for y, message in ((outputs.argmax(1), "all are classified correctly"), (outputs.argmin(1), "less of the labels")):
        with pytest.raises(UserError, match=message):
            Objective(Louder(1.0), (x, y), logits="temperature")
    with pytest.raises(UserError, match="no labels|are others"):
        Objective(
            Louder(1.0), (x, outputs), nn.MSELoss(reduction="none"), logits="temperature", output=lambda u: u[:, 0]
        )


def test_a_checkpoint_is_fitted_on_test_images_that_are_not_probed(tmp_path, capsys):
    data = sharpness.load_data("digits-lt")
    torch.manual_seed(0)
    manifest = Manifest(method="ce", longtail=data.longtail, data_sha256=data.train.sha256())
    model = build_model("resnet8", 10, 1).eval()
    with torch.no_grad():  # logits that say something of the labels, and not everything
        features = model.backbone(data.test.tensors[0])
        head = torch.linalg.lstsq(features, F.one_hot(data.test.labels, 10).float()).solution
        model.head.weight.copy_(head.T)
        model.head.bias.zero_()
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, model, manifest)
    x, y = data.test.tensors
    with torch.no_grad():
        logits = model(x)
    for split, limit, images in (("train", None, range(len(y))), ("test", 5, None)):
        found = sharpness.checkpoint_objective(path, split=split, limit_per_class=limit, logits="temperature")
        if images is None:  # all but the first five of every class
            images = [i for i in range(len(y)) if int((y[:i] == y[i]).sum()) >= 5]
        value, error = temperature_of_logits(logits[list(images)], y[list(images)])
        assert found.temperature.value == pytest.approx(value, rel=1e-4)
        assert found.temperature.standard_error == pytest.approx(error, rel=1e-3)
        assert found.temperature.samples == len(images)
    with pytest.raises(UserError, match="loss='ce'"):
        sharpness.checkpoint_objective(path, loss="training", logits="temperature")
    assert main(["measure", str(path), "--logits", "temperature", "--measures", "loss", "--limit-per-class", "2"]) == 0
    assert f"fitted on {len(y)} held-out images" in capsys.readouterr().out


def test_a_monitor_fits_the_temperature_of_every_step():
    model, (x, y), held_out = Louder(1.0), samples(60, 3), samples(200, 5)
    monitor = sharpness.Monitor(
        model, (x, y), budget=1.0, samples=60, measures="loss", logits="temperature", held_out=held_out
    )
    for epoch in (1, 2):
        fresh = Objective(model, (x, y), logits="temperature", held_out=held_out)
        assert monitor.step(epoch)[0]["value"] == pytest.approx(fresh.loss(), rel=1e-9)
        with torch.no_grad():
            model.linear.weight.mul_(3)
            model.linear.bias.add_(1)


def test_a_temperature_of_other_weights_is_refused():
    model, (x, y) = Louder(1.0), samples(60, 3)
    objective = Objective(model, (x, y), logits="temperature", held_out=samples(200, 5))
    objective.check()
    with torch.no_grad():
        model.linear.bias.add_(1)
    with pytest.raises(UserError, match="weights have changed since their temperature was fitted: make the objective"):
        sharpness.measure(objective, "loss")


@pytest.mark.parametrize("held_out", [False, True])
def test_a_temperature_is_fitted_at_recalibrated_statistics(held_out):
    """Those of the probed images, whose logits are 30 times those at the running statistics."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(3), Louder(2.0)).double().eval()
    (x, y), (u, v) = samples(200, 3), samples(300, 5)
    objective = Objective(
        model, (x / 30, y), batchnorm="recalibrate", logits="temperature", held_out=(u / 30, v) if held_out else None
    )
    # Written out: the statistics of x, with the unbiased variance and epsilon.
    given, labels = (u, v) if held_out else (x, y)
    seen = (given / 30 - (x / 30).mean(0)) / ((x / 30).var(0) + 1e-5).sqrt()
    logits = model[1](seen).detach()
    assert objective.temperature.value == pytest.approx(temperature_of_logits(logits, labels)[0], rel=1e-6)
