"""Data sets by name."""

import numpy as np
import pytest

from sharpness.data import DATASETS, load_data
from sharpness.data.named_data import NamedData
from sharpness.errors import UserError

#: Those that are no lists of files, which tests/data/test_prepared.py loads.
OWN = ("digits-lt", "cifar10-lt", "cifar100-lt", "cifar10", "cifar100")


def test_names_lead_to_their_data_sets(tmp_path, write, no_data_root):
    write(tmp_path, "cifar10", [20] * 10)
    write(tmp_path, "cifar100", [20] * 100)
    for name in OWN:
        root = None if name == "digits-lt" else tmp_path
        imbalance = 10 if name.endswith("-lt") else 1
        data = load_data(name, imbalance=imbalance, data_root=root, download=False)
        assert data.longtail.dataset == name
        assert data.longtail.imbalance == imbalance


def test_a_description_leads_back_to_its_data():
    data = load_data("digits-lt", profile="step", imbalance=5, subset="seed:2", groups="100,20")
    tail = data.longtail
    again = load_data(
        tail.dataset,
        profile=tail.profile,
        imbalance=tail.imbalance,
        subset=tail.subset,
        groups=tail.group_convention,
    )
    assert again.longtail == tail
    assert (again.train.images == data.train.images).all()


def test_an_option_that_is_none_has_its_default():
    options = dict.fromkeys(("profile", "imbalance", "subset", "groups", "data_root", "download"))
    assert load_data("digits-lt", **options).longtail == load_data("digits-lt").longtail


def test_an_unknown_name_lists_the_data_sets():
    with pytest.raises(UserError, match="'mnist'.*digits-lt, cifar10-lt, cifar100-lt"):
        load_data("mnist")


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("value", [10, None])
def test_an_unknown_option_lists_the_options(name, value):
    with pytest.raises(UserError, match=f"option of {name} 'imbalace'.*profile, imbalance, subset, groups"):
        load_data(name, imbalace=value)


@pytest.mark.parametrize("option", [{"data_root": "/data"}, {"download": True}])
def test_digits_take_no_files(option):
    with pytest.raises(UserError, match=f"{next(iter(option))} does not apply"):
        load_data("digits-lt", **option)


def test_options_of_other_data_sets_are_refused():
    with pytest.raises(UserError, match="download does not apply to imagenet-lt"):
        load_data("imagenet-lt", download=True)
    with pytest.raises(UserError, match="'listed': choose one of exp, step, exp_m2m"):
        load_data("digits-lt", profile="listed")


def test_named_data_may_have_arrays_as_constants():
    wanted = NamedData("digits-lt", mean=np.array([0.5, 0.5]), std=np.array([0.1, 0.1]))
    assert wanted.given() == ["name", "mean", "std"]
