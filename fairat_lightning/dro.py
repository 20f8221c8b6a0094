"""Worst-case distributions over classes in closed form.

FAAL: Zhang, Zhang, Mu, Huang and Ruan, "Towards Fairness-Aware Adversarial Learning", CVPR 2024, arXiv 2402.17729.
For scores a_k and the uniform u over the K classes present,

    p* = argmax_p sum_k p_k a_k   subject to   sum_k p_k = 1,   KL(u || p) <= r.

The Lagrangian gives p_k proportional to 1 / (t + b_k) with b_k = max a - a_k and one number t > 0, so that the published
convex program is a search for the root of a decreasing function of t:

    KL(u || p) = log mean_k 1/(1 + b_k/t) + mean_k log(1 + b_k/t) = r.

We search s = log t between two bounds on the root: by Kantorovich's inequality KL <= 1/(4 t^2) when max b = 1, and
keeping only the m tied maxima in the first mean, KL >= log(m/K) - (1 - m/K) s + (1/K) sum_{b_k > 0} log b_k. With v_k =
1 / (1 + b_k/t), d KL / d s = mean v - mean v^2 / mean v; log KL is close to a line for large s, so that Newton's method on it
converges in a few steps from one of 31 parts of that interval.

CODAT (arXiv 2501.04527) takes the chi-square ball (1/K) sum_k (K q_k - 1)^2 <= rho instead, where with w = K q

    w_k = max(0, c + s (a_k - mean of the a_j with w_j > 0)),

and, while no weight is 0, c = 1 and max_q sum_k q_k a_k = mean a + sqrt(rho) * std a. The classes with w_k > 0 are the m highest
for the largest m whose solution is not negative; all m are solved at once.

WAT's experts (Li and Liu, AAAI 2023) and CFOL's bandit (Pethick et al., TMLR 2023) follow gains by Hedge instead: `hedge`.
"""

from math import inf, isnan, log

import torch
from torch import Tensor

CANDIDATES, NEWTON = 32, 3  # weights to nine digits, see the test against a long bisection


def kl_worst_case(scores: Tensor, radius: float) -> Tensor:
    """The class distribution within KL(uniform || p) <= `radius` (nats) that maximises the expected score.

    `scores` (C,), nan for an absent class -> p (C,), 0 for absent classes, summing to 1 over the others. Radius 0 or
    constant scores: uniform; infinite radius: all mass on the maximum, ties shared. No class present, or an infinite
    score: all nan. No gradient, no host synchronisation. Raises ValueError for a negative or nan radius.
    """
    weights = kl_worst_weights(scores, radius)
    return weights / (~scores.isnan()).sum()


@torch.no_grad()
def kl_worst_weights(scores: Tensor, radius: float) -> Tensor:
    """`kl_worst_case` times the number of classes present: mean 1 over them, and exactly 1 each at radius 0."""
    if isnan(radius) or radius < 0:
        raise ValueError(f"radius={radius} must be 0 or more")
    if not scores.is_floating_point():
        raise ValueError(f"scores of type {scores.dtype}: they must be floating point")
    a = scores.double() / 2  # half, so that no gap overflows; the scale changes nothing
    present = ~a.isnan()
    count = present.sum()
    gap = torch.where(present, a.nan_to_num(nan=-inf).amax() - a, 0.0)
    spread = gap.amax()
    b = gap / torch.where(spread > 0, spread, 1.0)
    top = present & (b == 0)
    if radius == 0:
        weights = present.double()
    elif radius == inf:
        weights = top * (count / top.sum())
    else:
        density = present / (1 + b / _solve(b, present, top, radius).exp())
        weights = density * (count / density.sum())
    weights = torch.where(spread > 0, weights, present.double())
    valid = (count > 0) & ~(a.isinf().any())
    return torch.where(valid, weights, torch.nan).to(scores.dtype)


def hedge(gains: Tensor, rate: float = 1.0) -> Tensor:
    """Exponential weights: the distribution q_k proportional to exp(rate * gains_k); (N,) -> (N,)."""
    return (rate * gains.double()).softmax(0).to(gains.dtype)


def capped(values: Tensor, limit: float) -> Tensor:
    """FRL's projection of multipliers (C,) onto { v >= 0, sum v <= limit }: clamped, then rescaled if the sum is above."""
    positive = values.clamp(min=0)
    return positive * (limit / positive.sum().clamp(min=torch.finfo(values.dtype).tiny)).clamp(max=1)


