"""The objective against dense float64 derivatives, and how it leaves what it was given."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from sharpness import Objective, UserError
from sharpness.data import read_images


def build(case, **options):
    return Objective(case.model, (case.x, case.y), loss=case.loss, num_classes=case.num_classes, **options)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_loss_gradient_and_product_are_those_of_the_dense_oracle(case, batch_size):
    objective = build(case, batch_size=batch_size)
    vector = torch.randn(objective.num_parameters, dtype=torch.float64)
    for c in (None, 0, 1, 2):
        loss, gradient, hessian = case.dense(rows=None if c is None else case.y == c)
        assert objective.loss(c) == pytest.approx(loss, rel=1e-12)
        torch.testing.assert_close(objective.gradient(c), gradient, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(objective.hvp(vector, c), hessian @ vector, rtol=1e-9, atol=1e-10)


def test_class_losses_come_from_one_pass(case):
    expected = [case.dense(rows=case.y == c)[0] for c in range(3)]
    np.testing.assert_allclose(build(case).class_losses(), expected, rtol=1e-12)


def test_weights_are_summed_and_divided_once(case):
    weights = torch.rand(len(case.y), dtype=torch.float64) + 0.1
    loss, gradient, hessian = case.dense(weights)
    for batch_size in (2, 15):
        objective = build(case, weights=weights, batch_size=batch_size)
        vector = torch.randn(objective.num_parameters, dtype=torch.float64)
        assert objective.loss() == pytest.approx(loss, rel=1e-12)
        torch.testing.assert_close(objective.gradient(), gradient, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(objective.hvp(vector), hessian @ vector, rtol=1e-9, atol=1e-10)


def test_a_constant_weight_cancels_within_a_class(case):
    weights = torch.tensor([1.0, 5.0, 30.0])[case.y]
    np.testing.assert_allclose(build(case, weights=weights).class_losses(), build(case).class_losses(), rtol=1e-12)


def test_class_hessians_add_up_to_the_whole_by_class_share(case):
    objective = build(case)
    vector = torch.randn(objective.num_parameters, dtype=torch.float64)
    parts = [int((case.y == c).sum()) / len(case.y) * objective.hvp(vector, c) for c in range(3)]
    torch.testing.assert_close(sum(parts), objective.hvp(vector), rtol=1e-9, atol=1e-10)


def test_the_hessian_is_symmetric(case):
    objective = build(case)
    u, v = (torch.randn(objective.num_parameters, dtype=torch.float64) for _ in range(2))
    assert float(u @ objective.hvp(v)) == pytest.approx(float(v @ objective.hvp(u)), rel=1e-9, abs=1e-10)


def test_a_cosine_head_has_scale_in_its_gradient_and_its_square_in_its_curvature():
    """At logits s * cos, the Gauss-Newton part of the curvature along any direction grows as s^2."""
    x, y = torch.eye(3, dtype=torch.float64), torch.tensor([0, 1, 2])
    slopes = []
    for s in (1e-3, 2e-3):
        model = nn.Linear(3, 3, bias=False).double()
        nn.init.zeros_(model.weight)
        scaled = Objective(model, (x, y), loss=lambda u, t, s=s: F.cross_entropy(s * u, t, reduction="none"))
        v = torch.arange(9.0, dtype=torch.float64)
        slopes.append((float(scaled.gradient().norm()), float(v @ scaled.hvp(v))))
    assert slopes[1][0] / slopes[0][0] == pytest.approx(2, rel=1e-9)
    assert slopes[1][1] / slopes[0][1] == pytest.approx(4, rel=1e-9)


def test_curvature_of_confident_samples_is_not_rounded_away_in_float32():
    model, x, y = nn.Linear(1, 2, bias=False), torch.ones(1, 1), torch.tensor([0])
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[25.0], [0.0]]))
    p = np.exp(-25) / (1 + np.exp(-25))
    product = Objective(model, (x, y)).hvp(torch.tensor([1.0, 0.0]))
    np.testing.assert_allclose(product.numpy(), [p * (1 - p), -p * (1 - p)], rtol=1e-4)


def test_restrict_to_indices_is_the_objective_of_those_samples(case):
    chosen = [0, 3, 10, 14]
    rows = torch.zeros(len(case.y), dtype=torch.bool)
    rows[chosen] = True
    part = build(case).restrict(chosen)
    assert part.loss() == pytest.approx(case.dense(rows=rows)[0], rel=1e-12)
    assert part.class_samples.tolist() == [2, 1, 1]
    assert part.data_sha256 != build(case).data_sha256


def test_data_may_be_tensors_arrays_or_datasets(case):
    class Pairs(Dataset):
        def __len__(self):
            return len(case.y)

        def __getitem__(self, i):
            return case.x[i], int(case.y[i])

    expected = build(case).loss()
    for data in [(case.x.numpy(), case.y.numpy()), TensorDataset(case.x, case.y), Pairs()]:
        objective = Objective(case.model, data, loss=case.loss, num_classes=3)
        assert objective.loss() == expected


def snapshot(model):
    return (
        {n: t.clone() for n, t in model.state_dict().items()},
        {n: (None if p.grad is None else p.grad.clone()) for n, p in model.named_parameters()},
        {n: m.training for n, m in model.named_modules()},
        {n: p.requires_grad for n, p in model.named_parameters()},
    )


def same(a, b):
    for left, right in zip(a, b, strict=True):
        assert left.keys() == right.keys()
        for k in left:
            if isinstance(left[k], torch.Tensor):
                assert torch.equal(left[k], right[k])
            else:
                assert left[k] == right[k] or (left[k] is None and right[k] is None)


def test_probing_leaves_weights_buffers_grad_mode_and_random_numbers_alone(case):
    outputs = case.model(case.x)
    outputs.sum().backward()
    before, state = snapshot(case.model), torch.get_rng_state()
    objective = build(case)
    objective.loss(), objective.gradient(1), objective.hvp(torch.ones(objective.num_parameters))
    with objective.at(torch.ones(objective.num_parameters)):
        objective.evaluate()
    same(before, snapshot(case.model))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("policy", ["eval", "recalibrate"])
def test_at_restores_exactly_when_the_body_raises(case, policy):
    before = snapshot(case.model)
    objective = build(case, batchnorm=policy)
    with pytest.raises(KeyError), objective.at(torch.randn(objective.num_parameters)):
        raise KeyError
    same(before, snapshot(case.model))


def test_at_moves_exactly_by_the_displacement(case):
    objective = build(case)
    flat = torch.cat([p.detach().reshape(-1) for p in case.model.parameters()])
    step = torch.randn(len(flat), dtype=torch.float64)
    with objective.at(step):
        moved = torch.cat([p.detach().reshape(-1) for p in case.model.parameters()])
    assert torch.equal(moved, flat + step)


def test_recalibrated_statistics_are_those_of_the_data_at_the_moved_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double().eval()
    x, y = torch.randn(40, 3, dtype=torch.float64), torch.arange(40) % 2
    objective = Objective(model, (x, y), batchnorm="recalibrate")
    step = torch.randn(objective.num_parameters, dtype=torch.float64)
    with objective.at(step):
        hidden = model[0](x)
        torch.testing.assert_close(model[1].running_mean, hidden.mean(0))
        torch.testing.assert_close(model[1].running_var, hidden.var(0))
        assert not model.training
    assert torch.equal(model[1].running_mean, torch.zeros(4, dtype=torch.float64))


def test_parameters_without_a_gradient_are_left_out():
    model = nn.Linear(3, 2)
    model.dead = nn.Parameter(torch.ones(100))
    frozen = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    frozen[0].requires_grad_(False)
    data = (torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 0]))
    assert Objective(model, data).num_parameters == 8
    assert Objective(frozen, data).num_parameters == 10


def test_scopes_split_the_parameters_between_backbone_and_classifier():
    from sharpness.models import build_model

    model = build_model("resnet8", 10, 1).eval()
    data = (torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 2]))
    sizes = {s: Objective(model, data, parameters=s).num_parameters for s in ("all", "backbone", "classifier")}
    assert sizes["classifier"] == 650
    assert sizes["backbone"] + 650 == sizes["all"] == sum(p.numel() for p in model.parameters())
    assert Objective(model, data, parameters="*layer3*conv2*").num_parameters == 64 * 64 * 9


class Replaced(nn.Module):
    """An identity stands where the classifier was, and the classifier comes after it."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.fc = nn.Linear(2, 4), nn.Identity(), nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.head(torch.tanh(self.body(x))))


