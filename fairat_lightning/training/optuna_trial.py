"""What a search knows of a run while it trains: how its worst class does on validation, epoch by epoch."""

from pathlib import Path
from statistics import fmean
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from fairat_lightning.record.reader import read_history

WATCHED = "val/robust_worst"


class Seen(Checkpoint):
    """Tells the trial the worst class's accuracy after each epoch, the mean of the seeds so far; raises `prune` for a laggard.

    Everything is read from the run's history, so that a run that was resumed, or finished before, is treated alike.
    """

    def __init__(self, trial: Any, prune: type[Exception] | None):
        self.trial, self.prune = trial, prune
        self.folder = Path()
        self.seeds: dict[Path, list[float]] = {}
        self.told = 0

    def begin(self, folder: Path) -> None:
        self.folder = folder
        self.seeds[folder] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.tell(read_history(self.folder))

    def tell(self, rows: list[dict[str, float]]) -> None:
        own = self.seeds[self.folder]
        for row in [row for row in rows if WATCHED in row][len(own) :]:
            own.append(row[WATCHED])
            self.trial.report(fmean(worst[len(own) - 1] for worst in self.seeds.values() if len(worst) >= len(own)), self.told)
            self.told += 1
        if self.prune is not None and self.trial.should_prune():
            raise self.prune
