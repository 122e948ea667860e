"""How the classes of foreign files are numbered, by family, and where the user says so."""

import numpy as np
import pytest
import torch

from sharpness import UserError, checkpoint_objective, load_checkpoint, measure
from sharpness.checkpoints import save_checkpoint
from sharpness.data import DATASETS, load_data, read_images
from sharpness.data.standardization import Standardization
from sharpness.models import ResNet, build_model


@pytest.fixture
def saved(tmp_path):
    """Save a file's content; its path."""

    def save(content):
        torch.save(content, tmp_path / "file.pth")
        return tmp_path / "file.pth"

    return save


def small():
    """Weights of a ResNet for small images, of 64 features."""
    return build_model("resnet8", 10).backbone.state_dict()


def mislas(classes):
    head = {"fc.weight": torch.randn(classes, 64), "fc.bias": torch.zeros(classes)}
    return {"state_dict_model": small(), "state_dict_classifier": head, "best_acc1": 1.0}


@pytest.mark.parametrize(("classes", "order"), [(10, "label"), (100, "label"), (365, "introsort"), (1000, "introsort")])
def test_mislas(saved, classes, order):
    manifest = load_checkpoint(saved(mislas(classes))).manifest
    assert manifest.class_order == order
    assert any("NumPy before 1.25" in note for note in manifest.notes) == (order == "introsort")


def test_gcl_on_places(saved):
    whole = ResNet((1, 1, 1, 2), True, width=4, inner=4).state_dict()
    body = {n: t for n, t in whole.items() if not n.startswith("layer4.1.")}
    block = {n.removeprefix("layer4.1."): t for n, t in whole.items() if n.startswith("layer4.1.")}
    parts = {"model_state_dict": body, "block_state_dict": block}
    path = saved({**parts, "classifier_state_dict": {"module.weight": torch.randn(128, 365)}})
    assert load_checkpoint(path).manifest.class_order == "introsort"


@pytest.mark.parametrize(("head", "order"), [("linear", "introsort"), ("fc_", "label")])
def test_saddle_longtail_sorts_and_rsg_does_not(saved, head, order):
    path = saved({"state_dict": {**small(), f"{head}.weight": torch.randn(64, 1000)}, "best_acc1": 1.0})
    assert load_checkpoint(path).manifest.class_order == order


@pytest.mark.parametrize(("classes", "scale"), [(365, 50), (8142, 50), (1000, 30)])
def test_the_scale_of_rsg_is_that_of_its_data_set(saved, classes, scale):
    path = saved({"state_dict": {**small(), "fc_.weight": torch.randn(64, classes)}, "best_acc1": 1.0})
    manifest = load_checkpoint(path).manifest
    assert (manifest.model.head, manifest.model.scale) == ("cosine", scale)


@pytest.mark.parametrize("family", ["mislas", "rsg"])
def test_inaturalist_has_constants_and_a_name_that_load_data_knows(saved, family):
    rsg = {"state_dict": {**small(), "fc_.weight": torch.randn(64, 8142)}, "best_acc1": 1.0}
    manifest = load_checkpoint(saved(mislas(8142) if family == "mislas" else rsg)).manifest
    assert manifest.dataset in DATASETS
    assert manifest.normalization == Standardization((0.466, 0.471, 0.380), (0.195, 0.194, 0.192))


COUNTS = [40, 40, 90, 7, 40, 7, 60, 7, 7, 40, 7, 60, 7, 7, 40, 90, 7, 40, 40, 7]


@pytest.fixture
def pictures():
    """Two 8-bit images of each of twenty classes, whose training counts are full of ties."""
    labels = torch.arange(40) % 20
    images = torch.randint(0, 256, (40, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return read_images((images, labels), train_counts=COUNTS)


@pytest.mark.parametrize("where", ["as it is read", "as it is probed"])
@pytest.mark.parametrize("kind", ["introsort", "stable", "label", list(range(19, -1, -1))])
def test_class_order_decides(saved, pictures, kind, where):
    path, given = saved(mislas(20)), {"class_order": kind}
    if where == "as it is read":
        objective = checkpoint_objective(load_checkpoint(path, **given), data=pictures, device="cpu")
    else:
        objective = checkpoint_objective(path, data=pictures, device="cpu", **given)
    # NumPy's own introsort, which extended floating point still goes through on every processor.
    minus = -np.array(COUNTS)
    order = {
        "introsort": np.argsort(minus.astype(np.longdouble)),
        "stable": np.argsort(minus, kind="stable"),
        "label": np.arange(20),
    }
    ranks = np.argsort(order[kind] if isinstance(kind, str) else kind)
    assert objective.y.tolist() == ranks[pictures.labels.numpy()].tolist()
    assert objective.train_counts[ranks].tolist() == COUNTS


def test_the_orders_differ_here():
    minus = -np.array(COUNTS)
    assert np.argsort(minus.astype(np.longdouble)).tolist() != np.argsort(minus, kind="stable").tolist()


def test_a_network_of_ones_own_can_be_numbered_by_count(saved, pictures):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 20))
    checkpoint = load_checkpoint(saved(network.state_dict()), model=network, class_order="stable")
    rank = np.argsort(np.argsort(-np.array(COUNTS), kind="stable"))
    objective = checkpoint_objective(checkpoint, data=pictures, device="cpu")
    assert objective.y.tolist() == rank[pictures.labels.numpy()].tolist()


def test_where_it_does_not_apply(saved):
    path = saved(mislas(10))
    with pytest.raises(UserError, match="unknown class order 'count'"):
        load_checkpoint(path, class_order="count")
    checkpoint = load_checkpoint(path, class_order="introsort")
    with pytest.raises(UserError, match=r"class_order \(--class-order\) is for images of your own"):
        checkpoint_objective(checkpoint, data="digits-lt")
    with pytest.raises(UserError, match="class_order: .* are taken as they are: wrap them, data=read_images"):
        checkpoint_objective(path, data=(torch.zeros(4, 3, 8, 8), torch.arange(4)), class_order="introsort")


def test_the_order_of_a_file_of_ours_is_on_record(tmp_path):
    save_checkpoint(tmp_path / "ours.pt", build_model("resnet8", 10, 1), {})
    with pytest.raises(UserError, match="ours.pt is our own and complete: leave out class_order"):
        checkpoint_objective(tmp_path / "ours.pt", data="digits-lt", class_order="stable")


def test_data_in_memory_take_no_settings_of_named_data(saved):
    with pytest.raises(UserError, match="imbalance: only for recorded or named data"):
        checkpoint_objective(saved(mislas(10)), data=load_data("digits-lt"), imbalance=10)


def test_a_measure_takes_it(saved, pictures):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 20))
    checkpoint = load_checkpoint(saved(network.state_dict()), model=network)
    table = measure(checkpoint, pictures, "accuracy", class_order="stable", device="cpu")
    order = np.argsort(-np.array(COUNTS), kind="stable")
    assert table.class_names == tuple(map(str, order))
