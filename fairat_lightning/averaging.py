"""Averages of the weights over training, on Lightning's WeightAveraging.

EMA after every step: w_avg <- d * w_avg + (1 - d) * w, with d = min(decay, (1 + t) / (10 + t)) at step t, so that the first
weights do not linger in a short run (our choice: a warm-up in common use, in no paper here). Validation, selection and the
test see the average; FairAT's scoring and every other rule of a method see the current weights. Batch statistics are averaged
with the weights; what is not a floating tensor is copied, and a checkpoint holds the state of the method outside its network
as it is.
"""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class EMA(WeightAveraging):
    """Exponential moving average of the network; `decay` in [0, 1)."""

    def __init__(self, decay: float):
        if not isinstance(decay, int | float) or not 0 <= decay < 1:
            raise ValueError(f"averaging.decay={decay} must lie in [0, 1)")

        def step(average: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
            if not average.is_floating_point():
                return current
            t = torch.as_tensor(updates, dtype=average.dtype, device=average.device)
            return torch.lerp(average, current, 1 - ((1 + t) / (10 + t)).clamp(max=decay))

        super().__init__(use_buffers=True, avg_fn=step)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and trainer.precision == "64-true":  # the module itself becomes float64 only later
            assert self._average_model is not None
            self._average_model.double()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert self._average_model is not None
        self._average_model.to(pl_module.device)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        current = checkpoint.get("current_model_state", {})
        checkpoint["state_dict"] |= {name: value for name, value in current.items() if not name.startswith("net.")}
