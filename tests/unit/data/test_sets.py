"""Each set from tiny files in its official layout; only torchvision's checksums are replaced."""

import gzip
import os
import pickle
import struct
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.io import savemat
from sklearn.datasets import load_digits
from torchvision import datasets

from fairat_lightning.data import Images, sets

RANDOM = np.random.default_rng(0)


@pytest.fixture
def any_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (datasets.cifar, datasets.svhn, datasets.stl10):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: os.path.isfile(path))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("FAIRAT_LIGHTNING_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def noise(*shape: int) -> NDArray[np.uint8]:
    return RANDOM.integers(0, 256, shape, np.uint8)


def same(images: Images, pixels: NDArray[np.uint8], targets: Any) -> bool:
    return np.array_equal(images.pixels.numpy(), pixels) and images.targets.tolist() == list(targets)


def write_cifar10(root: Path) -> tuple[NDArray[np.uint8], list[int]]:
    """Five training files and one for testing, of 4 images each."""
    pixels, targets = noise(24, 3, 32, 32), RANDOM.integers(0, 10, 24).tolist()
    base = root / "cifar-10-batches-py"
    base.mkdir(parents=True)
    for k, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        part = slice(4 * k, 4 * k + 4)
        (base / name).write_bytes(pickle.dumps({"data": pixels[part].reshape(4, -1), "labels": targets[part]}))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"name {k}" for k in range(10)]}))
    return pixels, targets


def test_cifar10(tmp_path: Path, any_checksum: None) -> None:
    pixels, targets = write_cifar10(tmp_path)
    train, test, classes = sets.cifar10(tmp_path)
    assert same(train, pixels[:20], targets[:20]) and same(test, pixels[20:], targets[20:])
    assert classes == [f"name {k}" for k in range(10)]


def test_cifar100_has_its_fine_classes(tmp_path: Path, any_checksum: None) -> None:
    base = tmp_path / "cifar-100-python"
    base.mkdir()
    pixels = noise(2, 5, 3, 32, 32)
    for name, part in zip(("train", "test"), pixels, strict=True):
        content = {"data": part.reshape(5, -1), "fine_labels": [99, 1, 2, 3, 4], "coarse_labels": [0] * 5}
        (base / name).write_bytes(pickle.dumps(content))
    (base / "meta").write_bytes(pickle.dumps({"fine_label_names": ["fine"] * 100, "coarse_label_names": ["coarse"]}))
    train, test, classes = sets.cifar100(tmp_path)
    assert same(train, pixels[0], [99, 1, 2, 3, 4]) and same(test, pixels[1], [99, 1, 2, 3, 4])
    assert classes == ["fine"] * 100


def test_svhn_calls_the_digit_0_class_0(tmp_path: Path, any_checksum: None) -> None:
    pixels = noise(2, 3, 3, 32, 32)
    for name, part in zip(("train", "test"), pixels, strict=True):
        savemat(tmp_path / f"{name}_32x32.mat", {"X": part.transpose(2, 3, 1, 0), "y": np.array([[10], [1], [9]], np.uint8)})
    train, test, classes = sets.svhn(tmp_path)
    assert same(train, pixels[0], [0, 1, 9]) and same(test, pixels[1], [0, 1, 9])
    assert classes == list("0123456789")


def test_stl10_needs_no_unlabelled_images(tmp_path: Path, any_checksum: None) -> None:
    base = tmp_path / "stl10_binary"
    base.mkdir()
    pixels = noise(2, 3, 3, 96, 96)
    for name, part in zip(("train", "test"), pixels, strict=True):
        part.transpose(0, 1, 3, 2).tofile(base / f"{name}_X.bin")  # column by column
        np.array([1, 10, 4], np.uint8).tofile(base / f"{name}_y.bin")
    train, test, classes = sets.stl10(tmp_path)
    assert same(train, pixels[0], [0, 9, 3]) and same(test, pixels[1], [0, 9, 3])
    assert (classes[0], classes[9], classes[3]) == ("airplane", "truck", "cat")


