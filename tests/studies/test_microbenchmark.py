"""CC-SAM taken apart: eight variants, compared with a plain first stage alone."""

import pandas as pd
import pytest

from sharpness import UserError, load_checkpoint, load_data
from sharpness.methods import build_recipe
from sharpness.studies import make_microbenchmark
from sharpness.studies.cells import Settings, is_done
from sharpness.studies.microbenchmark import variants


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    data = load_data("digits-lt")
    small = {"epochs": 1, "limit_per_class": 2, "draws": 2, "max_iterations": 3}
    return folder, make_microbenchmark(data, (3,), folder / "out", folder / "runs", **small)


def test_every_first_stage_stands_with_and_without_the_second():
    longtail = load_data("digits-lt").longtail
    recipes = {(c.row, c.column): build_recipe(c.method, longtail, **dict(c.options)) for c in variants((0,))}
    assert len(recipes) == 8
    for mode in ("plain", "direction", "magnitude", "full"):
        alone, both = recipes[mode, "stage 1 alone"].stages, recipes[mode, "then stage 2"].stages
        assert both[:1] == alone and len(both) == 2
    assert recipes["full", "then stage 2"] == build_recipe("cc-sam", longtail)


def test_another_factor_of_the_length_makes_other_runs_of_the_recipes_that_have_one():
    longtail = load_data("digits-lt").longtail
    usual, longer = (
        {c.row: c for c in variants((0,), factor) if c.column == "stage 1 alone"} for factor in (None, 1.0)
    )
    for row in ("full", "magnitude"):
        assert longer[row].name == usual[row].name.replace("-seed0", "-rho_scale=1.0-cap=none-seed0")
    assert all(longer[row] == usual[row] for row in ("plain", "direction"))
    recipes = [build_recipe("cc-sam", longtail, **dict(cell.options)) for cell in variants((0,), 1.0)]
    assert len(recipes) == 8
    rule = build_recipe("cc-sam", longtail, **dict(longer["full"].options)).stages[0].rule
    assert (rule.rho_scale, rule.cap) == (1.0, None), "the formula as it stands"


def test_what_is_done_is_known_by_its_files(study):
    folder, _ = study
    data, settings = load_data("digits-lt"), Settings(folder / "runs")
    assert all(is_done(cell, data, settings) for cell in variants((3,)))
    assert not any(is_done(cell, data, settings) for cell in variants((4,)))


def test_runs_are_told_apart_by_their_options(study):
    folder, made = study
    assert (folder / "runs" / "digits-lt-cc-sam-mode=direction-stage2=false-seed3" / "last.pt").exists()
    assert len(list((folder / "runs").iterdir())) == len(made.cells) == 8
    checkpoint = load_checkpoint(folder / "runs" / "digits-lt-cc-sam-mode=plain-stage2=true-seed3")
    assert checkpoint.manifest.options == {"mode": "plain", "stage2": True}


def test_the_reference_is_listed_with_no_change(study):
    folder, made = study
    drawn = pd.read_csv(folder / "out" / "microbenchmark.csv")
    reference = drawn[(drawn.row == "plain") & (drawn.column == "stage 1 alone")]
    assert set(reference[reference.measure.str.startswith("accuracy")].value) == {0.0}
    assert set(reference[reference.measure.str.startswith("worst_rise")].value) == {1.0}
    assert made.text.splitlines()[0].startswith("| stage 1 | stage 2 | seeds | accuracy |")
    assert "–" not in made.text.splitlines()[2].split("|")[4]


@pytest.mark.parametrize("seeds", [(), (1, 1)])
def test_seeds_must_be_named_once(seeds, tmp_path):
    with pytest.raises(UserError, match="only once"):
        make_microbenchmark(load_data("digits-lt"), seeds, tmp_path, tmp_path)
