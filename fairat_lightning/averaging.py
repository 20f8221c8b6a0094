"""Averages of the network's weights over training, on Lightning's WeightAveraging.

    EMA    after every step, w_avg <- d w_avg + (1 - d) w,  d = min(decay, (1 + t) / (10 + t)) at step t, so that the
           first weights do not linger in a short run (our choice: a warm-up in common use, in no paper here)
    SWA    after every epoch of the last part of the training, the plain mean (Izmailov et al., UAI 2018, arXiv 1803.05407)
    FAWA   after every such epoch whose current weights have a worst class of at least `threshold` under PGD-10 on validation,
           w_avg <- d w_avg + (1 - d) w (CFA: Wei et al., CVPR 2023, arXiv 2303.14460)

Until SWA and FAWA have begun, the average is the current weights: the released FAWA ships its initial ones where no epoch
passes. An epoch's average is taken before its validation, so that what is selected is what was seen. Validation, selection and
the test see the average; a method's own rules (FairAT's scoring, FAWA's gate, costs on validation) see the current weights, and
its state is never averaged. Batch statistics are averaged with the weights (the field's code does so; SWA's paper measures them
anew); what is not a floating tensor is copied. Casts that torch.autocast keeps are dropped whenever weights change in place.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor, nn

from fairat_lightning.metrics import worst
from fairat_lightning.running.lightning_internals import PartialAveraging
from fairat_lightning.settings import within

Share = Callable[[int], float]  # updates so far, 1 or more -> the share that the current weights get


class Averaging(PartialAveraging):
    """What the three share: only the module's `net` is averaged and swapped; a checkpoint holds everything else as it is."""

    def __init__(self, share: Share):
        super().__init__()
        self.share, self.updates = share, 0

    @torch.no_grad()
    def update(self, pl_module: L.LightningModule) -> None:
        """Take the current weights in, the first by a copy. Torch's own update waits for the device to count."""
        share = self.share(self.updates) if self.updates else 1.0
        pairs = list(self._pairs(pl_module))
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([mean for mean, _ in floating], [current for _, current in floating], share)
        for mean, current in pairs:
            if not mean.is_floating_point():
                mean.copy_(current)
        torch.clear_autocast_cache()
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.updates = state_dict["updates"]

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and trainer.precision == "64-true":  # the module itself becomes float64 only later
            self.average.double()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.average.to(pl_module.device)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        current = checkpoint.get("current_model_state", {})
        checkpoint["state_dict"] |= {name: value for name, value in current.items() if not name.startswith("net.")}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == "fit":  # in a test Lightning's would put the current weights in the place of the average
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def swap(self, pl_module: L.LightningModule) -> None:
        for average, current in self._pairs(pl_module):
            held = average.data.clone()
            average.data.copy_(current.data)
            current.data.copy_(held)
        torch.clear_autocast_cache()

    def take_average(self, pl_module: L.LightningModule) -> None:
        for average, current in self._pairs(pl_module):
            current.data.copy_(average.data)
        torch.clear_autocast_cache()

    def _pairs(self, pl_module: L.LightningModule) -> Iterator[tuple[Tensor, Tensor]]:
        average, current = cast(nn.Module, self.average.module.net), cast(nn.Module, pl_module.net)
        yield from zip(average.parameters(), current.parameters(), strict=True)
        yield from zip(average.buffers(), current.buffers(), strict=True)


class EMA(Averaging):
    """Exponential moving average over steps; `decay` in [0, 1)."""

    def __init__(self, decay: float):
        within("averaging.decay", decay, "[0, 1)")
        super().__init__(lambda t: 1 - min(decay, (1 + t) / (10 + t)))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self.last_step:
            self.update(pl_module)
            self.last_step = trainer.global_step


class EpochAveraging(Averaging):
    """An average over the epochs that `admits` lets in, from the share `start` of the training on or at least of the last one."""

    def __init__(self, share: Share, start: float):
        within("averaging.start", start, "[0, 1)")
        super().__init__(share)
        self.start = start
        self.admitted = 0

    def admits(self, pl_module: L.LightningModule) -> bool:
        """Whether the epoch that has just been trained counts."""
        return True

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx + 1 < trainer.num_training_batches:
            return
        assert trainer.max_epochs is not None
        first = min(round(self.start * trainer.max_epochs), trainer.max_epochs - 1)
        if trainer.current_epoch >= first and self.admits(pl_module):
            self.admitted += 1
        elif self.admitted:
            return
        if self.admitted <= 1:  # up to the first that counts, a copy
            self.updates = 0
        self.update(pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.admitted:  # also where the training was cut short within an epoch
            self.updates = 0
            self.update(pl_module)
        super().on_train_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "admitted": self.admitted}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.admitted = state_dict["admitted"]


class SWA(EpochAveraging):
    """The mean of the weights at the ends of the epochs; `start` in [0, 1)."""

    def __init__(self, start: float):
        super().__init__(lambda t: 1 / (t + 1), start)


class FAWA(EpochAveraging):
    """Fairness-aware weight averaging; `decay`, `threshold` and `start` in [0, 1)."""

    def __init__(self, decay: float, threshold: float, start: float):
        within("averaging.decay", decay, "[0, 1)")
        within("averaging.threshold", threshold, "[0, 1)")
        super().__init__(lambda t: 1 - decay, start)
        self.threshold = threshold

    def admits(self, pl_module: L.LightningModule) -> bool:
        lowest = worst(cast(Callable[[], Tensor], pl_module.validation_robust)())
        return bool(lowest >= self.threshold)
