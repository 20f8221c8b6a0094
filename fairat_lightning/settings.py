"""The checks of a setting: a number, true or false, a seed, a path. And the name that a mistyped word may have been meant as.

Each check raises ValueError with one line that names the setting.
"""

import difflib
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from math import isfinite
from pathlib import Path
from typing import Any

SCORES = ("sum", "worst", "average")  # of an epoch's validation: `select`
ONE_SE = "sum_1se"  # `select`: the latest epoch within one standard error of the best by sum


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
    except (OSError, RuntimeError) as error:  # too long, without permission, or the home of an unknown user
        raise ValueError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return place


def one_of(name: str, value: Any, known: Collection[Any], more: str = "") -> None:
    """ValueError naming `name` unless `value` is one of `known`; `more` says what else the line offers."""
    if value not in known:
        listed = ", ".join(map(str, known))
        raise ValueError(f"{name}={value} is unknown: choose one of {listed}{more}{nearest(str(value), map(str, known))}")


OTHER_NAMES = {"learning_rate": "lr", "num_epochs": "max_epochs", "architecture": "model"}  # of keys, in other libraries


def nearest(word: str, names: Iterable[str]) -> str:
    """The end of a line that refuses `word`: "; did you mean NAME?", or "" where none of `names` is like it."""
    return asked(_like(word, names))


def nearest_key(key: str, keys: Iterable[str]) -> str:
    """`nearest` of a configuration's key, which is also found by its last part alone: lr is optim.lr. Up to three are named."""
    keys = list(keys)
    if found := _like(key, keys):
        return asked(found)
    last = key.rpartition(".")[2]
    ends = _like(OTHER_NAMES.get(last, last), {name.rpartition(".")[2] for name in keys})
    return asked([name for name in keys if name.rpartition(".")[2] in ends][:3])


def nearest_path(path: Path) -> str:
    """`nearest` of a path that does not exist: of those that do, with another name in the place of the first missing one."""
    missing = path
    while not missing.parent.exists() and missing.parent != missing:
        missing = missing.parent
    try:
        there = [place for place in missing.parent.iterdir() if (place / path.relative_to(missing)).exists()]
    except OSError:
        return ""
    found = _like(missing.name, [place.name for place in there if not place.name.startswith(".")])
    return asked([str(missing.with_name(name) / path.relative_to(missing)) for name in found])


@contextmanager
def value_of(name: str) -> Iterator[None]:
    """Let a ValueError begin with the name of the setting whose value it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def first_line(error: Exception) -> str:
    """What an error of somebody else's code says in its first line, or its name where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def listed(names: Sequence[str], most: int) -> str:
    """The first `most` of some names, for a line."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def asked(found: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _like(word: str, names: Iterable[str]) -> list[str]:
    """The name that `word` is most like, whatever its case; none where all are far from it."""
    known = {name.lower(): name for name in names}
    return [known[name] for name in difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.7)]


def number(name: str, value: float | str) -> float:
    """A finite float from a number or a fraction such as "8/255"; ValueError naming `name` otherwise."""
    try:
        if isinstance(value, bool):
            raise TypeError
        result = float(Fraction(value)) if isinstance(value, str) and "/" in value else float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(f"{name}={value} must be a number or a fraction such as 8/255") from None
    if not isfinite(result):
        raise ValueError(f"{name}={value} must be a finite number")
    return result


def seed_number(name: str, value: Any) -> None:
    """ValueError naming `name` unless `value` can seed every generator."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
        raise ValueError(f"{name}={value} must be a whole number from 0 to 4294967295")


def different(name: str, values: Any, kind: type, example: str) -> None:
    """ValueError naming `name` unless `values` is a list of different values of `kind`, one or more."""
    if not isinstance(values, list) or not values or not all(type(v) is kind for v in values) or len(set(values)) < len(values):
        what = "whole numbers" if kind is int else "names"
        raise ValueError(f"{name}={values} must be a list of different {what}, such as {example}")


def seed_list(values: Any) -> None:
    """ValueError unless `values` is a list of different seeds, as `seeds=[0,1,2]` gives it."""
    different("seeds", values, int, "[0,1,2]")
    for value in values:
        seed_number("seed", value)


def class_names(classes: int | Iterable[Any]) -> list[str]:
    """The names of the classes, all different; 0, 1, 2 and so on where only their number is given. Raises ValueError."""
    names = [str(k) for k in range(classes)] if isinstance(classes, int) else list(map(str, classes))
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"classes: {twice[0]} occurs twice, but each class needs a name of its own")
    return names
