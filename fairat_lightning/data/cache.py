"""Images that are decoded once: into memory, or into a file from which only the images of each batch are read.

The file is NumPy's `.npy`, uint8 (N,C,H,W), mapped into the memory of every process that trains on it: the system shares its
pages among the processes and takes them back when it needs room. Its name ends with a version and a key, a hash of what the
images are, so that a file of other images or another version is never used. It is written under another name, with a
record of how many images are safely on the disk, and has its own name when it is complete; who is interrupted continues there.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO, FileIO
from math import prod
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from numpy.typing import NDArray

from fairat_lightning.data.images import CHUNK, Images, Mapped, Undecoded
from fairat_lightning.record.atomic_write import write_json

VERSION = 1  # of the files, and of how images are decoded
SHARE = 1 / 3  # of the free memory that images may take: splitting them takes as much again for a moment
FULL = (errno.ENOSPC, errno.EDQUOT)


def downloads() -> Path:
    """The folder where a data set is looked for, and downloaded to, if no `root` is given."""
    return Path(os.environ.get("FAIRAT_LIGHTNING_DATA") or "~/.cache/fairat_lightning").expanduser()


def decoded(
    parts: Mapping[str, Images | Undecoded], in_memory: bool | None = None, cache: Path | None = None, processes: int = 1
) -> dict[str, Images]:
    """The parts of a set, those that are `Undecoded` now decoded: in memory, or mapped from files in the folder `cache`.

    `in_memory` None decides by their size, times the `processes` of this machine that each decode them; a line says so where they
    do not fit. `cache` None is the folder `decoded` beside the downloaded sets. Raises ValueError where the disk is full or the
    folder cannot be written, MemoryError where the memory is.
    """
    waiting = [part for part in parts.values() if not isinstance(part, Images)]
    place = downloads() / "decoded" if cache is None else cache
    if not waiting and in_memory is False:
        _say("data.in_memory=false has no effect on this data set: its images come decoded, and stay in memory")
    if waiting and in_memory is None:
        size, free = sum(len(part) * prod(part.shape) for part in waiting), available_memory()
        in_memory = size * processes <= SHARE * free
        if not in_memory:
            each = f" in each of {processes} processes" if processes > 1 else ""
            _say(
                f"The decoded images take {_gb(size)}{each}, more than a third of the free memory, {_gb(free)}:"
                f" they stay in files in {place}; data.in_memory=true keeps them in memory"
            )
    read = _in_memory if in_memory else (lambda part: Images(Mapped(_cached(part, place)), part.targets))
    return {name: part if isinstance(part, Images) else read(part) for name, part in parts.items()}


def available_memory() -> int:
    """Bytes that this process may still take: of the machine, or of its control group where that has less."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError):  # no Linux
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([free, *_group_limits()])


def _group_limits() -> Iterator[int]:
    """What each control group of this process may still take, of those with a limit (Linux, version 2)."""
    base = Path("/sys/fs/cgroup")
    try:
        own = Path("/proc/self/cgroup").read_text().partition("0::/")[2].splitlines()
    except OSError:
        return
    group = base / (own[0] if own else "")
    for place in (group, *group.parents):
        if place.is_relative_to(base) and (place / "memory.max").is_file():
            limit, taken = (place / "memory.max").read_text().strip(), (place / "memory.stat").read_text().split()
            if limit != "max":
                yield max(0, int(limit) - int(taken[taken.index("anon") + 1]))


def _in_memory(part: Undecoded) -> Images:
    try:
        pixels = torch.empty(len(part), *part.shape, dtype=torch.uint8)
    except RuntimeError as error:  # how torch reports too little memory
        raise MemoryError from error
    for start, stop in _chunks(part, 0):
        pixels[start:stop] = part.decode(start, stop)
    return Images(pixels, part.targets)


