"""A synthetic set whose hardest class is known, for tests and first steps.

The last three classes lie on a line, the LAST in the middle; each other class has a place of its own. An image is

    x = clip( 1/2 + 0.2 b + (offset + 0.02 s) d + 0.12 n ),   s ~ N(0, 1) an image,  n ~ N(0, 1) a pixel,

with a pattern b of pixels -1 and +1 for each place and one such pattern d for all; offset is 0, but +-0.25 for the last's
two neighbours. So 0.125 is half the way between neighbours, of which an attack of 0.1 in Linf leaves 0.025, about one
standard deviation along d. Misclassified on either side, the last class is twice as often wrong as its neighbours, which
the least average error accepts; moving both boundaries outward raises the worst class at almost no cost: from .68 to .78
where the average falls from .79 to .78, for one standard deviation exactly.
"""

from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fairat_lightning.data.images import Images, Splits
from fairat_lightning.settings import whole

BASE, GAP, SPREAD, NOISE = 0.2, 0.25, 0.02, 0.12


def synthetic(
    root: Path | None = None,
    *,
    num_classes: int = 4,
    image_size: int = 8,
    train_per_class: int = 200,
    test_per_class: int = 200,
) -> Splits:
    """Grey images in `num_classes` classes, always the same; the last class is the hardest.

    Two classes are equally hard. Raises ValueError for fewer, for more than the images' pixels can tell apart, and for a
    `root`: the set is made, not read.
    """
    if root is not None:
        raise ValueError(f"data.root={root}: the synthetic set is generated and not read from a folder; leave data.root out")
    for name, value in (("num_classes", num_classes), ("train_per_class", train_per_class), ("test_per_class", test_per_class)):
        whole(f"data.load.{name}", value)
    if not 2 <= num_classes <= image_size**2:
        raise ValueError(f"data.load.num_classes={num_classes} must lie between 2 and {image_size**2} at image_size={image_size}")
    random = np.random.RandomState(0)
    direction, *bases = _patterns(max(num_classes - 1, 2), image_size)
    # Counted from the last class: three of them share a place, at these offsets.
    places = [(bases[0], 0.0), (bases[0], GAP), (bases[0], -GAP), *((base, 0.0) for base in bases[1:])]
    parts: list[list[NDArray[np.float64]]] = [[], []]
    for base, offset in reversed(places[:num_classes]):
        for part, count in zip(parts, (train_per_class, test_per_class), strict=True):
            along = offset + SPREAD * random.standard_normal((count, 1, 1, 1))
            noise = NOISE * random.standard_normal((count, 1, image_size, image_size))
            part.append(0.5 + BASE * base + along * direction + noise)
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