@torch.no_grad()
def chi2_worst_weights(scores: Tensor, radius: float) -> Tensor:
    """K' q* for the class distribution q within chi-square `radius` of uniform that maximises the expected score.

    `scores` (C,), nan for an absent class -> (C,), mean 1 over the K' classes present, 0 for absent ones. Radius 0: 1 each.
    No class present, or an infinite score: all nan. No gradient, no host synchronisation. Raises ValueError for a negative,
    infinite or nan radius.
    """
    if not 0 <= radius < inf:
        raise ValueError(f"radius={radius} must be a finite number, 0 or more")
    if not scores.is_floating_point():
        raise ValueError(f"scores of type {scores.dtype}: they must be floating point")
    a = scores.double()
    present = ~a.isnan()
    count = present.sum().double()  # of an integer, torch would make float32
    ordered, order = torch.where(present, a, -inf).sort(descending=True, stable=True)
    held = ordered.isfinite()
    b = torch.where(held, ordered - ordered[0], 0.0)
    b = b / b.amin().clamp(max=-torch.finfo(b.dtype).tiny).abs()  # in [-1, 0]: the scale changes nothing
    m = torch.arange(1, len(b) + 1, dtype=b.dtype, device=b.device)
    centre = _running_sum(b) / m
    spread = ((_running_sum(b.square()) / m - centre.square()) * m).clamp(min=0)
    left = count * (1 + radius) - count**2 / m  # what is left of the ball's radius for differing weights
    slope = torch.where(spread > 1e-14, (left.clamp(min=0) / spread.clamp(min=1e-14)).sqrt(), 0.0)
    least = count / m + slope * (b - centre)
    solved = held & (m <= count) & (left >= -1e-9 * count) & (least >= 0)
    best = torch.where(solved, m, 0.0).argmax()[None]
    size, slope, centre = (v.gather(0, best) for v in (m, slope, centre))  # an index would wait for the device
    weights = torch.where((m <= size) & held, (count / size + slope * (b - centre)).clamp(min=0), 0.0)
    weights = torch.where(b.amin() < 0, weights, held.double())
    weights = torch.where((count > 0) & ~a.isinf().any(), weights, torch.nan)
    return torch.zeros_like(weights).scatter(0, order, weights).to(scores.dtype)


def _running_sum(v: Tensor) -> Tensor:
    """cumsum of a vector; CUDA's own is forbidden with deterministic algorithms."""
    if torch.are_deterministic_algorithms_enabled():
        return torch.ones(len(v), len(v), dtype=v.dtype, device=v.device).tril() @ v
    return v.cumsum(0)


def _solve(b: Tensor, present: Tensor, top: Tensor, radius: float) -> Tensor:
    """log t with KL(u || p_t) = radius: all candidates at once, then Newton's method for log KL, never leaving their interval."""
    count = present.sum()
    share = present / count.double()
    tied = top.double() @ share
    log_rest = torch.where(present & ~top, b, 1.0).log() @ share
    low = (tied.log() + log_rest - radius) / (1 - tied).clamp(min=1 / (2 * count))
    # exp(-700) is still a float64; past it p is the infinite-radius answer to every digit.
    low = low.clamp(min=-700.0)
    high = torch.full_like(low, -0.5 * log(4) - 0.5 * log(radius)).clamp(min=-700.0)
    s = low + (high - low) * torch.linspace(0, 1, CANDIDATES, dtype=b.dtype, device=b.device)
    ratio = b * (-s).exp()[:, None]
    above = ((((1 / (1 + ratio)) @ share).log() + ratio.log1p() @ share) >= radius).sum()[None]
    low, high = s.gather(0, (above - 1).clamp(min=0)), s.gather(0, above.clamp(max=CANDIDATES - 1))
    s = (low + high) / 2
    for _ in range(NEWTON):
        ratio = b * (-s).exp()
        inverse = 1 / (1 + ratio)
        mean = inverse @ share
        kl = mean.log() + ratio.log1p() @ share
        slope = mean - inverse.square() @ share / mean
        better = s - kl * (kl / radius).log() / slope
        s = torch.where(better.isfinite(), better, s).clamp(low, high)  # a radius below float64's rounding of kl
    return s[0]
