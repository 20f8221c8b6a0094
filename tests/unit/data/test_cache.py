"""Images in a file train as those in memory do, and a file that is not whole and right is never used."""

import errno
import os
import resource
import subprocess
import sys
from collections import namedtuple
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import FOLDER, ROOT, call, network_weights, refused, rows
from PIL import Image

from fairat_lightning.data import DataModule, Images, cache
from fairat_lightning.data.folders import Pictures, folder
from fairat_lightning.data.images import Mapped, Splits

EACH = 20  # images of each class and part
SMALL_CHUNK = 7 * 3 * 8 * 8  # seven images


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of training images that are all different, and no other part."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / "train" / name).mkdir(parents=True)
        for k in range(EACH):
            Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8)).save(tmp_path / f"photos/train/{name}/{k:02}.png")
    return tmp_path / "photos"


def read(photos: Path, in_memory: bool | None = False, **options: Any) -> DataModule:
    load = partial(folder, image_size=8)
    data = DataModule(load, root=photos, batch_size=8, in_memory=in_memory, cache=photos.parent / "cache", **options)
    data.prepare()
    return data


def files(photos: Path) -> list[str]:
    return sorted(path.name for path in (photos.parent / "cache").iterdir() if path.suffix != ".lock")


def equal(data: DataModule, other: DataModule) -> bool:
    pairs = [(getattr(data, part), getattr(other, part)) for part in ("train", "val", "test")]
    return all(torch.equal(a.pixels[:], b.pixels[:]) and torch.equal(a.targets, b.targets) for a, b in pairs)


def test_a_training_has_the_same_bits_and_the_same_name(monkeypatch, capsys, tmp_path, photos):
    words = [
        *FOLDER[:-1],
        "method=fairat",
        "trainer.max_epochs=2",
        "data.val_per_class=3",
        "data.train_size=20",
    ]
    for place, more in {"memory": [], "file": ["data.in_memory=false", f"data.cache={tmp_path / 'cache'}"]}.items():
        code, out, err = call(monkeypatch, capsys, tmp_path, *words, f"hydra.run.dir={place}", *more)
        assert (code, err) == (0, "")
    assert "Decoding 32 images once, into" in out and len(files(photos)) == 2
    memory, file = tmp_path / "memory", tmp_path / "file"
    a, b = network_weights(memory), network_weights(file)
    assert all(torch.equal(a[name], b[name]) for name in a) and rows(memory) == rows(file)
    assert np.array_equal(*(np.load(place / "hardest.npz")["pixels"] for place in (memory, file)))
    assert (memory / "metrics.json").read_text() == (file / "metrics.json").read_text()
    code, out, err = call(monkeypatch, capsys, tmp_path, *words, "hydra.run.dir=memory", *more)
    assert code == 0 and "This run is finished" in out
    for place in ("memory", "file"):
        code, _, err = call(monkeypatch, capsys, tmp_path, f"checkpoint={place}", f"to={place}", command="evaluate")
        assert (code, err) == (0, "")
    assert (memory / "evaluation/quick/samples.jsonl").read_text().splitlines()[1:] == (
        (file / "evaluation/quick/samples.jsonl").read_text().splitlines()[1:]
    )


def test_batches_and_splits_come_from_the_one_file(photos):
    memory, file = read(photos, True), read(photos, val_per_class=None)
    assert isinstance(memory.train.pixels, torch.Tensor) and equal(memory, file)
    for loader in ("train_dataloader", "scoring_dataloader", "val_dataloader", "test_dataloader"):
        for one, other in zip(getattr(memory, loader)(), getattr(file, loader)(), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert isinstance(file.train.pixels, Mapped) and isinstance(file.val.pixels, Mapped)
    assert file.train.pixels.array is file.val.pixels.array and not file.train.pixels.array.flags.writeable
    assert torch.equal(file.train.pixels.to(torch.device("cpu")), memory.train.pixels)


def test_the_file_is_made_once(photos, capsys):
    read(photos)
    assert capsys.readouterr().out.count("Decoding") == 2  # train and test
    read(photos)
    assert "Decoding" not in capsys.readouterr().out


def test_what_does_not_fit_the_memory_stays_in_files_and_a_line_says_so(monkeypatch, photos, capsys):
    size = 2 * EACH * 3 * 8 * 8
    monkeypatch.setattr(cache, "available_memory", lambda: 3 * size)
    assert isinstance(read(photos, None).train.pixels, torch.Tensor) and "The decoded" not in capsys.readouterr().out
    monkeypatch.setattr(cache, "available_memory", lambda: 3 * size - 3)
    assert isinstance(read(photos, None).train.pixels, Mapped)
    assert "The decoded images take 0.0 MB, more than a third of the free memory" in capsys.readouterr().out


def test_each_process_of_a_machine_takes_memory_of_its_own(monkeypatch, photos, capsys):
    monkeypatch.setattr(cache, "available_memory", lambda: 3 * 2 * (2 * EACH * 3 * 8 * 8))
    kinds = []
    for processes in (2, 3):
        data = DataModule(partial(folder, image_size=8), root=photos, cache=photos.parent / "cache")
        data.processes = processes
        data.prepare()
        kinds.append(type(data.train.pixels))
    assert kinds == [torch.Tensor, Mapped] and "0.0 MB in each of 3 processes, more than" in capsys.readouterr().out


def test_the_free_memory_is_that_of_the_machine_or_of_the_control_group(monkeypatch):
    free = cache.available_memory()
    assert 0 < free < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(cache, "_group_limits", lambda: iter([12345]))
    assert cache.available_memory() == 12345


def interrupted(monkeypatch: pytest.MonkeyPatch, photos: Path, after: int) -> None:
    """A reading that ends in the middle, after so many chunks of seven images."""
    chunks, decode = [], Pictures.decode

    def once(self: Pictures, start: int, stop: int) -> torch.Tensor:
        if len(chunks) == after:
            raise KeyboardInterrupt
        chunks.append(start)
        return decode(self, start, stop)

    monkeypatch.setattr(cache, "CHUNK", SMALL_CHUNK)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Pictures, "decode", once)
        read(photos)


