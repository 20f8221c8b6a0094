"""The check of a setting that is a number."""

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
