"""A recipe that fine-tunes any run: it takes the data, network and threat model of the run that it starts from."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from fairat_lightning.config.targets import prefixes, stored
from fairat_lightning.config.words import CONF, parse_word
from fairat_lightning.record.reader import run_folder

RECIPES = ("recommended",)
GROUPS = {"data": "load._target_", "model": "_target_"}  # the key that says which option of the group it is
THREAT = ("norm", "eps")
NOT_OF_THE_BASE = ("_target_", "_partial_", "seed", "suggests")


def with_base(words: Sequence[str]) -> list[str]:
    """The overrides, those of the run that `init_from` names first, where the experiment is one of RECIPES.

    What the command itself sets wins. A file that belongs to no run brings nothing. Raises ValueError where the run's
    configuration cannot be read, or is of a class that is no option here.
    """
    given = {word.lstrip("+").partition("=")[0]: word for word in words if "=" in word}
    if given.get("experiment", "").partition("=")[2] not in RECIPES or "init_from" not in given:
        return list(words)
    try:
        run = run_folder(parse_word(given["init_from"]).value())
    except ValueError:  # several values of a sweep
        return list(words)
    if run is None:
        return list(words)
    allow = prefixes(parse_word(given["allow"]).value()) if "allow" in given else []
    found, brought = stored(run, [*GROUPS, "attack"], allow), []
    for group, key in GROUPS.items():
        if not {group, f"{group}._target_"} & given.keys():
            brought += [f"{group}={_option(group, _at(found[group], key))}", *_leaves(group, found[group])]
    if "attack" not in given:
        brought += [f"attack.{key}={_written(found['attack'][key])}" for key in THREAT if f"attack.{key}" not in given]
    return [*brought, *words]


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
