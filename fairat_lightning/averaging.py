"""Averages of the weights over training, on Lightning's WeightAveraging.

EMA after every step: w_avg <- decay * w_avg + (1 - decay) * w. Validation, selection and the test see the average; FairAT's
scoring and every other rule of a method see the current weights. Batch statistics are averaged with the weights; what is
not a floating tensor, and the state of the method outside its network, is copied.
"""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor


class EMA(WeightAveraging):
    """Exponential moving average of the network; `decay` in [0, 1)."""

    def __init__(self, decay: float):
        if not isinstance(decay, int | float) or not 0 <= decay < 1:
            raise ValueError(f"averaging.decay={decay} must lie in [0, 1)")

        def step(average: Tensor, current: Tensor, _: Tensor | int) -> Tensor:
            return torch.lerp(average, current, 1 - decay) if average.is_floating_point() else current

        super().__init__(use_buffers=True, avg_fn=step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._copy_method_state(pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self._copy_method_state(pl_module)

    def _copy_method_state(self, pl_module: L.LightningModule) -> None:
        assert self._average_model is not None
        current = dict(pl_module.named_buffers())
        for name, buffer in self._average_model.module.named_buffers():
            if not name.startswith("net."):
                buffer.copy_(current[name])
