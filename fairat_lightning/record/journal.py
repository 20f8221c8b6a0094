"""The verdict on every test image: one append-only file, `samples.jsonl`, from which all figures can be computed again.

The first line says what was evaluated. Every other line is one finished batch of one stage, an attack or none ("clean"):

    {"stage": "apgd_t", "index": [...], "label": [...], "predicted": [...], "crc": ...}

`index` is the image's place in the test set. An image survived a stage if `predicted` is its `label`. A line is written and
synced to disk only when its batch is finished, so that a kill at any moment loses at most the batch at work; an
incomplete last line is dropped, and any other damage is refused.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairat_lightning.record import atomic_write
from fairat_lightning.record.old_names import today

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "samples.jsonl"


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
        self.path = path
        found = read(path) if path.exists() else None
        header = json.loads(json.dumps(header))
        if found is None:
            self.batches: list[Batch] = []
            path.write_text("")
            self._append(header)
            return
        if found[0] != header:
            differ = ", ".join(k for k in {**found[0], **header} if found[0].get(k) != header.get(k))
            raise ValueError(
                f"{path} holds another evaluation (another {differ}): choose another name, or set overwrite=true to replace it"
            )
        self.batches = found[1]
        with path.open("rb+") as file:  # a batch that a kill cut short
            file.truncate(file.read().rfind(b"\n") + 1)

    def append(self, batch: Batch) -> None:
        """Add a finished batch; it is on disk when this returns."""
        self._append(_row(batch))
        self.batches.append(batch)

    def _append(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(_line(line))
            file.flush()
            os.fsync(file.fileno())


def read(path: Path) -> tuple[dict[str, Any], list[Batch]] | None:
    """The header and the finished batches of a journal; None if not even its header is complete."""
    try:
        complete = path.read_bytes().rpartition(b"\n")[0]
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
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
    return (today(lines[0]), [_batch(path, number, line) for number, line in enumerate(lines[1:], 2)]) if lines else None


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
