"""Images and labels of somebody else's, in whatever they come, checked before anything is done with them.

Taken are a DataLoader or any iterable of batches, a map-style data set, a pair of arrays or tensors, and rows that are dicts
(Hugging Face's `datasets`).
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fairat_lightning.data.images import CHUNK, LabelledImages, as_float

IMAGE, LABEL = ("image", "img", "pixel_values", "x", "images"), ("label", "labels", "fine_label", "y", "target", "targets")
ROUNDING = 1e-5  # of a division by 255, or of a resizing
AGAIN = 64  # images that are read twice, to see whether they are the same
NORMALISED = (
    "give the images before normalisation, and set normalisation= to what the network expects, or, for a training, put"
    " torchvision.transforms.Normalize in front of the network"
)


class WrongBatch(ValueError):
    """What is wrong with a batch of a foreign loader."""


def read_images(data: Any) -> tuple[Tensor, Tensor, list[str] | None]:
    """`data` as pixels (N,C,H,W), uint8 or floating in [0,1], labels int64 (N,), and the names of the classes where it has them.

    ValueError, one line, for what cannot be read so.
    """
    names = _names(data)
    if isinstance(data, Mapping):  # columns
        x, y = map(_tensor, _pair(data))
        return (*check_images(x, y), names)
    if isinstance(data, tuple | list) and len(data) == 2 and _columns(data):
        return (*check_images(_tensor(data[0]), _tensor(data[1])), None)
    if isinstance(data, DataLoader):
        names = names or _names(data.dataset)
        items: Iterable[Any] = data
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        items = (data[k] for k in range(len(data)))
    elif isinstance(data, Iterable):
        items = data
    else:
        raise ValueError(f"data of type {type(data).__name__}: give a DataLoader, a data set or a pair (images, labels)")
    images, labels = [], []
    for item in items:
        x, y = map(_tensor, _pair(item))
        one = x.ndim < 4  # and no batch
        images.append(x[None] if one else x)
        labels.append(y[None] if one else y)
    if not images:
        raise ValueError("the data holds no image")
    shapes = {tuple(x.shape[1:]) for x in images}
    if len(shapes) > 1:
        raise ValueError(f"images of different shapes, {' and '.join(map(str, sorted(shapes)[:2]))}: resize them to one shape")
    return (*check_images(torch.cat(images), torch.cat(labels)), names)


class Rows:
    """A map-style data set of (image, label) as `Undecoded`, see `fairat_lightning.data.images`, for training.

    Images are uint8, or floating in [0,1] if they are bytes divided by 255, as torchvision's `ToTensor` gives them. `part` names
    them in messages. Raises ValueError, here and while it decodes, for what a training set cannot be.
    """

    replaces = False  # two data sets of one class and size may be different ones

    def __init__(self, dataset: LabelledImages, part: str) -> None:
        self.dataset, self.part = dataset, part
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            kind = type(dataset).__name__
            raise ValueError(
                f"data.load: the {part} set is of type {kind}: give Images or a map-style data set of (image, label)"
            )
        self.targets = torch.zeros(len(dataset), dtype=torch.int64)
        if not len(self):
            raise ValueError(f"data: the data set has no {part} images; add some")
        first = self.decode(0, min(len(self), AGAIN))
        if not torch.equal(first, self.decode(0, len(first))):
            raise ValueError(
                f"data.load: the {part} set gives other images when it is read again: leave random changes out of it, since"
                " data.padding, data.flip and method.augmentation make them"
            )
        self.shape = (first.shape[1], first.shape[2], first.shape[3])
        kind = re.sub(r"\W", "_", type(dataset).__name__, flags=re.ASCII)[:40]
        self.name = f"{kind}-{len(self)}x{'x'.join(map(str, self.shape))}-{part}"

    def __len__(self) -> int:
        return len(self.targets)

    def key(self) -> str:
        """A hash of all images, for which each is read once."""
        digest = hashlib.sha256(f"{len(self)} {self.shape}".encode())
        step = max(1, CHUNK // torch.Size(self.shape).numel())
        for start in range(0, len(self), step):
            digest.update(self.decode(start, min(start + step, len(self))).numpy().data)
        return digest.hexdigest()[:16]

    def decode(self, start: int, stop: int) -> Tensor:
        """The images from `start` to `stop`, uint8 (stop - start,C,H,W); their labels go to `targets`."""
        try:
            rows = [tuple(map(_tensor, _pair(self.dataset[k]))) for k in range(start, stop)]
        except Exception as error:  # a data set of somebody else's may raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"data.load: a {self.part} image of {start} to {stop - 1} cannot be read: {reason}") from error
        shapes = sorted({tuple(x.shape) for x, _ in rows})
        if len(shapes) > 1:
            raise ValueError(
                f"data.load: {self.part} images of different shapes, {shapes[0]} and {shapes[1]}: resize them to one"
            )
        try:
            x, y = (torch.stack(column) for column in zip(*rows, strict=True))
            x, self.targets[start:stop] = check_images(x, y)
        except (ValueError, RuntimeError) as error:  # the second where labels are of different shapes
            raise ValueError(f"data.load: {self.part} {error}") from error
        pixels = x if x.dtype == torch.uint8 else (x * 255).round().to(torch.uint8)
        if not torch.equal(as_float(pixels), as_float(x)):
            raise ValueError(f"data.load: {self.part} images are not bytes divided by 255: give uint8 images to train on")
        return pixels


def check_images(x: Tensor, y: Tensor, num_classes: int | None = None) -> tuple[Tensor, Tensor]:
    """Images (B,C,H,W), uint8 or floating in [0,1], and labels int64 (B,): those given, or ValueError with what is wrong.

    Images (B,H,W,C) of NumPy's are turned, labels of other whole numbers become int64.
    """
    if x.ndim != 4:
        raise ValueError(f"images of shape {tuple(x.shape)}: give the shape (images, channels, height, width)")
    if x.shape[1] not in (1, 3) and x.shape[-1] in (1, 3):
        x = x.permute(0, 3, 1, 2).contiguous()
    if not x.numel():
        raise ValueError(f"images of shape {tuple(x.shape)}: give one image or more")
    if x.shape[1] not in (1, 2, 3, 4) and x.shape[-1] == 4:
        raise ValueError("images of four channels, the last for transparency: convert them to RGB")
    if x.dtype != torch.uint8:
        if not x.is_floating_point():
            raise ValueError(f"images of type {x.dtype}: give uint8 in 0..255 or floating point in [0,1]")
        x = _in_range(x.float())
    if y.is_floating_point() or y.dtype == torch.bool:
        raise ValueError(f"labels of type {y.dtype}: give whole numbers, one class for each image")
    if y.ndim == 2 and y.shape[1] > 1:
        raise ValueError(
            f"labels of shape {tuple(y.shape)}: give one number for each image; for one-hot labels, labels.argmax(1)"
        )
    y = y.flatten().long()
    if len(x) != len(y):
        raise ValueError(f"{len(x)} images and {len(y)} labels: give one label for each image")
    low_label, high_label = (int(value) for value in torch.aminmax(y))
    if low_label < 0 or (num_classes is not None and high_label >= num_classes):
        limit = "0 or more" if num_classes is None else f"0 to {num_classes - 1}"
        raise ValueError(f"labels from {low_label} to {high_label}: they must be {limit}")
    return x, y


def _in_range(x: Tensor) -> Tensor:
    """The images, which must lie in [0,1] up to a rounding; ValueError with what they are from and to."""
    low, high = (float(value) for value in torch.aminmax(x))
    if low >= 0 and high <= 1:
        return x
    if low >= -ROUNDING and high <= 1 + ROUNDING:
        return x.clamp(0, 1)
    finite = abs(low) < float("inf") and abs(high) < float("inf")  # not so for nan
    which = f"from {low:.6g} to {high:.6g}" if finite else "nan or infinite"
    raise ValueError(f"images are {which}, and must lie in [0,1]; if they were normalised, {NORMALISED}")


def _columns(data: Sequence[Any]) -> bool:
    """Whether a pair is images and labels, and no two rows: an array and its labels, or as many of each in a tuple."""
    images, labels = data
    if hasattr(images, "shape") and (hasattr(labels, "shape") or isinstance(labels, list)):
        return True
    lists = isinstance(data, tuple) and all(hasattr(part, "shape") or isinstance(part, list | tuple) for part in data)
    return lists and len(images) == len(labels) and all(isinstance(v, int) or getattr(v, "ndim", 1) == 0 for v in labels)


def _pair(item: Any) -> tuple[Any, Any]:
    """Image and label of a row or batch."""
    if isinstance(item, Mapping):
        found = [next((item[key] for key in keys if key in item), None) for keys in (IMAGE, LABEL)]
        if any(part is None for part in found):
            raise ValueError(f"a row has {', '.join(map(str, item))}: give an image ({IMAGE[0]}) and a label ({LABEL[0]})")
        return found[0], found[1]
    if isinstance(item, Sequence) and len(item) >= 2:
        return item[0], item[1]
    raise ValueError(f"a batch or row of type {type(item).__name__}: give (images, labels) or a dict")


def _tensor(value: Any) -> Tensor:
    """A tensor of an array, a list, or a picture, whose channels then come first."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, list | tuple) and value and not isinstance(value[0], int | float):
        return torch.stack([_tensor(part) for part in value])
    array = np.array(value, order="C")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{type(value).__name__} of {array.dtype} cannot be read: give images and numbers, not text")
    found = torch.from_numpy(array)
    if hasattr(value, "getbands"):  # Pillow's
        found = found[None] if found.ndim == 2 else found.permute(2, 0, 1)
    return found


def _names(data: Any) -> list[str] | None:
    """The names of the classes where a data set says them: torchvision's `classes`, Hugging Face's features."""
    if classes := getattr(data, "classes", None):
        return [str(name) for name in classes]
    features = getattr(data, "features", None)
    if isinstance(features, Mapping):
        for key in LABEL:
            if names := getattr(features.get(key), "names", None):
                return [str(name) for name in names]
    return None
