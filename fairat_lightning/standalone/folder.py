"""The folder of an exported network: where it may be written, and that it is there whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fairat_lightning.settings import reachable, switch

WEIGHTS, CODE, CARD = FILES = ("model.safetensors", "model.py", "README.md")


def destination(to: Any, overwrite: Any) -> Path:
    """The folder to write, with links followed. ValueError unless it is new, empty, or an export that may be replaced."""
    if to is None:
        raise ValueError("to is not set: set to=FOLDER, the folder to write")
    if not isinstance(to, str) or not to:
        raise ValueError(f"to={to} must be a path")
    switch("overwrite", overwrite)
    folder = reachable(to).resolve()
    if Path.cwd().resolve().is_relative_to(folder):
        raise ValueError(f"to={to} is the working directory or above it: name another folder")
    _check_free(folder, overwrite)
    return folder


def _check_free(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file: choose another to=FOLDER")
    names = {path.name for path in folder.iterdir()}
    foreign = names - {*FILES, "__pycache__"}
    if names and (foreign or not {WEIGHTS, CODE} <= names):
        what = f"holds {min(foreign)}" if foreign else f"is not an export, without {WEIGHTS} or {CODE}"
        raise ValueError(f"{folder} {what}: it is never replaced; choose another to=FOLDER")
    if names and not overwrite:
        raise ValueError(f"{folder} holds an export: set overwrite=true to replace it")


@contextmanager
def staged(folder: Path, overwrite: bool) -> Iterator[Path]:
    """A folder beside `folder` that takes its place at the end; after an error nothing is left of it."""
    made = [path for path in folder.parents if not path.exists()]
    part, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{what}") for what in ("partial", "old"))
    try:
        part.mkdir(parents=True)
        yield part
        _check_free(folder, overwrite)  # again: the proof took its time
        if folder.exists():
            folder.rename(old)
        try:
            part.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise ValueError(f"to={folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        for path in made:
            with suppress(OSError):  # not empty: the export is in it
                path.rmdir()
