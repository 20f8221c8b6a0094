"""Batches of a foreign loader are checked on the CPU, before they go to the device; those of our own were checked when read."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from fairat_lightning.data import DataModule, as_float
from fairat_lightning.data.foreign import WrongBatch, check_images

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


class CheckedBatches(L.LightningModule):
    """A module of `num_classes` classes whose batches are (x, y, index); images uint8 become floating in [0,1]."""

    num_classes: int
    said = False  # that images are scaled

    def configure_model(self) -> None:
        """ValueError on Apple's GPU, before anything goes there."""
        try:
            device = self.trainer.strategy.root_device
        except RuntimeError:  # there is no Trainer: weights are loaded
            return
        if device.type == "mps":
            raise ValueError("Apple's GPU has no float64, in which class statistics are computed: use Trainer(accelerator='cpu')")

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """The batch, or ValueError with what is wrong in it: type, shape or range of the images, labels that are no classes."""
        module = getattr(self.trainer, "datamodule", None)
        if of_ours(module) or not isinstance(batch, list | tuple) or len(batch) < 2:
            return batch  # `unpack` says what a batch must be
        if not all(isinstance(v, Tensor) for v in batch[:2]):
            return batch
        x, y = check_batch(batch, self.num_classes)
        if not x.is_floating_point() and not isinstance(module, DataModule):  # which scales after its augmentation
            if not self.said:
                print("The loader's images are bytes from 0 to 255, and are divided by 255.", flush=True)
            self.said, x = True, as_float(x)
        return (x, y, *batch[2:])


def check_batch(batch: Any, num_classes: int) -> tuple[Tensor, Tensor]:
    """Images and labels of a batch as `check_images` gives them, or WrongBatch."""
    try:
        return check_images(batch[0], batch[1], num_classes)
    except ValueError as error:
        raise WrongBatch(str(error)) from error


def check_first(module: DataModule) -> None:
    """WrongBatch for a wrong first batch of a data module with loaders of its own, before a run begins."""
    if of_ours(module):
        return
    with torch.random.fork_rng(devices=[]):
        try:
            batch = next(iter(module.train_dataloader()))
        except Exception:  # a loader may need its Trainer: the batches are looked at in the training too
            return
    check_batch(batch, module.num_classes)


def of_ours(module: Any) -> bool:
    """Whether the batches are those of images that were checked when they were read."""
    if not isinstance(module, DataModule):
        return False
    return all(getattr(type(module), name) is getattr(DataModule, name) for name in LOADERS)
