"""The per-class table agrees with the probes it is made of."""

import numpy as np
import pytest
import torch
from torch import nn

import sharpness
from sharpness import Objective, UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    sharpness.train("gcl", sharpness.load_data("digits-lt"), folder / "gcl", epochs=2)
    return folder / "gcl"


def small():
    torch.manual_seed(0)
    x, y = torch.randn(12, 3, dtype=torch.float64), torch.tensor([0] * 6 + [1] * 4 + [2] * 2)
    return Objective(nn.Linear(3, 3).double(), (x, y), groups={"many": (0,), "few": (1, 2)})


def test_columns_are_those_of_the_probes():
    objective = small()
    table = sharpness.measure(objective, sharpness.probes.MEASURES, train_counts=[60, 40, 20], probes=5)
    column = dict(zip(table.names, table.values, strict=True))
    spectrum = sharpness.eigenvalues(objective, which="both", per_class=True)
    np.testing.assert_array_equal(column["lambda_max"], spectrum.largest)
    np.testing.assert_array_equal(column["lambda_min"], spectrum.smallest)
    np.testing.assert_array_equal(column["loss"], objective.class_losses())
    np.testing.assert_array_equal(column["worst_rise"], sharpness.worst_case(objective).values[2])
    rises = sharpness.random_perturbation(objective, [0.1]).rise(1)
    assert column["random_rise"][1] == rises[0][0]
    assert table.errors[table.names.index("random_rise")][1] == rises[1][0]


def test_the_frame_has_overall_groups_and_classes_with_standard_errors():
    frame = sharpness.measure(small(), ["loss", "random_rise"], train_counts=[60, 40, 20]).to_frame()
    assert list(frame["class"]) == ["all", "many", "few", "0", "1", "2"]
    assert list(frame["train"]) == [120, 60, 60, 60, 40, 20]
    few, one, two = (frame[frame["class"] == c].iloc[0] for c in ("few", "1", "2"))
    assert few["loss"] == pytest.approx((one["loss"] + two["loss"]) / 2)
    assert few["random_rise_se"] == pytest.approx((one["random_rise_se"] ** 2 + two["random_rise_se"] ** 2) ** 0.5 / 2)
    assert "loss_se" not in frame


def test_a_checkpoint_is_measured_on_the_data_it_was_trained_on(run):
    table = sharpness.measure(str(run), ["accuracy", "loss"])
    assert table.class_samples.tolist() == [124, 84, 58, 39, 27, 18, 12, 8, 6, 4]
    assert table.label == "GCL"
    assert table.provenance["logit_scale"] == 20.0
    test = sharpness.measure(str(run), ["accuracy"], split="test")
    recorded = sharpness.load_checkpoint(run).manifest["accuracy"]
    assert test.overall[0] == recorded["accuracy"]
    np.testing.assert_allclose(test.values[0], [recorded[f"accuracy_class_{c}"] for c in range(10)])


def test_limiting_the_samples_keeps_the_weight_of_every_class(run):
    limited = sharpness.checkpoint_objective(str(run), limit_per_class=4)
    assert limited.class_counts.tolist() == [4] * 10
    shares = np.array([124, 84, 58, 39, 27, 18, 12, 8, 6, 4]) / 380
    assert limited.loss() == pytest.approx(shares @ limited.class_losses(), rel=1e-6)


def test_the_training_loss_of_gcl_is_deterministic_and_another_than_cross_entropy(run):
    trained_with = sharpness.checkpoint_objective(str(run), loss="training")
    trained_with.check()
    assert trained_with.loss() != pytest.approx(sharpness.checkpoint_objective(str(run)).loss(), rel=1e-3)


def test_a_mapping_compares(run):
    both = sharpness.measure({"a": str(run), "b": str(run)}, ["loss"])
    assert len(both.to_frame()) == 2 * 14 - 2 * (14 - len(both["a"].to_frame()))
    assert set(both.to_frame()["model"]) == {"a", "b"}


def test_bad_settings_are_refused(run):
    with pytest.raises(UserError, match="unknown measure 'flatness'"):
        sharpness.measure(small(), ["flatness"])
    with pytest.raises(UserError, match="unknown split"):
        sharpness.measure(str(run), split="val")
    with pytest.raises(UserError, match="are for checkpoints"):
        sharpness.measure(small(), split="test")
    with pytest.raises(UserError, match="no checkpoint at"):
        sharpness.measure("nowhere.pt")
