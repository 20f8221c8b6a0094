"""A recipe that fine-tunes any run: it takes the data, network and threat model of the run that it starts from."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import ChoiceSweep

from fairat_lightning.config.targets import prefixes, stored
from fairat_lightning.config.words import CONF, parse_word
from fairat_lightning.record.reader import run_folder

RECIPES = ("recommended", "decosam")
GROUPS = {"data": "load._target_", "model": "_target_"}  # the key that says which option of the group it is
THREAT = ("norm", "eps")
NOT_OF_THE_BASE = ("_target_", "_partial_", "seed", "suggests")


def with_base(words: Sequence[str]) -> list[str]:
    """The overrides, those of the run that `init_from` names first, where the experiment is one of RECIPES.

    What the command itself sets wins. A file that belongs to no run brings nothing. Raises ValueError where the run's
    configuration cannot be read, or is of a class that is no option here, and where the jobs of a sweep need
    different ones.
    """
    given = {word.lstrip("+").partition("=")[0]: word for word in words if "=" in word}
    recipes, bases = _values(given.get("experiment")), _values(given.get("init_from"))
    if not any(recipe in RECIPES for recipe in recipes) or not bases:
        return list(words)
    if len(recipes) > 1:
        raise ValueError(
            f"{given['experiment']}: a recipe that takes its data and network from init_from needs a command of its own"
        )
    first, *others = [(path, _brought(run_folder(path), given)) for path in bases]
    for path, brought in others:
        if brought != first[1]:
            raise ValueError(
                f"init_from: {first[0]} and {path} differ in data, network, norm or eps, which the recipe takes from them:"
                " give each a command of its own"
            )
    return [*first[1], *words]


def _values(word: str | None) -> list[Any]:
    """The value of key=value, or the values of a sweep."""
    if word is None:
        return []
    override = parse_word(word, sweep=True)
    if not override.is_sweep_override():
        return [override.value()]
    if not isinstance(override.value(), ChoiceSweep):  # a glob or a range
        return []
    return [parse_word(f"{override.key_or_group}={one}").value() for one in override.sweep_string_iterator()]


def _brought(run: Path | None, given: Mapping[str, str]) -> list[str]:
    """What the recipe takes from `run`."""
    if run is None:
        return []
    allow = prefixes(parse_word(given["allow"]).value()) if "allow" in given else []
    found, brought = stored(run, [*GROUPS, "attack"], allow), []
    for group, key in GROUPS.items():
        if not {group, f"{group}._target_"} & given.keys():
            brought += [f"{group}={_option(group, _at(found[group], key))}", *_leaves(group, found[group])]
    if "attack" not in given:
        brought += [f"attack.{key}={_written(found['attack'][key])}" for key in THREAT if f"attack.{key}" not in given]
    return brought


def _option(group: str, target: str) -> str:
    """The option of conf/`group` that calls `target`."""
    for path in sorted((CONF / group).glob("*.yaml")):
        if _at(yaml.safe_load(path.read_text()), GROUPS[group]) == target:
            return path.stem
    raise ValueError(f"init_from was trained with {target}, which is no option of {group}: set {group}=NAME or {group}._target_=")


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _leaves(prefix: str, values: dict[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if key in NOT_OF_THE_BASE or (key == "root" and value is None):
            continue
        if isinstance(value, dict):
            yield from _leaves(f"{prefix}.{key}", value)
        else:
            yield f"++{prefix}.{key}={_written(value)}"


def _written(value: Any) -> str:
    """A value in Hydra's grammar."""
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, str):
        # A backslash escapes a quote, and nothing else but a backslash before one.
        return '"' + re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), value) + '"'
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
