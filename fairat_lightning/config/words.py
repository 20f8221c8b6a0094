"""The words of a command before Hydra composes them: own folders of options, and own parts."""

import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

FLAGS = ("--config-dir", "-cd")
WITH_CUSTOM = (
    "data",
    "model",
    "attack",
    "objective",
    "method",
    "awp",
    "averaging",
    "head",
    "optim",
    "schedule",
)  # have an option `custom`


def with_config_dir(words: Sequence[str]) -> list[str]:
    """`--config-dir FOLDER` as Hydra's own word for it; ValueError where there is no such folder."""
    folders, rest = _taken_out(words)
    return [*rest, *(f"hydra.searchpath=['file://{folder.absolute()}']" for folder in folders)]


def own_options(words: Sequence[str]) -> list[str]:
    """group=option of every YAML in the folders of `--config-dir`."""
    folders, _ = _taken_out(words)
    files = [path.relative_to(folder) for folder in folders for path in sorted(folder.rglob("*.yaml"))]
    return [f"{path.parent}={path.stem}" for path in files if str(path.parent) != "."]


def _taken_out(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    folders, others, rest = [], [], iter(words)
    for word in rest:
        flag, given, value = word.partition("=")
        if flag not in FLAGS:
            others.append(word)
            continue
        folders.append(folder := Path(value if given else next(rest, "")).expanduser())
        if not folder.is_dir() or str(folder) == ".":
            raise ValueError(f"{flag} {folder} must be a folder that holds options in folders: FOLDER/method/mine.yaml")
    return folders, others


def with_own_parts(words: Sequence[str]) -> list[str]:
    """Where GROUP._target_ is given and no option of GROUP: the option `custom`, which has no values but those that are given.

    `model._target_=mypackage.Net model.depth=3` is `model=custom model._target_=mypackage.Net ++model.depth=3`.
    """
    own = [group for group in WITH_CUSTOM if any(re.match(rf"\+*{group}\._target_=", word) for word in words)]
    if unnamed := [group for group in WITH_CUSTOM if f"{group}=custom" in words and group not in own]:
        raise ValueError(f"{unnamed[0]}=custom needs {unnamed[0]}._target_=mypackage.Name, and allow=[mypackage.]")
    own = [group for group in own if not any(re.match(rf"\+?{group}=", word) for word in words)]
    new = re.compile(rf"({'|'.join(own)})\.[^=]+=")
    return [*(f"{group}=custom" for group in own), *(f"++{word}" if own and new.match(word) else word for word in words)]


def parse_word(word: str) -> Override:
    """One key=value; ValueError for anything else, and for a list of values to sweep over."""
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise ValueError(f"cannot read {word}, each word must be key=value: {error}") from error
    if override.is_sweep_override():
        raise ValueError(f"{word}: this command takes one value a key, write a list as [a,b]")
    return override
