"""Sets that are trees of image files: Tiny ImageNet, and the user's own.

Tiny ImageNet: Le and Yang, "Tiny ImageNet Visual Recognition Challenge", Stanford CS 231N, 2015: 200 of ImageNet's
classes at 64x64. The labels of its official test images were never published: its validation set is the test set here,
as it is everywhere.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from fairat_lightning.data.images import Parts, Splits
from fairat_lightning.data.stratified import stratified
from fairat_lightning.settings import nearest_path

Image.init()
# Pillow knows these by name alone, or hands them to other programs.
NO_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
FORMATS = sorted(set(Image.OPEN) - NO_PICTURES)
SUFFIXES = {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
TINY = "tiny-imagenet-200"
LAYOUT = "train/<class>/ with images, and, if there are such sets, val/<class>/ and test/<class>/"
SETS = ("train", "val", "test")


class Pictures:
    """The pictures of one part of a set, each to become RGB uint8 (3,size,size): `Undecoded`, see `fairat_lightning.data.images`.

    `by_class` has the files of each class in the order of the classes. Decoding raises ValueError that names the file.
    """

    replaces = True  # the name has the folder in it

    def __init__(self, root: Path, part: str, by_class: dict[str, list[Path]], size: int) -> None:
        self.root, self.shape = root, (3, size, size)
        self.paths = [path for group in by_class.values() for path in group]
        sizes = torch.tensor([len(group) for group in by_class.values()], dtype=torch.int64)
        self.targets = torch.arange(len(sizes)).repeat_interleave(sizes)
        place = root.resolve()
        readable = re.sub(r"[^\w.-]", "_", place.name, flags=re.ASCII)[:40]
        self.name = f"{readable}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:8]}-{size}-{part}"

    def __len__(self) -> int:
        return len(self.paths)

    def chosen(self, part: str, indices: Tensor | NDArray[np.int64]) -> "Pictures":
        """Those at `indices` (B,), as another part of the set."""
        found = Pictures(self.root, part, {}, self.shape[1])
        found.paths = [self.paths[i] for i in indices.tolist()]
        found.targets = self.targets[torch.as_tensor(indices)]
        return found

    def key(self) -> str:
        """A hash of the files' names, sizes, times of change and places on the disk, and of Pillow's version."""
        digest = hashlib.sha256(f"{PIL.__version__} {self.shape}".encode())
        for path, target in zip(self.paths, self.targets.tolist(), strict=True):
            digest.update(os.fsencode(path.relative_to(self.root)))
            with suppress(OSError):  # of a missing file, whose decoding says so
                state = path.stat()
                # An exchanged file keeps its size and the time that it was written at.
                what = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, target]
                digest.update(f" {what}\n".encode())
        return digest.hexdigest()[:16]

    def decode(self, start: int, stop: int) -> Tensor:
        """The images from `start` to `stop`, uint8 (stop - start,3,size,size)."""
        found = torch.empty(stop - start, *self.shape, dtype=torch.uint8)
        with ThreadPoolExecutor() as pool:  # PIL decodes outside Python's lock
            for i, picture in enumerate(pool.map(partial(_read, size=self.shape[1]), self.paths[start:stop])):
                found[i] = picture
        return found


def folder(root: Path | None, *, image_size: int | None = None) -> Parts:
    """The user's pictures, `root`/train/<class>/, and `root`/val/<class>/ and `root`/test/<class>/ likewise.

    A picture is a file with an extension that Pillow reads, also in a folder below its class's; of several frames the first
    counts. Each becomes an RGB square of side `image_size`: scaled with antialiasing, its longer side cropped in the middle;
    transparency is dropped. Without a folder test, a stratified fifth of the training images is the test set. What is used for
    what, and what is skipped, is in the `notes`. The parts are `Pictures`, not decoded yet. Raises ValueError for a missing
    folder, fewer than two classes, and a class that is empty or not in every part.
    """
    if root is None:
        raise ValueError(f"data.root is not set: data=folder needs data.root=FOLDER, a folder that holds {LAYOUT}")
    if image_size is None:
        raise ValueError("data.image_size is not set: set it to the side, in pixels, to which every image is resized")
    if not root.exists():
        raise ValueError(f"data.root={root} does not exist{nearest_path(root)}")
    if not (root / "train").is_dir():
        raise ValueError(f"data.root={root} has no folder train: it must hold {LAYOUT}")
    skipped: Counter[str] = Counter()
    parts = {name: _by_class(root / name, skipped) for name in SETS if _is_part(root / name)}
    train = parts["train"]
    if len(train) < 2:
        raise ValueError(f"{root / 'train'} has {len(train)} class folders: at least 2 are needed")
    _check_classes(root, parts)
    notes = [f"{root / 'val'} is the validation set"] if "val" in parts else []
    if skipped:
        notes.append(f"{root}: skipped {_counted(skipped)}")
    others = (path.name for path in root.iterdir() if path.is_dir() and path.name not in SETS and path.name[0] != ".")
    if unused := sorted(others):
        notes.append(f"{root}: {', '.join(unused[:5])} will not be used: the folders of the splits are named train, val and test")
    if "test" not in parts:
        if single := next((name for name, paths in train.items() if len(paths) == 1), None):
            here = f"class {single!r} has only 1 image, and testing needs another"
            raise ValueError(f"{here}: add images or a folder {root / 'test'}")
        notes.append(f"{root / 'train'}: a fifth of each class is the test set, there is no {root / 'test'}")
    images = {name: Pictures(root, name, part, image_size) for name, part in parts.items()}
    if "test" not in images:
        whole = images["train"]
        images["test"] = whole.chosen("test", chosen := stratified(whole.targets, 0.2))
        images["train"] = whole.chosen("train", np.delete(np.arange(len(whole)), chosen))
    return Parts(images["train"], images["test"], list(train), images.get("val"), tuple(notes))


def tiny_imagenet(root: Path | None) -> Splits:
    """Tiny ImageNet, 100,000 + 10,000 images 3x64x64, from the folder that contains tiny-imagenet-200.

    Classes are in the order of their WordNet ids and have the first of their names, with the id where that is not
    unique. The parts are `Pictures`, not decoded yet. Raises ValueError where files are missing.
    """
    if root is None:
        raise ValueError(
            f"data.root is not set: unpack http://cs231n.stanford.edu/{TINY}.zip and set it to the folder with {TINY} in it"
        )
    base = root / TINY
    annotations = base / "val" / "val_annotations.txt"
    for path in (base / "wnids.txt", base / "words.txt", annotations):
        if not path.is_file():
            raise ValueError(f"data.root={root} does not hold Tiny ImageNet: there is no {path.relative_to(root)} in it")
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
    return Splits(Pictures(base, "train", train, 64), Pictures(base, "test", test, 64), classes)


def _is_part(place: Path) -> bool:
    """Whether there is such a folder of images; ValueError for what is none."""
    if place.is_dir():
        return True
    if place.exists() or place.is_symlink():
        raise ValueError(f"{place} is not a folder: it must be a folder that holds {place.name}/<class>/, or not exist")
    return False


def _by_class(place: Path, skipped: Counter[str]) -> dict[str, list[Path]]:
    """The images of each class, both in the order of their names; hidden folders are not classes."""
    found = sorted(place.iterdir())
    names = [path.name for path in found if path.is_dir() and not path.name.startswith(".")]
    skipped.update(_why(path, f"of no class in {place}") for path in found if path.name not in names)
    if wrong := [name for name in names if any("\ud800" <= letter <= "\udfff" for letter in name)]:  # Python's for other bytes
        raise ValueError(f"{place} has a class whose name is not valid UTF-8, {ascii(wrong[0])}: rename its folder")
    return {name: _pictures(place / name, skipped) for name in names}


def _check_classes(root: Path, parts: dict[str, dict[str, list[Path]]]) -> None:
    """ValueError that names the classes which are not in every part."""
    faults = []
    for part in parts:
        for other in ("train",) if part != "train" else list(parts)[1:]:
            if names := [repr(name) for name in parts[part] if name not in parts[other]]:
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                which = f"class {names[0]} is" if len(names) == 1 else f"classes {', '.join(names[:5])}{more} are"
                faults.append(f"{which} in {root / part} but not in {root / other}")
    if faults:
        raise ValueError(f"{', '.join(faults)}: all must have the same classes")


def _pictures(place: Path, skipped: Counter[str] | None = None) -> list[Path]:
    """The pictures in `place` and below, in the order of their names; what is none is counted in `skipped`."""
    others: Counter[str] = Counter()
    paths = sorted(_below(place, others)) if place.is_dir() else []
    if not paths:
        found = f", but {_counted(others)}" if others else ""
        kinds = ".png, .jpg, .webp or other picture that Pillow reads"
        raise ValueError(f"{place} holds no {kinds}{found}: add some or remove the class")
    if skipped is not None:
        skipped.update(others)
    return paths


def _below(place: Path, others: Counter[str], above: tuple[Path, ...] = ()) -> Iterator[Path]:
    here = place.resolve()
    for path in place.iterdir():
        if path.name.startswith("."):
            others[_why(path)] += 1
        elif path.suffix.lower() in SUFFIXES:
            yield path
        elif not path.is_dir():
            others[_why(path)] += 1
        elif path.resolve() in (here, *above):
            others["linked to a folder above"] += 1
        else:
            yield from _below(path, others, (here, *above))


def _why(path: Path, otherwise: str | None = None) -> str:
    """Why a file is no picture of a class."""
    if path.name.startswith("."):
        return "hidden"
    return otherwise or path.suffix.lower() or "without an extension"


def _counted(others: Counter[str]) -> str:
    shown = [f"{number} {why}" for why, number in others.most_common(5)]
    rest = others.total() - sum(number for _, number in others.most_common(5))
    return ", ".join([*shown, *([f"{rest} others"] if rest else [])])


def _read(path: Path, size: int) -> Tensor:
    """The picture as uint8 (3,size,size)."""
    if not path.is_file():  # a pipe would keep us waiting
        raise ValueError(f"cannot read the image {path}: it is not a file, or a link to a missing file; replace or remove it")
    try:
        with Image.open(path, formats=FORMATS) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode.startswith("I"):  # 16 bits a pixel, which PIL would clip at 255
                values = np.asarray(picture)
                if values.min() < 0 or values.max() > 65535:
                    raise ValueError("its pixels have more than 16 bits")
                picture = Image.fromarray((values >> 8).astype(np.uint8))
            if picture.mode == "F":
                raise ValueError("its pixels are floating-point numbers of an unknown range; save it with 8 or 16 bits")
            picture = ImageOps.fit(picture.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    # PIL reports broken files as any of these.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the image {path}: {error}; replace or remove it") from error
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
