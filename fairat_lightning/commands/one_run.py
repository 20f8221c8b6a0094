"""One run of a composed configuration, for every command that trains: what goes wrong is one line and an exit code."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from filelock import Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from fairat_lightning.commands.errors import Stop, refuse
from fairat_lightning.config.compose import WRONG_INPUT, resolved
from fairat_lightning.settings import switch

MEAN = ("model.mean=", "model.std=")


def run(cfg: DictConfig, folder: Path, *, sweep: bool = False, callbacks: Sequence[Any] = ()) -> None:
    """One run of the composed configuration in `folder`, which need not exist yet; `callbacks` come after all others."""
    from fairat_lightning.running.errors import explain
    from fairat_lightning.running.machine import slow_precision
    from fairat_lightning.running.terminal import say
    from fairat_lightning.training import run as runs  # torch and Lightning take seconds to import: not for --help

    try:
        switch("overwrite", cfg.overwrite)
        words = (cfg.hydra if "hydra" in cfg else HydraConfig.get()).overrides.task  # hydra.main takes it out of a job's
        given = any(word.lstrip("+").startswith(MEAN) for word in words)
        training = runs.prepare(OmegaConf.create(resolved(cfg)), folder, overwrite=cfg.overwrite, mean_given=given)
        if training is not None and sweep and training.trainer.world_size > 1:
            raise ValueError(
                "a sweep or search over several processes would begin every training in each: run its jobs one by one"
            )
    except WRONG_INPUT as error:
        refuse(error, folder)
    if training is None:
        print("This run is finished: overwrite=true runs it anew.\n")
        runs.show(folder)
        return
    if training.resume is None and (warning := slow_precision(cfg)) is not None:  # a run that has begun keeps its precision
        say(training.trainer, warning)
    cast(Any, training.trainer).callbacks.extend(callbacks)
    try:
        runs.execute(training)
    except Timeout as error:
        raise Stop(os.EX_TEMPFAIL, f"{folder} is being run by another process: wait for its end, or stop it") from error
    except Exception as error:
        if (line := explain(error, cfg, training=not training.fitted)) is None:
            raise
        raise Stop(1, line) from error