def test_an_interrupted_file_is_continued(monkeypatch, photos, capsys):
    interrupted(monkeypatch, photos, 2)
    assert [name.rpartition(".")[2] for name in files(photos)] == ["partial", "progress"]
    capsys.readouterr()
    assert equal(read(photos), read(photos, True))
    assert "Decoding 32 images once" in (out := capsys.readouterr().out) and "; 14 of them are there already" in out
    assert [name.rpartition(".")[2] for name in files(photos)] == ["npy", "npy"]


@pytest.mark.parametrize("harm", ["short", "no record", "wrong record"])
def test_an_interrupted_file_without_a_right_record_is_begun_anew(monkeypatch, photos, capsys, harm):
    interrupted(monkeypatch, photos, 2)
    (partial_file,), (progress,) = ((photos.parent / "cache").glob(f"*.{end}") for end in ("partial", "progress"))
    if harm == "short":
        partial_file.write_bytes(partial_file.read_bytes()[:200])
    else:
        progress.unlink() if harm == "no record" else progress.write_text('{"images": "many"}')
    capsys.readouterr()
    assert equal(read(photos), read(photos, True)) and "already" not in capsys.readouterr().out


def test_changed_images_are_decoded_anew_and_their_old_file_is_removed(photos, capsys):
    read(photos)
    before, path = files(photos), photos / "train" / "cat" / "03.png"
    content = path.read_bytes()
    Image.fromarray(np.full((9, 9, 3), 7, np.uint8)).save(path)
    path.write_bytes(path.read_bytes() + b"\0" * (len(content) - path.stat().st_size))  # as long as before
    capsys.readouterr()
    assert equal(read(photos), read(photos, True))
    assert "is of images that have changed since, or of another version, and is removed" in capsys.readouterr().out
    assert len(files(photos)) == len(before) and files(photos) != before


def test_a_file_of_another_version_is_not_used(monkeypatch, photos, capsys):
    monkeypatch.setattr(cache, "VERSION", 0)
    read(photos)
    for path in (photos.parent / "cache").glob("*.npy"):
        np.lib.format.open_memmap(path, mode="r+")[:] = 0
    monkeypatch.undo()
    capsys.readouterr()
    assert equal(read(photos), read(photos, True))
    assert capsys.readouterr().out.count("of another version, and is removed") == 2


@pytest.mark.parametrize("harm", ["cut", "empty", "text", "other shape", "archive"])
def test_a_damaged_file_is_not_used(photos, capsys, harm):
    read(photos)
    for path in (photos.parent / "cache").glob("*.npy"):
        if harm == "other shape":
            np.save(path, np.zeros((3, 3), np.uint8))
        elif harm == "archive":
            np.savez(path.with_suffix(".npz"), np.zeros(3))
            path.with_suffix(".npz").replace(path)
        else:
            path.write_bytes({"cut": path.read_bytes()[:-100], "empty": b"", "text": b"no images"}[harm])
    capsys.readouterr()
    assert equal(read(photos), read(photos, True))
    assert capsys.readouterr().out.count("is damaged, and is removed: the images are decoded again") == 2


