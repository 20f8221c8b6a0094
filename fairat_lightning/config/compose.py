"""From the overrides of a command to a configuration, by Hydra.

A run's folder is named by its resolved configuration, never by the clock, so that the same command finds its run again. Nothing
here imports torch, so that a mistyped override is refused at once.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, cast

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from fairat_lightning.config.base_run import with_base
from fairat_lightning.config.targets import allowed, stored
from fairat_lightning.config.words import CONF, parse_word, with_own_parts
from fairat_lightning.record.identity import ADDED_WITHIN, IDLE_OF_DATA, formerly, identity
from fairat_lightning.record.reader import check_checkpoint, read_config, run_folder
from fairat_lightning.record.writer import same_elsewhere
from fairat_lightning.settings import nearest_key, seed_number

COMPOSING = threading.RLock()
NOT_IDENTITY = ("hydra", "overwrite")
AUTOMATIC = ("32-true", "bf16-mixed")  # the precisions that `precision` chooses from
TRAINED = "a run folder, checkpoint, state dict or pretrained:NAME"
GROUPS = ("model", "data", "attack")  # what a run brings to the commands that evaluate or export it
WRONG_INPUT = (ValueError, TypeError, ModuleNotFoundError, InstantiationException, HydraException, OmegaConfBaseException)


@contextmanager
def our_hydra() -> Iterator[None]:
    """Hydra with this package's configuration, also within another application of Hydra; one thread after the other."""
    with COMPOSING:
        before = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        try:
            with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
                yield
        finally:
            GlobalHydra.instance().hydra = before


def compose_training(words: Sequence[str], *, say: bool = True) -> tuple[DictConfig, Path]:
    """The configuration that the overrides of a run's command give, and its folder. Raises Hydra's and OmegaConf's errors.

    `say`: print a line where the run began in another precision than this machine would choose.
    """
    with our_hydra():
        cfg = hydra.compose("config", with_own_parts(with_base(words)), return_hydra_config=True)
    seed_number("seed", cfg.seed)  # what can be seen to be wrong before the precision is chosen, for which torch is imported
    _ = cfg.init_from
    if not cfg.hydra.run.dir:
        raise ValueError("hydra.run.dir= is empty: name a folder, or leave it out")
    return as_begun(cfg, Path(cfg.hydra.run.dir).absolute(), cfg.hydra.runtime.choices, say=say)


def as_begun(cfg: DictConfig, folder: Path, choices: Mapping[str, str], *, say: bool = True) -> tuple[DictConfig, Path]:
    """The configuration and folder of a run that has begun: in the precision and under the name that it began with.

    An automatic precision is the machine's choice and a part of the folder's name: the same command on another machine is the
    same run. So is that of a run that 0.1 named with its logger.
    """
    if cfg.overwrite:
        return cfg, folder  # start again
    automatic = OmegaConf.is_interpolation(cfg.trainer, "precision")
    usual, named = cfg.trainer.precision, folder.name == name_of(cfg, choices)
    for precision in (usual, *(other for other in AUTOMATIC if automatic and other != usual)):
        begun = cfg.copy()
        if automatic:
            begun.trainer.precision = precision
        for place in [folder.with_name(name) for name in names_of(begun, choices)] if named else [folder]:
            if (found := begun_with(place)) is None or (automatic and found != precision):
                continue
            if say and precision != usual and not (place / "metrics.json").exists():
                here = f"a new run on this machine would have {usual}"
                print(f"This run began with trainer.precision={precision} and keeps it; {here}.", flush=True)
            with suppress(OSError):  # an empty folder that Hydra has made for a job of a sweep
                if place != folder:
                    folder.rmdir()
            _monitored_as_begun(begun, place, say)
            return begun, place
    if named and (before := same_elsewhere(folder, resolved(cfg))) is not None:
        with suppress(OSError):
            folder.rmdir()
        return cfg, before
    return cfg, folder


def _monitored_as_begun(cfg: DictConfig, folder: Path, say: bool) -> None:
    """A run from before `data.monitor_size` keeps what it began with: it has no such key, and so all validation images."""
    stored, default = (read_config(folder) or {}).get("data") or {}, ADDED_WITHIN["data"]["monitor_size"]
    if "monitor_size" in stored or cfg.data.get("monitor_size", ...) not in (default, None):
        return
    with open_dict(cfg):
        del cfg.data["monitor_size"]
    if say and not (folder / "metrics.json").exists():
        print(
            "This run began with an earlier version: each epoch is still evaluated on all validation images, from now on in the"
            " training's precision.",
            flush=True,
        )


def begun_with(folder: Path) -> Any:
    """The precision in a run's folder; None where there is none."""
    try:
        return (read_config(folder) or {})["trainer"]["precision"]
    except (ValueError, KeyError, TypeError, OSError):  # OSError: a path that cannot be, which is refused where it is used
        return None


