"""Sets that are trees of image files: Tiny ImageNet, and the user's own.

Tiny ImageNet: Le and Yang, "Tiny ImageNet Visual Recognition Challenge", Stanford CS 231N, 2015: 200 of ImageNet's
classes at 64x64. The labels of its official test images were never published: its validation set is the test set here,
as it is everywhere.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from fairat_lightning.data.images import Images, Splits
from fairat_lightning.data.stratified import stratified

SUFFIXES = (".png", ".jpg", ".jpeg")
TINY = "tiny-imagenet-200"
LAYOUT = "train/<class>/*.png (or .jpg, .jpeg), and test/<class>/ likewise if there is a test set"


def folder(root: Path | None, *, image_size: int | None = None) -> Splits:
    """The user's images, `root`/train/<class>/*.png, .jpg or .jpeg, and `root`/test/<class>/ likewise.

    Each becomes an RGB square of side `image_size`: scaled with antialiasing, its longer side cropped in the middle;
    transparency is dropped. Without a folder test, a stratified fifth of the training images is the test set. Raises
    ValueError for a missing folder, fewer than two classes, a class that is empty or in one part only, and an image
    that cannot be read.
    """
    if root is None:
        raise ValueError(f"data.root is not set: the folder set needs a folder that holds {LAYOUT}")
    if image_size is None:
        raise ValueError("data.image_size is not set: give the side in pixels that every image is brought to")
    train_folder, test_folder = root / "train", root / "test"
    if not train_folder.is_dir():
        raise ValueError(f"data.root={root} has no folder train: it must hold {LAYOUT}")
    train = _by_class(train_folder)
    if len(train) < 2:
        raise ValueError(f"{train_folder} has {len(train)} folders of classes: at least 2 are needed")
    if test_folder.is_dir():
        test = _by_class(test_folder)
        for name in sorted(train.keys() ^ test.keys()):
            here, there = (train_folder, test_folder) if name in train else (test_folder, train_folder)
            raise ValueError(f"class {name!r} is in {here} but not in {there}: both must have the same classes")
        return Splits(_read_all(train, image_size), _read_all(test, image_size), list(train))
    if test_folder.exists() or test_folder.is_symlink():
        raise ValueError(f"{test_folder} is no folder: it must hold test/<class>/, or be absent")
    single = next((name for name, paths in train.items() if len(paths) == 1), None)
    if single is not None:
        raise ValueError(f"class {single!r} has 1 image, none to spare for testing: add images or a folder {test_folder}")
    images = _read_all(train, image_size)
    tested, others = images.split(stratified(images.targets, 0.2))
    return Splits(others, tested, list(train))


def tiny_imagenet(root: Path | None) -> Splits:
    """Tiny ImageNet, 100,000 + 10,000 images 3x64x64, from the folder that contains tiny-imagenet-200.

    Classes are in the order of their WordNet ids and have the first of their names, with the id where that is not
    unique. Raises ValueError where files are missing.
    """
    if root is None:
        raise ValueError(
            f"data.root is not set: unpack http://cs231n.stanford.edu/{TINY}.zip and give the folder with {TINY} in it"
        )
    base = root / TINY
    annotations = base / "val" / "val_annotations.txt"
    for path in (base / "wnids.txt", base / "words.txt", annotations):
        if not path.is_file():
            raise ValueError(f"data.root={root} does not hold Tiny ImageNet: no {path.relative_to(root)} in it")
    wnids = sorted((base / "wnids.txt").read_text().split())
    words = dict(line.split("\t", 1) for line in (base / "words.txt").read_text().splitlines() if "\t" in line)
    names = [words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    classes = [f"{name} ({wnid})" if names.count(name) > 1 else name for name, wnid in zip(names, wnids, strict=True)]
    train = {wnid: _pictures(base / "train" / wnid / "images") for wnid in wnids}
    test: dict[str, list[Path]] = {wnid: [] for wnid in wnids}
    for line in annotations.read_text().splitlines():
        file, wnid, *_ = line.split("\t")
        if wnid not in test:
            raise ValueError(f"{annotations} has {file} in class {wnid}, which wnids.txt does not list")
        test[wnid].append(annotations.parent / "images" / file)
    return Splits(_read_all(train, 64), _read_all(test, 64), classes)


def _by_class(place: Path) -> dict[str, list[Path]]:
    """The pictures of each class, both in the order of their names; hidden folders are no classes."""
    names = sorted(path.name for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))
    if wrong := [name for name in names if any("\ud800" <= letter <= "\udfff" for letter in name)]:  # Python's for other bytes
        raise ValueError(f"{place} has a class whose name is no UTF-8, {ascii(wrong[0])}: rename its folder")
    return {name: _pictures(place / name) for name in names}


def _pictures(place: Path) -> list[Path]:
    found = place.iterdir() if place.is_dir() else ()
    paths = sorted(path for path in found if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    if not paths:
        raise ValueError(f"{place} holds no {', '.join(SUFFIXES)} image: add some or remove the class")
    return paths


def _read_all(by_class: dict[str, list[Path]], size: int) -> Images:
    paths = [path for group in by_class.values() for path in group]
    sizes = torch.tensor([len(group) for group in by_class.values()])
    try:
        pixels = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)
    except RuntimeError as error:  # torch's word for too little memory
        raise ValueError(f"data.image_size={size}: {len(paths)} images of this size do not fit the memory") from error
    with ThreadPoolExecutor() as pool:  # PIL decodes outside Python's lock
        for i, picture in enumerate(pool.map(partial(_read, size=size), paths)):
            pixels[i] = picture
    return Images(pixels, torch.arange(len(sizes)).repeat_interleave(sizes))


def _read(path: Path, size: int) -> Tensor:
    """The picture as uint8 (3,size,size)."""
    if not path.is_file():  # a pipe would keep us waiting
        raise ValueError(f"cannot read the image {path}: it is no file, or a link to none: replace or remove it")
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode.startswith("I"):  # 16 bits a pixel, which PIL would clip at 255
                picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
            picture = ImageOps.fit(picture.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    # PIL reports broken files as any of these.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the image {path}: {error}: replace or remove it") from error
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
