"""How far a class-wise figure can be trusted on a test set of this size: intervals, and a paired test.

Efron and Tibshirani, "An Introduction to the Bootstrap", 1993. Images are resampled within their class, so that only counts
matter: the number of correct images of class k is drawn anew from Binomial(n_k, r_k), and for two classifiers on the same
images the four cells (both right, only A, only B, none) from a multinomial.

Average: the basic bootstrap interval, [2t - q(.975), 2t - q(.025)] with t the figure and q the quantiles of its bootstrap values.

Worst: the lowest of several noisy class accuracies is biased low, by mean(t*) - t as the bootstrap estimates it, and by more than
that where many classes are alike. There a bootstrap interval fails: of nominal 95 % the basic one covered 81 % for ten equal
classes of 1,000 images and, in a review, 35 % for a hundred of 200; the percentile one covers next to nothing. So the interval is
made of exact ones (Clopper and Pearson, Biometrika 1934) and covers by construction: its lower end is the lowest lower end of all
classes at 97.5 %, which lies below the worst class's own, its upper end the lowest upper end at 1 - .025 / K (Bonferroni).

Test-set noise is all that this knows of: another seed of the training is another matter, for which runs are repeated.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

DRAWS, LEVEL = 2000, 0.95
Rates = NDArray[np.float64]
FIGURES: dict[str, Callable[[Rates], Any]] = {
    "average": lambda rates: rates.mean(-1),
    "worst": lambda rates: rates.min(-1),
}  # of class accuracies (..., K)


class Interval(NamedTuple):
    """A figure, the ends of its interval in [0,1], and its estimated bias (negative: the figure lies too low)."""

    value: float
    low: float
    high: float
    bias: float


class Comparison(NamedTuple):
    """figure(A) - figure(B), the ends of its interval, and the two-sided p-value of no difference."""

    difference: float
    low: float
    high: float
    p: float


def interval(correct: ArrayLike, counts: ArrayLike, figure: str = "worst", *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """The interval of "average" or "worst" from correct images and images per class, both (C,).

    Classes without images take no part; ValueError if there are no others.
    """
    right, n = _present(np.asarray(correct), np.asarray(counts))
    value = float(FIGURES[figure](right / n))
    drawn = FIGURES[figure](np.random.default_rng(seed).binomial(n, right / n, (draws, len(n))) / n)
    tail = (1 - LEVEL) / 2
    if figure == "worst":
        low, high = _exact(right, n, tail)[0].min(), _exact(right, n, tail / len(n))[1].min()
    elif np.ptp(drawn) == 0:  # all right or all wrong: nothing to resample
        low, high = (end[0] for end in _exact(right.sum(keepdims=True), n.sum(keepdims=True), tail))
    else:
        low, high = 2 * value - np.quantile(drawn, [1 - tail, tail])
    return Interval(value, float(max(low, 0.0)), float(min(high, 1.0)), float(drawn.mean() - value))


def compare(a: ArrayLike, b: ArrayLike, y: ArrayLike, figure: str = "worst", *, draws: int = DRAWS, seed: int = 0) -> Comparison:
    """Whether A's figure is above B's on the same images: whether each is right (N,), (N,), and their labels (N,).

    ValueError for arrays of different lengths or without images.
    """
    first, second, labels = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool), np.asarray(y)
    if not len(first) == len(second) == len(labels):
        raise ValueError(f"{len(first)}, {len(second)} and {len(labels)} images: a paired comparison needs the same ones")
    cells = np.zeros((int(labels.max(initial=-1)) + 1, 4), dtype=np.int64)
    np.add.at(cells, (labels, 2 * first + second), 1)  # none, only B, only A, both
    cells, n = _present(cells, cells.sum(1))
    # A quarter of an image in each cell: what was not seen on a few images is not impossible.
    likely = (cells + 0.25) / (n[:, None] + 1)

    def difference(c: NDArray[Any]) -> Any:
        return FIGURES[figure]((c[..., 2] + c[..., 3]) / n) - FIGURES[figure]((c[..., 1] + c[..., 3]) / n)

    generator = np.random.default_rng(seed)
    value = float(difference(cells))
    drawn = difference(np.stack([generator.multinomial(m, p, draws) for m, p in zip(n, likely, strict=True)], axis=1))
    low, high = 2 * value - np.quantile(drawn, [(1 + LEVEL) / 2, (1 - LEVEL) / 2])
    # drawn - value is spread as value - truth; without a difference it is as far from 0 as value this often.
    p = (1 + float((abs(drawn - value) >= abs(value)).sum())) / (1 + draws)
    return Comparison(value, float(max(low, -1.0)), float(min(high, 1.0)), min(1.0, p))


def _exact(right: NDArray[Any], n: NDArray[Any], tail: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """The ends of the Clopper-Pearson interval of each class that leaves out `tail` on either side."""
    low = np.where(right > 0, stats.beta.ppf(tail, right, n - right + 1), 0.0)
    return low, np.where(right < n, stats.beta.ppf(1 - tail, right + 1, n - right), 1.0)


def _present(values: NDArray[Any], counts: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    here = counts > 0
    if not here.any():
        raise ValueError("no class has an image: there is nothing to estimate")
    return values[here], counts[here]
