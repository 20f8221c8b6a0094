"""Checkpoints: a run that is stopped at any moment continues as if nothing had happened.

last.ckpt is written after every epoch, every `save_minutes` within one, and when the process is told to stop (Ctrl-C, SIGTERM or
SIGUSR1), which then ends with exit code 75: "try again", in sysexits.h. Within an epoch it holds also what no state_dict has: the
position in the epoch, the generators' states, and what has been counted since the epoch began. A
file is written beside its place, flushed to the disk and moved there; the last.ckpt before it stays as previous.ckpt.

best.ckpt is written before the last.ckpt of its epoch. A run that is killed between the two repeats the epoch, and where its bits
differ then, on a GPU or another processor, it may no longer be the best. The best.ckpt before it is replaced.ckpt until then.
"""

import io
import os
import random
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor
from torchmetrics import Metric

from fairat_lightning.classwise import world_size
from fairat_lightning.data.batches import Loader
from fairat_lightning.record import BEST
from fairat_lightning.record.atomic_write import write
from fairat_lightning.running.lightning_internals import set_update_count
from fairat_lightning.running.signals import Preempted, StopRequest
from fairat_lightning.running.terminal import say

LAST, PREVIOUS, REPLACED = "last.ckpt", "previous.ckpt", "replaced.ckpt"  # beside record.BEST
FORMAT = 1  # of what a checkpoint holds
AGREE = 20  # steps between two times that several processes ask each other whether to save


class Whole(TorchCheckpointIO):
    """Checkpoints that are on the disk whole or not at all; the last.ckpt before the new one is kept."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None) -> None:
        content, path = io.BytesIO(), Path(path)
        torch.save(checkpoint, content)
        path.parent.mkdir(parents=True, exist_ok=True)

        def keep() -> None:
            if path.name == LAST and intact(path):
                path.replace(path.with_name(PREVIOUS))

        write(path, content.getbuffer(), before=keep)


def keep_replaced(best: Path) -> None:
    """Keep the best.ckpt that may be replaced now; it stays in its place too."""
    replaced = best.with_name(REPLACED)
    if best.exists():
        replaced.unlink(missing_ok=True)
        try:
            os.link(best, replaced)
        except OSError:  # a file system without links
            shutil.copyfile(best, replaced)


def intact(path: Path) -> bool:
    """Whether every part of a checkpoint has the checksum that was written with it."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint of this package; ValueError for any other file."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # what is no checkpoint makes torch raise UnpicklingError, RuntimeError, AttributeError, ...
        raise ValueError(f"{path} is not a checkpoint of a run: set overwrite=true to start the run again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a checkpoint of a run: set overwrite=true to start the run again")
    return content