def test_a_head_without_weights_is_no_classifier():
    data = (torch.randn(6, 2), torch.arange(6) % 3)
    names = {s: Objective(Replaced(), data, parameters=s).names for s in ("backbone", "classifier")}
    assert names == {"backbone": ["body.weight", "body.bias"], "classifier": ["fc.weight", "fc.bias"]}


def test_a_batch_size_may_be_a_number_of_numpy(case):
    assert build(case, batch_size=np.int64(4)).loss() == build(case, batch_size=4).loss()


class Tuple(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3)

    def forward(self, x):
        return self.linear(x), "extra"


X, Y = torch.randn(6, 2), torch.tensor([0, 1, 2, 0, 1, 0])


def batchwise():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval()


def noisy(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="none") + torch.rand(len(targets))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Objective(nn.Linear(2, 3), (X, Y - 1)), "label -1 of sample 0"),
        (lambda: Objective(nn.Linear(2, 3), (X, Y + 1)), "label 3 of sample 2"),
        (lambda: Objective(nn.Linear(2, 3), (X, Y[:4])), "one label per input"),
        (lambda: Objective(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), (X, Y)), r"model\.eval\(\)"),
        (lambda: Objective(nn.Sequential(nn.Linear(2, 3), nn.Dropout()), (X, Y)), r"model\.eval\(\)"),
        (lambda: Objective(batchwise(), (X, Y)), "keeps no running statistics"),
        (lambda: Objective(Tuple(), (X, Y)), "pass output="),
        (lambda: Objective(nn.ReLU(), (X, Y)), "no parameters"),
        (lambda: Objective(nn.Linear(2, 3).requires_grad_(False), (X, Y)), "all parameters are frozen"),
        (lambda: Objective(nn.Linear(2, 3), (X, Y), parameters="layer9.*"), "matches no parameter"),
        (lambda: Objective(nn.Linear(2, 3), (X, Y), loss="mse"), "unknown loss 'mse'"),
        (lambda: Objective(nn.Linear(2, 3), (X, Y), batchnorm="train"), "unknown batchnorm policy"),
        (lambda: Objective(nn.Linear(2, 3), (X, Y), batch_size=0), "batch_size=0"),
        (lambda: Objective(nn.Linear(2, 3), (X, Y), weights=torch.zeros(6)), "weights must be positive"),
        (lambda: Objective(nn.Linear(2, 4), (X, Y)).loss(3), "class 3 has no samples"),
        (lambda: Objective(nn.Linear(2, 3), (X, Y)).loss(7), "class 7 is outside 0..2"),
        (lambda: Objective(nn.Linear(2, 3), (X, Y)).loss("cat"), "unknown class 'cat': choose one of 0, 1, 2"),
        (lambda: Objective(nn.Linear(2, 3), (X, Y)).gradient(1.5), "class=1.5: give an integer"),
        (lambda: Objective(nn.Linear(2, 3), (X, Y)).restrict(-1), "class=-1"),
        (lambda: Objective(nn.Linear(2, 3), (X, Y)).restrict([0, 6]), r"sample 6 is outside 0\.\.5"),
        (lambda: Objective(nn.Linear(2, 3), (X, Y)).restrict([0.0, 1.0]), "float32 of shape"),
        (lambda: Objective(nn.Linear(2, 3), (X, Y)).restrict(Y[:5] == 1), "mask of all 6"),
        (lambda: Objective(nn.Linear(2, 3), (X, Y)).restrict([]), "at least one index"),
        (lambda: Objective(nn.Linear(2, 3), (X, Y)).restrict({0: 1}), "by a list of indices"),
        (lambda: Objective(nn.Linear(2, 3), (X, Y)).hvp(torch.ones(4)), r"shape \(4,\)"),
        (lambda: Objective(nn.Linear(2, 3), (X, Y), loss=noisy).check(), "random"),
        (lambda: Objective(nn.Linear(2, 3), (X * torch.inf, Y)).check(), "normalisation"),
        (lambda: Objective(nn.Linear(2, 3), (X, Y), loss=F.cross_entropy).loss(), "reduction='none'"),
        (lambda: Objective(nn.Linear(2, 3), "cifar"), "data is a str"),
    ],
)
def test_bad_input_gets_one_line_with_the_value_and_the_remedy(act, message):
    with pytest.raises(UserError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)


