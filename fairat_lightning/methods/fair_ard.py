"""Fair-ARD: fair adversarial robustness distillation.

Yue, Mou, Wang and Zhao, "Revisiting Adversarial Robustness Distillation from the Perspective of Robust Fairness", NeurIPS 2023.
With kappa_i the number of the attack's iterates that the student still classifies correctly and kappa_k its mean over class k
in the last epoch,

    w_k = clip( K kappa_k^-power / sum_j kappa_j^-power, least, most ),
    loss = mean_i w[y_i] [ alpha T^2 KL( softmax(teacher(x_i)/T) || softmax(student(x'_i)/T) ) + (1 - alpha) objective_i ].

All weights are 1 in epoch 0. Deviations: KL is summed over the classes, where the released code divides it by K too:
`reduction="mean"`; the attack crafts in eval mode, the code's in train mode (`attack.batch_norm=train`), and stays in [0,1], as
everywhere here. kappa is clamped to 1e-3 from below. AWP, if chosen, climbs the objective.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fairat_lightning.classwise import ClassMeans, keep
from fairat_lightning.dro import hedge
from fairat_lightning.methods.parts.distillation import Distillation
from fairat_lightning.objectives import kl
from fairat_lightning.settings import within


class FairARD(Distillation):
    """`temperature` T > 0; `alpha` in [0, 1]; `weight_range`: least and most."""

    class_iterates: Tensor

    def __init__(
        self,
        *args: Any,
        temperature: float,
        alpha: float,
        power: float,
        weight_range: tuple[float, float],
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        within("method.temperature", temperature, "(0, inf)")
        within("method.alpha", alpha, "[0, 1]")
        within("method.power", power, "[0, inf)")
        if not isinstance(weight_range, list | tuple) or len(weight_range) != 2:
            raise ValueError(f"method.weight_range={weight_range} must be two numbers, such as [0.83,2.5]")
        within("method.weight_range", weight_range[0], "[0, 1]")
        within("method.weight_range", weight_range[1], "[1, inf)")
        self.temperature, self.alpha, self.power, self.weight_range = temperature, alpha, power, weight_range
        self.iterates = ClassMeans(self.num_classes)
        self.register_buffer("class_iterates", torch.full((self.num_classes,), torch.nan))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = self.unpack(batch)
        correct = torch.zeros_like(y)
        x_adv = self.craft(x, y, inner=self.counting(correct))
        self.iterates.update(correct.float(), y)
        self.ascend(x, x_adv, y)
        terms = self.score(x, x_adv, y)
        loss = (1 - self.alpha) * self.objective.total(terms)
        if self.alpha:
            t = self.temperature
            loss = loss + self.alpha * t**2 * kl(self.wanted(x) / t, terms.logits / t) / self.divisor
        return self.reduce(self.class_weight()[y] * loss)

    def counting(self, correct: Tensor) -> Any:
        """The objective's inner loss, which adds to `correct` (B,) at each iterate that is classified correctly."""

        def inner(net: nn.Module, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
            both = self.objective.inner_with_logits(net, x, y)

            def counted(image: Tensor) -> Tensor:
                value, logits = both(image)
                correct.add_((logits.argmax(1) == y).to(correct))
                return value

            return counted

        return inner

    def class_weight(self) -> Tensor:
        """w (C,), 1 for a class not seen yet."""
        known = ~self.class_iterates.isnan()
        hardness = -self.power * self.class_iterates.double().clamp(min=1e-3).log()
        weights = (known.sum() * hedge(hardness.masked_fill(~known, -torch.inf))).clamp(*self.weight_range)
        return torch.where(known, weights, 1.0).to(self.class_iterates)

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.class_iterates.copy_(keep(self.iterates.compute(), self.class_iterates))
        self.iterates.reset()
        self.log_classes("train/class_weight", self.class_weight())
