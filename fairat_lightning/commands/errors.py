"""Every error, signal or closed pipe of a command becomes at most one line and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong input, 75 stopped (the same command continues).
"""

import os
import re
import select
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from fairat_lightning.config.trainer_keys import INSTEAD, UNSUPPORTED
from fairat_lightning.config.words import CONF
from fairat_lightning.record.environment import install
from fairat_lightning.running.errors import no_memory
from fairat_lightning.running.signals import TOLD, leave_next, listen
from fairat_lightning.settings import nearest, nearest_key


class Stop(SystemExit):
    """The end of the command with an exit code other than 0, and the line that says why."""

    of: ClassVar[str] = ""  # which job of a sweep it is the end of

    def __init__(self, code: int, line: str):
        super().__init__(code)
        self.line = line
        print(f"error: {self.of}{line}", file=sys.stderr, flush=True)


@contextmanager
def ending() -> Iterator[None]:
    """Around a command: a signal ends it with a line, and a closed pipe (`| head`) without one."""
    listen(_told)
    code: Any = 0 if {"-h", "--help"} & set(sys.argv) else os.EX_TEMPFAIL  # where it was stopped in the middle
    try:
        try:
            yield
            code = 0
        except SystemExit as stop:
            code = stop.code
            raise
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not (gone := [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]):
            raise  # it was another pipe
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in gone:
            os.dup2(nowhere, stream.fileno())  # for what Python itself writes when it ends
        raise SystemExit(code) from None


@contextmanager
def memory_of(size: str) -> Iterator[None]:
    """Around work in batches: a full memory ends it with exit code 1 and a line, "set a smaller" `size`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) or not no_memory(error):  # a ValueError says already what is wrong
            raise
        raise Stop(1, f"out of memory: set a smaller {size}") from error


def _told(number: int, frame: Any) -> None:
    leave_next()
    raise Stop(os.EX_TEMPFAIL, TOLD)  # from the last batch or epoch on the disk


def _has_no_reader(stream: Any) -> bool:
    watch = select.poll()
    watch.register(stream.fileno(), select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in watch.poll(0))


def refuse(error: Exception | str, folder: Path | None = None, keys: Iterable[str] = ()) -> NoReturn:
    """One line on stderr, exit code 2, and no empty folder left behind. `keys`: those of the command itself."""
    with suppress(OSError):  # it is not empty, does not exist, or may not be removed
        if folder is not None:
            folder.rmdir()
    raise Stop(2, explanation(error, keys)) from None


def explanation(error: Exception | str, keys: Iterable[str] = ()) -> str:
    """The line that says what was wrong with the input, and what the user may have meant."""
    error = behind(error) if isinstance(error, Exception) else error
    line = reworded(str(error))
    if found := re.match(r"Could not override '(.+?)'", str(error)):
        group, _, name = found[1].partition(".")
        if group == "trainer" and (instead := (UNSUPPORTED | INSTEAD).get(name)):
            return f"{found[1]} cannot be set: {instead}"
        if options := _options_with(found[1]):
            return f"there is no key {found[1]} in this configuration: it belongs to {', '.join(options)}"
        cause = getattr(error, "__cause__", None)  # OmegaConf's, which knows the configuration
        line += nearest_key(found[1], [*keys, *_keys(getattr(cause, "parent_node", None))])
    return line


def _options_with(key: str) -> list[str]:
    """The options of its group that have a key, as settings of the command."""
    group, _, name = key.partition(".")
    files = sorted((CONF / group).glob("*.yaml")) if group.isidentifier() else []
    if group == "logger":  # each logger has its own place there
        return [f"{group}={file.stem}" for file in files if file.stem == name.partition(".")[0]]
    return [f"{group}={file.stem}" for file in files if name in _own_keys(file, group)]


def _own_keys(file: Path, group: str) -> list[str]:
    """The keys that an option in `conf/` sets in its own group."""
    import yaml

    text = file.read_text()
    values = yaml.safe_load(text) or {}
    return [*(values.get(group, {}) if "@package _global_" in text else values)]


def _keys(node: Any) -> list[str]:
    """Every key of the configuration that `node`, a part of it, is from; Hydra's own but for the usual ones are left out."""
    from omegaconf import OmegaConf

    if node is None:
        return []
    whole = OmegaConf.to_container(node._get_root(), resolve=False)
    assert isinstance(whole, dict)

    def below(values: Mapping[Any, Any], above: str) -> Iterator[str]:
        for key, value in values.items():
            yield f"{above}{key}"
            if isinstance(value, dict):
                yield from below(value, f"{above}{key}.")

    found = [key for key in below(whole, "") if not key.startswith("hydra.") or key in ("hydra.run.dir", "hydra.sweep.dir")]
    return [*found, "experiment"] if "method" in whole else found  # a group that leaves no key of its own


def behind(error: Exception) -> Exception:
    """The error that Hydra met when it built a part, instead of Hydra's own message about it."""
    from hydra.errors import InstantiationException

    while isinstance(error, InstantiationException) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def reworded(text: str) -> str:
    """Our own errors are one line already; those of Hydra and OmegaConf have several, with internal details at the end."""
    if found := re.match(r"Could not override '(.+)'", text):
        return f"there is no key {found[1]}: --help lists the usual keys"
    if found := re.match(r"(?s).*?Could not find '(\S+)/(\S+)'.*?Available options in '\S+':(.+?)(Config search path|$)", text):
        options = found[3].split()
        missing = tuple(name for name in ("joblib", "submitit") if name not in found[3])
        if found[1] == "hydra/launcher" and missing and found[2].startswith(missing):
            return f"{found[1]}={found[2]} is not installed: {install('sweeps')}"
        return f"{found[1]}={found[2]} is unknown: choose one of {', '.join(options)}{nearest(found[2], options)}"
    if found := re.match(r"(?s)In '\w+': Could not load '(\w+)/(\w+)'", text):  # one of a list of options
        options = sorted(file.stem for file in (CONF / found[1]).glob("*.yaml"))
        return f"{found[1]}: {found[2]} is unknown: choose one of {', '.join(options)}{nearest(found[2], options)}"
    if found := re.match(r"Ambiguous value for argument '(.+?)'", text):
        key, _, values = found[1].partition("=")
        return f"{found[1]} names several values: -m trains each of them in turn, and {key}=[{values}] is a list"
    if found := re.match(r"(?s)Could not append to config. An item is already at '(.+?)'", text):
        return f"{found[1]} is already a key: set it without the +"
    if re.match(r"Config group override must be a string|argument of type '\w+' is not iterable", text):
        return "a group was not set to the name of one of its options: write group=NAME; --help lists the options"
    if "override_grammar" in text:
        return (
            f"cannot read the settings of the command, each must be written key=value: {' '.join(text.splitlines()[0].split())}"
        )
    affairs = r"^.* raised while resolving interpolation: |\n +(full_key|object_type|reference_type)[:=].*"
    return " ".join(re.sub(affairs, "", text).split())
