"""Labelled images held in memory or in a file, and wrappers for those that are not.

An `Images` answers a LIST of indices with a whole batch in one gather, so its DataLoader has `batch_size=None` and a
sampler that yields lists (`fairat_lightning.data.batches.Batches`): no worker processes, no collating.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

CHUNK = 2**25  # bytes that are read or written at a time


class Mapped:
    """Pixels uint8 (N,C,H,W) in a file, for `Images` in place of a tensor.

    Indexing reads the images asked for, and no others, into a tensor (B,C,H,W); `pixels[:]` reads all. `array` (M,C,H,W) is the
    mapped file, and `rows` (N,) are the places in it, by default all in their order.
    """

    dtype, ndim, is_cuda = torch.uint8, 4, False

    def __init__(self, array: NDArray[np.uint8], rows: Tensor | None = None) -> None:
        self.array = array
        self.rows = torch.arange(len(array)) if rows is None else rows
        self.shape = torch.Size([len(self.rows), *array.shape[1:]])
        self.nbytes = self.shape.numel()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Tensor:
        return torch.from_numpy(np.take(self.array, self.rows[index].numpy(), axis=0))

    def chosen(self, indices: Tensor) -> "Mapped":
        """The pixels of the images at `indices` (B,), of which none is read yet."""
        return Mapped(self.array, self.rows[indices])

    def to(self, device: torch.device) -> Tensor:
        """All pixels as a tensor on a device."""
        found = torch.empty(self.shape, dtype=torch.uint8, device=device)
        step = max(1, CHUNK // max(1, self.shape[1:].numel()))
        for start in range(0, len(self), step):
            found[start : start + step] = self[start : start + step].to(device)
        return found


Pixels = Tensor | Mapped


class Images(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Images `pixels` uint8 (N,C,H,W) with their classes `targets` int64 (N,).

    Indexing with indices (B,) gives `x` uint8 (B,C,H,W), `y` (B,) and `index` (B,). `pixels` are a tensor, or `Mapped` where they
    stay in a file. Raises ValueError for other types or shapes.
    """

    def __init__(self, pixels: Pixels, targets: Tensor) -> None:
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
        if isinstance(self.pixels, Tensor) and self.pixels.is_cuda:  # pinned, so that nothing waits for the copy
            index = index.pin_memory().to(self.pixels.device, non_blocking=True)
        return self.pixels[index], self.targets[index], index

    def to(self, device: torch.device) -> "Images":
        """The images on another device."""
        return Images(self.pixels.to(device), self.targets.to(device))

    def subset(self, indices: Sequence[int] | Tensor) -> "Images":
        """The images at `indices` (B,), in that order."""
        indices = torch.as_tensor(indices)
        pixels = self.pixels.chosen(indices) if isinstance(self.pixels, Mapped) else self.pixels[indices]
        return Images(pixels, self.targets[indices])

    def split(self, indices: Tensor) -> tuple["Images", "Images"]:
        """The images at `indices` (B,), and all others in their order."""
        others = torch.ones(len(self), dtype=torch.bool)
        others[indices] = False
        return self.subset(indices), self.subset(others.nonzero().flatten())


class LabelledImages(Protocol):
    """Any map-style dataset of (x, y)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@runtime_checkable
class Undecoded(Protocol):
    """Images of one shape that nobody has decoded yet; `targets` (N,) are there once `key` was called or all are decoded."""

    shape: tuple[int, int, int]  # (C,H,W) of each image
    targets: Tensor
    name: str  # of the file that may hold them
    replaces: bool  # whether files of this name with another key are of former states of the same images

    def __len__(self) -> int: ...

    def key(self) -> str:
        """A hash that is another one where the decoded images are others."""

    def decode(self, start: int, stop: int) -> Tensor:
        """The images from `start` to `stop`, uint8 (stop - start,C,H,W). ValueError where one cannot be read."""


Part = Images | Undecoded | LabelledImages


class Splits(NamedTuple):
    """What a loader of a set returns; target k belongs to `classes[k]`.

    What is not `Images` is decoded into memory or into a file, see `fairat_lightning.data.cache`.
    """

    train: Part
    test: Part
    classes: list[str]


class Parts(NamedTuple):
    """What a loader may return instead: `val`, where the set has its own validation images, and `notes`, lines to be printed."""

    train: Part
    test: Part
    classes: list[str]
    val: Part | None = None
    notes: tuple[str, ...] = ()


def parts_of(given: object) -> Parts:
    """What a loader returned, `Splits`, `Parts` or a tuple like one of them; ValueError for anything else."""
    if not isinstance(given, tuple | list) or not 3 <= len(given) <= len(Parts._fields):
        what = f"{len(given)} values" if isinstance(given, tuple | list) else f"something of type {type(given).__name__}"
        raise ValueError(f"data.load returned {what}: it must return fairat_lightning.data.images.Splits(train, test, classes)")
    return Parts(*given)


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
