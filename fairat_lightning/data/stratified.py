"""Stratified random choices that are the same on every machine, in every process and in every run.

They depend on the class labels alone, so that a validation split never moves with a run's seed or its training size.
"""

from bisect import bisect_right

import numpy as np
import torch
from torch import Tensor


def stratified(targets: Tensor, counts: int | float | Tensor) -> Tensor:
    """The sorted indices of `counts` random samples of each class.

    `targets` (N,) are classes; `counts` is one number, a number per class (C,), or as a float the part of each class,
    rounded, at least 1. A larger choice contains the smaller one. Raises ValueError where a class has too few samples.
    """
    sizes = targets.bincount()
    if isinstance(counts, float):
        counts = (sizes * counts).round().long().clamp(min=1)
    counts = torch.as_tensor(counts).expand(len(sizes))
    if (counts > sizes).any():
        worst = int((counts - sizes).argmax())
        raise ValueError(f"class {worst} has {sizes[worst]} samples, not the {counts[worst]} asked for")
    # NumPy promises never to change RandomState's stream; PyTorch makes no such promise for randperm.
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(targets)))
    shuffled = targets[order]
    chosen = [order[(shuffled == c).nonzero().flatten()[:count]] for c, count in enumerate(counts.tolist())]
    return torch.cat(chosen).sort().values


def evenly(total: int, sizes: Tensor) -> Tensor:
    """`total` samples shared among the classes of `sizes` (C,) as equally as these allow, the rest to the first ones."""
    assert 0 <= total <= int(sizes.sum())
    level = bisect_right(range(int(sizes.max()) + 1), total, key=lambda level: int(sizes.clamp(max=level).sum())) - 1
    counts = sizes.clamp(max=level)
    spare = total - int(counts.sum())
    counts[(sizes > level).nonzero().flatten()[:spare]] += 1
    return counts
