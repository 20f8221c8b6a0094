from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fairat_lightning.data import DataModule, folders
from fairat_lightning.data.cache import decoded
from fairat_lightning.data.images import Parts


def save(path: Path, pixels: object, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path, **options)  # type: ignore[arg-type]


def plain(value: int, size: int = 4) -> np.ndarray:
    return np.full((size, size, 3), value, np.uint8)


def read(parts: Any) -> Any:
    """The parts of a set, decoded in memory."""
    named = Parts(*parts)._asdict()
    images = decoded({name: named[name] for name in ("train", "test", "val") if named[name] is not None}, in_memory=True)
    return Parts(*parts)._replace(**images)


def folder(root: Path | None, **options: Any) -> Any:
    return read(folders.folder(root, **options))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of five training images each, of the values 0..9, and no test folder."""
    for value in range(10):
        save(tmp_path / "train" / ("cat", "dog")[value // 5] / f"{value}.png", plain(value))
    return tmp_path


def values(images: object) -> list[int]:
    return images.pixels[:, 0, 0, 0].tolist()  # type: ignore[attr-defined]


def test_a_fifth_of_each_class_is_the_test_set_where_there_is_none(root: Path) -> None:
    train, test, classes, *_ = folder(root, image_size=4)
    assert classes == ["cat", "dog"]
    assert train.targets.tolist() == [0] * 4 + [1] * 4 and test.targets.tolist() == [0, 1]
    assert sorted(values(train) + values(test)) == list(range(10))
    assert all(value // 5 == target for value, target in zip(values(train), train.targets, strict=True))
    assert values(folder(root, image_size=4).test) == values(test)


def test_a_test_folder_is_the_test_set_and_other_files_are_none(root: Path) -> None:
    save(root / "test" / "dog" / "a.JPG", plain(200))
    save(root / "test" / "cat" / "b.jpeg", plain(100))
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    (root / "train" / "cat" / "._0.png").write_bytes(b"of a Mac")
    (root / "train" / ".cache").mkdir()
    train, test, classes, val, notes = folder(root, image_size=4)
    assert classes == ["cat", "dog"] and val is None
    assert notes == (f"{root}: skipped 2 hidden, 1 .txt",)
    assert values(train) == list(range(10))
    assert values(test) == [100, 200] and test.targets.tolist() == [0, 1]


def test_pictures_of_every_kind_and_in_folders_below_are_read(root: Path) -> None:
    kinds = (".webp", ".bmp", ".tif", ".tiff", ".gif", ".TGA", ".ppm", ".jfif", ".jp2")
    for k, suffix in enumerate(kinds):
        place = root / "train" / "dog" / "2024" / f"week {k % 2}" / f"a{suffix}"
        save(place, plain(50 + k), **({"lossless": True} if suffix == ".webp" else {}))
    (root / "train" / "dog" / "again").symlink_to(root / "train" / "dog")  # a circle
    (root / "elsewhere").mkdir()
    save(root / "elsewhere" / "b.png", plain(90))
    (root / "train" / "cat" / "linked").symlink_to(root / "elsewhere")
    (root / "train" / "cat" / "clip.mpg").write_bytes(b"no picture")
    (root / "train" / "cat" / "README").write_text("no picture")
    save(root / "train" / "loose.png", plain(0))
    found = folder(root, image_size=4)
    assert sorted(values(found.train) + values(found.test)) == [*range(10), *range(50, 50 + len(kinds)), 90]
    skipped, unused, tested = found.notes
    assert (
        skipped.startswith(f"{root}: skipped ")
        and unused == f"{root}: elsewhere will not be used: the folders of the splits are named train, val and test"
    )
    assert sorted(skipped.partition("skipped ")[2].split(", ")) == [
        *("1 .mpg", "1 linked to a folder above", f"1 of no class in {root / 'train'}", "1 without an extension"),
    ]
    assert tested.startswith(f"{root / 'train'}: a fifth")


def test_a_folder_val_is_the_validation_set(root: Path) -> None:
    for name, value in (("cat", 70), ("dog", 80)):
        for k in range(3):
            save(root / "val" / name / f"{k}.png", plain(value + k))
    found = folder(root, image_size=4)
    assert found.val is not None and values(found.val) == [70, 71, 72, 80, 81, 82]
    assert found.val.targets.tolist() == [0, 0, 0, 1, 1, 1] and found.notes[0] == f"{root / 'val'} is the validation set"
    whole, two = (DataModule(partial(folders.folder, image_size=4), root=root, val_per_class=n) for n in (None, 2))
    for data in (whole, two):
        data.prepare()
        assert len(data.train) == 8 and len(data.test) == 2  # nothing of them validates
    assert values(whole.val) == values(found.val)
    assert two.val.targets.tolist() == [0, 0, 1, 1] and set(values(two.val)) < set(values(found.val))


def test_classes_and_files_may_have_any_name(tmp_path: Path) -> None:
    for name, value in (("Füchse 狐", 1), ("b", 2)):
        save(tmp_path / "tränen" / "train" / name / "ein Bild ☃.png", plain(value))
        save(tmp_path / "tränen" / "test" / name / "ein Bild ☃.png", plain(value))
    train, _, classes, *_ = folder(tmp_path / "tränen", image_size=4)
    assert classes == ["Füchse 狐", "b"] and values(train) == [1, 2]


def test_every_kind_of_picture_becomes_eight_bit_rgb(tmp_path: Path) -> None:
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4) * 17
    kinds = {
        "1-grey": grey,
        "2-grey16": grey.astype(np.uint16) * 256 + 90,
        "3-rgb": np.stack([grey] * 3, axis=2),
        "4-rgba": np.stack([grey] * 3 + [np.full_like(grey, 255)], axis=2),
        "5-la": np.stack([grey, np.full_like(grey, 255)], axis=2),
    }
    for name, pixels in kinds.items():
        for part in ("train", "test"):
            save(tmp_path / part / "a" / f"{name}.png", pixels)
            save(tmp_path / part / "b" / f"{name}.png", pixels)
    for part in ("train", "test"):
        Image.fromarray(grey).convert("P").save(tmp_path / part / "a" / "6-palette.png")
    train = folder(tmp_path, image_size=4).train
    assert len(train) == 11
    assert torch.equal(train.pixels, torch.from_numpy(grey).expand(11, 3, 4, 4))


def test_pictures_are_upright_antialiased_and_cropped_in_the_middle(tmp_path: Path) -> None:
    checkers = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    wide = np.zeros((16, 32), np.uint8)
    wide[:8, 8:24] = 255  # the upper half of the middle
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was turned: rotate by 90 degrees to see it upright
    for name in ("a", "b"):
        save(tmp_path / "train" / name / "1.png", checkers)
        save(tmp_path / "train" / name / "2.png", wide)
        save(tmp_path / "train" / name / "3.png", wide, exif=turned)
    train, test, *_ = folder(tmp_path, image_size=8)
    pixels = torch.cat([train.pixels, test.pixels]).int()
    checkered = [p for p in pixels if (p - 127).abs().max() < 12]
    assert len(checkered) == 2
    upper = [p for p in pixels if p[:, :3].min() > 200 and p[:, 5:].max() < 50]
    right = [p for p in pixels if p[:, :, 5:].min() > 200 and p[:, :, :3].max() < 50]
    assert len(upper) == 2 and len(right) == 2


def refused(root: Path | None, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        folder(root, image_size=4)
    assert "\n" not in str(caught.value)


def test_a_folder_in_another_layout_is_refused(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    refused(None, r"data.root is not set: .* train/<class>/")
    refused(root / "train", r"has no folder train: .* train/<class>/")
    lonely = tmp_path_factory.mktemp("lonely")
    save(lonely / "train" / "cat" / "0.png", plain(0))
    refused(lonely, "1 class folders: at least 2")


def test_classes_must_be_the_same_and_not_empty(root: Path) -> None:
    save(root / "test" / "cat" / "0.png", plain(0))
    refused(root, r"class 'dog' is in \S*train but not in \S*test:")
    save(root / "test" / "dog" / "0.png", plain(0))
    save(root / "test" / "emu" / "0.png", plain(0))
    refused(root, r"class 'emu' is in \S*test but not in \S*train:")
    (root / "train" / "emu").mkdir()
    refused(root, r"train/emu holds no \.png")


def test_one_image_cannot_be_split(root: Path) -> None:
    save(root / "train" / "emu" / "0.png", plain(0))
    refused(root, "class 'emu' has only 1 image")


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_broken_image_is_named(root: Path, suffix: str, part: float) -> None:
    path = root / "train" / "cat" / f"broken.{suffix}"
    save(path, np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    refused(root, f"cannot read the image {path}")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    base = tmp_path / "tiny-imagenet-200"
    names = {"n03": "crane, a machine", "n01": "goldfish, Carassius auratus", "n02": "crane, a bird", "n09": "unused"}
    (base / "val" / "images").mkdir(parents=True)
    (base / "wnids.txt").write_text("n03\nn01\nn02\n")
    (base / "words.txt").write_text("".join(f"{wnid}\t{name}\n" for wnid, name in names.items()))
    for k, wnid in enumerate(["n01", "n02", "n03"]):
        for i in range(2):
            save(base / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", plain(100 * k + i * 10, 64))
    save(base / "train" / "n02" / "images" / "n02_1.JPEG", np.full((64, 64), 110, np.uint8))  # some are grey
    lines = []
    for k, wnid in enumerate(["n03", "n01", "n02", "n01"]):
        save(base / "val" / "images" / f"val_{k}.JPEG", plain(50 * k, 64))
        lines.append(f"val_{k}.JPEG\t{wnid}\t0\t0\t62\t62\n")
    (base / "val" / "val_annotations.txt").write_text("".join(lines))
    return tmp_path


def test_tiny_imagenet(tiny: Path) -> None:
    train, test, classes, *_ = read(folders.tiny_imagenet(tiny))
    assert classes == ["goldfish", "crane (n02)", "crane (n03)"]
    assert train.pixels.shape == (6, 3, 64, 64)
    assert values(train) == [0, 10, 100, 110, 200, 210] and train.targets.tolist() == [0, 0, 1, 1, 2, 2]
    assert values(test) == [50, 150, 100, 0] and test.targets.tolist() == [0, 0, 1, 2]


def test_tiny_imagenet_says_what_it_lacks(tiny: Path) -> None:
    with pytest.raises(ValueError, match=r"data.root is not set: .*http\S*tiny-imagenet-200.zip"):
        folders.tiny_imagenet(None)
    with pytest.raises(ValueError, match=r"no tiny-imagenet-200/wnids\.txt in it"):
        folders.tiny_imagenet(tiny / "elsewhere")
    annotations = tiny / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    annotations.write_text("val_0.JPEG\tn77\t0\t0\t62\t62\n")
    with pytest.raises(ValueError, match=r"val_0\.JPEG in class n77"):
        folders.tiny_imagenet(tiny)
