"""Weights & Biases: the class-wise picture of a run, under names that make a good dashboard by themselves.

Scalars per class, the worst class and FAAL's class weights among them, come through the ordinary log and draw themselves over
time, one row an epoch; this adds a table of the classes, bars and confusion matrices after the last validation and after the
test, images beside their adversarial ones, and, when the run is finished, the figures and the table of its report.
"""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
import wandb
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from pydantic import ValidationError
from torch import Tensor

from fairat_lightning.attacks import mode
from fairat_lightning.data import as_float
from fairat_lightning.evaluation.attacks import craft
from fairat_lightning.methods.base import Method
from fairat_lightning.metrics import class_accuracy
from fairat_lightning.report import gather, rows
from fairat_lightning.report.gallery import pictures
from fairat_lightning.running.lightning_internals import wandb_run, wandb_settings
from fairat_lightning.settings import one_of

EXAMPLES = 10  # classes
PROJECT = "fairat_lightning"
MODES = ("online", "offline", "disabled")
TIMEOUT = 60  # seconds that W&B may take to answer at first, and to take what is left at the end
GIVEN_UP: list[str] = []  # why W&B could not be reached before in this process: later runs do not wait for it again


def wandb_logger(
    *,
    project: str | None,
    entity: str | None,
    offline: bool | None,
    save_dir: Path,
    name: str,
    group: str | None = None,
    job_type: str | None = None,
    tags: list[str] | None = None,
    notes: str | None = None,
) -> WandbLogger:
    """The W&B logger of a run; `offline=None` means as WANDB_MODE says, and without it offline unless somebody is logged in.

    `project=None` means as WANDB_PROJECT says, else fairat_lightning. ValueError for what W&B would refuse.
    """
    mode = os.environ.get("WANDB_MODE") if offline is None else None
    if isinstance(tags, str):
        raise ValueError(f"logger.wandb.tags={tags} must be a list: write logger.wandb.tags=[{tags}]")
    words: dict[str, Any] = {"group": group, "job_type": job_type, "notes": notes, "name": name, "entity": entity}
    words = {key: None if value is None else str(value) for key, value in words.items()}
    words |= {"project": str(project or os.environ.get("WANDB_PROJECT") or PROJECT), "tags": tags and [str(tag) for tag in tags]}
    try:
        if mode is None:
            if offline is None:
                offline = not wandb.login(prompt=False, verify=False)
            mode = "offline" if offline else "online"  # said to wandb itself: Lightning's `offline` comes too late after a login
        own = ("project", "entity")
        wandb.Settings(**{key if key in own else f"run_{key}": value for key, value in words.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"logger.wandb.{str(first['loc'][0]).removeprefix('run_')}: {first['msg']}") from None
    except wandb.errors.Error as error:
        raise ValueError(f"logger=wandb: {' '.join(str(error).split())}") from None
    mode = "offline" if mode == "dryrun" else mode  # W&B's own older word
    one_of("WANDB_MODE", mode, MODES)
    return Dashboard(save_dir=save_dir, **words, mode=mode, resume="allow")


class Dashboard(WandbLogger):
    """A logger whose W&B run continues when the run does, and stays on the disk where W&B cannot be reached.

    Its rows are numbered by the training step: one row an epoch, sent when the epoch ends, and one after the training. In a run
    that continues no row comes twice.
    """

    reached = row = 0  # the training step, and the number of the row that is open: W&B takes none before it

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if wandb_run(self) is None:
            given = wandb_settings(self)
            given.pop("anonymous", None)  # W&B warns of it, whatever its value, and Lightning hands it on
            place = Path(str(self.save_dir)) / "wandb" / "id"
            place.parent.mkdir(parents=True, exist_ok=True)
            given |= {"id": _identity(place), "settings": wandb.Settings(init_timeout=TIMEOUT, finish_timeout=TIMEOUT)}
            if GIVEN_UP and given["mode"] == "online":
                print("W&B is not asked again: this run is logged to the disk too.", flush=True)
                given["mode"] = "offline"
            try:
                run = super().experiment
            except wandb.errors.Error as error:
                if given["mode"] == "offline":
                    raise
                GIVEN_UP.append(" ".join(str(error).split()))
                print(_lost(GIVEN_UP[-1]), flush=True)
                wandb.teardown()  # W&B does not let go of a run that it could not begin
                given["mode"] = "offline"
                run = super().experiment
            for names in ("train/*", "val/*", "lr", "seconds"):
                run.define_metric(names, step_metric="epoch")
        return super().experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        early = "val/robust" in metrics  # Lightning gives the curves of a validation the number of the step before
        last = "train/loss" in metrics  # of what is logged in an epoch
        self.reached = max(self.reached, (step or 0) + early)
        self.row = max(self.row, self.reached, getattr(self.experiment, "starting_step", 0) or 0)
        self.experiment.log({**metrics, "trainer/global_step": self.reached}, step=self.row, commit=last or None)
        self.row += last


def _lost(reason: str) -> str:
    refused = any(code in reason for code in ("401", "403"))
    what = "W&B refuses the key; `wandb login --relogin` sets another" if refused else "W&B cannot be reached"
    later = "`wandb sync --include-online RUN/wandb/*run-*` uploads it later"
    return f"{what}: from now on this process logs to the disk, and {later} ({reason})"


def _identity(place: Path) -> str:
    """The W&B run of a folder, found again when the run is gone on with."""
    if not place.exists():
        place.write_text(uuid.uuid4().hex[:8])
    return place.read_text()


class WandbFigures(Callback):
    """Bars and confusion matrices for every `WandbLogger` of the trainer."""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._log(trainer, pl_module, "val/")  # of the last validation: each table is an upload of its own

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._log(trainer, pl_module, "test/")
        self._log_examples(trainer, pl_module)

    @rank_zero_only
    def _log(self, trainer: L.Trainer, pl_module: L.LightningModule, split: str) -> None:
        assert isinstance(pl_module, Method)
        if not any(key.startswith(split) for key in pl_module.matrices):
            return
        figures: dict[str, Any] = {}
        for key, confusion in pl_module.matrices.items():
            if key.startswith(split):
                figures |= _figures(key, confusion.cpu(), pl_module.classes)
        found = {key.removeprefix(split): matrix for key, matrix in pl_module.matrices.items() if key.startswith(split)}
        columns = {key: class_accuracy(matrix).tolist() for key, matrix in found.items()}
        lines = [list(line) for line in zip(pl_module.classes, *columns.values(), strict=True)]
        figures[f"{split}classes"] = wandb.Table(["class", *columns], lines)
        _send(trainer, figures)

    @rank_zero_only
    def _log_examples(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """An image of each of the first classes: itself, under PGD-20, and the difference, grey where there is none."""
        assert isinstance(pl_module, Method)
        test = getattr(getattr(trainer, "datamodule", None), "test", None)
        if test is None:
            return
        first = [(test.targets == k).nonzero()[:1] for k in range(min(EXAMPLES, pl_module.num_classes))]
        index = torch.cat(first).flatten()
        x, y = as_float(test.pixels[index]).to(pl_module.device), test.targets[index].to(pl_module.device)
        with mode(pl_module.net, training=False), torch.no_grad():
            adv = craft(pl_module.net, x, y, index.to(x.device), pl_module.attack, "pgd20")
            said = [pl_module.net(image).argmax(1).tolist() for image in (x, adv)]
        change = adv - x
        change = 0.5 + 0.5 * change / change.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
        triples = torch.cat([x, adv, change], dim=3).permute(0, 2, 3, 1).cpu().numpy()
        names = pl_module.classes
        words = [f"{names[k]}: seen as {names[a]}, attacked as {names[b]}" for k, a, b in zip(y.tolist(), *said, strict=True)]
        shown = [wandb.Image(image, caption=text) for image, text in zip(triples, words, strict=True)]
        _send(trainer, {"test/examples": shown})


@rank_zero_only
def log_report(trainer: L.Trainer, folder: Path) -> None:
    """Log the figures and the table of the report on the finished run in `folder`."""
    report = gather([str(folder)])
    (row,) = rows(report)
    cells = [[key, cell["mean"], cell.get("low"), cell.get("high")] for key, cell in row.items() if isinstance(cell, dict)]
    table = wandb.Table(["figure", "value", "low", "high"], cells)
    # One name in every run, so that a dashboard lays runs side by side: what tells rows apart in a report is left out.
    figures = {f"report/{picture.name.partition('_1_')[0]}": wandb.Image(picture.figure) for picture in pictures(report)}
    _send(trainer, {"report/table": table} | figures)


def _send(trainer: L.Trainer, values: dict[str, Any]) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_metrics(values, trainer.global_step + 1)  # a row after that of the last epoch


def _figures(key: str, confusion: Tensor, classes: list[str]) -> dict[str, Any]:
    accuracy = class_accuracy(confusion).tolist()
    bars = wandb.Table(["class", "accuracy"], [list(row) for row in zip(classes, accuracy, strict=True)])
    true, predicted = confusion.nonzero(as_tuple=True)
    counts = confusion[true, predicted]
    return {
        f"{key}_bars": wandb.plot.bar(bars, "class", "accuracy", title=f"{key}: accuracy per class"),
        f"{key}_confusion": wandb.plot.confusion_matrix(
            y_true=true.repeat_interleave(counts).tolist(),
            preds=predicted.repeat_interleave(counts).tolist(),
            class_names=classes,
            title=f"{key}: confusion",
        ),
    }
