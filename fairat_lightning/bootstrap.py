"""How far a class-wise figure can be trusted on a test set of this size: intervals, and a paired test.

Efron and Tibshirani, "An Introduction to the Bootstrap", 1993. Images are resampled within their class, so that only counts
matter: the number of correct images of class k is drawn again from Binomial(n_k, r_k), and for two classifiers on the same
images the four cells (both right, only A, only B, none) from a multinomial; of several seeds, the cells of all of them at once.

Average: [t + q(.025), t + q(.975)] with t the figure and q the quantiles of how far its bootstrap values lie from their mean,
the percentile interval. They are drawn from Binomial(n_k, (c_k + 1) / (n_k + 2)), c_k the correct images, by Laplace's rule:
after one image that was right the next may be wrong. In simulations of four classes and more it held the truth in 94 to 100 of
100 cases, from one image a class on; drawn from c_k / n_k, in none to 95. Of one class the interval is Clopper and Pearson's.

Worst: the lowest of several noisy class accuracies is biased low, by mean(t*) - t as the bootstrap estimates it, and by more than
that where many classes are alike. There a bootstrap interval fails: of nominal 95 % the basic one covered 81 % for ten equal
classes of 1,000 images and, in a review, 35 % for a hundred of 200; the percentile one covers next to nothing. So the interval is
made of exact ones (Clopper and Pearson, Biometrika 1934) and covers by construction: its lower end is the lowest lower end of all
classes at 97.5 %, which lies below the worst class's own, its upper end the lowest upper end at 1 - .025 / K (Bonferroni).

Difference of two classifiers: t +- q(.95) of |t* - t|, which leaves out 0 where p is below .05. In simulations it held the true
difference of the worst class in 93 to 99 of 100 cases where the accuracies of the classes differ, as those of trained networks
do, and where all classes of both rows are alike. Where all classes of one row are alike and the other row has one that is clearly
weakest, it held it in 59 to 82 (ten classes; 41 with a hundred), and lay too low for the even row in nearly all others: the gain
of a row that has become even is then understated. Without a difference, p < .05 came in at most 9 of 100. Where a row is right on
no image of its weakest class, drawing again can show nothing of it: if p is not below .05, the interval is made at least as
wide as the exact ones of both rows allow.

Test-set noise is all that this knows of: another seed of the training is another matter, for which runs are repeated.
"""

from collections.abc import Callable
from functools import lru_cache
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

DRAWS, LEVEL = 2000, 0.95
NOTHING = "no class has an image, so that nothing can be estimated"
Rates = NDArray[np.float64]
FIGURES: dict[str, Callable[[Rates], Any]] = {
    "average": lambda rates: rates.mean(-1),
    "worst": lambda rates: rates.min(-1),
    "worst_10_percent": lambda rates: lowest_tenth(rates, rates.shape[-1]),
}  # of class accuracies (..., K)


class Interval(NamedTuple):
    """A figure, the ends of its interval in [0,1], and its estimated bias (negative: the figure lies too low)."""

    value: float
    low: float
    high: float
    bias: float


class Comparison(NamedTuple):
    """figure(A) - figure(B), the ends of its interval, the two-sided p-value of no difference, and what it was tested by.

    `seeds` is the difference of each seed, where the seeds of A and B go together.
    """

    difference: float
    low: float
    high: float
    p: float
    seeds: tuple[float, ...] = ()
    test: str = "paired"


