"""FAIR-TAT: fair targeted adversarial training.

Medi, Jung and Keuper, WACV 2025, arXiv 2410.23142. The attack descends the cross-entropy towards a target class,

    y_t ~ softmax( sharpness * CFP ) over the classes other than y,
    CFP_k = share of the last epoch's robust errors that are predicted as k,

uniform in epoch 0, within eps_k = (lambda + s_k) eps, where s_k is the last training epoch's robust accuracy of class k
("robust", the default) or `cfp_factor` times CFP_k ("cfp"; the released code's factor is 2); until it is known, or with
scale=null, eps_k = eps. Outside, the objective is minimised as it is (the cross-entropy by default). It goes with
`averaging=fawa`. The released code's sharpness, 2, makes the targets nearly uniform. Its step does not follow eps_k:
`attack.scale_step=false`. Its scales of false negatives, its counts against the target and its
averages of several scales, which no command of its authors uses, are not here.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairat_lightning.classwise import ClassMeans, calibrated, keep
from fairat_lightning.methods.base import Method
from fairat_lightning.objectives import logits_of
from fairat_lightning.settings import one_of, within


class FairTAT(Method):
    """`sharpness`, `lambda1`, `cfp_factor`: 0 or more. `scale`: "robust", "cfp" or None."""

    class_robust: Tensor
    false_share: Tensor

    def __init__(self, *args: Any, sharpness: float, lambda1: float, scale: str | None, cfp_factor: float = 1.0, **kwargs: Any):
        super().__init__(*args, **kwargs)
        within("method.cfp_factor", cfp_factor, "[0, inf)")
        self.cfp_factor = float(cfp_factor)
        within("method.sharpness", sharpness, "[0, inf)")
        within("method.lambda1", lambda1, "[0, inf)")
        if scale is not None:
            one_of("method.scale", scale, ("robust", "cfp"), ", or null")
        self.sharpness, self.lambda1, self.scale = sharpness, lambda1, scale
        self.register_buffer("class_robust", torch.full((self.num_classes,), torch.nan))
        self.register_buffer("false_share", torch.full((self.num_classes,), torch.nan))
        self.errors = ClassMeans(1, self.num_classes)  # of every example: 1 for the class that it is wrongly taken for

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = self.unpack(batch)
        target = self.targets(y)
        x_adv = self.craft(x, y, scale=self.class_scale()[y] if self.scale else None, inner=towards(target))
        self.ascend(x, x_adv, y)
        terms = self.score(x, x_adv, y)
        predicted = terms.logits.argmax(1)
        wrong = torch.arange(self.num_classes, device=y.device) == predicted.where(predicted != y, -1)[:, None]
        self.errors.update(wrong, torch.zeros_like(y))
        return self.reduce(self.objective.total(terms))

    def targets(self, y: Tensor) -> Tensor:
        """A class other than `y` (B,) for each example, drawn by how often errors fall into it."""
        chances = (self.sharpness * self.false_share.nan_to_num(nan=0.0)).expand(len(y), -1)
        chances = chances.scatter(1, y[:, None], -torch.inf).softmax(1)
        # What `multinomial` does, which waits for the device.
        return (chances / torch.empty_like(chances).exponential_()).argmax(1)

    def class_scale(self) -> Tensor:
        """eps_k / eps (C,)."""
        return calibrated(self.lambda1, self.class_robust if self.scale == "robust" else self.cfp_factor * self.false_share)

    def on_train_epoch_end(self) -> None:
        self.class_robust.copy_(keep(self.train_robust.compute(), self.class_robust))
        wrong = self.errors.compute()[0]
        # Without a single error the last epoch's shares are kept.
        self.false_share.copy_(keep(wrong / wrong.sum(), self.false_share))
        self.errors.reset()
        super().on_train_epoch_end()
        self.log_classes("train/class_eps", self.class_scale())


def towards(target: Tensor) -> Any:
    """The inner loss of a targeted attack: minus the cross-entropy of the classes `target` (B,)."""

    def inner(net: nn.Module, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda image: -F.cross_entropy(logits_of(net, image), target, reduction="none")

    return inner