def test_a_class_a_group_and_samples_are_chosen_by_name_number_or_mask():
    whole = Objective(nn.Linear(2, 3), (X, Y), class_names=("a", "b", "c"), groups={"rest": ("b", "c")})
    expected = F.cross_entropy(whole.model(X[Y != 0]), Y[Y != 0]).item()
    for what in (
        "rest",
        ["rest"],
        ["c", "b"],
        ("b", "rest"),
        Y != 0,
        (Y != 0).numpy(),
        (Y != 0).tolist(),
        (Y != 0).nonzero().squeeze(1),
    ):
        assert whole.restrict(what).loss() == pytest.approx(expected, rel=1e-6)
    assert whole.loss("b") == whole.loss(1) == whole.restrict("b").loss() == whole.restrict(np.int64(1)).loss()
    assert torch.equal(whole.gradient("b"), whole.gradient(1))
    with pytest.raises(UserError, match="unknown class 'rest'"):
        whole.gradient("rest")
    with pytest.raises(UserError, match="unknown class or group 'd'"):
        whole.restrict(["a", "d"])


def test_output_picks_the_logits():
    model = Tuple()
    expected = F.cross_entropy(model.linear(X), Y).item()
    assert Objective(model, (X, Y), output=lambda r: r[0]).loss() == pytest.approx(expected, rel=1e-6)