def _cached(part: Undecoded, place: Path) -> NDArray[np.uint8]:
    """The images of `part`, mapped from their file in `place`, which is written now if it is not there."""
    path = place / f"{part.name}-v{VERSION}-{part.key()}.npy"
    shape = (len(part), *part.shape)
    if (found := _mapped(path, shape)) is not None:  # without the lock, which a folder that is only read cannot hold
        return found
    with _explained(place):
        place.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place / f".{part.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _say(f"Another process is decoding the images of {path}: this one waits for it")
            lock.acquire()
    try:
        if (found := _mapped(path, shape)) is None:
            _build(part, path, shape)
            found = _mapped(path, shape)
        assert found is not None
        return found
    finally:
        lock.release()


def _mapped(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The images of a file; None where there is none, or it is damaged."""
    try:
        found = np.lib.format.open_memmap(path, mode="r")
    except (FileNotFoundError, NotADirectoryError, ValueError, EOFError):  # the last two: it is cut off, or no array of NumPy's
        return None
    except OSError as error:
        raise ValueError(f"data.cache: {path} cannot be read: {error.strerror}; remove it, or set data.cache=FOLDER") from error
    return found.view(np.ndarray) if found.shape == shape and found.dtype == np.uint8 else None


def _build(part: Undecoded, path: Path, shape: tuple[int, ...]) -> None:
    """Decode all images into the file at `path`, from where an earlier attempt has stopped."""
    place, partial, progress = path.parent, path.with_suffix(".partial"), path.with_suffix(".progress")
    head, each = BytesIO(), prod(shape[1:])
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with _explained(place):
        others = f"{part.name}-*" if part.replaces else f"{part.name}-*{path.stem.rpartition('-')[2]}.*"
        for old in set(place.glob(others)) - {partial, progress}:
            if old.suffix == ".npy":
                wrong = "is damaged" if old == path else "is of images that have changed since, or of another version"
                _say(f"{old} {wrong}, and is removed: the images are decoded again")
            old.unlink()
        done = _done(progress, partial, head.getvalue(), each)
        if (size := prod(shape) - done * each) > (free := shutil.disk_usage(place).free):
            raise ValueError(
                f"data.cache={place}: the decoded images take {_gb(size)}, and the disk has {_gb(free)} free: free some"
                f" space, or set data.cache=FOLDER on another disk or a smaller data.image_size"
            )
        kept = f"; {done:,} of them are there already" if done else ""
        _say(f"Decoding {shape[0]:,} images once, into {path} ({_gb(prod(shape))}){kept}")
        file = partial.open("r+b" if done else "wb", buffering=0)  # a buffer would be written again when the file is closed
    with file:
        with _explained(place):
            _write(file, head.getbuffer())
            file.seek(head.tell() + done * each)
            file.truncate()
        for start, stop in _chunks(part, done):
            pixels = part.decode(start, stop)
            with _explained(place, start, shape[0]):
                _write(file, pixels.numpy().data.cast("B"))
                os.fsync(file.fileno())
                write_json(progress, {"images": stop})
    with _explained(place):
        partial.replace(path)
        progress.unlink(missing_ok=True)


def _write(file: FileIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


def _done(progress: Path, partial: Path, head: bytes, each: int) -> int:
    """How many images of an interrupted attempt are safely on the disk, behind the same header."""
    try:
        done = json.loads(progress.read_text())["images"]
        with partial.open("rb") as file:
            same = file.read(len(head)) == head
        whole = type(done) is int and done >= 0
        return done if whole and same and partial.stat().st_size >= len(head) + done * each else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _chunks(part: Undecoded, done: int) -> Iterator[tuple[int, int]]:
    step = max(1, CHUNK // prod(part.shape))
    for start in range(done, len(part), step):
        yield start, min(start + step, len(part))


@contextmanager
def _explained(place: Path, done: int = 0, images: int = 0) -> Iterator[None]:
    """Around what is done to the files of the cache: an error of the system becomes a ValueError of one line."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise ValueError(
                f"data.cache={place}: the disk is full after {done:,} of {images:,} images: free some space and give the command"
                " again, which continues there, or set data.cache=FOLDER on another disk"
            ) from error
        raise ValueError(f"data.cache={place} cannot be written: {error.strerror}; set data.cache=FOLDER") from error


def _gb(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 5e7 else f"{size / 1e6:,.1f} MB"


@rank_zero_only
def _say(line: str) -> None:
    print(line, flush=True)
