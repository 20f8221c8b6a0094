"""Labelled images held in memory, and wrappers for those that are not.

An `Images` answers a LIST of indices with a whole batch in one gather, so its DataLoader has `batch_size=None` and a
sampler that yields lists (`fairat_lightning.data.batches.Batches`): no worker processes, no collating.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Images(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Images `pixels` uint8 (N,C,H,W) with their classes `targets` int64 (N,).

    Indexing with indices (B,) gives `x` uint8 (B,C,H,W), `y` (B,) and `index` (B,). Raises ValueError for other types
    or shapes.
    """

    def __init__(self, pixels: Tensor, targets: Tensor) -> None:
        if pixels.dtype != torch.uint8 or pixels.ndim != 4:
            raise ValueError(f"pixels {pixels.dtype} {tuple(pixels.shape)} must be uint8 of shape (N,C,H,W)")
        if targets.dtype != torch.int64 or targets.shape != pixels.shape[:1]:
            raise ValueError(f"targets {targets.dtype} {tuple(targets.shape)} must be int64 ({len(pixels)},)")
        self.pixels = pixels
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int | Sequence[int] | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        index = torch.as_tensor(index)
        if self.pixels.is_cuda:  # pinned, so that nothing waits for the copy
            index = index.pin_memory().to(self.pixels.device, non_blocking=True)
        return self.pixels[index], self.targets[index], index

    def to(self, device: torch.device) -> "Images":
        """The images on another device."""
        return Images(self.pixels.to(device), self.targets.to(device))

    def subset(self, indices: Sequence[int] | Tensor) -> "Images":
        """The images at `indices` (B,), in that order."""
        indices = torch.as_tensor(indices)
        return Images(self.pixels[indices], self.targets[indices])

    def split(self, indices: Tensor) -> tuple["Images", "Images"]:
        """The images at `indices` (B,), and all others in their order."""
        others = torch.ones(len(self), dtype=torch.bool)
        others[indices] = False
        return self.subset(indices), self.subset(others.nonzero().flatten())


class Splits(NamedTuple):
    """What a loader of a set returns; target k belongs to `classes[k]`."""

    train: Images
    test: Images
    classes: list[str]


class Parts(NamedTuple):
    """What a loader may return instead: `val`, where the set has its own validation images, and `notes`, lines to be printed."""

    train: Images
    test: Images
    classes: list[str]
    val: Images | None = None
    notes: tuple[str, ...] = ()


class LabelledImages(Protocol):
    """Any map-style dataset of (x, y)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, Any]: ...


class Indexed(Dataset[tuple[Any, Any, int]]):
    """A map-style dataset of (x, y) as one of (x, y, index), which every method expects."""

    def __init__(self, dataset: LabelledImages) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, Any, int]:
        x, y = self.dataset[index]
        return x, y, index


def as_float(x: Tensor) -> Tensor:
    """Images uint8 as float32 in [0,1]; floating images pass unchanged, other types raise ValueError."""
    if x.is_floating_point():
        return x
    if x.dtype != torch.uint8:
        raise ValueError(f"images of type {x.dtype}: give uint8 in 0..255 or floating point in [0,1]")
    return x.to(torch.float32) / 255