class Last(Checkpoint):
    """Writes last.ckpt, and begins each epoch from (seed, epoch, process), or where the checkpoint was within it.

    `minutes` between two checkpoints within an epoch. Lightning calls Checkpoint callbacks after all others, and this one comes
    last of them, so that the checkpoint holds what the others know. `anew`: the command has overwrite=true, and repeated as it is
    would start again. Only a `Loader` can continue within an epoch: with another, the end of each epoch alone is saved.
    """

    seeds_epochs = True  # methods that draw by the seed ask for this: without it they tell the epochs apart themselves

    def __init__(self, folder: Path, *, seed: int, minutes: float, anew: bool = False):
        if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not minutes > 0:
            raise ValueError(f"save_minutes={minutes} must be a number of minutes above 0")
        self.path, self.seed, self.seconds, self.anew = folder / LAST, seed, 60 * minutes, anew
        self.request = StopRequest()
        self.saved = time.monotonic()
        self.position: tuple[int, int] | None = None  # epoch and batches of it, while saving within one
        self.loaded: dict[str, Any] | None = None
        self.over = False  # whether a callback has ended the training

    def state_dict(self) -> dict[str, Any]:
        return {"over": self.over}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.over = bool(state_dict.get("over"))

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        self.obey(trainer)

    def obey(self, trainer: L.Trainer) -> None:
        """Raise Preempted if any process was told to stop."""
        if trainer.strategy.reduce_boolean_decision(self.request.asked, all=False):
            without = " without overwrite=true" if self.anew else ""
            say(trainer, f"Stopped: the run is saved, and the same command{without} continues it.")
            raise Preempted

    # -- saving

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = batch_idx + 1
        if not isinstance(trainer.train_dataloader, Loader):
            return
        if done >= trainer.num_training_batches or done % trainer.accumulate_grad_batches:
            return  # the epoch's end saves; and gradients are in no checkpoint
        if trainer.world_size > 1 and done % (AGREE * trainer.accumulate_grad_batches):
            return
        due = self.request.asked or time.monotonic() - self.saved > self.seconds
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            self.save(trainer, (trainer.current_epoch, done))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: L.Trainer, position: tuple[int, int] | None = None) -> None:
        self.position, self.over = position, trainer.should_stop
        trainer.save_checkpoint(self.path)
        self.position, self.saved = None, time.monotonic()
        if trainer.is_global_zero:
            self.path.with_name(REPLACED).unlink(missing_ok=True)
        if position is not None:
            self.obey(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["format"] = FORMAT
        if self.position is not None:
            mine = {"generators": generators(), "counted": counted(pl_module)}
            checkpoint["within"] = {"position": list(self.position), "processes": from_all_processes(mine)}

    # -- resuming

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.over

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == "fit":
            self.loaded = checkpoint.get("within")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.take_back(trainer.global_step)
        if self.loaded is None:
            return
        epoch, given = self.loaded["position"]
        # Lightning would hand on the loader's own state too late: the number of steps was asked for before.
        cast(Any, trainer.train_dataloader).load_state_dict({"epoch": epoch, "given": given})
        processes = self.loaded["processes"]
        rank, world = trainer.global_rank, trainer.world_size
        self.begin(epoch, rank, given)
        if world == len(processes):
            set_generators(processes[rank]["generators"])
        for process in processes[rank::world]:  # also where fewer processes continue
            count(pl_module, process["counted"])
        self.loaded = None

    def take_back(self, steps: int) -> None:
        """Put the best.ckpt before it into the place of one of an epoch that is repeated now, after so many steps."""
        best, replaced = self.path.with_name(BEST), self.path.with_name(REPLACED)
        if replaced.exists() and load_checkpoint(best).get("global_step", 0) > steps:
            replaced.replace(best)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.obey(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.obey(trainer)  # only now has the last epoch gone to the loggers
        self.begin(trainer.current_epoch, trainer.global_rank)

    def begin(self, *place: int) -> None:
        torch.manual_seed(random.Random("/".join(map(str, (self.seed, *place)))).getrandbits(63))


def generators() -> dict[str, Tensor]:
    """The states of torch's generators on this process: the processor's, and the GPU's if it is in use."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {})


def set_generators(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def counted(module: torch.nn.Module) -> dict[str, Any]:
    """What the metrics of `module` have seen on this process since their last reset."""
    found = {}
    for name, metric in module.named_modules():
        if isinstance(metric, Metric) and metric.update_called:
            states: dict[str, Any] = metric.metric_state
            found[name] = {"updates": metric.update_count, "states": {key: value.cpu() for key, value in states.items()}}
    return found


def count(module: torch.nn.Module, found: dict[str, Any]) -> None:
    """Add what `counted` has found; all of it is sums."""
    for name, values in found.items():
        metric: Any = module.get_submodule(name)
        set_update_count(metric, metric.update_count + values["updates"])
        for key, value in values["states"].items():
            getattr(metric, key).add_(value.to(metric.device))


def from_all_processes(mine: Any) -> list[Any]:
    """What every process has, in their order, on each of them."""
    if world_size() == 1:
        return [mine]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, mine)
    return found
