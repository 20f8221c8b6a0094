"""One run of a composed configuration, for every command that trains: every error is one line and an exit code."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from fairat_lightning.commands.errors import Stop, refuse
from fairat_lightning.config.compose import WRONG_INPUT, resolved
from fairat_lightning.record.writer import shorter
from fairat_lightning.running.slurm import begun_by_this_job
from fairat_lightning.settings import switch

MEAN = ("model.mean=", "model.std=")


def prepared(cfg: DictConfig, folder: Path, words: Iterable[str], command: str | None = None) -> Any:
    """The training of the composed configuration in `folder`, see `training.run.prepare`; `words` are the user's overrides."""
    from fairat_lightning.running.machine import slow_precision
    from fairat_lightning.running.terminal import say
    from fairat_lightning.training import run as runs  # torch and Lightning take seconds to import: not for --help

    switch("overwrite", cfg.overwrite)
    given = any(word.lstrip("+").startswith(MEAN) for word in words)
    whole = OmegaConf.create(resolved(cfg))
    if (begun := shorter(folder, resolved(cfg))) is not None:
        print(
            f"{begun} is this run with fewer epochs: hydra.run.dir={begun} would continue it. This run starts from the beginning."
        )
    training = runs.prepare(
        whole, folder, overwrite=cfg.overwrite and not begun_by_this_job(folder), mean_given=given, command=command
    )
    if training is not None and training.resume is None and (warning := slow_precision(cfg)) is not None:
        say(training.trainer, warning)  # a run that has begun keeps its precision
    return training


def run(cfg: DictConfig, folder: Path, *, sweep: bool = False, callbacks: Sequence[Any] = ()) -> None:
    """One run of the composed configuration in `folder`, which need not exist yet; `callbacks` come after all others."""
    from fairat_lightning.data.foreign import WrongBatch
    from fairat_lightning.running.errors import explain
    from fairat_lightning.training import run as runs

    try:
        words = (cfg.hydra if "hydra" in cfg else HydraConfig.get()).overrides.task  # hydra.main takes it out of a job's
        training = prepared(cfg, folder, words)
        if training is not None and sweep and training.trainer.world_size > 1:
            raise ValueError(
                "a sweep or search cannot use several processes for one training: run each job by a command of its own"
            )
    except WRONG_INPUT as error:
        if _being_trained(folder):  # its files change while they are looked at
            raise Stop(os.EX_TEMPFAIL, _busy(folder)) from Timeout(str(folder / ".lock"))
        refuse(error, folder)
    if training is None:
        print("This run is finished. Set overwrite=true to run it again.\n")
        runs.show(folder)
        return
    cast(Any, training.trainer).callbacks.extend(callbacks)
    try:
        runs.execute(training)
    except Timeout as error:
        raise Stop(os.EX_TEMPFAIL, _busy(folder)) from error
    except WrongBatch as error:
        raise Stop(2, str(error)) from error
    except Exception as error:
        if (line := explain(error, cfg, training=not training.fitted)) is None:
            raise
        raise Stop(1, line) from error


def _busy(folder: Path) -> str:
    return f"{folder} is being trained by another process: wait until it ends, or stop it"


def _being_trained(folder: Path) -> bool:
    """Whether another command trains in this folder at this moment; of the processes of one command the first alone asks."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    return getattr(rank_zero_only, "rank", 0) == 0 and os.environ.get("NODE_RANK", "0") == "0" and locked(folder)


def locked(folder: Path) -> bool:
    """Whether another process holds the lock of a run or an evaluation; False where the folder cannot be looked at."""
    try:
        if (folder / ".lock").exists():
            with FileLock(folder / ".lock", timeout=0):
                pass
    except Timeout:
        return True
    except OSError:
        pass
    return False
