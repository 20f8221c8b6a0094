"""The files of a run's or an evaluation's folder, read back. The names of classes in them are today's (`old_names.py`).

Each function gives None, or something empty, for a file that is not there and may be missing, and raises ValueError, one line
with the path, for one that is damaged.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from zipfile import BadZipFile

import yaml

from fairat_lightning.pretrained import located
from fairat_lightning.record import BEST, journal
from fairat_lightning.record.journal import Batch
from fairat_lightning.record.old_names import today
from fairat_lightning.settings import nearest_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")


class Hardest(NamedTuple):
    """The training images that FairAT found hard most often: pixels uint8 (M,C,H,W), then (M,) each."""

    pixels: NDArray[np.uint8]
    label: NDArray[np.int64]
    loss: NDArray[np.float64]
    times: NDArray[np.int64]


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """The metrics of a finished run, or None; ValueError if the file cannot be read."""
    path = folder / "metrics.json"
    if not path.exists():
        return None
    try:
        metrics = json.loads(path.read_text())
        if not metrics:
            raise ValueError("empty")
        for summary in metrics.values():
            _ = summary["worst_class"], summary["average"] + summary["worst"]
            classes = [value for value in summary["per_class"].values() if value is not None]
            if not all(isinstance(value, int | float) for value in classes):
                raise TypeError(classes)
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        raise ValueError(f"{path} is not a run's metrics.json") from None
    assert isinstance(metrics, dict)
    return metrics


def read_facts(folder: Path, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    """run.json, or `missing` where that is given and there is no such file."""
    path = folder / "run.json"
    if missing is not None and not path.exists():
        return missing
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError):
        facts = None
    if not isinstance(facts, dict):
        raise ValueError(f"{path} is missing or damaged: set overwrite=true to run it again")
    return facts


def read_config(folder: Path) -> dict[str, Any] | None:
    """config.yaml, the configuration as it was resolved."""
    return _checked(folder / "config.yaml", lambda path: today(dict(yaml.safe_load(path.read_text()).items())), None)


def read_classes(folder: Path) -> list[str] | None:
    """The names of a run's classes in the order of its logits; None where its figures, facts and card do not say them."""
    if metrics := read_metrics(folder):
        return list(next(iter(metrics.values()))["per_class"])
    named = read_facts(folder, {}).get("classes") or (read_config(folder) or {}).get("classes")
    return named if isinstance(named, list) and all(isinstance(name, str) for name in named) else None


def read_history(folder: Path) -> list[dict[str, float]]:
    """history.csv, a row an epoch; a figure that was not measured in an epoch is left out."""

    def rows(path: Path) -> list[dict[str, float]]:
        with path.open(newline="") as file:
            found = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file, strict=True)]
        if any("epoch" not in row for row in found):
            raise ValueError("a line does not say its epoch")
        return found

    return _checked(folder / "history.csv", rows, [])


def kept_epoch(folder: Path) -> dict[str, float]:
    """The row of history.csv of the epoch that a finished run has kept; empty where there is none."""
    kept = read_facts(folder).get("selected_epoch")
    return next((row for row in read_history(folder) if row["epoch"] == kept), {})


def trained_seconds(folder: Path) -> dict[str, float]:
    """Seconds of all epochs of the run, validation included, over all its sessions: of the clock, and of the processors."""
    names = {"train": "seconds", "train_cpu": "cpu_seconds"}
    try:
        rows = read_history(folder)
    except ValueError:
        rows = []
    if not rows or not all(key in row for row in rows for key in names.values()):
        raise ValueError(f"{folder / 'history.csv'} is missing or damaged: set overwrite=true to start the run again")
    return {name: round(sum(row[key] for row in rows), 1) for name, key in names.items()}


def read_hardest(folder: Path) -> Hardest | None:
    """hardest.npz."""

    import numpy as np

    def images(path: Path) -> Hardest:
        with np.load(path, allow_pickle=False) as stored:
            found = Hardest(*(stored[name] for name in Hardest._fields))
        if found.pixels.ndim != 4 or found.pixels.dtype != np.uint8 or any(len(part) != len(found.pixels) for part in found):
            raise ValueError(f"pixels {found.pixels.dtype} {found.pixels.shape} must be uint8 (M,C,H,W)")
        return found

    return _checked(folder / "hardest.npz", images, None)


def read_verdicts(folder: Path) -> tuple[dict[str, Any], list[Batch]] | None:
    """The header and the finished batches of samples.jsonl."""
    path = folder / journal.NAME
    return journal.read(path) if path.exists() else None


def evaluations(folder: Path) -> list[Path]:
    """The folders of a run's evaluations, finished or not, in the order of their names."""
    places = folder / "evaluation"
    return sorted(place for place in places.iterdir() if place.is_dir()) if places.is_dir() else []


def run_folder(checkpoint: Any) -> Path | None:
    """The run that a checkpoint belongs to: its folder, or the folder above its `checkpoints/`; None for any other file.

    The folder of a pretrained network holds the configuration of its run, and counts.
    """
    given = located(str(checkpoint))
    for path in (given, given.absolute(), given.resolve()):
        for folder in (path, path.parent.parent if path.parent.name == "checkpoints" else path):
            if (folder / "config.yaml").is_file():
                return folder
    return None


def weights_file(path: str | os.PathLike[str]) -> Path:
    """The file that the weights at `path` are in; ValueError where there is none."""
    path = located(path)
    if path.is_dir():
        for file in (path / "checkpoints" / BEST, path / "model.safetensors"):
            if file.is_file():
                return file
        raise ValueError(f"{path} holds no checkpoints/{BEST}: give a run folder or a checkpoint")
    if not path.exists():
        raise ValueError(f"{path} does not exist: give a run folder or a checkpoint{nearest_path(path)}")
    return path


def check_checkpoint(checkpoint: Any) -> None:
    """ValueError unless `checkpoint`, as a command sets it, names weights that exist and whose network is known."""
    if checkpoint is None:
        raise ValueError(
            "checkpoint is not set: set checkpoint=PATH to a run folder, a checkpoint, a state dict or pretrained:NAME"
        )
    if not isinstance(checkpoint, str) or not checkpoint:
        raise ValueError(f"checkpoint={checkpoint} must be a path")
    if Path(checkpoint).expanduser().is_dir() and run_folder(checkpoint) is None:
        raise ValueError(f"checkpoint={checkpoint} has no config.yaml: name the file with the weights, and set model= and data=")
    weights_file(checkpoint)


def _checked(path: Path, read: Callable[[Path], T], missing: T) -> T:
    """`read(path)`, or `missing` without such a file; ValueError with the path for whatever is wrong in it."""
    if not path.exists():
        return missing
    try:
        return read(path)
    except (OSError, EOFError, csv.Error, ValueError, TypeError, KeyError, AttributeError, BadZipFile, yaml.YAMLError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{path} cannot be read: {reason}") from None
