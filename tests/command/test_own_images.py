"""The user's own folder of images: what is wrong is one line that names the file, what is fine runs."""

import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import FOLDER, KINDS, SMALL, call, photos, picture, refused, start
from PIL import Image


def no_train(tmp):
    photos(tmp, parts=("test",))


def train_is_a_file(tmp):
    (tmp / "photos").mkdir()
    (tmp / "photos" / "train").write_text("cat")


def file_for_test(tmp):
    photos(tmp, parts=("train",))
    (tmp / "photos" / "test").write_text("cat")


def link_to_nowhere_for_test(tmp):
    photos(tmp, parts=("train",))
    (tmp / "photos" / "test").symlink_to(tmp / "nowhere")


def root_is_a_file(tmp):
    (tmp / "photos").write_text("cat")


def one_class_only(tmp):
    photos(tmp, ("cat",))


def no_class(tmp):
    (tmp / "photos" / "train").mkdir(parents=True)


def class_missing_in_test(tmp):
    shutil.rmtree(photos(tmp, ("cat", "dog", "emu")) / "test" / "emu")


def class_missing_in_train(tmp):
    shutil.rmtree(photos(tmp, ("cat", "dog", "emu")) / "train" / "emu")


def class_without_images(tmp):
    for part in ("train", "test"):
        (photos(tmp) / part / "emu").mkdir()


def class_of_other_files(tmp):
    (photos(tmp) / "train" / "emu").mkdir()
    (tmp / "photos/train/emu/0.txt").write_bytes(b"GIF89a")


def file_for_val(tmp):
    (photos(tmp) / "val").write_text("cat")


def classes_missing_in_val(tmp):
    photos(tmp, ("cat", "dog", "emu", "fox"), parts=("train", "test"))
    photos(tmp, ("cat", "dog", "gnu"), parts=("val",))


def more_validation_than_val_has(tmp):
    photos(tmp, parts=("train", "val", "test"))
    return "data.val_per_class=4"


def text_named_as_a_bitmap(tmp):
    (photos(tmp) / "test/cat/bad.bmp").write_text("not a picture")


def floating_point_pixels(tmp):
    Image.fromarray(np.random.rand(9, 9).astype(np.float32)).save(photos(tmp) / "train/cat/bad.tif")


def pixels_of_32_bits(tmp):
    Image.fromarray(np.full((9, 9), 1 << 20, np.int32)).save(photos(tmp) / "train/cat/bad.tif")


def postscript_named_as_a_png(tmp):
    (photos(tmp) / "train/cat/bad.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")


def one_image_a_class(tmp):
    photos(tmp, images=1)


def one_image_and_no_test(tmp):
    photos(tmp, images=1, parts=("train",))


def empty_image(tmp):
    (photos(tmp) / "train/cat/bad.png").touch()


def text_for_an_image(tmp):
    (photos(tmp) / "test/cat/bad.png").write_text("not a picture")


def half_a_jpeg(tmp):
    path = picture(photos(tmp) / "train/cat/bad.jpg", size=(64, 64))
    path.write_bytes(path.read_bytes()[:900])


def bomb(tmp):
    path = picture(photos(tmp) / "train/cat/bad.png")
    content = bytearray(path.read_bytes())
    content[16:24] = (60000).to_bytes(4) * 2  # the header's width and height
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    path.write_bytes(content)


def link_to_itself(tmp):
    (photos(tmp) / "train/cat/bad.png").symlink_to("bad.png")


def link_to_nowhere(tmp):
    (photos(tmp) / "train/cat/bad.png").symlink_to(tmp / "nowhere.png")


def pipe(tmp):
    os.mkfifo(photos(tmp) / "train/cat/bad.png")


def folder_for_an_image(tmp):
    (photos(tmp) / "train/cat/bad.png").mkdir()


def class_name_in_other_bytes(tmp):
    for part in ("train", "test"):
        (photos(tmp) / part / "cat").rename(os.fsdecode(os.fsencode(tmp / "photos" / part) + b"/\xff\xfe"))


