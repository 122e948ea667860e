"""Methods with flattening operations: each trains, or is refused with the reason before anything is made."""

import math

import pytest
import torch

from sharpness import load_checkpoint, train
from sharpness.errors import UserError
from sharpness.flattening import OPERATIONS, operation_label
from sharpness.methods import METHODS, build_recipe, flattened
from sharpness.training import loop as loop_module

#: Operations that are no gradient rules, and go with everything.
BESIDE = ("swa", "sn", "pof")
RULES = tuple(name for name in OPERATIONS if name not in BESIDE)
REFUSED = {("cc-sam", rule) for rule in RULES}
#: Methods whose stages, losses or networks are of different kinds; the others are losses in a single stage.
KINDS = ("ce", "ldam-drw", "m2m", "rsg", "mislas", "crt", "tau-norm")
FAST = {"m2m": {"steps": 1, "beta": 0.9, "gamma": 0.2}}


@pytest.fixture(scope="module")
def data(few_digits):
    """Three steps of 50 an epoch, the last of them incomplete."""
    assert 100 < len(few_digits.train) < 150
    return few_digits


RUNS = [
    *((method, (rule,)) for method in KINDS for rule in RULES),
    *((method, BESIDE) for method in METHODS),
    *((method, ("rwsam", "swa:0", "sn")) for method in METHODS if method not in (*KINDS, "cc-sam")),
]


@pytest.mark.every(3)
@pytest.mark.parametrize(("method", "operations"), RUNS, ids=lambda v: v if isinstance(v, str) else "+".join(v))
def test_two_epochs_of_training(data, tmp_path, method, operations):
    history = train(method, data, tmp_path / "run", epochs=2, flatten=operations, batch_size=50, **FAST.get(method, {}))
    saved = load_checkpoint(tmp_path / "run")
    assert math.isfinite(history.iloc[-1].test_loss)
    assert all(torch.isfinite(t).all() for t in saved.model.state_dict().values())
    assert len(saved.manifest.card) == history.stage.nunique()
    kinds = [operation.partition(":")[0] for operation in operations]
    assert [line.partition("(")[0] for line in saved.manifest.flattening] == [OPERATIONS[k].__name__ for k in kinds]
    assert saved.label == "+".join([METHODS.label(method), *map(operation_label, operations)])


@pytest.mark.parametrize("method", METHODS)
def test_exactly_what_makes_no_sense_is_refused(data, method):
    """A method that decides the gradient of its steps itself leaves nothing to a rule."""
    refused = set()
    for name in OPERATIONS:
        try:
            flattened(build_recipe(method, data.longtail), (name,))
        except UserError as error:
            refused.add((method, name))
            assert method in str(error) and repr(name) in str(error) and "\n" not in str(error)
    assert refused == {pair for pair in REFUSED if pair[0] == method}


@pytest.mark.parametrize(
    ("method", "operations"),
    [*((method, (rule,)) for method, rule in sorted(REFUSED)), ("ce", ("sam", "gp")), ("ce", ("swa", "swa:0.5"))],
)
def test_a_refusal_comes_before_any_training_and_leaves_no_folder(data, tmp_path, monkeypatch, method, operations):
    def trained(*args, **kwargs):
        raise AssertionError("trained")

    monkeypatch.setattr(loop_module, "run_epoch", trained)
    with pytest.raises(UserError) as caught:
        train(method, data, tmp_path / "deep" / "run", epochs=1, flatten=operations)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
