"""ABSLD: anti-bias soft label distillation.

Zhao, Wang and Wei, "Improving Adversarial Robust Fairness via Anti-Bias Soft Label Distillation", NeurIPS 2024, arXiv 2312.05508;
values from the authors' code. A class that the student finds hard gets sharper labels from the teacher, an easy one softer:

    label_b(x)  = softmax( teacher(x) / T_b[y] ),    b = "adversarial" or "natural", each with its temperatures (K,)
    x'          = argmax KL( label_adversarial(x) || softmax student(x') )    from a Gaussian start of 0.001
    loss        = share KL( label_adversarial(x) || softmax student(x') )
                  + (1 - share) KL( label_natural(x) || softmax student(x) )
    after each epoch:   T_b[k] <- clip( T_b[k] - rate (L_k - mean L) / max_j |L_j - mean L|, least, most ),

L_k the student's mean cross-entropy on class k over the epoch, at x' or at x. All temperatures begin at 1. `rate` falls with the
learning rate, in the same epochs as in the code.

Deviations from the code: it divides in place a tensor that both branches share, so that each label is
softmax(teacher / (T_a T_n)): `aliased=true`; its KL is divided by K as well: `reduction="mean"`; its L_k are sums, by which a
class with more images is harder: `class_loss="sum"`. AWP, if chosen, climbs the loss. The loss knows no label, so that it takes
`objective=at` without label smoothing only.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairat_lightning.classwise import ClassMeans, global_sum
from fairat_lightning.methods.parts.distillation import Distillation
from fairat_lightning.objectives import AT, kl, logits_of
from fairat_lightning.settings import one_of, switch, within


class ABSLD(Distillation):
    """`share` in [0, 1], of the adversarial term; `rate`, 0 or more; `temperature_range`: least and most, around 1."""

    temperatures: Tensor

    def __init__(
        self,
        *args: Any,
        share: float,
        rate: float,
        temperature_range: tuple[float, float],
        aliased: bool = False,
        class_loss: str = "mean",
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        within("method.share", share, "[0, 1]")
        within("method.rate", rate, "[0, inf)")
        if not isinstance(temperature_range, list | tuple) or len(temperature_range) != 2:
            raise ValueError(f"method.temperature_range={temperature_range} must be two numbers, the smallest and the largest")
        within("method.temperature_range", temperature_range[0], "(0, 1]")
        within("method.temperature_range", temperature_range[1], "[1, inf)")
        switch("method.aliased", aliased)
        one_of("method.class_loss", class_loss, ("mean", "sum"))
        if type(self.objective) is not AT or self.objective.label_smoothing:
            raise ValueError("method=absld learns from its teacher alone: set objective=at and objective.label_smoothing=0")
        self.objective = AT()
        self.objective.start = "gaussian"
        self.share, self.rate, self.temperature_range, self.aliased = share, rate, temperature_range, aliased
        self.class_loss = class_loss
        self.register_buffer("temperatures", torch.ones(2, self.num_classes))  # adversarial, natural
        self.risks = ClassMeans(self.num_classes, 2)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = self.unpack(batch)
        adversarial, natural = self.labels(self.wanted(x), y)
        x_adv = self.craft(x, y, inner=away_from(adversarial))

        def losses() -> tuple[Tensor, Tensor, Tensor]:
            at, clean = logits_of(self.net, x_adv), logits_of(self.net, x)
            loss = self.share * kl(adversarial, at) + (1 - self.share) * kl(natural, clean)
            return loss / self.divisor, at, clean

        self.ascend(x, x_adv, y, lambda: losses()[0])
        loss, at, clean = losses()
        self.risks.update(torch.stack([F.cross_entropy(logits, y, reduction="none") for logits in (at, clean)], 1), y)
        self.train_robust.update((at.argmax(1) == y).float(), y)
        return self.reduce(loss)

    def labels(self, wanted: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's logits (B,K) at the temperatures of their classes `y` (B,): for x', and for x."""
        adversarial, natural = self.temperatures[:, y, None]
        if self.aliased:
            adversarial = natural = adversarial * natural
        return wanted / adversarial, wanted / natural

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        risks = self.risks.compute()
        if self.class_loss == "sum":
            risks = risks * global_sum(self.risks.counts)[:, None]
        self.risks.reset()
        self.adjust(risks.T, self.rate * self.progress())
        for name, values in zip(("adversarial", "natural"), self.temperatures, strict=True):
            self.log_classes(f"train/temperature_{name}", values)

    def adjust(self, risks: Tensor, rate: float) -> None:
        """Move the temperatures by the student's cross-entropies (2,K) of each class; an absent class, nan, keeps its own."""
        gap = risks - risks.nanmean(1, keepdim=True)
        widest = gap.nan_to_num().abs().amax(1, keepdim=True)
        step = (gap / widest.clamp(min=torch.finfo(gap.dtype).tiny)).nan_to_num()
        self.temperatures.copy_((self.temperatures - rate * step).clamp(*self.temperature_range))

    def progress(self) -> float:
        """The current learning rate as a share of that which the schedule multiplies."""
        group = self.trainer.optimizers[0].param_groups[0]
        return float(group["lr"]) / float(group.get("initial_lr", group["lr"]) or 1.0)


def away_from(label: Tensor) -> Any:
    """The inner loss KL( softmax label || p(x') ) of logits `label` (B,K)."""

    def inner(net: nn.Module, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda image: kl(label, logits_of(net, image))

    return inner
