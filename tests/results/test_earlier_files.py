"""Files that the version before has written (commit d9ce99a) load, and their arrays answer by new and old names."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import sharpness

FILES = sorted((Path(__file__).parent / "fixtures").glob("*.nc"))
#: What arrays are called today that had another name; of layers it depends on the measure.
RENAMED = {
    "errors": "standard_errors", "overall_errors": "overall_standard_errors", "group_errors": "group_standard_errors",
}  # fmt: skip
LANDSCAPES = {
    "errors": "interpolation_errors", "class_errors": "class_interpolation_errors",
    "class_accuracy_errors": "class_accuracy_interpolation_errors",
}  # fmt: skip


def test_there_is_one_of_every_kind():
    kinds = {type(sharpness.load_result(path)).__name__ for path in FILES}
    assert kinds == {
        "CharacteristicRadiusResult", "EigenvalueResult", "LayerResult", "LineResult", "MeasureResult",
        "PerturbationResult", "PlaneResult", "Runs", "SpectralDensityResult",
    }  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_of_the_version_before_loads_is_shown_and_saved_anew(path, tmp_path):
    found = sharpness.load_result(path)
    again = sharpness.load_result(found.save(tmp_path / "again.nc"))
    assert again.to_frame().equals(found.to_frame()) and len(found.to_frame())
    assert repr(found) and found._repr_html_() == again._repr_html_()


@pytest.mark.parametrize("path", [path for path in FILES if path.stem != "runs"], ids=lambda path: path.stem)
def test_every_array_is_there_by_its_new_name_and_the_old_one_warns(path):
    found = sharpness.load_result(path)
    names = LANDSCAPES if path.stem in ("line", "plane") else RENAMED
    if path.stem == "layers":
        names = {"errors": "residuals"}
    with xr.open_dataset(path, engine="scipy") as data:
        arrays = {str(name): value.values for name, value in data.variables.items()}
    for name, values in arrays.items():
        if name == "class":
            continue
        np.testing.assert_array_equal(getattr(found, names.get(name, name)), values)
        if name in names:
            with pytest.warns(FutureWarning, match=f"{name} is now {type(found).__name__}.{names[name]}:"):
                np.testing.assert_array_equal(getattr(found, name), values)


def test_the_method_of_landscapes_warns_too():
    plane = sharpness.load_result(FILES[0].with_name("plane.nc"))
    with pytest.warns(FutureWarning, match="accuracy_errors is now PlaneResult.accuracy_interpolation_errors"):
        np.testing.assert_array_equal(plane.accuracy_errors("few"), plane.accuracy_interpolation_errors("few"))