def interval(correct: ArrayLike, counts: ArrayLike, figure: str = "worst", *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """The interval of "average" or "worst" from correct images and images per class, both (C,).

    Classes without images are left out; ValueError if there are no others, and for any other figure.
    """
    if figure not in ("average", "worst"):
        raise ValueError(f"there is no interval for {figure} itself, only for its difference: give average or worst")
    right, n = np.asarray(correct), np.asarray(counts)
    right, n = right[n > 0], n[n > 0]
    if not len(n):
        raise ValueError(NOTHING)
    value = float(FIGURES[figure](right / n))
    likely = right / n if figure == "worst" else (right + 1) / (n + 2)
    drawn = FIGURES[figure](np.random.default_rng(seed).binomial(n, likely, (draws, len(n))) / n) - FIGURES[figure](likely)
    tail = (1 - LEVEL) / 2
    if figure == "worst" or len(n) == 1:
        low, high = _exact(right, n, tail)[0].min(), _exact(right, n, tail / len(n))[1].min()
    else:
        low, high = value + np.quantile(drawn, [tail, 1 - tail])
    return Interval(value, float(max(low, 0.0)), float(min(high, 1.0)), float(drawn.mean()))


def standard_error(correct: ArrayLike, counts: ArrayLike, figure: str) -> float:
    """The standard error of "average", "worst" or their "sum" from correct images and images per class, both (C,).

    Of the class that is worst here, whichever else might be. Each class is a binomial with p = (correct + 1) / (n + 2), the rule
    of Laplace, after which none of a few images right is no certainty. Classes without images are left out; ValueError if there
    are no others, and for any other figure.
    """
    if figure not in ("average", "worst", "sum"):
        raise ValueError(f"there is no standard error of {figure}: give average, worst or sum")
    right, n = np.asarray(correct, np.float64), np.asarray(counts, np.float64)
    right, n = right[n > 0], n[n > 0]
    if not len(n):
        raise ValueError(NOTHING)
    p = (right + 1) / (n + 2)
    share = np.full(len(n), 0.0 if figure == "worst" else 1 / len(n))
    if figure != "average":
        share[(right / n).argmin()] += 1
    return float(np.sqrt((share**2 * p * (1 - p) / n).sum()))


def compare(
    a: ArrayLike,
    b: ArrayLike,
    y: ArrayLike,
    figure: str = "worst",
    *,
    classes: int | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison:
    """Whether A's figure is above B's on the same images: whether each is right (N,), (N,), and their labels (N,).

    With several seeds of both, (S,N) and (S,N), the difference is the mean over s of figure(A_s) - figure(B_s). An image is
    drawn for all seeds at once, since all were given the same ones. nan marks an image that A_s and B_s were not given: it
    is left out of seed s, and a class without images in seed s is left out of that seed's figure.

    Drawn again are, within each class, the images that the same seeds have, so that every seed keeps its number of them.
    What was not seen on a few images is not impossible: in each such set the four cells in which all seeds agree (none right,
    only B, only A, both) get a quarter of an image more. For one seed these are all cells that there are.

    The worst 10 % are a tenth of `classes`, where only some of these were evaluated; None: of those with images.

    ValueError for arrays of different shapes, for a seed in which A and B have different images, or none.
    """
    first, second = (np.atleast_2d(np.asarray(right, dtype=np.float64)) for right in (a, b))
    labels = np.asarray(y).astype(np.int64)
    if not first.shape[1] == second.shape[1] == len(labels):
        raise ValueError(
            f"{first.shape[1]}, {second.shape[1]} and {len(labels)} images: a paired comparison needs the same images"
        )
    if first.shape != second.shape or (np.isnan(first) != np.isnan(second)).any():
        raise ValueError(
            "a paired comparison needs the same images: in each seed, A and B must have been evaluated on the same ones"
        )
    seeds = len(first)
    # Of one image in one seed: 0 not evaluated, 1 none right, 2 only B, 3 only A, 4 both.
    state = np.where(np.isnan(first), 0, 1 + 2 * (first != 0) + (second != 0))
    found, counts = np.unique(np.vstack([labels, state]), axis=1, return_counts=True)
    return _compared(tuple(map(tuple, found.T.tolist())), tuple(counts.tolist()), seeds, classes, draws, seed)[figure]


@lru_cache(maxsize=4096)  # made from nothing but the arguments; a report says the same difference in several places
def _compared(
    found: tuple[tuple[int, ...], ...], counts: tuple[int, ...], seeds: int, classes: int | None, draws: int, seed: int
) -> dict[str, Comparison]:
    """`compare` for every figure, from how often each label with its states occurs."""
    sets: dict[tuple[int, tuple[bool, ...]], dict[tuple[int, ...], int]] = {}
    for (label, *states), count in zip(found, counts, strict=True):
        if any(state := tuple(states)):
            sets.setdefault((label, tuple(digit > 0 for digit in state)), {})[state] = count
    column = {label: k for k, label in enumerate(sorted({label for label, _ in sets}))}
    n = np.zeros((seeds, len(column)), dtype=np.int64)
    right, drawn = np.zeros((2, seeds, len(column))), np.zeros((2, seeds, draws, len(column)))  # of A and B
    generator = np.random.default_rng(seed)
    for (label, judged), seen in sorted(sets.items()):
        alike = [tuple(digit * here for here in judged) for digit in (1, 2, 3, 4)]
        cells = sorted({*alike, *seen})
        often = np.array([seen.get(cell, 0) for cell in cells])
        likely = (often + [0.25 * (cell in alike) for cell in cells]) / (often.sum() + 1)
        sample = generator.multinomial(often.sum(), likely, draws)
        n[:, column[label]] += often.sum() * np.array(judged)
        for who, digits in enumerate(((3, 4), (2, 4))):
            for s in range(seeds):
                hits = np.array([cell[s] in digits for cell in cells])
                right[who, s, column[label]] += often @ hits
                drawn[who, s, :, column[label]] += sample @ hits
    if not n.any(1).all():
        raise ValueError(NOTHING)

    def difference(counted: NDArray[Any], s: int, figure: str) -> Any:
        a, b = (np.compress(n[s] > 0, counted[who, s], axis=-1) / n[s][n[s] > 0] for who in (0, 1))
        if figure == "worst_10_percent" and classes is not None:
            return lowest_tenth(a, classes) - lowest_tenth(b, classes)
        return FIGURES[figure](a) - FIGURES[figure](b)

    result = {}
    for figure in FIGURES:
        each = [float(difference(right, s, figure)) for s in range(seeds)]
        value = float(np.mean(each))
        many = np.mean([difference(drawn, s, figure) for s in range(seeds)], axis=0)
        # many - value is spread as value - truth; without a difference it is as far from 0 as value this often.
        away = abs(many - value)
        p, half = (1 + float((away >= abs(value)).sum())) / (1 + draws), float(np.quantile(away, LEVEL, method="higher"))
        low, high = value - half, value + half
        if figure == "worst" and p >= 1 - LEVEL and not (right.min(2, where=n > 0, initial=np.inf) > 0).all():
            ends = np.mean([_apart(right[:, s][:, n[s] > 0], n[s][n[s] > 0], seeds) for s in range(seeds)], axis=0)
            low, high = min(low, float(ends[0])), max(high, float(ends[1]))
        result[figure] = Comparison(value, max(low, -1.0), min(high, 1.0), min(1.0, p), tuple(each))
    if ceil(round(0.1 * (classes or len(column)), 9)) == 1:  # the same figure
        result["worst_10_percent"] = result["worst"]
    return result


def _apart(right: NDArray[Any], n: NDArray[Any], seeds: int) -> tuple[float, float]:
    """The ends of worst(A) - worst(B) that the exact intervals of both leave, from right images (2,K) of `n` (K,)."""
    tail = (1 - LEVEL) / 4 / seeds
    (low_a, high_a), (low_b, high_b) = (
        (_exact(each, n, tail)[0].min(), _exact(each, n, tail / len(n))[1].min()) for each in right
    )
    return low_a - high_b, high_a - low_b


def lowest_tenth(rates: Rates, classes: int) -> Any:
    """The mean of the lowest of `rates` (..., K), as many as are a tenth of `classes`, as metrics.worst_share."""
    # Rounded first: 0.1 * 30 is a little more than 3.
    return np.sort(rates, -1)[..., : ceil(round(0.1 * classes, 9))].mean(-1)


def _exact(right: NDArray[Any], n: NDArray[Any], tail: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """The ends of the Clopper-Pearson interval of each class that leaves out `tail` on either side."""
    low = np.where(right > 0, stats.beta.ppf(tail, right, n - right + 1), 0.0)
    return low, np.where(right < n, stats.beta.ppf(1 - tail, right + 1, n - right), 1.0)
