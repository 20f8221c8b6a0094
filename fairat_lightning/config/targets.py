"""What the `_target_` of a configuration may name.

Hydra imports and calls whatever `_target_` names, so only parts of our own package and of the ones we build on are allowed, and
only what is defined there: no module that one of them has imported. A command that takes `allow` widens the list by what its
user says, and nothing else does. A configuration out of a run's folder, which may be anybody's, names our own parts alone.
"""

import os
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fairat_lightning.record.reader import read_config
from fairat_lightning.settings import nearest

OURS_TO_CALL = tuple(
    f"fairat_lightning.{name}."
    for name in ("data", "models", "methods", "attacks", "objectives", "awp", "averaging", "head", "optim")
) + tuple(
    f"fairat_lightning.{name}."
    for name in ("evaluation.suites", "evaluation.autoattack", "evaluation.corruptions", "training.wandb")
)
PIECES = tuple(  # what parts are made of or read by, and no part of a configuration itself
    f"fairat_lightning.{name}."
    for name in (
        *("methods.parts", "data.cache", "data.foreign"),
        *(f"models.{name}" for name in ("builders", "checked_logits", "logits", "weight_sets")),  # models.resnet18 is one's name
    )
)
TARGETS = (*OURS_TO_CALL, "torch.nn.", "torch.optim.", "torchvision.models.", "torchmetrics.", "timm.")
LIGHTNING = ("lightning.Trainer", *(f"lightning.pytorch.{name}." for name in ("callbacks", "loggers", "profilers", "strategies")))


def check_targets(node: Any, allow: Sequence[str] = (), base: Sequence[str] = (*TARGETS, *LIGHTNING), where: str = "") -> None:
    """Raise ValueError for a `_target_` anywhere in `node` that begins with none of `base` and `allow`, is from elsewhere or does
    not exist; `where` is the key of `node`.
    """
    if isinstance(node, dict):
        if "_target_" in node:
            _check_target(str(node["_target_"]), (*base, *allow), f"{where}._target_".lstrip("."))
        for key, child in node.items():
            check_targets(child, allow, base, f"{where}.{key}".lstrip("."))
    if isinstance(node, list):
        for child in node:
            check_targets(child, allow, base, where)


def _check_target(target: str, prefixes: tuple[str, ...], where: str) -> None:
    fits = tuple(prefix for prefix in prefixes if prefix not in OURS_TO_CALL) if target.startswith(PIECES) else prefixes
    if not target.startswith(fits):
        others = sorted({prefix.rstrip(".") for prefix in prefixes if prefix not in (*OURS_TO_CALL, *LIGHTNING)})
        parts = ", ".join(["a part of fairat_lightning", *(["Lightning's"] if LIGHTNING[0] in prefixes else []), *others])
        package = target.partition(".")[0]
        own = f"; to allow a class of your own, add allow=[{package}.]" if package != "fairat_lightning" else ""
        raise ValueError(f"{where}={target} is not allowed here: it must name {parts}{own}")
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError):
        _refuse_missing(target, where)
        return
    except Exception as error:  # in the module that is imported
        last = traceback.extract_tb(error.__traceback__)[-1]
        file, line, said = last.filename, last.lineno, str(error)
        if isinstance(error, SyntaxError):
            file, line, said = error.filename or file, error.lineno, error.msg
        said = f"{type(error).__name__}: {said}"
        raise ValueError(f"{where}={target} cannot be imported: {said} in {file}, line {line}") from error
    home = getattr(found, "__module__", None) or type(found).__module__
    if home.partition(".")[0] != target.partition(".")[0]:
        raise ValueError(f"{where}={target} is not allowed: it is only imported there; name it in {home}, where it is defined")


def _refuse_missing(target: str, where: str) -> None:
    """ValueError where the module of `target` has no such name; other faults of an import are named where it is called."""
    module, _, name = target.rpartition(".")
    try:
        known = vars(pkgutil.resolve_name(module))
    except Exception:
        return
    names = [other for other in known if not other.startswith("_")]
    raise ValueError(f"{where}={target} does not exist: {module} has no {name}{nearest(name, names)}")


def stored(run: Path, groups: Sequence[str], allow: Sequence[str] = ()) -> dict[str, Any]:
    """These groups of the configuration in a run's folder.

    ValueError where it is damaged or lacks one, asks for anything to be computed, or names a class of another package.
    """
    place = run / "config.yaml"
    try:
        found = read_config(run)
    except ValueError:
        found = None
    if found is None or "${" in str(found):
        raise ValueError(f"{place} cannot be read: it is not the configuration of a run")
    if missing := next((group for group in groups if not isinstance(found.get(group), dict)), None):
        raise ValueError(f"{place} has no {missing}: it is not the configuration of a run")
    found = {group: found[group] for group in groups}
    try:
        check_targets(found, allow, base=OURS_TO_CALL)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    return found


def allowed(cfg: DictConfig) -> list[str]:
    """What the user of a command allows besides, by `allow=[mypackage.]`."""
    return prefixes(cfg.get("allow"))


def prefixes(allow: Any) -> list[str]:
    """`allow`, a list of prefixes that end in a dot; ValueError for anything else: a text would be a list of letters."""
    listed = OmegaConf.is_list(allow) or isinstance(allow, list | tuple)
    if not listed or not all(isinstance(prefix, str) and prefix.endswith(".") for prefix in allow):
        raise ValueError(f"allow={allow} must be a list of prefixes that end in a dot, such as allow=[mypackage.]")
    if allow and os.getcwd() not in sys.path:  # the console script's own folder is there instead
        sys.path.append(os.getcwd())
    return list(allow)
