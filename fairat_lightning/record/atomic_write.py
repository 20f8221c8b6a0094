"""Files that are on the disk whole or not at all."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write(path: Path, content: str | bytes | memoryview, *, before: Callable[[], Any] | None = None) -> None:
    """Write atomically: a reader sees the old file or the new one, never half of it, also after a power cut.

    `before` is called when the new file is complete, and not yet in its place.
    """
    partial = _partial(path)
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        if before is not None:
            before()
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def try_place(path: Path) -> None:
    """OSError where `write` could not put a file at `path`; nothing is left of the attempt."""
    partial = _partial(path)
    partial.touch()
    partial.unlink()


def write_json(path: Path, value: Any) -> None:
    write(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")