def no_size(tmp):
    photos(tmp)
    return "data.image_size=null"


def size_beyond_memory(tmp):
    photos(tmp)
    return "data.image_size=100000000"


def two_means_for_three_channels(tmp):
    photos(tmp)
    return "model.mean=[0.5,0.5]"


def one_value_a_channel(tmp):
    photos(tmp)
    return "data.image_size=4 data.batch_size=1"


def more_validation_than_images(tmp):
    photos(tmp)
    return "data.val_per_class=3"


FOLDERS: dict[Callable[[Path], str | None], str] = {
    no_train: "has no folder train",
    train_is_a_file: "has no folder train",
    file_for_test: "photos/test is not a folder",
    link_to_nowhere_for_test: "photos/test is not a folder",
    root_is_a_file: "has no folder train",
    one_class_only: "at least 2 are needed",
    no_class: "has 0 class folders",
    class_missing_in_test: "class 'emu' is in photos/train but not in photos/test",
    class_missing_in_train: "class 'emu' is in photos/test but not in photos/train",
    class_without_images: "photos/train/emu holds no .png",
    class_of_other_files: "photos/train/emu holds no .png, .jpg, .webp or other picture that Pillow reads, but 1 .txt",
    file_for_val: "photos/val is not a folder",
    classes_missing_in_val: "classes 'emu', 'fox' are in photos/train but not in photos/val, class 'gnu' is in photos/val",
    more_validation_than_val_has: "data.val_per_class=4: class 'cat' has 3 validation images",
    text_named_as_a_bitmap: "photos/test/cat/bad.bmp",
    floating_point_pixels: "photos/train/cat/bad.tif: its pixels are floating-point",
    pixels_of_32_bits: "photos/train/cat/bad.tif: its pixels have more than 16 bits",
    postscript_named_as_a_png: "photos/train/cat/bad.png: cannot identify",
    one_image_a_class: "no training image of class 'cat', which has 1 in all: add images",
    one_image_and_no_test: "class 'cat' has only 1 image",
    empty_image: "photos/train/cat/bad.png",
    text_for_an_image: "photos/test/cat/bad.png",
    half_a_jpeg: "truncated",
    bomb: "exceeds limit",
    link_to_itself: "bad.png: it is not a file",
    link_to_nowhere: "bad.png: it is not a file",
    pipe: "bad.png: it is not a file",
    folder_for_an_image: "bad.png: it is not a file",
    class_name_in_other_bytes: "not valid UTF-8",
    no_size: "data.image_size is not set",
    size_beyond_memory: "set data.cache=FOLDER on another disk or a smaller data.image_size",
    two_means_for_three_channels: "model.mean=[0.5, 0.5]",
    one_value_a_channel: "data.batch_size=1: Expected more than 1 value per channel",
    more_validation_than_images: "data.val_per_class=3",
}


@pytest.mark.parametrize("make", FOLDERS, ids=lambda make: make.__name__)
def test_wrong_folders(monkeypatch, capsys, tmp_path, tmp_path_factory, make):
    monkeypatch.setenv("FAIRAT_LIGHTNING_DATA", str(tmp_path_factory.mktemp("cache")))
    extra = (make(tmp_path) or "").split()
    before = sorted(tmp_path.rglob("*"))
    code, _, err = call(monkeypatch, capsys, tmp_path, *FOLDER, *extra)
    refused(code, err, FOLDERS[make])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("part", ["", "train", "train/cat", "train/cat/0.png"])
def test_a_folder_that_may_not_be_read(monkeypatch, capsys, tmp_path, part):
    path = photos(tmp_path) / part
    path.chmod(0)
    code, _, err = call(monkeypatch, capsys, tmp_path, *FOLDER)
    path.chmod(0o755)
    refused(code, err, "Permission denied")


