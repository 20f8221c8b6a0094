"""Train: compose the configuration, and hand it to `training/run.py`."""

import sys
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from fairat_lightning.commands.errors import ending, refuse
from fairat_lightning.commands.one_run import run
from fairat_lightning.config.base_run import with_base
from fairat_lightning.config.compose import CONF, as_begun, compose_training
from fairat_lightning.config.home import expanded
from fairat_lightning.config.words import roots, training_help, with_config_dir, with_own_parts
from fairat_lightning.settings import nearest

FLAGS = {
    *("-h", "--help", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r"),
    *("--multirun", "-m", "--shell-completion", "-sc", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun", "--info", "-i"),
}  # Hydra's own
WITH_VALUE = {
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp"),
    *("--config-name", "-cn", "--experimental-rerun", "--info", "-i"),
}


@ending()
def main() -> None:
    """Compose the configuration with Hydra and run it; wrong input is one line and exit code 2."""
    flags = [word for word in sys.argv[1:] if word.startswith("-")]
    if unknown := [flag for flag in flags if flag.partition("=")[0] not in FLAGS]:
        key, given, value = unknown[0].lstrip("-").partition("=")
        like = f"; did you mean {key}={value if given else 'VALUE'}?" if key in roots("config") else nearest(unknown[0], FLAGS)
        refuse(f"there is no flag {unknown[0]}: --help and --hydra-help list the flags; set a value by key=value{like}")
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(training_help())
        return
    try:
        words = expanded(sys.argv[1:])
        if not {"-h", "--help"} & set(words):  # Hydra lists the options of its own flag alone
            words = with_own_parts(with_base(with_config_dir(words)))
    except ValueError as error:
        refuse(error)
    flags = [word for word in words if word.startswith("-")]
    if flags and set(flags) <= {"-m", "--multirun"}:
        from fairat_lightning.commands.sweep import sweep

        sweep([word for word in words if word not in flags])
    try:
        if flags:
            sys.argv[1:] = _flags_first(words)
            _check_flags(sys.argv[1:])
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(_job)()
            return
        cfg, folder = compose_training(words)  # hydra.main would make the folder first and look at the values afterwards
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        refuse(error)
    run(cfg, folder)


def _check_flags(words: list[str]) -> None:
    """One line for flags that Hydra would answer with its whole usage."""
    parser = get_args_parser()

    def error(message: str) -> NoReturn:
        refuse(f"{message}: --hydra-help lists the flags")

    parser.error = error  # type: ignore[method-assign]
    parser.parse_args(words)


def _flags_first(words: list[str]) -> list[str]:
    """Hydra reads a flag only where no setting is before it."""
    flags, rest, k = [], [], 0
    while k < len(words):
        taken = 1
        if words[k].startswith("-"):
            following = words[k + 1 : k + 2]
            taken += words[k] in WITH_VALUE and bool(following) and (words[k] not in ("--info", "-i") or "=" not in following[0])
            flags += words[k : k + taken]
        else:
            rest.append(words[k])
        k += taken
    return flags + rest


def _job(cfg: DictConfig) -> None:
    hydra_config = HydraConfig.get()
    begun, folder = as_begun(cfg, Path(hydra_config.runtime.output_dir), hydra_config.runtime.choices)
    run(begun, folder, sweep=hydra_config.mode == RunMode.MULTIRUN)
