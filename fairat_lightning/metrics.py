"""Class-wise accuracy and every fairness figure derived from it, out of one confusion matrix (rows: true class, columns:
prediction).

Robust class fairness is the accuracy of the weakest class (FAAL, CVPR 2024; CFA, CVPR 2023). With r_k the accuracy of
class k and K the number of classes present, a class without samples is nan and takes part in nothing. Sources are named at
each figure. This leaf imports `dro.py` for the worst class distribution, which FAAL bounds, and `bootstrap.py` for intervals.
"""

from collections.abc import Mapping, Sequence
from math import ceil, isnan, nan
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from fairat_lightning import bootstrap
from fairat_lightning.dro import kl_worst_case

RADII = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # nats, of the curve in a record


class ClassFairness(Metric):
    """`figures` of a confusion matrix gathered over batches and processes; `update` takes classes (B,) or logits (B,C)."""

    full_state_update = False
    confusion: Tensor

    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes
        self.add_state("confusion", torch.zeros(num_classes, num_classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, y: Tensor) -> None:
        """Count predictions against labels `y` (B,); ValueError for a class outside 0..C-1, and for wrong logits."""
        if predicted.ndim == 2:
            if predicted.shape[1] != self.num_classes:
                raise ValueError(f"logits of {predicted.shape[1]} classes: give those of {self.num_classes}")
            if predicted.isnan().any():
                raise ValueError("nan among the logits: the largest of them is none, so that they name no class")
            predicted = predicted.argmax(1)
        self.confusion += confusion_matrix(y, predicted, self.num_classes)

    def compute(self) -> dict[str, float]:
        """The figures of everything seen since the last reset."""
        return figures(self.confusion)


def confusion_matrix(y: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """Counts (C,C) of true classes `y` (N,) against `predicted` (N,); ValueError for a class outside 0..C-1."""
    for name, classes in (("label", y), ("prediction", predicted)):
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < num_classes:
            low, high = int(classes.min()), int(classes.max())
            raise ValueError(f"{name}s from {low} to {high}: with {num_classes} classes they must be 0 to {num_classes - 1}")
    pairs = y.long() * num_classes + predicted.long()
    return pairs.bincount(minlength=num_classes**2).view(num_classes, num_classes)


def class_accuracy(confusion: Tensor) -> Tensor:
    """Accuracy per class (C,) in [0,1] of a confusion matrix (C,C), nan for classes without samples."""
    return rates(confusion).diagonal()


def rates(confusion: Tensor) -> Tensor:
    """Share of each true class that is predicted as each class: (C,C), rows sum to 1, nan rows for absent classes."""
    counts = confusion.sum(1, keepdim=True).double()
    return confusion / torch.where(counts > 0, counts, torch.nan)


def average(accuracy: Tensor) -> Tensor:
    """Mean over the classes present, scalar; nan if there is none. Balanced accuracy."""
    return accuracy.nanmean()


def worst(accuracy: Tensor) -> Tensor:
    """Lowest accuracy over the classes present, scalar; nan if there is none."""
    lowest = accuracy.nan_to_num(nan=torch.inf).amin()
    return torch.where(lowest.isinf(), torch.nan, lowest)


def near_chance(correct: Tensor, y: Tensor) -> bool:
    """Whether so many right answers (N,) to labels (N,) of several classes could be those of guessing the most frequent one."""
    chance, accuracy = float(y.bincount().max()) / len(y), float(correct.double().mean())
    return chance < 1 and accuracy <= chance + min(chance, (1 - chance) / 4)


def worst_share(accuracy: Tensor, share: float) -> float:
    """Mean of the ceil(share C) lowest class accuracies (C,), of those present: the conditional value at risk of class accuracy.

    C counts absent classes too, so that a part of the classes, the weakest, has the figure of all of them.
    """
    present = accuracy[~accuracy.isnan()].sort().values
    # Rounded first: 0.1 * 30 is a little more than 3.
    return present[: ceil(round(share * len(accuracy), 9))].mean().item() if len(present) else nan


def figures(confusion: Tensor) -> dict[str, float]:
    """All scalar figures of a confusion matrix (C,C), nan where they do not exist.

    gap                   max r - min r
    std, nsd              population standard deviation of r, and divided by the mean (ABSLD, NeurIPS 2024)
    gini                  sum_ij |r_i - r_j| / (2 K^2 mean r) (Gini, 1912)
    equalised_odds_gap    max of the gaps between classes of P(pred = k | y = k) and of P(pred = k | y != k), one class
                          against the rest (Hardt, Price and Srebro, NIPS 2016)
    false_positive_share  the largest share of all errors that lands in one class (FAIR-TAT, WACV 2025, its CFPS)
    confusion_norm        spectral norm of the off-diagonal part of `rates` (confusional spectrum, CSR, ICLR 2025)
    """
    r, rate, counts = class_accuracy(confusion), rates(confusion), confusion.double()
    present = r[~r.isnan()]
    mean, k = average(r).item(), max(len(present), 1)
    spread = present.std(correction=0).item() if len(present) else nan
    off = counts - counts.diagonal().diag()
    return {
        "average": mean,
        "worst": worst(r).item(),
        "worst_10_percent": worst_share(r, 0.1),
        "worst_20_percent": worst_share(r, 0.2),
        "gap": _range(present),
        "std": spread,
        "nsd": spread / mean if mean > 0 else nan,
        "gini": (present[:, None] - present).abs().sum().item() / (2 * k**2 * mean) if mean > 0 else nan,
        "equalised_odds_gap": max(
            _range(present), _range(false_positive_rate(confusion)[~r.isnan()]), key=lambda v: -1 if isnan(v) else v
        ),
        "false_positive_share": false_positive_share(confusion).max().item() if off.sum() > 0 else nan,
        "confusion_norm": torch.linalg.matrix_norm((rate - rate.diagonal().diag()).nan_to_num(0.0), 2).item(),
    }


def false_positive_rate(confusion: Tensor) -> Tensor:
    """P(pred = k | y != k) for each class (C,), over the samples of all other classes; nan if there are none."""
    others = confusion.sum() - confusion.sum(1)
    wrong = (confusion.sum(0) - confusion.diagonal()).double()
    return wrong / torch.where(others > 0, others, torch.nan)


def false_positive_share(confusion: Tensor) -> Tensor:
    """The share of all errors that is predicted as each class: (C,), sums to 1; all nan without errors (FAIR-TAT, CFPS)."""
    wrong = (confusion.sum(0) - confusion.diagonal()).double()
    return wrong / torch.where(wrong.sum() > 0, wrong.sum(), torch.nan)


def error_split(clean: Tensor, robust: Tensor) -> tuple[Tensor, Tensor]:
    """Natural error 1 - clean_k and boundary error clean_k - robust_k of each class: two (C,) from two accuracies (C,).

    FRL (Xu et al., ICML 2021), eq. 1; their sum is the robust error.
    """
    return 1 - clean, clean - robust


def rho(worst_accuracy: float, average_accuracy: float, base_worst: float, base_average: float) -> float:
    """Relative gain of the worst class plus relative gain of the average over a baseline (WAT, AAAI 2023; DAFA, ICLR 2024).

    nan where the baseline's worst class is at 0.
    """
    if not (base_worst > 0 and base_average > 0):
        return nan
    return (worst_accuracy - base_worst) / base_worst + (average_accuracy - base_average) / base_average


def shift_risk(class_risk: Tensor, radii: Sequence[float] = RADII) -> list[float]:
    """The largest expected risk over all class distributions p with KL(uniform || p) <= r, for each r of `radii` (nats).

    `class_risk` (C,) is an error or a loss per class, nan for an absent class. FAAL (CVPR 2024), its inner maximum: what a
    shift of the class distribution can do to a classifier. At r = 0 the mean, towards infinity the worst class.
    """
    return [float((kl_worst_case(class_risk, radius) * class_risk).nansum()) for radius in radii]


def selection_score(accuracy: Tensor, select: str) -> Tensor:
    """What the best checkpoint maximises: the validation robust "worst", "average", or their "sum" (CFA's rule).

    With "last" the last epoch is kept whatever its score, with "sum_1se" a late one; what else is chosen then goes by the sum.
    """
    if select in ("worst", "average"):
        return worst(accuracy) if select == "worst" else average(accuracy)
    return average(accuracy) + worst(accuracy)


def summary(confusion: Tensor, classes: Sequence[str], class_loss: Tensor | None = None) -> dict[str, Any]:
    """The record of one evaluation, in [0,1]; None for what has no samples, and ties for the worst go to the first class.

    "average", "worst", "worst_class", "per_class"; "counts": samples per class; "interval": 95 % intervals of
    average and worst, and "worst_bias", how much the worst of several classes is expected to lie too low (`bootstrap.py`);
    "figures": the rest of `figures`; "shift": the worst-case error, and with `class_loss` (C,) loss, over RADII.
    """
    confusion = confusion.cpu()
    r = class_accuracy(confusion)
    accuracy = _plain(r)
    found = {key: none_if_nan(value) for key, value in figures(confusion).items()}
    lowest, counts = found.pop("worst"), confusion.sum(1)
    record: dict[str, Any] = {
        "average": found.pop("average"),
        "worst": lowest,
        "worst_class": None if lowest is None else classes[accuracy.index(lowest)],
        "per_class": dict(zip(classes, accuracy, strict=True)),
        "counts": dict(zip(classes, counts.long().tolist(), strict=True)),
        "figures": found,
    }
    if lowest is None:
        return record
    both = {name: bootstrap.interval(confusion.diagonal(), counts, name) for name in ("average", "worst")}
    record["interval"] = {name: [found.low, found.high] for name, found in both.items()}
    record["worst_bias"] = both["worst"].bias
    record["shift"] = {"radius": list(RADII), "error": shift_risk(1 - r)}
    if class_loss is not None:
        record["class_loss"] = dict(zip(classes, _plain(class_loss), strict=True))
        record["shift"]["loss"] = shift_risk(class_loss.cpu().double())
    return record


def worst_among(record: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A `summary` whose worst class, with its interval and bias, and worst 10 % are sought among `names` alone: "worst_of".

    For classes chosen without looking at these images, of which more images were evaluated than of the others. The other
    figures stay those of all classes, without "shift", whose end is the worst class of all.
    """
    accuracy, counts = ([record[part][name] for name in names] for part in ("per_class", "counts"))
    sought = torch.tensor([r if name in names else nan for name, r in record["per_class"].items()], dtype=torch.float64)
    found = {
        **{key: value for key, value in record.items() if key != "shift"},
        "worst": min(accuracy),
        "worst_class": names[accuracy.index(min(accuracy))],
        "worst_of": list(names),
        "figures": {**record["figures"], "worst_10_percent": worst_share(sought, 0.1)},
    }
    if "interval" in record:
        worst = bootstrap.interval([round(r * n) for r, n in zip(accuracy, counts, strict=True)], counts, "worst")
        found |= {"interval": {**record["interval"], "worst": [worst.low, worst.high]}, "worst_bias": worst.bias}
    return found


def split_errors(summaries: Mapping[str, dict[str, Any]]) -> None:
    """Add `error_split` to every summary beside the one of "clean": "natural_error" and "boundary_error" per class."""

    def accuracy(record: Mapping[str, Any]) -> Tensor:
        return torch.tensor([nan if a is None else a for a in record["per_class"].values()], dtype=torch.float64)

    for record in summaries.values():
        if record is not summaries.get("clean") and "clean" in summaries:
            errors = error_split(accuracy(summaries["clean"]), accuracy(record))
            for name, values in zip(("natural_error", "boundary_error"), errors, strict=True):
                record[name] = dict(zip(record["per_class"], _plain(values), strict=True))


def none_if_nan(value: float) -> float | None:
    return None if isnan(value) else value


def _plain(values: Tensor) -> list[float | None]:
    return [none_if_nan(v) for v in values.tolist()]


def _range(values: Tensor) -> float:
    present = values[~values.isnan()]
    return (present.max() - present.min()).item() if len(present) else nan
