"""A synthetic set whose hardest class is known, for tests and first steps.

Classes come in confusable pairs, counted from the last. An image of pair p is

    x = clip( 1/2 + 0.2 b_p + (+-gap_p + spread s) d_p + 0.15 n ),   s ~ N(0, 1) an image,  n ~ N(0, 1) a pixel,

with patterns b_p and d_p of pixels -1 and +1: b_p tells the pairs apart, d_p the two classes of a pair. gap_p falls from
the first pair to the last, so that an attack of eps in Linf leaves gap_p - eps of it, and the LAST class alone has a large
spread. So it is the hardest, for any classifier. As in Xu et al., "To be Robust or to be Fair: Towards Fairness in
Adversarial Training", ICML 2021, arXiv 2010.06121, the least average error sacrifices it to its narrow twin: moving the
boundary between the two raises the worst class at a small cost.
"""

from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fairat_lightning.data.images import Images, Splits

BASE, NOISE = 0.2, 0.15
GAPS = (0.25, 0.14)  # of the first pair and of the last, made for eps 0.1 in Linf
SPREADS = (0.02, 0.12)  # of the other classes and of the last


def synthetic(
    root: Path | None = None,
    *,
    num_classes: int = 4,
    image_size: int = 8,
    train_per_class: int = 200,
    test_per_class: int = 100,
) -> Splits:
    """Grey images in `num_classes` classes, always the same; the last class is the hardest. `root` is not used.

    Raises ValueError for fewer than 2 classes or more than the images' pixels can tell apart.
    """
    most = (image_size**2 - 1) // 2 * 2
    if not 2 <= num_classes <= most:
        raise ValueError(f"data.load.num_classes={num_classes} must lie between 2 and {most} at image_size={image_size}")
    random = np.random.RandomState(0)
    pairs = -(-num_classes // 2)
    patterns = _patterns(2 * pairs, image_size)
    gaps = np.linspace(*GAPS, pairs) if pairs > 1 else [GAPS[1]]
    parts: list[list[NDArray[np.float64]]] = [[], []]
    for k in range(2 * pairs - num_classes, 2 * pairs):
        pair, second = divmod(k, 2)
        base, direction = patterns[2 * pair : 2 * pair + 2]
        for part, count in zip(parts, (train_per_class, test_per_class), strict=True):
            spread = SPREADS[k == 2 * pairs - 1] * random.standard_normal((count, 1, 1, 1))
            noise = NOISE * random.standard_normal((count, 1, image_size, image_size))
            part.append(0.5 + BASE * base + ((1 - 2 * second) * gaps[pair] + spread) * direction + noise)
    train, test = (_images(part) for part in parts)
    return Splits(train, test, [f"class_{k}" for k in range(num_classes)])


def _patterns(count: int, size: int) -> NDArray[np.float64]:
    """`count` patterns (size,size) of -1 and +1: the signs of two-dimensional cosines, the slowest ones first."""
    position = (np.arange(size) + 0.5) / size
    waves = [np.where(np.cos(np.pi * u * position) >= 0, 1.0, -1.0) for u in range(size)]
    slowest = sorted(product(range(size), repeat=2), key=lambda uv: (max(uv), uv))[1 : count + 1]
    return np.stack([np.outer(waves[u], waves[v]) for u, v in slowest])


def _images(part: list[NDArray[np.float64]]) -> Images:
    pixels = np.rint(np.concatenate(part).clip(0, 1) * 255).astype(np.uint8)
    targets = torch.arange(len(part)).repeat_interleave(torch.tensor([len(group) for group in part]))
    return Images(torch.from_numpy(pixels), targets)
