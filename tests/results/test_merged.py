"""Several files in one: seeds, models, and parts of the classes, which add up to what one probe of all would give."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import sharpness
from sharpness import Objective, UserError, load_result
from sharpness.cli import main
from sharpness.results import OwnersResult, Runs
from sharpness.results.collected import collect
from sharpness.results.merged import join_classes, merge


def network(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)).double()


def samples(classes=(0, 1, 2)):
    """Four, three and two samples of three classes."""
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2])
    kept = torch.isin(y, torch.tensor(classes))
    return x[kept], y[kept]


def objective(seed=0, classes=(0, 1, 2), **options):
    return Objective(network(seed), samples(classes), class_names=("a", "b", "c"), groups={"few": (1, 2)}, **options)


def test_seeds_and_models_of_several_files_are_one_comparison(tmp_path, capsys):
    for label, seed in (("CE", 0), ("CE", 1), ("GCL", 2)):
        path = tmp_path / f"seed-{seed}" / "loss.nc"
        path.parent.mkdir()
        sharpness.measure({label: objective(seed)}, "loss").save(path)
    (tmp_path / "copy.nc").write_bytes((tmp_path / "seed-0" / "loss.nc").read_bytes())
    assert main(["merge", str(tmp_path), "-o", str(tmp_path / "all.nc")]) == 0
    found = load_result(tmp_path / "all.nc")
    assert list(found) == ["CE", "GCL"] and isinstance(found["CE"], Runs) and len(found["CE"]) == 2
    assert [r["loss"].overall for r in found["CE"]] == pytest.approx([objective(0).loss(), objective(1).loss()])
    assert "±" in capsys.readouterr().out
    assert found["CE"].names == ("run 1", "run 2"), "the copy has no seed in its path"
    (tmp_path / "copy.nc").unlink(), (tmp_path / "all.nc").unlink()
    assert merge([tmp_path])["CE"].names == ("seed 0", "seed 1")


def test_models_stand_in_the_order_of_a_command_that_named_several_in_every_collection(tmp_path):
    models = {"CE": objective(0), "CC-SAM": objective(1)}
    for label, result in sharpness.line(models, x=(-1, 1, 3)).items():
        result.save(tmp_path / f"a-line-{label}.nc")
    sharpness.measure(models, "loss").save(tmp_path / "table.nc")
    assert [list(one.results) for one in collect(tmp_path)] == [["CE", "CC-SAM"]] * 2


@pytest.mark.parametrize(
    "probe",
    [
        lambda o: sharpness.eigenvalues(o, k=1, which="both", per_class=True, tol=1e-10),
        lambda o: sharpness.eigenvalues(o, per_layer=True, per_class=True, tol=1e-10),
        lambda o: sharpness.plane(o, x=(-1, 1, 3), y=(-1, 1, 3), adaptive=None),
        lambda o: sharpness.line(o, x=(-1, 1, 3)),
        lambda o: sharpness.random_perturbation(o, radii=(0.1,), draws=2),
        lambda o: sharpness.measure(o, "accuracy,loss,lambda_max,random_rise", draws=3, tol=1e-10),
    ],
    ids=["eigenvalues", "layers", "plane", "line", "perturbation", "measures"],
)
def test_parts_of_the_classes_are_what_one_probe_of_all_gives(probe, tmp_path):
    for i, classes in enumerate([(0,), (1, 2)]):
        probe(objective(0, classes)).save(tmp_path / f"{i}.nc")
    joined, whole = next(iter(merge([tmp_path]).values())), probe(objective())
    np.testing.assert_array_equal(joined.class_samples, [4, 3, 2])
    for name in whole:
        np.testing.assert_allclose(joined[name].values, whole[name].values, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(joined[name].of("few"), whole[name].of("few"), rtol=1e-6, atol=1e-9)
        if name == "random_rise":
            # Classes share the draws: their errors add up plainly, which bounds what the draws of the mean would give.
            errors = whole[name].standard_errors[1:]
            assert joined[name].standard_error("few") == pytest.approx(errors.mean())
            assert joined[name].standard_error("few") >= whole[name].standard_error("few") * (1 - 1e-9)
        if hasattr(whole, "losses") or name in ("loss", "accuracy"):
            np.testing.assert_allclose(joined[name].overall, whole[name].overall, rtol=1e-6, atol=1e-9)
        elif name == "lambda_max" and hasattr(whole, "overall"):
            assert np.isnan(joined[name].overall), "no part has the eigenvalue of all samples"
    assert load_result(joined.save(tmp_path / "joined.nc")).provenance["parts"] == 2


def test_a_copy_of_a_part_counts_once(tmp_path):
    for i, classes in enumerate([(0,), (1, 2)]):
        sharpness.measure(objective(0, classes), "loss").save(tmp_path / f"{i}.nc")
    for copy in ("0 copied", "2"):
        (tmp_path / f"{copy}.nc").write_bytes((tmp_path / "0.nc").read_bytes())
    (joined,) = merge([tmp_path]).values()
    np.testing.assert_allclose(joined["loss"].overall, objective().loss(), rtol=1e-6)
    assert joined.provenance["parts"] == 2


def test_what_does_not_belong_together_is_refused_with_the_field(tmp_path):
    one, two = (
        sharpness.measure({"A": objective()}, "loss"),
        sharpness.measure({"A": objective(), "B": objective(1)}, "loss"),
    )
    one.save(tmp_path / "a.nc")
    sharpness.line({"A": objective()}, x=(-1, 1, 3)).save(tmp_path / "line.nc")
    with pytest.raises(UserError, match="MeasureResult .*a.nc.* and LineResult .*line.nc.* cannot be merged into one"):
        merge([tmp_path])
    (tmp_path / "line.nc").unlink()
    sharpness.measure({"B": objective(1, parameters="0.*")}, "loss").save(tmp_path / "b.nc")
    with pytest.raises(UserError, match="scope is all and "):
        merge([tmp_path])
    assert [c.name for c in collect(tmp_path)] == [c.name for c in collect(sorted(tmp_path.iterdir()))] == ["a", "b"]
    assert [c.name for c in collect(path for path in sorted(tmp_path.glob("*.nc")))] == ["a", "b"]
    with pytest.raises(UserError, match="class a, b, c has samples in two parts"):
        join_classes([two["A"], two["B"]])


def test_parts_of_other_measures_or_sizes_are_refused(tmp_path):
    for name, measures, classes in (("a", "loss,accuracy", (0,)), ("b", "loss,random_rise", (1, 2))):
        sharpness.measure(objective(0, classes), measures, draws=2).save(tmp_path / f"{name}.nc")
    with pytest.raises(UserError, match="names is"):
        merge([tmp_path])
    draws = {(0,): 2, (1, 2): 3}
    parts = [sharpness.random_perturbation(objective(0, c), radii=(0.1,), draws=n) for c, n in draws.items()]
    with pytest.raises(UserError, match=r"class_losses of shapes \(1, 2, 3\) and \(1, 3, 3\)"):
        join_classes(parts)


def test_shares_in_eigenvalues_of_everything_are_not_joined():
    def owners(samples):
        shares, changes = np.zeros((1, 2)), np.zeros((1, 2, 2))
        return OwnersResult(
            class_names=("a", "b"), class_samples=np.array(samples), groups={}, provenance={}, values=np.ones(1),
            residuals=np.zeros(1), converged=np.ones(1, bool), shares=shares, standard_errors=shares, slopes=shares,
            slope_errors=shares, accuracy_changes=changes, accuracy_change_errors=changes, epsilons=np.ones(1),
        )  # fmt: skip

    with pytest.raises(UserError, match="a OwnersResult is of all samples together"):
        join_classes([owners([3, 0]), owners([0, 2])])


def test_parts_with_weights_of_their_own_have_the_samples_of_the_whole():
    """Samples of a class have one weight, which a part of equal ones does not record."""
    of_class = torch.tensor([10.0, 2.0, 2.0], dtype=torch.float64)

    def table(classes):
        return sharpness.measure(objective(0, classes, weights=of_class[samples(classes)[1]]), "loss")

    joined, whole = join_classes([table((0,)), table((1, 2))]), table((0, 1, 2))
    np.testing.assert_allclose(joined.sample_weights, [10.0] * 4 + [2.0] * 5)
    np.testing.assert_allclose(joined.class_weights, [40.0, 6.0, 4.0])
    both = sharpness.compare({"joined": joined, "whole": whole})
    assert both["joined"]["loss"].overall == pytest.approx(both["whole"]["loss"].overall)


@pytest.mark.parametrize("right", [None, (0, 1, 2), (0,), ()], ids=["some", "all", "one class", "none"])
@pytest.mark.parametrize("of_class", [(1.0, 1.0, 1.0), (10.0, 2.0, 3.0)], ids=["equal", "weighted"])
@pytest.mark.parametrize("cuts", [[(0,), (1, 2)], [(0,), (1,), (2,)]], ids=["two", "three"])
def test_joined_means_have_the_errors_and_intervals_of_one_table_of_all(cuts, of_class, right, tmp_path):
    """With labels that the network predicts, of some classes or of none."""
    x, y = samples()
    y[-1] = 0  # a class of one image
    if right is not None:
        outputs = network(0)(x).detach()
        y = torch.arange(9) % 3
        # Moved to where the logits are those of the label, or of another one.
        target = 8.0 * torch.nn.functional.one_hot(torch.where(torch.isin(y, torch.tensor(right)), y, (y + 1) % 3), 3)
        model = torch.nn.Linear(3, 3, bias=False).double()
        torch.nn.init.eye_(model.weight)
        x = target.double() + 0.1 * outputs
    else:
        model = network(0)

    def table(classes):
        kept = torch.isin(y, torch.tensor(classes))
        weights = torch.tensor(of_class, dtype=torch.float64)[y[kept]]
        options = {"class_names": ("a", "b", "c"), "groups": {"few": (1, 2)}, "weights": weights}
        return sharpness.measure(Objective(model, (x[kept], y[kept]), **options), "accuracy,loss")

    for i, classes in enumerate(cuts):
        table(classes).save(tmp_path / f"{i}.nc")
    joined, whole = next(iter(merge([tmp_path]).values())), table((0, 1, 2))
    for name in ("accuracy", "loss"):
        for subset in (None, "few", 0):
            found, expected = joined[name].estimate(subset), whole[name].estimate(subset)
            np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert 0 <= joined["accuracy"].interval()[0] <= joined["accuracy"].interval()[1] <= 1


def test_a_joined_table_without_groups_is_read_back(tmp_path):
    parts = [
        replace(
            sharpness.measure(objective(0, classes), "loss"), groups={}, group_standard_errors=None, group_lower=None,
            group_upper=None,
        )
        for classes in ((0,), (1, 2))
    ]  # fmt: skip
    joined = join_classes(parts)
    assert load_result(joined.save(tmp_path / "joined.nc"))["loss"].overall == joined["loss"].overall


def test_checks_are_those_of_all_parts_and_a_curve_of_everything_is_unknown():
    parts = [sharpness.eigenvalues(objective(0, c), per_class=True, verify=True) for c in ((0,), (1, 2))]
    assert join_classes(parts).checks["class"].tolist() == ["a", "b", "c"]
    radii = [sharpness.characteristic_radius(objective(0, c), (9, 3, 2)) for c in ((0,), (1, 2))]
    joined = join_classes(radii)
    assert np.isnan(joined.losses).all() and np.isfinite(joined.class_losses).all()


def test_errors_over_other_things_are_not_joined(tmp_path):
    def refused(parts, told):
        for i, part in enumerate(parts):
            part.save(tmp_path / f"{i}.nc")
        with pytest.raises(UserError, match=told):
            merge([tmp_path])

    one, other = (sharpness.measure(objective(0, classes), "loss") for classes in ((0,), (1, 2)))
    told = "the source of errors of loss is images and 5 random vectors, and must be the same"
    refused((one, replace(other, over=("5 random vectors",))), told)
    options = {"per_layer": True, "per_class": True, "draws": 2, "estimator": "hutchinson"}
    layers = [sharpness.trace(objective(0, classes), **options) for classes in ((0,), (1, 2))]
    exact = replace(layers[1], provenance={**layers[1].provenance, "estimator": "exact"})
    refused((layers[0], exact), "the source of errors of trace is 2 random vectors and images")
    assert join_classes([replace(one, over=()), other]).over == ("images",), "what an old file does not tell"


def test_what_only_some_parts_have_is_unknown_of_the_other_classes():
    parts = [sharpness.eigenvalues(objective(0, classes), per_class=True) for classes in ((0,), (1, 2))]
    bounded = replace(parts[1], lower=parts[1].values - 1, upper=parts[1].values + 1)
    for order in ([parts[0], bounded], [bounded, parts[0]]):
        joined = join_classes(order)
        np.testing.assert_array_equal(joined.lower[:, 0], [np.nan, *(joined.values[1:, 0] - 1)])
    counted = join_classes([replace(parts[0], products=None), parts[1]])
    assert counted.products is None, "whole numbers have no NaN"
