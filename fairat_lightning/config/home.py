"""`~` in the arguments of a command, which a shell leaves alone after most keys and Hydra's grammar refuses outside of quotes.

The words are changed before Hydra reads them: a run's configuration, and with it its name, holds the whole path, as if the shell
had expanded it; its record holds the command as it was typed. What is in quotes is left as it is written, because names of runs
were made from it: whoever reads such a path expands it then. Hydra's own paths, which are in no name, are expanded there too.
"""

import os
import re
from collections.abc import Sequence

VERBATIM = ("study", "storage")  # of a search: Hydra cannot read their values
FIRST = re.compile(r"^((?:sqlite:///)?)(~[^/]*)")  # what may stand for a home at the start of a path
QUOTED = r"'(?:\\.|[^'\\])*'" + r'|"(?:\\.|[^"\\])*"'
PART = re.compile(QUOTED + r"|(?:\\.|\$\{[^{}]*\}|[^\\\[\](){},'\"])+")  # of a list, a choice or a dictionary


def expanded(words: Sequence[str]) -> list[str]:
    """The overrides of a command, with every ~ as Hydra can read it. ValueError for the home of an unknown user."""
    return [_word(word) for word in words]


def expanded_plainly(words: Sequence[str]) -> list[str]:
    """The same for a command whose arguments Hydra does not read: paths, NAME=PATH and --option=PATH."""
    return [_plain(word) for word in words]


def _word(word: str) -> str:
    key, sign, value = word.partition("=")
    if not sign or "~" not in value or key.startswith("~"):  # ~key takes a key away
        return word
    if key.startswith("--") or key in VERBATIM:
        return _plain(word)
    inside = "{" in re.sub(r"\$\{[^{}]*\}", "", value)
    parts = re.compile(PART.pattern.replace("[^\\\\", "[^:\\\\")) if inside else PART
    hydras = key.lstrip("+").startswith("hydra.")
    return f"{key}={parts.sub(lambda found: _part(found[0], hydras), value)}"


def _part(text: str, hydras: bool) -> str:
    mark = text[0]
    if mark in "'\"":
        return _quoted(text[1:-1].replace("\\" + mark, mark), mark) if hydras else text
    if "~" not in text:
        return text
    bare = text.lstrip()
    return text[: len(text) - len(bare)] + _quoted(re.sub(r"\\(.)", r"\1", bare))


def _quoted(path: str, mark: str = "'") -> str:
    return mark + _path(path).replace(mark, "\\" + mark) + mark


def _plain(word: str) -> str:
    key, sign, value = word.partition("=")
    return f"{key}={_path(value)}" if sign and not word.startswith("~") else _path(word)


def _path(path: str) -> str:
    if (found := FIRST.match(path)) is None:
        return path
    home = os.path.expanduser(found[2])
    if home == found[2]:
        raise ValueError(f"{path}: this machine has no user {home[1:]}; if the name of a file begins with ~, write ./{home}")
    return found[1] + home + path[found.end() :]
