"""Class-wise accuracy, derived from one confusion matrix (rows: true class, columns: prediction).

Robust class fairness is the accuracy of the weakest class (FAAL, CVPR 2024; CFA, CVPR 2023). The average is the mean
over the classes present (balanced accuracy); a class without samples is nan and takes part in nothing.
"""

from collections.abc import Sequence
from math import isnan
from typing import Any

import torch
from torch import Tensor


def class_accuracy(confusion: Tensor) -> Tensor:
    """Accuracy per class (C,) in [0,1] of a confusion matrix (C,C), nan for classes without samples."""
    counts = confusion.sum(1).double()
    return confusion.diagonal() / torch.where(counts > 0, counts, torch.nan)


def average(accuracy: Tensor) -> Tensor:
    """Mean over the classes present, scalar; nan if there is none."""
    return accuracy.nanmean()


def worst(accuracy: Tensor) -> Tensor:
    """Lowest accuracy over the classes present, scalar; nan if there is none."""
    lowest = accuracy.nan_to_num(nan=torch.inf).amin()
    return torch.where(lowest.isinf(), torch.nan, lowest)


def selection_score(accuracy: Tensor, select: str) -> Tensor:
    """What the best checkpoint maximises: the validation robust "worst", "average", or their "sum" (CFA's rule)."""
    scores = {"sum": average(accuracy) + worst(accuracy), "worst": worst(accuracy), "average": average(accuracy)}
    return scores[select]


def summary(confusion: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """The record of one evaluation: {"average", "worst", "worst_class", "per_class"}, None for what has no samples.

    Accuracies are in [0,1]; ties for the worst go to the first class.
    """
    accuracy = [None if isnan(a) else a for a in class_accuracy(confusion).tolist()]
    present = [a for a in accuracy if a is not None]
    lowest = min(present, default=None)
    return {
        "average": sum(present) / len(present) if present else None,
        "worst": lowest,
        "worst_class": None if lowest is None else classes[accuracy.index(lowest)],
        "per_class": dict(zip(classes, accuracy, strict=True)),
    }
