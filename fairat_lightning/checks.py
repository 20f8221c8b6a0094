"""The checks of a setting that is a number, true or false, or a path."""

import os
from pathlib import Path
from typing import Any


def within(name: str, value: Any, interval: str) -> None:
    """ValueError naming `name` unless `value` is a number in `interval`, written as "[0, 1)" or "(0, inf)"; no boolean is."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    fits = (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and (low <= value if interval[0] == "[" else low < value)
        and (value <= high if interval[-1] == "]" else value < high)
    )
    if not fits:
        raise ValueError(f"{name}={value} must be a number in {interval}")


def whole(name: str, value: Any, least: int = 1) -> None:
    """ValueError naming `name` unless `value` is a whole number, `least` or more; no boolean is."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value} must be a whole number, {least} or more")


def switch(name: str, value: Any) -> None:
    """ValueError naming `name` unless `value` is true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value} must be true or false")


def reachable(path: str | os.PathLike[str]) -> Path:
    """`path` with ~ expanded, whether it exists or not; ValueError naming it where the system cannot look for it."""
    try:
        place = Path(path).expanduser()
        place.exists()
    except (OSError, RuntimeError) as error:  # too long, not ours to enter, or the home of somebody unknown
        raise ValueError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return place