def compose_classifier(
    name: str, words: Sequence[str], check: Callable[[DictConfig], Any] | None = lambda cfg: None
) -> DictConfig:
    """`conf/<name>.yaml` with the command's overrides, on top of the model, data and attack of the run that `checkpoint` names.

    `check` looks at the command's own keys before those of the run are read: to see whose these are takes torch, and seconds.
    None where there is no checkpoint, because the network is in memory.
    Raises what WRONG_INPUT lists.
    """
    parsed = [(word, parse_word(word)) for word in with_own_parts(words, name)]
    given = {o.key_or_group: (word, o.value()) for word, o in parsed}
    run = run_folder(given["checkpoint"][1]) if "checkpoint" in given else None
    own_class = "model._target_" in given
    ours = GROUPS if run else ()
    dotted = [key for key in given if "." in key and (key.split(".")[0] in ours or (own_class and key.startswith("model.")))]
    with our_hydra():
        cfg = hydra.compose(name, [word for key, (word, _) in given.items() if key not in dotted])
    if check is not None:
        check_checkpoint(cfg.checkpoint)
        if run is None and (
            lacking := [group for group in ("model", "data") if not any(k.split(".")[0] == group for k in given)]
        ):
            settings = " and ".join(f"{group}=" for group in lacking)
            raise ValueError(f"{cfg.checkpoint} does not belong to a run, which would say its network and images: set {settings}")
        check(cfg)
    with open_dict(cfg):
        if run is not None:
            replaced = {"model"} if own_class else set()
            groups = [group for group in GROUPS if group not in given and group not in replaced]
            for group, saved in stored(run, groups, allowed(cfg)).items():
                cfg[group] = saved
        if own_class:
            cfg.model = {}
        for key in dotted:
            word, value = given[key]
            if not (own_class and key.startswith("model.")) and not word.startswith("+"):
                parent, _, leaf = key.rpartition(".")
                later = parent == "data" and leaf in IDLE_OF_DATA  # which an older run lacks
                if not later and leaf not in (OmegaConf.select(cfg, parent) or {}):
                    like = nearest_key(key, [f"{parent}.{name}" for name in OmegaConf.select(cfg, parent) or {}])
                    raise ValueError(f"there is no key {key} in the configuration of {run}{like}")
            OmegaConf.update(cfg, key, value)
    return OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))  # type: ignore[return-value]


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The configuration that makes a run what it is, as a plain dictionary without interpolations."""
    keys = [str(k) for k in cfg if k not in NOT_IDENTITY]
    container = OmegaConf.to_container(OmegaConf.masked_copy(cfg, keys), resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(k): v for k, v in container.items()}


def run_name(*, _root_: DictConfig) -> str:
    """`<data>-<model>-<method>-<objective>-s<seed>-<hash of the resolved configuration>` for `hydra.run.dir`."""
    return name_of(_root_, _root_.hydra.runtime.choices)


def job_name(*, _root_: DictConfig) -> str:
    """`run_name` for a job of a sweep. Where its configuration has none, the job is what is refused, and not the whole sweep."""
    try:
        return run_name(_root_=_root_)
    except WRONG_INPUT:
        return f"job-{OmegaConf.select(_root_, 'hydra.job.num', default=0)}"


def name_of(cfg: DictConfig, choices: Mapping[str, str]) -> str:
    """`run_name` of a configuration and the options that were chosen for it."""
    return names_of(cfg, choices)[0]


def names_of(cfg: DictConfig, choices: Mapping[str, str]) -> list[str]:
    """The name of a run, and those that 0.2 and 0.1 gave it where they were others."""
    config = resolved(cfg)
    if unset := [group for group in ("data", "model", "method", "objective", "awp", "averaging", "head") if group not in choices]:
        raise ValueError(f"{unset[0]} must be one option of its group: set {unset[0]}=NAME; --help lists the options")
    parts = [choices[group] for group in ("data", "model", "method", "objective")]
    parts += [choices[group] for group in ("awp", "averaging", "head") if choices[group] != "none"]
    found = []
    for same in (identity(config), identity(config, root=True), formerly(config)):
        digest = hashlib.sha256(json.dumps(same, sort_keys=True, default=str).encode()).hexdigest()
        name = "-".join([*map(str, parts), f"s{config['seed']}", digest[:8]])
        found.append(re.sub(r"[^\w.-]", "-", name).lstrip("."))  # a folder's name and no path
    return list(dict.fromkeys(found))


def plain(cfg: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(cfg))


def base() -> NoReturn:
    """The error of a fine-tuning recipe without `init_from`; a missing value (`???`) would leave the default, null, in place."""
    raise ValueError(f"this recipe fine-tunes a trained network: set init_from=PATH to {TRAINED}")


def teacher() -> NoReturn:
    """The error of a method that distils until its teacher is given."""
    raise ValueError(f"this method distils a trained teacher: set method.teacher=PATH to {TRAINED}")


def precision(accelerator: str) -> str:
    """The fastest precision of this machine, by name: a run's configuration holds it, and it stays the same run."""
    from fairat_lightning.running.machine import best_precision

    return best_precision(accelerator)


def other_eps(*, _root_: DictConfig) -> Any:
    """The data set's eps in the norm that the threat model is not in; None where it suggests none."""
    norm = "l2" if _root_.attack.norm == "linf" else "linf"
    return OmegaConf.select(_root_, f"data.suggests.eps.{norm}")


for resolver in (run_name, job_name, base, teacher, precision, other_eps):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
