"""Old and new results: what differs beyond its errors is found, and nothing else."""

import dataclasses

import numpy as np
import pytest

from sharpness import UserError
from sharpness.cli import main
from sharpness.results import EigenvalueResult, LayerResult, MeasureResult
from sharpness.results.differences import differences


def table(values=(1.0, 2.0), label="CE", error=0.1, **told):
    row = np.array([values])
    return MeasureResult(
        class_names=("a", "b"), class_samples=np.array([3, 1]), groups={"few": (1,)}, names=("loss",),
        provenance={"label": label, "loss": "ce", "model_sha256": "aa", **told}, overall=row.mean(1), values=row,
        standard_errors=np.full((1, 2), error), overall_standard_errors=np.array([error]),
        train_counts=np.array([30, 1]),
    )  # fmt: skip


def spectrum(value):
    return EigenvalueResult(
        class_names=("a", "b"), class_samples=np.array([3, 1]), groups={}, provenance={"label": "CE"},
        values=np.array([value]), residuals=np.zeros(1), converged=np.ones(1, bool), vectors=None, which="LA", k=1,
        tol=1e-3, seed=0, hvp_count=3, sample_products=12,
    )  # fmt: skip


def saved(folder, **results):
    folder.mkdir()
    for name, result in results.items():
        result.save(folder / f"{name}.nc")
    return folder


def test_values_beyond_their_errors_and_settings_are_told(tmp_path, capsys):
    """Class b moves by 0.5, and the error of a difference is sqrt(2) 0.1; class a by less than that."""
    old = saved(tmp_path / "old", loss=table(), spectrum=spectrum(5.0), other=table(label="gone"))
    new = saved(tmp_path / "new", loss=table((1.1, 2.5), torch="2.14", draws=3), spectrum=spectrum(5.0 * (1 + 1e-9)))
    found = differences(old, new)
    assert found.alone == (f"{old} alone has Measure gone",)
    assert [tuple(row) for row in found.settings.itertuples(index=False)] == [
        ("Measure", "CE", "", "torch", "None", "2.14"), ("Measure", "CE", "", "draws", "None", "3"),
    ]  # fmt: skip
    # Of all samples the difference is 0.3, with the error of one.
    assert found.beyond["class"].tolist() == ["few", "b", "all"]
    assert found.beyond.z.tolist() == pytest.approx([0.5 / 0.02**0.5] * 2 + [0.3 / 0.02**0.5])
    assert len(found.values) == 5
    assert main(["compare", str(old), str(new), "-o", str(tmp_path / "all.csv")]) == 0
    printed = capsys.readouterr().out
    assert "3 of 5 values differ beyond their errors" in printed and "torch" in printed and "0.50 ± 0.14" in printed
    assert (tmp_path / "all.csv.json").exists()


def test_nothing_differs_between_copies_and_rounding_is_no_difference(tmp_path):
    old, new = table().save(tmp_path / "a.nc"), table((1 + 1e-12, 2.0), error=np.nan).save(tmp_path / "b.nc")
    assert str(differences(old, old)).startswith("No setting differs.")
    assert not differences(old, old).values.beyond.any() and not differences(new, new).values.beyond.any()
    assert not differences(new, old).values.beyond.any()
    assert len(differences(old, table(label="GCL").save(tmp_path / "d.nc")).values) == 4, "the only ones of their kind"
    changed = table((1.001, np.nan), error=np.nan).save(tmp_path / "c.nc")
    assert set(differences(new, changed).beyond["class"]) == {"a", "b", "all", "few"}


def test_a_class_called_as_its_group_is_compared_with_itself(tmp_path):
    """The group holds two classes, so that its value is not that of the class."""
    files = [
        dataclasses.replace(table(values), class_names=("few", "b"), groups={"few": (0, 1)}).save(tmp_path / f"{i}.nc")
        for i, values in enumerate([(1.0, 2.0), (1.0, 4.0)])
    ]
    rows = differences(*files).values
    assert rows["class"].tolist() == ["all", "few", "few", "b"]
    assert rows["old"].tolist() == [1.5, 1.5, 1, 2] and rows["new"].tolist() == [2.5, 2.5, 1, 4]


def test_what_cannot_be_compared_is_refused_with_the_field(tmp_path, capsys):
    old, new = table().save(tmp_path / "a.nc"), table(radius=0.2).save(tmp_path / "b.nc")
    table(radius=0.1).save(old)
    with pytest.raises(UserError, match="radius is 0.1 and 0.2"):
        differences(old, new)
    other = spectrum(3.0).save(tmp_path / "c.nc")
    with pytest.raises(UserError, match="no training in common .Measure CE and Eigenvalue CE"):
        differences(old, other)
    assert main(["compare", str(old), str(new)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_settings_that_are_tiny_differ_too(tmp_path):
    old, new = (table(tol=d).save(tmp_path / f"{d}.nc") for d in (1e-9, 2e-9))
    (row,) = differences(old, new).settings.itertuples(index=False)
    assert tuple(row) == ("Measure", "CE", "", "tol", "1e-09", "2e-09")


def test_layers_of_other_names_are_not_subtracted(tmp_path):
    def layers(*names):
        values = np.ones((2, 2))
        return LayerResult(
            class_names=("a", "b"), class_samples=np.array([3, 1]), groups={}, provenance={"label": "CE"},
            measure="trace", layers=names, layer_parameters=np.array([4, 2]), values=values, converged=values > 0,
            per_class=True, sample_products=8,
        )  # fmt: skip

    old, new = layers("conv", "fc").save(tmp_path / "a.nc"), layers("stem", "fc").save(tmp_path / "b.nc")
    assert len(differences(old, old).values) == 4
    with pytest.raises(UserError, match="CE: layer is conv and stem in the same row"):
        differences(old, new)


def test_two_tables_without_a_common_name_are_both_compared(tmp_path):
    """Two models at two radii, in files whose names have nothing in common: four tables of four rows."""
    names = {("x", "CE"): 0.1, ("y", "SAM"): 0.1, ("p", "CE"): 0.2, ("q", "SAM"): 0.2}
    for (name, label), radius in names.items():
        table(label=label, radius=radius).save(tmp_path / f"{name}-{label}.nc")
    found = differences(tmp_path, tmp_path)
    assert len(found.values) == 16 and not found.values.beyond.any() and not found.alone