def test_exchanged_pictures_of_one_size_and_time_are_decoded_again(photos):
    """Their classes change places, and no file's own size or time of change does."""
    shape = (9, 9, 3)
    for value, path in enumerate(sorted(photos.rglob("*.png"))):
        path.unlink()
        Image.fromarray(np.full(shape, value, np.uint8)).save(path.with_suffix(".bmp"))
        os.utime(path.with_suffix(".bmp"), (1e9, 1e9))
    read(photos)
    train = photos / "train"
    for old, new in (("cat", "other"), ("dog", "cat"), ("other", "dog")):
        (train / old).rename(train / new)
    assert equal(read(photos), read(photos, True))


def test_a_file_that_may_not_grow_is_named_and_not_the_data(monkeypatch, capsys, tmp_path, photos):
    """What is still in a buffer must not be written again, and fail again, when the file is closed."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(cache, "CHUNK", SMALL_CHUNK)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        code, _, err = call(monkeypatch, capsys, tmp_path, *FOLDER, "data.in_memory=false", f"data.cache={tmp_path / 'cache'}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    refused(code, err, "cache cannot be written: File too large; set data.cache=FOLDER")


def test_a_full_disk_is_one_line_and_what_is_there_is_kept(monkeypatch, capsys, tmp_path, photos):
    words = [*FOLDER, "data.in_memory=false", f"data.cache={tmp_path / 'cache'}"]
    with monkeypatch.context() as patch:
        patch.setattr(cache.shutil, "disk_usage", lambda place: namedtuple("Usage", "free")(1000))
        code, _, err = call(monkeypatch, capsys, tmp_path, *words)
        refused(code, err, "cache: the decoded images take 0.0 MB, and the disk has 0.0 MB free: free some space")
    synced, fsync = [], os.fsync

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 3:  # of the first chunk, of its record, of the second chunk
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(cache, "CHUNK", SMALL_CHUNK)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, _, err = call(monkeypatch, capsys, tmp_path, *words)
        refused(code, err, "the disk is full after 7 of 32 images: free some space and give the command again")
    assert not (tmp_path / "run").exists()
    code, out, err = call(monkeypatch, capsys, tmp_path, *words)
    assert code == 0 and "; 7 of them are there already" in out, err


def test_a_folder_that_cannot_be_written_is_one_line(monkeypatch, capsys, tmp_path, photos):
    (tmp_path / "file").touch()
    for place, said in {"file": "cannot be written: File exists", "file/below": "cannot be written: Not a directory"}.items():
        words = (*FOLDER, "data.in_memory=false", f"data.cache={place}")
        code, _, err = call(monkeypatch, capsys, tmp_path, *words)
        refused(code, err, f"data.cache={place} {said}; set data.cache=FOLDER")
    for word, said in {"data.in_memory=often": "must be true or false", "data.cache=3": "must be a folder"}.items():
        code, _, err = call(monkeypatch, capsys, tmp_path, *FOLDER, word)
        refused(code, err, said)


WAITING = """
import sys, time
from functools import partial
from pathlib import Path
from fairat_lightning.data import DataModule, cache
from fairat_lightning.data.folders import Pictures, folder

photos = Path(sys.argv[1])
told, say, decode = photos.parent / "told", cache._say, Pictures.decode

def decode_late(self, start, stop):
    for _ in range(600):  # until the other process has said that it waits
        if told.exists():
            break
        time.sleep(0.1)
    return decode(self, start, stop)

cache._say = lambda line: (say(line), told.touch() if line.startswith("Another process") else None)
Pictures.decode = decode_late
data = DataModule(partial(folder, image_size=8), root=photos, in_memory=False, cache=photos.parent / "cache")
data.prepare()
print(int(data.train.pixels[:].long().sum()))
"""


def test_of_two_processes_one_decodes_and_the_other_waits(photos):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WAITING, str(photos)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) for _ in range(2)]
    said = [process.communicate(timeout=200)[0].splitlines() for process in both]
    lines = [line for one in said for line in one]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("Decoding 32 images once" in line for line in lines) == 1, lines
    assert any("Another process is decoding" in line for line in lines)
    total = str(int(read(photos, True).train.pixels[:].long().sum()))
    assert [one[-1] for one in said] == [total, total]


def brought(train: Any, test: Any | None = None, in_memory: bool = False, at: Path | None = None) -> DataModule:
    load = lambda root: Splits(train, train if test is None else test, ["a", "b"])  # noqa: E731
    data = DataModule(load, batch_size=4, in_memory=in_memory, cache=at)
    data.prepare()
    return data


def test_images_that_come_decoded_stay_in_memory_and_a_line_says_so(tmp_path, capsys):
    images = Images(torch.zeros(8, 1, 2, 2, dtype=torch.uint8), torch.arange(8) % 2)
    assert isinstance(brought(images, at=tmp_path / "cache").train.pixels, torch.Tensor)
    assert "data.in_memory=false has no effect on this data set" in capsys.readouterr().out
    assert not (tmp_path / "cache").exists()
