"""What watches a training from outside: its best checkpoint, its history, and what it says on the terminal."""

import csv
import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint, RichProgressBar
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from fairat_lightning.record.atomic_write import write
from fairat_lightning.running.terminal import say
from fairat_lightning.settings import whole


class Cadence(Callback):
    """Validate after every `every`-th epoch and after the last one.

    Lightning's own `check_val_every_n_epoch` knows no last epoch, and does not open the validation split before it is due, which
    rules that learn from that split need from the first epoch on.
    """

    def __init__(self, every: int):
        whole("val_every", every)
        self.every = every

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # a resume within an epoch has no start of one

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert trainer.max_epochs is not None
        number = trainer.current_epoch + 1
        due = number % self.every == 0 or number == trainer.max_epochs
        trainer.check_val_every_n_epoch = 1 if due else trainer.max_epochs + 1


def validated(trainer: L.Trainer) -> bool:
    """Whether this epoch has a validation: else what the trainer knows of one is of an earlier epoch."""
    return trainer.check_val_every_n_epoch == 1


class Keep(ModelCheckpoint):
    """best.ckpt: the epoch with the highest `val/select`, or with `select` "last" the last one.

    It is saved at the end of the training epoch: earlier, it would hold the class state of the epoch before. It knows its best
    score again in a folder that was moved.
    """

    def __init__(self, folder: Path, select: str):
        rule: dict[str, Any] = {} if select == "last" else {"monitor": "val/select", "mode": "max"}
        super().__init__(folder, filename="best", save_on_train_epoch_end=True, enable_version_counter=False, **rule)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.monitor is None or validated(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})


class Bar(RichProgressBar):
    """Lightning's progress bar with the names shortened to fit a line; it reads the device every 50 steps."""

    shown: dict[str, Any] = {}

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        if trainer.training and self.shown and trainer.fit_loop.epoch_loop.batch_idx % 50 != 49:
            return self.shown
        metrics = super().get_metrics(trainer, pl_module)
        self.shown = {key.removeprefix("val/").replace("robust_worst", "worst"): value for key, value in metrics.items()}
        return self.shown


class History(Checkpoint):
    """One row an epoch in history.csv, and one line on the terminal. The rows are in the checkpoint.

    Lightning lets only Checkpoint callbacks see what a module logs at its epoch's end, in their order: this one comes first.
    """

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self.clock, self.work = time.perf_counter(), time.process_time()  # when the epoch began
        self.rate = float("nan")

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "spent": self.spent(), "rate": self.rate}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.rows, self.rate = list(state_dict["rows"]), state_dict["rate"]
        seconds, work = state_dict["spent"]
        self.clock, self.work = self.clock - seconds, self.work - work

    def spent(self) -> tuple[float, float]:
        """Seconds of this epoch, of the clock and of the processors."""
        return time.perf_counter() - self.clock, time.process_time() - self.work

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.clock, self.work = time.perf_counter(), time.process_time()
        self.rate = trainer.optimizers[0].param_groups[0]["lr"]  # at the epoch's end it is the next epoch's

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        seconds, work = self.spent()
        known = {k: v.item() for k, v in sorted(trainer.callback_metrics.items()) if "/" in k and not k.endswith("_step")}
        values = {k: v for k, v in known.items() if validated(trainer) or not k.startswith("val/")}
        clocks = {"seconds": round(seconds, 3), "cpu_seconds": round(work, 3)}
        self.rows.append({"epoch": trainer.current_epoch, **clocks, "lr": self.rate, **values})
        self._write(trainer)

    @rank_zero_only
    def _write(self, trainer: L.Trainer) -> None:
        columns = list(dict.fromkeys(k for row in self.rows for k in row))
        text = io.StringIO()
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        write(self.path, text.getvalue())
        row = self.rows[-1]
        shown = {"clean": "val/clean", "robust": "val/robust", "worst class": "val/robust_worst"}
        found = [f"{name} {100 * row[key]:5.1f}   " if key in row else " " * (len(name) + 9) for name, key in shown.items()]
        line = f"epoch {row['epoch'] + 1:>3}/{trainer.max_epochs}   loss {row.get('train/loss', float('nan')):6.3f}   "
        say(trainer, f"{line}{''.join(found)}{row['seconds']:6.1f} s")
