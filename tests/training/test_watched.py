"""A monitor of a training: it changes nothing, resumes with the run, and measures what the run keeps."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

from sharpness import Monitor, checkpoint_objective, eigenvalues, history, load_checkpoint, train
from sharpness.cli import main
from sharpness.data import LongTail
from sharpness.methods import METHODS, build_recipe
from sharpness.methods.events import events
from sharpness.methods.schedules import CosineToZero
from sharpness.probes.measures.recorder import small_sample

WATCH = partial(Monitor, budget=1.0, samples=2, measures="loss,lambda_max")


def test_a_watched_run_has_the_weights_of_another_and_its_monitor_resumes(
    tmp_path, few_digits, shorten, killed_after, weights, identical
):
    shorten("mislas", 2, 2)
    train("mislas", few_digits, tmp_path / "plain")
    made = []

    def watch(network, data):
        made.append(WATCH(network, data))
        return made[-1]

    run = tmp_path / "watched"
    with killed_after(3), pytest.raises(KeyboardInterrupt):
        train("mislas", few_digits, run, monitor=watch, snapshots=1)
    train("mislas", few_digits, run, monitor=watch, resume=True, snapshots=1)
    identical(weights(run), weights(tmp_path / "plain"))
    first, second = (one.history.to_frame() for one in made)
    assert sorted(set(first.epoch)) == [1, 2, 3] and sorted(set(second.epoch)) == [1, 2, 3, 4]
    pd.testing.assert_frame_equal(second[second.epoch <= 3], first)
    stage = build_recipe("mislas", few_digits.longtail).stages[1].name
    assert made[1].history.events[3.0] == stage, "a stage that trains the head alone"
    # Of all parameters, frozen ones as well, as those of the snapshots are.
    objective = small_sample(checkpoint_objective(load_checkpoint(run), data=few_digits), 2)
    largest = second.query("epoch == 4 and measure == 'lambda_max' and of == 'all'").value.item()
    assert largest == pytest.approx(eigenvalues(objective).values[0], rel=0.02)
    offline = history(run, "loss", samples=2, data=few_digits).to_frame().query("epoch > 0")
    online = second[second.measure == "loss"]
    assert offline.value.to_numpy() == pytest.approx(online.value.to_numpy(), rel=1e-5)
    assert offline.event.tolist() == online.event.tolist()


def test_a_learning_rate_of_zero_is_recorded_and_has_no_bound(tmp_path, few_digits, monkeypatch):
    """That of the last epoch of classifier-balancing's cosine; the stage without epochs of tau-norm has none."""
    published, made = METHODS["tau-norm"], []

    def recipe(longtail):
        whole = published(longtail)
        return replace(whole, stages=(replace(whole.stages[0], schedule=CosineToZero()), *whole.stages[1:]))

    monkeypatch.setitem(METHODS, "tau-norm", recipe)
    watch = partial(Monitor, budget=1.0, samples=2, measures="loss,lambda_max")
    train("tau-norm", few_digits, tmp_path, epochs=2, monitor=lambda *given: made.append(watch(*given)) or made[0])
    rows = made[0].history.to_frame().drop_duplicates("epoch")
    initial = published(few_digits.longtail).stages[0].lr
    np.testing.assert_allclose(rows.lr.to_numpy(float), [initial / 2, 0, np.nan], rtol=1e-12)
    (bound,) = (line for line in made[0].history.plot().lines if line.get_gid() == "stability")
    np.testing.assert_allclose(bound.get_xydata(), [[1, 4 / initial]])


def test_deferred_sampling_is_an_event():
    longtail = LongTail("toy", ("a", "b", "c"), "exp", 100, "first_n", (200, 20, 2), "oltr")
    recipe = build_recipe("m2m", longtail)
    (index,) = [i for i, stage in enumerate(recipe.stages) if stage.deferred]
    before = sum(stage.epochs for stage in recipe.stages[:index])
    row = before + int(0.8 * recipe.stages[index].epochs)
    assert [i for i, told in enumerate(events(recipe)) if "inverse_frequency sampling" in told] == [row]


@pytest.mark.parametrize("method", ["ldam-drw", "ce-drw", "rsg"])
def test_deferred_reweighting_is_an_event(method):
    longtail = LongTail("toy", ("a", "b", "c"), "exp", 100, "first_n", (200, 20, 2), "oltr")
    told = events(build_recipe(method, longtail))
    assert [i + 1 for i, event in enumerate(told) if "re-weighted" in event] == [161]


def test_the_command_writes_the_history_and_its_picture(tmp_path, capsys):
    run = tmp_path / "run"
    command = ["train", "--method", "ce", "--data", "digits-lt", "--epochs", "1", "--out", str(run)]
    assert main([*command, "--budget", "1"]) == 2
    assert "--budget 1 is of --monitor" in capsys.readouterr().err and not run.exists()
    assert main([*command, "--monitor", "--budget", "1"]) == 0
    written = pd.read_csv(run / "sharpness.csv")
    assert set(written.of) == {"all", "many", "medium", "few"} and (run / "sharpness.png").stat().st_size
    assert "of the training went into 1 measurements" in capsys.readouterr().out
    assert main([*command, "--monitor"]) == 0
    assert "finished before" in capsys.readouterr().err