def test_what_the_system_refuses_to_read_is_one_line(monkeypatch, capsys, tmp_path):
    photos(tmp_path)

    def denied(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", denied)
    code, _, err = call(monkeypatch, capsys, tmp_path, *FOLDER)
    refused(code, err, "Permission denied: 'photos/train'")


def mixed_kinds_and_sizes(tmp):
    for k, kind in enumerate([*KINDS, "16-bit"]):
        picture(photos(tmp) / f"train/cat/{kind}.{'jpg' if kind == 'cmyk' else 'png'}", kind=kind, size=(1 + 9 * k, 20))


def unicode_names(tmp):
    photos(tmp, ("Füchse 狐", "ein Hund, braun=1 [x] {y} $z_"))
    (tmp / "photos").rename(tmp / "Bilder ä=1")
    return ["data.root='Bilder ä=1'"]


def names_that_differ_in_case(tmp):
    photos(tmp, ("Cat", "cat"))


def read_only(tmp):
    for path in [*photos(tmp).rglob("*"), tmp / "photos"]:
        path.chmod(0o555 if path.is_dir() else 0o444)


FINE: dict[Callable[[Path], list[str] | None], str] = {
    lambda tmp: photos(tmp, kind="grey") and None: "grey images",
    lambda tmp: photos(tmp, kind="16-bit") and None: "16 bits a pixel",
    lambda tmp: photos(tmp, size=(5, 30)) and ["data.image_size=5"]: "another size than 32",
    lambda tmp: photos(tmp, [f"c{i:02}" for i in range(20)], images=2) and None: "more classes than a batch",
    lambda tmp: photos(tmp, images=2) and ["data.batch_size=128"]: "fewer images than a batch",
    mixed_kinds_and_sizes: "mixed kinds and sizes",
    unicode_names: "unicode names",
    names_that_differ_in_case: "names that differ in case",
    read_only: "a folder that is read only",
}


@pytest.mark.parametrize("make", FINE, ids=FINE.values())
def test_what_is_fine_runs(monkeypatch, capsys, tmp_path, make):
    code, out, err = call(monkeypatch, capsys, tmp_path, *FOLDER, *(make(tmp_path) or []))
    assert code == 0 and (tmp_path / "run" / "metrics.json").exists(), err


def test_what_is_used_and_what_is_skipped_is_said_once(monkeypatch, capsys, tmp_path):
    place = photos(tmp_path, parts=("train", "val"), images=5)
    (place / "train" / "cat" / "notes.txt").write_text("no picture")
    (place / "validation").mkdir()
    code, out, err = call(monkeypatch, capsys, tmp_path, *FOLDER)
    assert (code, err) == (0, "")
    assert out.splitlines()[:4] == [
        "photos/val is the validation set",
        "photos: skipped 1 .txt",
        "photos: validation will not be used: the folders of the splits are named train, val and test",
        "photos/train: a fifth of each class is the test set, there is no photos/test",
    ]
    assert "8 + 10 + 2 images to train, validate and test" in out
    plain = photos(tmp_path / "plain").parent
    code, out, _ = call(monkeypatch, capsys, plain, *FOLDER)
    assert code == 0 and out.splitlines()[0] == "run"  # nothing to say


def test_an_evaluation_is_the_same_where_the_images_lie_elsewhere_and_another_where_one_has_changed(
    monkeypatch, capsys, tmp_path
):
    here, there = photos(tmp_path), photos(tmp_path / "moved")  # the same images
    call(monkeypatch, capsys, tmp_path, *FOLDER)
    words = ("checkpoint=run", "suite=quick")
    code, out, err = call(monkeypatch, capsys, tmp_path, *words, command="evaluate")
    assert (code, err) == (0, "") and "finished" not in out
    shutil.rmtree(here)
    words = (*words, f"data.root={there}")
    code, out, err = call(monkeypatch, capsys, tmp_path, *words, command="evaluate")
    assert (code, err) == (0, "") and "This evaluation is finished" in out
    code, _, err = call(monkeypatch, capsys, tmp_path, *words, "attack.eps=0.1", command="evaluate")
    refused(code, err, "holds another evaluation (attack.eps is 8/255 there and 0.1 here)")
    Image.new("RGB", (32, 32), "red").save(there / "test/cat/0.png")
    code, _, err = call(monkeypatch, capsys, tmp_path, *words, command="evaluate")
    refused(code, err, "holds another evaluation (another logits, another images)")


@pytest.mark.parametrize("way", ["evaluate", "unfinished", "absld", "fair_ard"])
def test_classes_at_other_places_are_refused_and_other_names_are_said(monkeypatch, capsys, tmp_path, way):
    """An answer "the first class" would count for another class than it was learned for."""
    photos(tmp_path, ("cat", "dog"))
    assert call(monkeypatch, capsys, tmp_path, *FOLDER)[0] == 0
    if way == "unfinished":
        (tmp_path / "run" / "metrics.json").unlink()
    for names, moved in ((("dog", "emu"), True), (("emu", "fox"), False), (("cat", "fox"), False)):
        root = photos(tmp_path / "".join(names), names)
        if way in ("evaluate", "unfinished"):
            words, command = ("checkpoint=run", "suite=quick", f"data.root={root}", f"name={names[0]}"), "evaluate"
        else:
            new = [word for word in FOLDER if not word.startswith(("data.root", "hydra"))]
            words = (*new, f"data.root={root}", f"method={way}", "method.teacher=run", f"hydra.run.dir={'_'.join(names)}")
            command = "train"
        code, out, err = call(monkeypatch, capsys, tmp_path, *words, command=command)
        if moved:
            refused(code, err, "=run has the classes cat, dog and the data have dog, emu: dog is at another place")
            assert not (tmp_path / "dog_emu").exists() and not (tmp_path / "run" / "evaluation" / "dog").exists()
        else:
            said = (
                f"the network's classes are called cat, dog, those of the data {', '.join(names)}: they are taken in this order"
            )
            assert (code, err) == (0, "") and said in out


def test_a_folder_of_any_name_runs_and_is_shown(monkeypatch, capsys, tmp_path):
    where = "hydra.run.dir='[red]Läufe[/b] $x_ 1'"
    code, out, err = call(monkeypatch, capsys, tmp_path, *SMALL, "trainer.max_epochs=1", where)
    assert code == 0 and "[red]Läufe[/b] $x_ 1/metrics.json" in out, err


IDX = {
    "label": (np.arange(20) % 11, "the label 10, but the classes are 0 to 9"),
    "count": (np.arange(19) % 10, "targets"),
    "missing": (np.arange(20) % 9, "class 'Ankle boot', which has 0 in all"),
    "empty": (np.arange(0), "no training images"),
}


@pytest.mark.parametrize("case", IDX)
def test_labels_that_do_not_fit_their_images(monkeypatch, capsys, tmp_path, case):
    labels, said = IDX[case]
    images = np.zeros((0 if case == "empty" else 20, 28, 28))
    for part in ("train", "t10k"):
        for name, values in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            head = b"\0\0\x08" + bytes([values.ndim]) + np.asarray(values.shape, ">i4").tobytes()
            (tmp_path / name).write_bytes(head + values.astype(np.uint8).tobytes())
    words = ("data=fashion_mnist", f"data.root={tmp_path}", "model.width=1", "trainer=cpu")
    code, _, err = call(monkeypatch, capsys, tmp_path, *words)
    refused(code, err, said)
    assert len(list(tmp_path.iterdir())) == 4


# -- real processes


@pytest.mark.slow
def test_a_real_process(tmp_path):
    pipe(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = start(tmp_path, *FOLDER)
    refused(done.returncode, done.stderr, "photos/train/cat/bad.png: it is not a file")
    assert sorted(tmp_path.rglob("*")) == before
