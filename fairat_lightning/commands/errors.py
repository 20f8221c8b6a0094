"""An error of a command as one line and an exit code.

Exit codes: 0 done, 1 it could not be done, 2 wrong input, 75 stopped: the same command goes on.
"""

import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from fairat_lightning.record.environment import install


class Stop(SystemExit):
    """The end of the command with an exit code other than 0, and the line that says why."""

    def __init__(self, code: int, line: str):
        super().__init__(code)
        self.line = line
        print(f"error: {line}", file=sys.stderr, flush=True)


def refuse(error: Exception | str, folder: Path | None = None) -> NoReturn:
    """One line on stderr, exit code 2, and no empty folder left behind."""
    error = behind(error) if isinstance(error, Exception) else error
    with suppress(OSError):  # it is not empty, not there, or not ours
        if folder is not None:
            folder.rmdir()
    raise Stop(2, one_line(str(error))) from None


def behind(error: Exception) -> Exception:
    """What Hydra met when it built a part, instead of its own words for that."""
    from hydra.errors import InstantiationException

    while isinstance(error, InstantiationException) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def one_line(text: str) -> str:
    """Our own errors are one line already; Hydra's and OmegaConf's say it in several, with their own affairs below."""
    if found := re.match(r"Could not override '(.+)'", text):
        return f"there is no key {found[1]}: --help lists the usual ones"
    if found := re.match(r"(?s).*?Could not find '(\S+)/(\S+)'.*?Available options in '\S+':(.+?)(Config search path|$)", text):
        launchers = [name for name in ("joblib", "submitit") if name not in found[3]]
        if found[1] == "hydra/launcher" and found[2].startswith(tuple(launchers)):
            return f"{found[1]}={found[2]} is not installed: {install('sweeps')}"
        return f"{found[1]}={found[2]} is unknown: choose one of {', '.join(found[3].split())}"
    if re.match(r"Config group override must be a string|argument of type '\w+' is not iterable", text):
        return "a group was given something else than the name of one of its options, group=NAME: --help lists them"
    if "override_grammar" in text:
        return f"cannot read the words of the command, each must be key=value: {' '.join(text.splitlines()[0].split())}"
    affairs = r"^.* raised while resolving interpolation: |\n +(full_key|object_type|reference_type)[:=].*"
    return " ".join(re.sub(affairs, "", text).split())
