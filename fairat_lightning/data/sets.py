"""The sets: one loader each, from a folder, or None for the cache, to `Splits`.

CIFAR-10, CIFAR-100:  Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
SVHN:                 Netzer et al., "Reading Digits in Natural Images with Unsupervised Feature Learning", NIPS
                      Workshop 2011; without its extra images.
STL-10:               Coates, Ng and Lee, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning",
                      AISTATS 2011; without its unlabelled images.
Fashion-MNIST:        Xiao, Rasul and Vollgraf, 2017, arXiv 1708.07747.
digits:               the test part of Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998, as
                      scikit-learn embeds it: it needs no download.

`data.root` is the folder that already holds a set's official files. Without it a set is looked for, and downloaded if
it is not there, in the folder that the environment variable FAIRAT_LIGHTNING_DATA names, or ~/.cache/fairat_lightning.
"""

import gzip
import zlib
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import ArrayLike, NDArray
from torchvision import datasets

from fairat_lightning.data.cache import downloads
from fairat_lightning.data.folders import folder, tiny_imagenet
from fairat_lightning.data.images import Images, Splits
from fairat_lightning.data.stratified import stratified
from fairat_lightning.data.synthetic import synthetic

__all__ = ["cifar10", "cifar100", "digits", "fashion_mnist", "folder", "stl10", "svhn", "synthetic", "tiny_imagenet"]


def digits(root: Path | None = None) -> Splits:
    """1,797 grey 8x8 digits, 100 of each class to train on and the others to test on; a `root` raises ValueError."""
    if root is not None:
        raise ValueError(f"data.root={root}: the digits come with scikit-learn and not from a folder; leave data.root out")
    from sklearn.datasets import load_digits

    grey, targets = load_digits(return_X_y=True)
    images = _images(np.rint(grey * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8), targets)
    train, test = images.split(stratified(images.targets, 100))
    return Splits(train, test, [str(k) for k in range(10)])


def cifar10(root: Path | None = None) -> Splits:
    """CIFAR-10, 50,000 + 10,000 images 3x32x32, from the folder that contains cifar-10-batches-py."""
    return _cifar(datasets.CIFAR10, "CIFAR-10", root)


def cifar100(root: Path | None = None) -> Splits:
    """CIFAR-100 with its 100 fine classes, from the folder that contains cifar-100-python."""
    return _cifar(datasets.CIFAR100, "CIFAR-100", root)


def svhn(root: Path | None = None) -> Splits:
    """SVHN, 73,257 + 26,032 images 3x32x32, from the folder that contains train_32x32.mat; target 0 is the digit 0."""

    def read(place: Path, download: bool) -> Splits:
        train, test = (datasets.SVHN(place, split=part, download=download) for part in ("train", "test"))
        return Splits(_images(train.data, train.labels), _images(test.data, test.labels), [str(k) for k in range(10)])

    return _official("SVHN", root, ["train_32x32.mat", "test_32x32.mat"], read)


class _LabelledSTL10(datasets.STL10):
    train_list = datasets.STL10.train_list[:2]  # torchvision would read 2.6 GB unlabelled images for their checksum


def stl10(root: Path | None = None) -> Splits:
    """STL-10, 5,000 + 8,000 labelled images 3x96x96, from the folder that contains stl10_binary."""

    def read(place: Path, download: bool) -> Splits:
        train, test = (_LabelledSTL10(place, split=part, download=download) for part in ("train", "test"))
        assert train.labels is not None and test.labels is not None
        classes = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
        return Splits(_images(train.data, train.labels), _images(test.data, test.labels), classes)

    names = [name for name, _ in _LabelledSTL10.train_list + _LabelledSTL10.test_list]
    return _official("STL-10", root, [f"stl10_binary/{name}" for name in names], read)


def fashion_mnist(root: Path | None = None) -> Splits:
    """Fashion-MNIST, 60,000 + 10,000 grey images 28x28, from the folder with its four idx files, compressed or not.

    They may also lie in FashionMNIST/raw, where torchvision puts them.
    """

    def read(place: Path, download: bool) -> Splits:
        if download:
            datasets.FashionMNIST(place, download=True)
        train, test = (
            _images(_idx(place, f"{part}-images-idx3-ubyte")[:, None], _idx(place, f"{part}-labels-idx1-ubyte"))
            for part in ("train", "t10k")
        )
        return Splits(train, test, list(datasets.FashionMNIST.classes))

    return _official("Fashion-MNIST", root, [], read)


def _cifar(kind: type[datasets.CIFAR10], name: str, root: Path | None) -> Splits:
    def read(place: Path, download: bool) -> Splits:
        sets = [kind(place, train=part, download=download) for part in (True, False)]
        train, test = (_images(part.data.transpose(0, 3, 1, 2), part.targets) for part in sets)
        return Splits(train, test, sets[0].classes)

    names = [name for name, _ in kind.train_list + kind.test_list] + [kind.meta["filename"]]
    return _official(name, root, [f"{kind.base_folder}/{name}" for name in names], read)


def _official(name: str, root: Path | None, files: Sequence[str], read: Callable[[Path, bool], Splits]) -> Splits:
    """Read a set from `root`, which must hold `files`, or from the cache, downloading what is not there."""
    if root is not None:
        missing = next((file for file in files if not (root / file).is_file()), None)
        if missing is not None:
            raise ValueError(f"data.root={root} does not hold {name}: there is no {missing} in it")
        try:
            return read(root, False)
        except (RuntimeError, OSError, EOFError, zlib.error) as error:
            raise ValueError(f"data.root={root}: these are not the official files of {name}: {_line(error)}") from error
    cache = downloads()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Several processes may start at once, and one half-written file would be read by the others.
        with FileLock(cache / ".lock"):
            return read(cache, True)
    except (RuntimeError, OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"could not download {name} into {cache} ({_line(error)}): set data.root to a folder that holds it"
        ) from error


def _idx(place: Path, name: str) -> NDArray[np.uint8]:
    """The array of an idx file: two zeros, 8 for uint8, the number of sizes, the sizes as int32, the values."""
    folders = (place, place / "FashionMNIST" / "raw")
    path = next((path for f in folders for path in (f / name, f / f"{name}.gz") if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"no {name} or {name}.gz in it")
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    start = 4 + 4 * int.from_bytes(content[3:4])
    shape = tuple(np.frombuffer(content[4:start], ">i4").tolist()) if len(content) >= start else ()
    if content[:3] != b"\0\0\x08" or len(content) != start + prod(shape):
        raise OSError(f"{path.name} is damaged")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _images(pixels: NDArray[np.uint8], targets: ArrayLike) -> Images:
    return Images(torch.from_numpy(np.array(pixels, order="C")), torch.from_numpy(np.array(targets, dtype=np.int64)))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