def write_fashion_mnist(folder: Path, *, zipped: bool) -> NDArray[np.uint8]:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = noise(2, 3, 28, 28)
    for name, part in zip(("train", "t10k"), pixels, strict=True):
        images = struct.pack(">iiii", 0x803, 3, 28, 28) + part.tobytes()
        labels = struct.pack(">ii", 0x801, 3) + bytes([9, 0, 5])
        for kind, content in {"images-idx3": images, "labels-idx1": labels}.items():
            file = folder / f"{name}-{kind}-ubyte{'.gz' if zipped else ''}"
            file.write_bytes(gzip.compress(content) if zipped else content)
    return pixels


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("inside", ["", "FashionMNIST/raw"])
def test_fashion_mnist(tmp_path: Path, inside: str, zipped: bool) -> None:
    pixels = write_fashion_mnist(tmp_path / inside, zipped=zipped)
    train, test, classes = sets.fashion_mnist(tmp_path)
    assert same(train, pixels[0][:, None], [9, 0, 5]) and same(test, pixels[1][:, None], [9, 0, 5])
    assert classes[9] == "Ankle boot"


def test_damaged_fashion_mnist_is_refused(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path, zipped=True)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    for content in (b"", whole[:1000], b"no gzip", gzip.compress(gzip.decompress(whole)[:-1]), gzip.compress(b"x" * 99)):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="not the official files of Fashion-MNIST"):
            sets.fashion_mnist(tmp_path)


def test_digits_are_scikit_learns_in_a_fixed_split() -> None:
    train, test, classes = sets.digits()
    assert train.targets.bincount().tolist() == [100] * 10 and len(test) == 797
    assert classes == list("0123456789")
    grey, labels = load_digits(return_X_y=True)
    ours = torch.cat([train.pixels, test.pixels]).flatten(1).double() * 16 / 255
    assert sorted(map(tuple, ours.round().int().tolist())) == sorted(map(tuple, grey.astype(int).tolist()))
    assert set(train.pixels.unique().tolist()) == {round(v * 255 / 16) for v in range(17)}
    first = next(i for i, image in enumerate(grey) if np.array_equal(image, ours[0].round().numpy()))
    assert labels[first] == train.targets[0]


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "stl10", "fashion_mnist"])
def test_a_root_without_the_set_is_named_with_what_it_lacks(tmp_path: Path, name: str) -> None:
    lacking = {
        "cifar10": "cifar-10-batches-py/data_batch_1",
        "cifar100": "cifar-100-python/train",
        "svhn": "train_32x32.mat",
        "stl10": "stl10_binary/train_X.bin",
        "fashion_mnist": "train-images-idx3-ubyte",
    }
    with pytest.raises(ValueError, match=lacking[name]) as caught:
        getattr(sets, name)(tmp_path)
    assert f"data.root={tmp_path}" in str(caught.value) and "\n" not in str(caught.value)


def test_files_of_another_checksum_are_refused(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    with pytest.raises(ValueError, match="not the official files of CIFAR-10") as caught:
        sets.cifar10(tmp_path)
    assert f"data.root={tmp_path}" in str(caught.value) and "\n" not in str(caught.value)


def test_without_a_root_the_set_is_downloaded_into_the_cache(
    cache: Path, any_checksum: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def download(url: str, root: Path, **_: Any) -> None:
        calls.append(url)
        write_cifar10(Path(root))

    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", download)
    first, again = sets.cifar10(None), sets.cifar10(None)
    assert len(calls) == 1 and (cache / "cifar-10-batches-py").is_dir()
    assert torch.equal(first.train.pixels, again.train.pixels)


@pytest.mark.parametrize(
    ("name", "module", "function"),
    [
        ("cifar10", datasets.cifar, "download_and_extract_archive"),
        ("svhn", datasets.svhn, "download_url"),
        ("stl10", datasets.stl10, "download_and_extract_archive"),
        ("fashion_mnist", datasets.mnist, "download_and_extract_archive"),
    ],
)
def test_a_failed_download_names_the_way_out(
    cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: Any, function: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise URLError("no\nnetwork")

    monkeypatch.setattr(module, function, fail)
    with pytest.raises(ValueError, match=r"set data\.root") as caught:
        getattr(sets, name)(None)
    assert str(cache) in str(caught.value) and "\n" not in str(caught.value)
