"""What watches a training from outside: its best checkpoint, its history, and what it says on the terminal."""

import csv
import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, RichProgressBar
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from fairat_lightning.record import write


@rank_zero_only
def say(trainer: L.Trainer, text: str) -> None:
    """Print a line, above the progress bar if there is one; on one process."""
    bar = trainer.progress_bar_callback
    print(text, flush=True) if bar is None else bar.print(text)


class Keep(ModelCheckpoint):
    """A ModelCheckpoint that knows its best score again in a folder that was moved."""

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
        values = {k: v.item() for k, v in sorted(trainer.callback_metrics.items()) if "/" in k and not k.endswith("_step")}
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
        line = (
            f"epoch {row['epoch'] + 1:>3}/{trainer.max_epochs}   loss {row.get('train/loss', float('nan')):6.3f}   "
            f"clean {100 * row.get('val/clean', float('nan')):5.1f}   robust {100 * row.get('val/robust', float('nan')):5.1f}   "
            f"worst class {100 * row.get('val/robust_worst', float('nan')):5.1f}   {row['seconds']:6.1f} s"
        )
        say(trainer, line)
