import math

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, recall_score

from fairat_lightning.metrics import average, class_accuracy, selection_score, summary, worst


def confusion_of(y, predicted, count):
    matrix = torch.zeros(count, count, dtype=torch.long)
    for a, b in zip(y, predicted, strict=True):
        matrix[a, b] += 1
    return matrix


def test_agrees_with_scikit_learn():
    y, predicted = torch.randint(7, (500,)), torch.randint(7, (500,))
    accuracy = class_accuracy(confusion_of(y, predicted, 7))
    assert accuracy.tolist() == pytest.approx(recall_score(y, predicted, average=None).tolist())
    assert average(accuracy).item() == pytest.approx(balanced_accuracy_score(y, predicted))
    assert worst(accuracy).item() == pytest.approx(min(recall_score(y, predicted, average=None)))


def test_an_absent_class_is_nan_and_never_the_worst():
    accuracy = class_accuracy(torch.tensor([[3, 1, 0], [0, 0, 0], [2, 0, 2]]))
    assert accuracy[[0, 2]].tolist() == [0.75, 0.5] and math.isnan(accuracy[1])
    assert worst(accuracy) == 0.5 and average(accuracy) == 0.625
    nothing = class_accuracy(torch.zeros(3, 3))
    assert worst(nothing).isnan() and average(nothing).isnan()


def test_summary():
    record = summary(torch.tensor([[1, 1, 0], [0, 0, 0], [2, 0, 2]]), ["a", "b", "c"])
    assert record == {"average": 0.5, "worst": 0.5, "worst_class": "a", "per_class": {"a": 0.5, "b": None, "c": 0.5}}
    assert summary(torch.zeros(2, 2), ["a", "b"])["worst_class"] is None


def test_selection():
    accuracy = torch.tensor([0.2, 0.6, torch.nan])
    scores = {s: selection_score(accuracy, s).item() for s in ("sum", "worst", "average")}
    assert scores == pytest.approx({"sum": 0.6, "worst": 0.2, "average": 0.4})
