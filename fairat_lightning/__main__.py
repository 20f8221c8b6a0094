"""The command: compose the configuration, and hand it to `run.py`.

    python -m fairat_lightning [group=option] [key=value]

A run's folder is named by its resolved configuration, never by the clock, so that the same command finds its run again.
Wrong input is one line and exit code 2.
"""

import hashlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, cast

import hydra
import yaml
from filelock import Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fairat_lightning.checks import switch
from fairat_lightning.identity import identity

HERE = Path(__file__).resolve().parent
CONF = HERE / "conf" if (HERE / "conf").is_dir() else HERE.parent / "conf"
NOT_IDENTITY = ("hydra", "overwrite")
AUTOMATIC = ("32-true", "bf16-mixed")  # the precisions that `precision` chooses from
TRAINED = "a run folder, checkpoint, state dict or pretrained:NAME"
TOLD = "told to stop: the same command goes on"
FLAGS = {
    *("-h", "--help", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r"),
    *("--multirun", "-m", "--shell-completion", "-sc", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun", "--info", "-i"),
}  # Hydra's own


class Stop(SystemExit):
    """The end of the command with an exit code other than 0, and the line that says why."""

    def __init__(self, code: int, line: str):
        super().__init__(code)
        self.line = line
        print(f"error: {line}", file=sys.stderr, flush=True)


def main() -> None:
    """Compose the configuration with Hydra and run it; wrong input is one line and exit code 2."""
    _prepare()
    words = sys.argv[1:]
    flags = [word for word in words if word.startswith("-")]
    if unknown := [flag for flag in flags if flag.partition("=")[0] not in FLAGS]:
        refuse(f"there is no flag {unknown[0]}: --help and --hydra-help list them; a value is given as key=value")
    if flags and set(flags) <= {"-m", "--multirun"}:
        from fairat_lightning.sweep import sweep

        sweep([word for word in words if word not in flags])
    try:
        if flags:
            # Hydra reads a sweep's -m only where no word stands before it.
            many = [word for word in words if word in ("-m", "--multirun")]
            sys.argv[1:] = many + [word for word in words if word not in many]
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(_job)()
            return
        cfg, folder = composed(words)  # hydra.main would make the folder first and look at the values afterwards
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        refuse(error)
    run(cfg, folder)


def composed(words: Sequence[str], *, say: bool = True) -> tuple[DictConfig, Path]:
    """The configuration that the words of a run's command say, and its folder. Raises Hydra's and OmegaConf's errors.

    `say`: print a line where the run began in another precision than this machine would choose.
    """
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("config", list(words), return_hydra_config=True)
    return as_begun(cfg, Path(cfg.hydra.run.dir).absolute(), cfg.hydra.runtime.choices, say=say)


def as_begun(cfg: DictConfig, folder: Path, choices: Mapping[str, str], *, say: bool = True) -> tuple[DictConfig, Path]:
    """The configuration and folder of a run that has begun keep its precision, wherever an automatic choice would differ now.

    The choice is the machine's, and a part of the folder's name: the same command on another machine is the same run.
    """
    if not OmegaConf.is_interpolation(cfg.trainer, "precision") or cfg.overwrite:
        return cfg, folder  # chosen by the user, or a run anew
    usual, named = cfg.trainer.precision, folder.name == name_of(cfg, choices)
    for precision in (usual, *(other for other in AUTOMATIC if other != usual)):
        begun = cfg.copy()
        begun.trainer.precision = precision
        place = folder.with_name(name_of(begun, choices)) if named else folder
        if begun_with(place) == precision:
            if say and precision != usual and not (place / "metrics.json").exists():
                here = f"a new one here would have {usual}"
                print(f"This run began with trainer.precision={precision} and goes on with it; {here}.", flush=True)
            with suppress(OSError):  # an empty folder that Hydra has made for a job of a sweep
                if place != folder:
                    folder.rmdir()
            return begun, place
    return cfg, folder


def begun_with(folder: Path) -> Any:
    """The precision in a run's folder; None where there is none."""
    try:
        return yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["precision"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return None


def _job(cfg: DictConfig) -> None:
    hydra_config = HydraConfig.get()
    begun, folder = as_begun(cfg, Path(hydra_config.runtime.output_dir), hydra_config.runtime.choices)
    run(begun, folder, sweep=hydra_config.mode == RunMode.MULTIRUN)


def run(cfg: DictConfig, folder: Path, *, sweep: bool = False, callbacks: Sequence[Any] = ()) -> None:
    """One run of the composed configuration in `folder`, which need not exist yet; `callbacks` come after all others."""
    from fairat_lightning import run as runs  # torch and Lightning take seconds to import: not for --help
    from fairat_lightning.build import WRONG_INPUT
    from fairat_lightning.faults import explain

    try:
        switch("overwrite", cfg.overwrite)
        job = runs.prepare(OmegaConf.create(resolved(cfg)), folder, overwrite=cfg.overwrite)
        if job is not None and sweep and job.trainer.world_size > 1:
            raise ValueError("a sweep or search over several processes would begin every job in each: run its jobs one by one")
    except WRONG_INPUT as error:
        refuse(error, folder)
    if job is None:
        print("This run is finished: overwrite=true runs it anew.\n")
        runs.show(folder)
        return
    cast(Any, job.trainer).callbacks.extend(callbacks)
    try:
        runs.execute(job)
    except Timeout as error:
        raise Stop(os.EX_TEMPFAIL, f"{folder} is being run by another process: wait for its end, or stop it") from error
    except Exception as error:
        if (line := explain(error, cfg, training=not job.fitted)) is None:
            raise
        raise Stop(1, line) from error


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The configuration that makes a run what it is, as a plain dictionary without interpolations."""
    keys = [str(k) for k in cfg if k not in NOT_IDENTITY]
    container = OmegaConf.to_container(OmegaConf.masked_copy(cfg, keys), resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(k): v for k, v in container.items()}


def run_name(*, _root_: DictConfig) -> str:
    """`<data>-<model>-<method>-<objective>-s<seed>-<hash of the resolved configuration>` for `hydra.run.dir`."""
    return name_of(_root_, _root_.hydra.runtime.choices)


def name_of(cfg: DictConfig, choices: Mapping[str, str]) -> str:
    """`run_name` of a configuration and the options that were chosen for it."""
    config = resolved(cfg)
    if unset := [group for group in ("data", "model", "method", "objective", "awp", "averaging", "head") if group not in choices]:
        raise ValueError(f"{unset[0]} must be one option of its group: {unset[0]}=NAME, --help lists them")
    parts = [choices[group] for group in ("data", "model", "method", "objective")]
    parts += [choices[group] for group in ("awp", "averaging", "head") if choices[group] != "none"]
    digest = hashlib.sha256(json.dumps(identity(config), sort_keys=True, default=str).encode()).hexdigest()
    name = "-".join([*map(str, parts), f"s{config['seed']}", digest[:8]])
    return re.sub(r"[^\w.-]", "-", name).lstrip(".")  # a folder's name and no path


def base() -> NoReturn:
    """What a fine-tuning recipe says of `init_from`; a missing value (`???`) would leave the default, null, in place."""
    raise ValueError(f"this recipe fine-tunes a trained base: give init_from=PATH, {TRAINED}")


def teacher() -> NoReturn:
    """What a method that distils says of its teacher until one is given."""
    raise ValueError(f"this method distils a trained teacher: give method.teacher=PATH, {TRAINED}")


def precision(accelerator: str) -> str:
    """The fastest precision of this machine (`speed.py`), by name: a run's configuration holds it, and it stays the same run."""
    from fairat_lightning.speed import best_precision

    return best_precision(accelerator)


OmegaConf.register_new_resolver("precision", precision, replace=True)
OmegaConf.register_new_resolver("teacher", teacher, replace=True)
OmegaConf.register_new_resolver("run_name", run_name, replace=True)
OmegaConf.register_new_resolver("base", base, replace=True)


def refuse(error: Exception | str, folder: Path | None = None) -> NoReturn:
    """One line on stderr, exit code 2, and no empty folder left behind."""
    while isinstance(error, InstantiationException) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    with suppress(OSError):  # it is not empty, not there, or not ours
        if folder is not None:
            folder.rmdir()
    raise Stop(2, _one_line(str(error))) from None


def start(command: Callable[[list[str]], None], text: str) -> None:
    """Run one of the other commands with the words of its line; `text` is its help."""
    _prepare()
    words = sys.argv[1:]
    if not words or {"-h", "--help"} & set(words):
        print(text.strip())
        raise SystemExit(0 if words else 2)
    if flags := [word for word in words if word.startswith("-")]:
        refuse(f"there is no flag {flags[0]}: this command takes key=value and --help")
    from fairat_lightning.build import WRONG_INPUT
    from fairat_lightning.resume import SIGNALS

    def told(number: int, frame: Any) -> None:
        raise Stop(os.EX_TEMPFAIL, TOLD)  # from the last batch or epoch on the disk

    for number in SIGNALS:
        signal.signal(number, told)
    try:
        command(words)
    except WRONG_INPUT as error:
        refuse(error)


def _prepare() -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands its errors to us instead of printing them
    # Threads that spin while they wait make a shared machine crawl: an epoch on digits took 78 s instead of 1 s beside another
    # job on two cores. OpenMP reads this when torch is imported, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _one_line(text: str) -> str:
    """Our own errors are one line already; Hydra's and OmegaConf's say it in several, with their own affairs below."""
    if found := re.match(r"Could not override '(.+)'", text):
        return f"there is no key {found[1]}: --help lists the usual ones"
    if found := re.match(r"(?s).*?Could not find '(\S+)/(\S+)'.*?Available options in '\S+':(.+?)(Config search path|$)", text):
        return f"{found[1]}={found[2]} is unknown: choose one of {', '.join(found[3].split())}"
    if re.match(r"Config group override must be a string|argument of type '\w+' is not iterable", text):
        return "a group was given something else than the name of one of its options, group=NAME: --help lists them"
    if "override_grammar" in text:
        return f"cannot read the words of the command, each must be key=value: {' '.join(text.splitlines()[0].split())}"
    affairs = r"^.* raised while resolving interpolation: |\n +(full_key|object_type|reference_type)[:=].*"
    return " ".join(re.sub(affairs, "", text).split())


if __name__ == "__main__":
    main()
