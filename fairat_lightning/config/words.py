"""The overrides of a command before Hydra composes them: folders of the user's own options, and the user's own classes."""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from fairat_lightning.settings import nearest

PACKAGE = Path(__file__).resolve().parent.parent
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"  # installed, and in a checkout
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


def training_help() -> str:
    """What Hydra answers to `--help` alone, without composing: it looks each group up twice, which takes half a second."""
    text = yaml.safe_load((CONF / "config.yaml").read_text())["hydra"]["help"]["template"]
    options: dict[str, list[str]] = {}
    for path in sorted(CONF.glob("*/*.yaml")):
        options.setdefault(path.parent.name, []).append(path.stem)
    groups = "".join(f"{group}: {', '.join(names)}\n" for group, names in options.items())
    return str(text.replace("$APP_CONFIG_GROUPS", groups))


def with_config_dir(words: Sequence[str]) -> list[str]:
    """`--config-dir FOLDER` as Hydra's own setting for it; ValueError where there is no such folder."""
    folders, rest = _taken_out(words)
    places = ",".join("'file://" + str(folder.absolute()).replace("'", "\\'") + "'" for folder in folders)
    return [*rest, *([f"hydra.searchpath=[{places}]"] if folders else [])]


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
        folders.append(folder := Path(named := value if given else next(rest, "")).expanduser())
        if not named or not folder.is_dir():
            raise ValueError(f"{flag} {named} must be a folder with a folder for each group of options: FOLDER/method/mine.yaml")
    return folders, others


def with_own_parts(words: Sequence[str], name: str = "config") -> list[str]:
    """Where GROUP._target_ is given and no option of GROUP: the option `custom`, which has no values but those that are given.

    `model._target_=mypackage.Net model.depth=3` is `model=custom model._target_=mypackage.Net ++model.depth=3`. ValueError for
    a key that `+` adds to `conf/NAME.yaml` although it is never read.
    """
    _refuse_unreadable(words)
    _refuse_unread(words, name)
    own = [group for group in WITH_CUSTOM if any(re.match(rf"\+*{group}\._target_=", word) for word in words)]
    if unnamed := [group for group in WITH_CUSTOM if f"{group}=custom" in words and group not in own]:
        raise ValueError(f"{unnamed[0]}=custom needs the class, {unnamed[0]}._target_=mypackage.Name, and allow=[mypackage.]")
    own = [group for group in own if not any(re.match(rf"\+?{group}=", word) for word in words)]
    new = re.compile(rf"({'|'.join(own)})\.[^=]+=")
    return [*(f"{group}=custom" for group in own), *(f"++{word}" if own and new.match(word) else word for word in words)]


def _refuse_unreadable(words: Sequence[str]) -> None:
    """ValueError that names the setting which Hydra's grammar does not accept, and how to write it."""
    for before, word in zip(["", *words], words, strict=False):
        key, given, value = word.partition("=")
        if word.startswith(("-", "~")) or before.startswith("-"):  # a flag, or its value
            continue
        try:
            OverridesParser.create().parse_override(word)
        except HydraException as error:
            if not given or not key or not value and key == word:
                how = "each setting must be written key=value, without spaces around the ="
            elif re.search(r"[^\w./:%+@~-]", value) and not value.startswith(("'", '"', "[", "{")):
                how = f"put a value with special characters into quotes, and all into the shell's: '{key}=\"{value}\"'"
            else:
                how = " ".join(str(error).split())
            raise ValueError(f"cannot read {word}: {how}") from error


def _refuse_unread(words: Sequence[str], name: str) -> None:
    own_groups = any(word.startswith("hydra.searchpath=") for word in words)
    for word in words:
        key = word.partition("=")[0]
        first = first_part(key)
        if key.startswith("+") and first not in roots(name) and not (own_groups and first == key.lstrip("+")):
            raise ValueError(f"{word} adds a key that is never read: this command has no {first}{meant_root(key, roots(name))}")


def first_part(key: str) -> str:
    """The part of a key before its first dot: its group, or the key itself."""
    return re.split(r"[.@/]", key.lstrip("+"))[0]


def meant_root(key: str, known: Iterable[str]) -> str:
    """The end of a line that refuses a key for its first part: the key that the user may have meant."""
    rest = key.lstrip("+").removeprefix(first_part(key))
    return nearest(first_part(key), known).replace("?", f"{rest}?")


@cache
def roots(name: str) -> frozenset[str]:
    """The keys at the top of `conf/NAME.yaml`, and the groups that it and what it begins with compose."""
    content = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    found = {"hydra", *(key for key in content if key != "defaults")}
    for entry in content.get("defaults", []):
        if isinstance(entry, dict):
            found |= {str(group).removeprefix("override ").partition("/")[0] for group in entry}
        elif entry != "_self_":
            found |= roots(entry)
    return frozenset(found)


def parse_word(word: str, *, sweep: bool = False) -> Override:
    """One key=value; ValueError for anything else and, unless `sweep`, for a list of values to sweep over."""
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise ValueError(f"cannot read {word}, each setting must be written key=value: {error}") from error
    if override.is_sweep_override() and not sweep:
        raise ValueError(f"{word}: this command takes one value for each key; write a list as [a,b]")
    return override
