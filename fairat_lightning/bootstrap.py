"""How far a class-wise figure can be trusted on a test set of this size: bootstrap intervals, plain and paired.

Efron and Tibshirani, "An Introduction to the Bootstrap", 1993. Images are resampled within their class, so that only counts
matter: the number of correct images of class k is drawn anew from Binomial(n_k, r_k), and for two classifiers on the same
images the four cells (both right, only A, only B, none) from a multinomial.

The lowest of several noisy class accuracies is biased low: with t the figure and t* its bootstrap values, the bias is
mean(t*) - t. The interval is the basic one, [2t - q(.975), 2t - q(.025)] with q the quantiles of t*, which takes the bias
off; the percentile interval would count it twice. `tests/test_bootstrap.py` measures the coverage. Test-set noise is all
that this knows of: another seed of the training is another matter, for which runs are repeated.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
    """The bootstrap interval of "average" or "worst" from correct images and images per class, both (C,).

    Classes without images take no part; ValueError if there are no others.
    """
    right, n = _present(np.asarray(correct), np.asarray(counts))
    value = float(FIGURES[figure](right / n))
    drawn = FIGURES[figure](np.random.default_rng(seed).binomial(n, right / n, (draws, len(n))) / n)
    low, high = 2 * value - np.quantile(drawn, [(1 + LEVEL) / 2, (1 - LEVEL) / 2])
    if np.ptp(drawn) == 0:  # all right or all wrong: nothing to resample, so the exact (Clopper-Pearson) end of n like draws
        width = 1 - ((1 - LEVEL) / 2) ** (1 / n.min())
        low, high = value - width, value + width
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

    def difference(c: NDArray[Any]) -> Any:
        return FIGURES[figure]((c[..., 2] + c[..., 3]) / n) - FIGURES[figure]((c[..., 1] + c[..., 3]) / n)

    generator = np.random.default_rng(seed)
    value = float(difference(cells))
    drawn = difference(np.stack([generator.multinomial(m, c / m, draws) for m, c in zip(n, cells, strict=True)], axis=1))
    low, high = 2 * value - np.quantile(drawn, [(1 + LEVEL) / 2, (1 - LEVEL) / 2])
    # drawn - value is spread as value - truth; without a difference it reaches |value| this often.
    tail = min((drawn - value >= value).sum(), (drawn - value <= value).sum())
    return Comparison(value, float(low), float(high), min(1.0, 2 * (1 + float(tail)) / (1 + draws)))


def _present(values: NDArray[Any], counts: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    here = counts > 0
    if not here.any():
        raise ValueError("no class has an image: there is nothing to estimate")
    return values[here], counts[here]