def test_random_augmentation_is_found_before_anything_is_computed():
    class Augmented(Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return torch.randn(2), 0

    with pytest.raises(UserError, match="augments at random"):
        Objective(nn.Linear(2, 3), Augmented())


def test_provenance_changes_with_weights_and_data():
    model = nn.Linear(2, 3)
    first = Objective(model, (X, Y)).provenance()
    with torch.no_grad():
        model.weight[0, 0] += 1
    second = Objective(model, (X + 1, Y)).provenance()
    assert first["model_sha256"] != second["model_sha256"]
    assert first["data_sha256"] != second["data_sha256"]


def test_a_model_that_writes_to_its_inputs_is_refused():
    class Shifts(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            x -= 0.5
            return self.layer(x)

    x = torch.randn(6, 4)
    before = x.clone()
    with pytest.raises(UserError, match="in place"):
        Objective(Shifts(), (x, torch.tensor([0, 1, 2, 0, 1, 2])))
    assert torch.equal(x, before)


def test_an_operator_keeps_nothing_after_its_block():
    objective = Objective(nn.Linear(4, 3), (torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])))
    v = torch.randn(15)
    with objective.operator() as hessian:
        inside = hessian(v)
        assert hessian.kept_bytes > 0
    torch.testing.assert_close(hessian(v), inside)
    assert hessian.kept_bytes == 0


def test_a_network_that_cannot_take_the_inputs_is_told_with_their_shape():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3 * 4 * 4, 2)

        def forward(self, x):
            return self.head(x.flatten(1))

    y = torch.tensor([0, 1])
    with pytest.raises(UserError, match=r"^Flat raised RuntimeError: .* on inputs of shape \(1, 3, 5, 5\): check"):
        Objective(Flat(), (torch.randn(2, 3, 5, 5), y))
    turned = r"x\.permute\(0, 3, 1, 2\)"
    with pytest.raises(
        UserError, match=rf"^Conv2d raised RuntimeError: .*\(1, 8, 8, 3\): channels come first.*{turned}$"
    ):
        Objective(nn.Conv2d(3, 2, 3), (torch.randn(2, 8, 8, 3), y))
    with pytest.raises(UserError, match=rf"inputs are uint8: .*{turned}\.float\(\) / 255, normalised"):
        Objective(nn.Conv2d(3, 2, 3), (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), y))


def test_what_images_of_ones_own_know_of_their_classes_is_taken_from_them():
    torch.manual_seed(0)
    x, y = torch.randn(9, 3), torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 2])
    data = read_images((x, y), class_names=["ant", "bee", "cat"], train_counts=[300, 50, 7], limit_per_class=2)
    model = nn.Linear(3, 3)
    objective = Objective(model, data)
    assert objective.class_names == ("ant", "bee", "cat") and objective.train_counts.tolist() == [300, 50, 7]
    assert objective.groups == {"many": (0,), "medium": (1,), "few": (2,)}
    losses = nn.functional.cross_entropy(model(data.inputs), data.labels, reduction="none").detach()
    assert objective.loss() == pytest.approx(float(torch.tensor([3.0, 3, 1, 1, 1]) @ losses) / 9, rel=1e-5)
    given = Objective(
        model, data, groups={}, class_names="abc", train_counts=[1, 2, 3], weights=torch.ones(5), num_classes=3
    )
    assert given.class_names == ("a", "b", "c") and given.groups == {} and given.train_counts.tolist() == [1, 2, 3]
    assert given.loss() == pytest.approx(float(losses.mean()), rel=1e-5)
    with pytest.raises(UserError, match="2 class_names and 3 classes: give one for each"):
        Objective(model, data, class_names="ab")


class NoisyStatistics(nn.Module):
    """Deterministic in eval mode, while its BatchNorm sees other noise in every recalibration."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.norm(x + torch.randn_like(x) if self.norm.training else x))


def test_with_recalibrated_statistics_it_is_these_that_must_repeat():
    torch.manual_seed(0)
    data = torch.randn(30, 4), torch.arange(30) % 3
    model = NoisyStatistics().eval()
    Objective(model, data).check()
    with pytest.raises(UserError, match="two passes over the same data gave losses"):
        Objective(model, data, batchnorm="recalibrate").check()
