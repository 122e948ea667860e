"""Answers of a model, and what is suspicious about them."""

import numpy as np
import pytest
import torch
from scipy.stats import random_table
from sklearn.metrics import confusion_matrix
from torch import nn

from sharpness import Objective, UserError
from sharpness.probes.shared.sanity_check import Answers, answers


@pytest.fixture
def objective():
    torch.manual_seed(0)
    x, y = torch.randn(57, 6), torch.randint(0, 4, (57,))
    y[y == 2] = 3  # a class without samples
    return Objective(nn.Linear(6, 5), (x, y), batch_size=10)


def test_the_table_is_that_of_scikit_learn(objective):
    predicted = objective.model(objective.x).argmax(1)
    expected = confusion_matrix(objective.y, predicted, labels=range(5))
    found = answers(objective)
    np.testing.assert_array_equal(found.confusion, expected)
    assert found.accuracy == (predicted == objective.y).double().mean().item()
    sums = objective.evaluate()
    assert found.accuracy == pytest.approx(float(sums.correct.sum()) / 57)
    assert found.class_mean == pytest.approx(np.nanmean(sums.class_accuracies))


def test_outputs_that_are_no_logits_are_told():
    x, y = torch.randn(4, 3), torch.zeros(4, dtype=torch.int64)
    objective = Objective(nn.Linear(3, 1), (x, y), loss=lambda u, _: u[:, 0] ** 2, num_classes=2)
    with pytest.raises(UserError, match=r"outputs have shape \(4, 1\), not \(n, 2\)"):
        objective.confusion()


def test_classes_in_another_order():
    """The best order is that of the permutation, whatever the sizes of the classes."""
    right = np.diag([90, 30, 9, 3]) + np.array([[0, 10, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]])
    moved = Answers(right[:, [1, 2, 3, 0]])
    assert moved.reordered == pytest.approx((0.9 + 1 + 0.9 + 0.75) / 4)
    assert "another order 88.8 % would be right" in moved.remark()
    assert Answers(right).remark() == "" and Answers(right).reordered == Answers(right).class_mean


@pytest.mark.parametrize("answer", range(4))
def test_one_answer_to_everything_is_no_other_order(answer):
    confusion = np.zeros((4, 4), dtype=int)
    confusion[:, answer] = [90, 30, 9, 3]
    found = Answers(confusion)
    assert found.reordered == 0.25 and "25.0 % is near chance" in found.remark()


@pytest.mark.parametrize("samples", [2, 5, 50])
def test_answers_that_know_nothing_are_no_other_order(samples):
    tables = random_table([samples] * 10, [samples] * 10, seed=np.random.default_rng(1)).rvs(20)
    told = [Answers(table).remark() for table in tables]
    assert not any("another order" in remark for remark in told)


def test_few_samples_name_no_order():
    mixed = np.array([[0, 7, 0, 0], [7, 0, 0, 0], [0, 0, 0, 7], [0, 0, 8, 0]])
    assert "another order" not in Answers(mixed).remark() and "the order of the classes" in Answers(mixed).remark()
    assert "normalisation" in Answers(10 * mixed).remark() and "another order" in Answers(10 * mixed).remark()


def test_a_record_that_is_not_reached():
    half = Answers(np.array([[6, 2, 2], [2, 6, 2], [2, 2, 6]]))
    assert half.remark() == half.remark(0.69) == "" and "the file records 75.0 %" in half.remark(0.75)


def test_two_classes_are_near_chance_at_a_half_only():
    assert Answers(np.array([[7, 3], [3, 7]])).remark() == ""
    assert "near chance" in Answers(np.array([[5, 5], [4, 6]])).remark()
    assert Answers(np.array([[4]])).remark() == ""
