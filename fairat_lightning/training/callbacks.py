"""What watches a training from outside: its best checkpoint, its history, and what it says on the terminal."""

import csv
import io
import time
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint, RichProgressBar
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from fairat_lightning.bootstrap import standard_error
from fairat_lightning.methods.base import Method
from fairat_lightning.record import BEST
from fairat_lightning.record.atomic_write import write
from fairat_lightning.running.checkpoints import keep_replaced
from fairat_lightning.running.terminal import say
from fairat_lightning.settings import ONE_SE, SCORES, whole

LARGE = 0.03  # a standard error that differences between epochs drown in


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
    """best.ckpt: the epoch that `select` chooses among those that are validated.

    sum, worst, average   the first of the highest `val/select`
    last                  the last one
    sum_1se               the latest whose sum is at least b - e, b the highest sum and e its standard error (the 1-SE rule of
                          Breiman et al., Classification and Regression Trees, 1984, with the latest in place of the simplest)

    The last rule needs no epoch but the one that it has kept: the epoch of a new highest sum is the latest so far and is kept, so
    that none before it can be the choice any more, and each one after it is held against that sum, until there is a higher one.

    It is saved at the end of the training epoch: earlier, it would hold the class state of the epoch before. It knows its best
    score again in a folder that was moved. Where the score is a matter of chance, a line says so at the end.
    """

    def __init__(self, folder: Path, select: str):
        rule: dict[str, Any] = {"monitor": "val/select", "mode": "max"} if select in SCORES else {}
        super().__init__(folder, filename="best", save_on_train_epoch_end=True, enable_version_counter=False, **rule)
        self.select = select
        self.highest, self.error, self.judged = -inf, 0.0, 0  # the highest score, its standard error, and how many there were

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            keep_replaced(Path(str(self.dirpath)) / BEST)
        if self.select == "last" or (validated(trainer) and self.admits(trainer, cast(Method, pl_module))):
            super().on_train_epoch_end(trainer, pl_module)
        elif trainer.should_stop and not self.judged:  # a callback ends the training before its first validation
            trainer.save_checkpoint(Path(str(self.dirpath)) / BEST)

    def admits(self, trainer: L.Trainer, method: Method) -> bool:
        """Whether the epoch may be the choice, now that its score is known; which is the best one Lightning's class finds out."""
        score, confusion = float(trainer.callback_metrics["val/select"]), method.matrices["val/robust"].cpu()
        self.judged += 1
        within = score >= self.highest - self.error or self.judged == 1
        if score > self.highest or (score == self.highest and self.select == ONE_SE):
            figure = "sum" if self.select == ONE_SE else self.select
            self.highest, self.error = score, standard_error(confusion.diagonal(), confusion.sum(1), figure)
        return within or self.select != ONE_SE

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.select in SCORES and self.judged > 1 and self.error > LARGE:
            data = cast(Any, trainer).datamodule
            say(trainer, doubt(self.select, self.error, len(data.monitor), len(data.val)))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "highest": self.highest, "error": self.error, "judged": self.judged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})
        own = [
            state_dict.get(key, value) for key, value in (("highest", -inf), ("error", 0.0), ("judged", 0))
        ]  # not in older ones
        self.highest, self.error, self.judged = own


def doubt(select: str, error: float, looked_at: int, there: int) -> str:
    """The line about an epoch that was chosen by a score of this standard error, on so many of the validation images."""
    why, more = "the validation set is small", ""
    if looked_at < there:
        why, more = f"only {looked_at:,} of the {there:,} validation images are looked at", "data.monitor_size=null takes all; "
    return (
        f"select={select}: the score of the epoch that was kept has a standard error of {100 * error:.1f} points, as"
        f" {why}: {more}select=last or select={ONE_SE} depends less on chance"
    )


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
        for logger in trainer.loggers:
            logger.log_metrics(
                {"lr": self.rate, "seconds": round(seconds, 3), "epoch": trainer.current_epoch}, trainer.global_step
            )
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
