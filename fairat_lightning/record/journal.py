"""The verdict on every test image: one append-only file, `samples.jsonl`, from which all figures can be computed again.

The first line says what was evaluated. Every other line is one finished batch of one stage, an attack or none ("clean"):

    {"stage": "apgd_t", "index": [...], "label": [...], "predicted": [...], "crc": ...}

`index` is the image's place in the test set. An image survived a stage if `predicted` is its `label`. A line is written and
synced to disk only when its batch is finished, so that a kill at any moment loses at most the batch at work; an
incomplete last line is dropped, and any other damage is refused.

Processes that evaluate together leave `samples.jsonl` as it is and append to a file each, `samples-0.jsonl`, `samples-1.jsonl`
and so on, with the same header. The next start, or their end, takes these into `samples.jsonl`; when all is finished, its lines
have the order in which one process writes them.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairat_lightning.record import atomic_write
from fairat_lightning.record.identity import differences, in_words
from fairat_lightning.record.old_names import today

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "samples.jsonl"
CLAIMS = ".claims"  # a folder with an empty file for each batch that one of several processes has begun


@dataclass(frozen=True)
class Batch:
    """One line: the stage, and index, label, predicted class and, where it means something, cross-entropy of its images."""

    stage: str
    index: list[int]
    label: list[int]
    predicted: list[int]
    loss: list[float] | None = None


class Journal:
    """The file at `path`: begun with `header`, or continued; `batches` holds what is finished.

    ValueError, one line with the path, for a damaged file and for one with another header.
    """

    def __init__(self, path: Path, header: dict[str, Any]):
        self.path, self.header = path, json.loads(json.dumps(header))
        self.batches: list[Batch] = []
        found = read(path) if path.exists() else None
        if found is None:
            path.write_text("")
            self._append(self.header)
        else:
            check_header(path, found[0], self.header)
            self.batches = found[1]
            with path.open("rb+") as file:  # a batch that a kill cut short
                file.truncate(file.read().rfind(b"\n") + 1)
        self.begun = len(self.batches)  # how many there were when it was opened

    def append(self, batch: Batch) -> None:
        """Add a finished batch; it is on disk when this returns."""
        self._append(_row(batch))
        self.batches.append(batch)

    def claim(self, stage: str, number: int) -> bool:
        """Whether this process is to judge this batch of a stage: alone it judges every one."""
        return True

    def gather(self) -> list[Batch]:
        """What other processes have finished since the last call: there are none."""
        return []

    def merge(self) -> None:
        """Take in what processes that were stopped have left in their own files."""
        left = [batch for path in shares_of(self.path) for batch in Journal(path, self.header).batches]
        self.settle(list({(batch.stage, *batch.index): batch for batch in [*self.batches, *left]}.values()))
        self.begun = len(self.batches)

    def settle(self, batches: list[Batch]) -> None:
        """Let the file hold these finished batches, in this order; the files of single processes are removed."""
        if batches != self.batches:
            write(self.path, self.header, batches)
            self.batches = batches
        for path in shares_of(self.path):
            path.unlink()
        shutil.rmtree(self.path.with_name(CLAIMS), ignore_errors=True)

    def _append(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(_line(line))
            file.flush()
            os.fsync(file.fileno())


class Share(Journal):
    """What process `rank` of `count` adds to `journal`, in a file of its own; `batches` holds what any of them has finished.

    `check` is called before the files of the others are read, and raises where one of them has ended.
    """

    def __init__(self, journal: Journal, rank: int, count: int, check: Callable[[], None] = lambda: None):
        super().__init__(_share(journal.path, rank), journal.header)
        self.batches, self.begun, self.check = [*journal.batches], journal.begun, check
        self.claims = journal.path.with_name(CLAIMS)
        self.claims.mkdir(exist_ok=True)
        self.read = {_share(journal.path, other): 0 for other in range(count) if other != rank}  # bytes of each

    def claim(self, stage: str, number: int) -> bool:
        """Whether this process is to judge this batch of a stage: the first that asks."""
        try:
            (self.claims / f"{stage}-{number}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def gather(self) -> list[Batch]:
        self.check()
        found = [batch for path in self.read for batch in self._new(path)]
        self.batches += found
        return found

    def _new(self, path: Path) -> list[Batch]:
        """The batches that another process has added to its file since it was last read."""
        begun = self.read[path]
        try:
            with path.open("rb") as file:
                file.seek(begun)
                complete = file.read().rpartition(b"\n")[0]
        except FileNotFoundError:
            return []  # it has not opened it yet
        if not complete:
            return []
        self.read[path] += len(complete) + 1
        lines = _lines(path, complete)
        if not begun:
            check_header(path, lines.pop(0), self.header)
        return [_batch(path, number, line) for number, line in enumerate(lines, 2)]


def shares_of(path: Path) -> list[Path]:
    """The files of single processes beside the journal at `path`."""
    return sorted(path.parent.glob(f"{path.stem}-[0-9]*{path.suffix}"))


def _share(path: Path, rank: int) -> Path:
    return path.with_stem(f"{path.stem}-{rank}")


def check_header(path: Path, found: dict[str, Any], header: dict[str, Any]) -> None:
    """Raise ValueError where the journal at `path` is of another evaluation.

    Where the images lie does not matter: `images` says which they are.
    """
    found, header = (_anywhere(found), _anywhere(header)) if "images" in found else (found, header)
    if found != header:
        other = [f"another {k}" for k in {**found, **header} if k != "config" and found.get(k) != header.get(k)]
        differ = in_words([*differences(found.get("config") or {}, header.get("config") or {}), *other]) or "another config"
        raise ValueError(f"{path} holds another evaluation ({differ}): choose another name, or set overwrite=true to replace it")


def _anywhere(header: dict[str, Any]) -> dict[str, Any]:
    """A header without the folder of the images."""
    config = header.get("config") or {}
    data = {key: value for key, value in (config.get("data") or {}).items() if key != "root"}
    return {**header, "config": {**config, "data": data}}


def check_finished(path: Path, header: dict[str, Any]) -> None:
    """Raise ValueError where the journal at `path`, which may be read-only, is absent, damaged or of another evaluation."""
    check_header(path, (read(path) or ({}, []))[0], json.loads(json.dumps(header)))


def read(path: Path) -> tuple[dict[str, Any], list[Batch]] | None:
    """The header and the finished batches of a journal; None if not even its header is complete."""
    try:
        complete = path.read_bytes().rpartition(b"\n")[0]
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    lines = _lines(path, complete)
    return (today(lines[0]), [_batch(path, number, line) for number, line in enumerate(lines[1:], 2)]) if lines else None


def _lines(path: Path, complete: bytes) -> list[dict[str, Any]]:
    """Whole lines without their check sums; ValueError for a damaged one."""
    lines = []
    for number, text in enumerate(complete.splitlines(), 1):
        try:
            line = json.loads(text)
            crc = line.pop("crc")
        except (ValueError, AttributeError, KeyError):
            line, crc = {}, None
        if crc != _crc(line):
            raise ValueError(
                f"{path} is damaged at line {number}: set overwrite=true to start again; the lines before it are undamaged"
            )
        lines.append(line)
    return lines


def write(path: Path, header: dict[str, Any], batches: Sequence[Batch]) -> None:
    """A finished journal at once."""
    rows = [header, *map(_row, batches)]
    atomic_write.write(path, "".join(map(_line, rows)))


def by_stage(batches: Sequence[Batch]) -> dict[str, tuple[NDArray[np.int64], ...]]:
    """For each stage `index`, `label` and `predicted` (N,) of all its images, in the order of `index`."""
    import numpy as np

    stages: dict[str, list[Batch]] = {}
    for batch in batches:
        stages.setdefault(batch.stage, []).append(batch)
    result = {}
    for stage, parts in stages.items():
        rows = np.array([row for b in parts for row in zip(b.index, b.label, b.predicted, strict=True)], dtype=np.int64)
        rows = rows.reshape(-1, 3)
        result[stage] = tuple(rows[rows[:, 0].argsort(kind="stable")].T)
    return result


def _batch(path: Path, number: int, line: dict[str, Any]) -> Batch:
    try:
        batch = Batch(**line)
        whole = len(batch.index) == len(batch.label) == len(batch.predicted)
    except TypeError:
        whole = False
    if not whole:
        raise ValueError(f"{path} is damaged at line {number}: it is not a batch; set overwrite=true to start again")
    return batch


def _row(batch: Batch) -> dict[str, Any]:
    return {key: value for key, value in asdict(batch).items() if value is not None}


def _line(line: dict[str, Any]) -> str:
    return json.dumps({**line, "crc": _crc(line)}, separators=(",", ":")) + "\n"


def _crc(line: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(line, separators=(",", ":")).encode())
