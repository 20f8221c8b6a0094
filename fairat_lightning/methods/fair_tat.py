"""FAIR-TAT: fair targeted adversarial training.

Medi, Jung and Keuper, WACV 2025, arXiv 2410.23142. The attack descends the cross-entropy towards a target class,

    y_t ~ softmax( sharpness * CFP ) over the classes other than y,
    CFP_k = share of the last epoch's robust errors that are predicted as k,

uniform in epoch 0, within eps_k = (lambda + s_k) eps. `scale` names what s_k is, counted over the last training epoch; for a
list, eps_k is the mean of its entries'. Until it is known, or with scale=null, eps_k = eps.

    robust         G-rob    share of the images of class k that are right under the attack
    cfp            G-cfps   cfp_factor CFP_k; the released factor is 2
    cfn            G-cfns   share of the errors that are of class k
    target_robust  T-rob    share of the images of class k that are taken for their target
    target_cfp     T-cfps   of the images that are not taken for their target, the share that is predicted as k
    target_cfn     T-cfns   the share of them that is of class k

The second column is the code's name. lambda is `lambda1` for the robust ones, `lambda_c` for the others, 1.5 in the authors'
cluster commands. Outside, the objective is minimised as it is (the cross-entropy by default). It goes with `averaging=fawa`. The
released code's sharpness, 2, makes the targets nearly uniform; with its random targets it is 0. Its step does not follow eps_k:
`attack.scale_step=false`. Not here: the smallest instead of the mean of several eps_k, which no released command uses, and the
divergence from the clean prediction that two of the commands for CIFAR-100 add to the loss.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairat_lightning.classwise import ClassMeans, calibrated, keep
from fairat_lightning.methods.base import Method
from fairat_lightning.objectives import logits_of
from fairat_lightning.settings import one_of, within

OTHERS = ("cfn", "target_robust", "target_cfp", "target_cfn")  # what is counted only where it is asked for
SCALES = ("robust", "cfp", *OTHERS)


class FairTAT(Method):
    """`sharpness`, `lambda1`, `lambda_c` (None: lambda1), `cfp_factor`: 0 or more. `scale`: one of `SCALES`, several, or None."""

    class_robust: Tensor
    false_share: Tensor
    other_shares: Tensor

    def __init__(
        self,
        *args: Any,
        sharpness: float,
        lambda1: float,
        scale: str | Sequence[str] | None,
        cfp_factor: float = 1.0,
        lambda_c: float | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        lambda_c = lambda1 if lambda_c is None else lambda_c
        for name, value in (("cfp_factor", cfp_factor), ("sharpness", sharpness), ("lambda1", lambda1), ("lambda_c", lambda_c)):
            within(f"method.{name}", value, "[0, inf)")
        several = isinstance(scale, Sequence) and not isinstance(scale, str) and len(scale) > 0
        self.scales: list[Any] = [] if scale is None else list(scale) if several else [scale]
        for each in self.scales:
            one_of("method.scale", each, SCALES, ", a list of them, or null")
        self.sharpness, self.lambda1, self.lambda_c, self.cfp_factor = sharpness, lambda1, lambda_c, float(cfp_factor)
        self.register_buffer("class_robust", torch.full((self.num_classes,), torch.nan))
        self.register_buffer("false_share", torch.full((self.num_classes,), torch.nan))
        self.errors = ClassMeans(1, self.num_classes)  # of every example: 1 for the class that it is wrongly taken for
        self.others = None
        if {*self.scales} & {*OTHERS}:
            self.register_buffer("other_shares", torch.full((len(OTHERS), self.num_classes), torch.nan))
            self.others = ClassMeans(1, len(OTHERS) * self.num_classes)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = self.unpack(batch)
        target = self.targets(y)
        x_adv = self.craft(x, y, scale=self.class_scale()[y] if self.scales else None, inner=towards(target))
        self.ascend(x, x_adv, y)
        terms = self.score(x, x_adv, y)
        predicted = terms.logits.argmax(1)
        classes = torch.arange(self.num_classes, device=y.device)
        into, wrong = classes == predicted[:, None], (predicted != y)[:, None]
        everything = torch.zeros_like(y)  # counted as one class
        self.errors.update(into & wrong, everything)
        if self.others is not None:  # four counts, in the order of OTHERS
            of, missed = classes == y[:, None], (predicted != target)[:, None]
            self.others.update(torch.cat([of & wrong, of & ~missed, into & missed, of & missed], 1), everything)
        return self.reduce(self.objective.total(terms))

    def targets(self, y: Tensor) -> Tensor:
        """A class other than `y` (B,) for each example, drawn by how often errors fall into it."""
        chances = (self.sharpness * self.false_share.nan_to_num(nan=0.0)).expand(len(y), -1)
        chances = chances.scatter(1, y[:, None], -torch.inf).softmax(1)
        # What `multinomial` does, which waits for the device.
        return (chances / torch.empty_like(chances).exponential_()).argmax(1)

    def class_scale(self) -> Tensor:
        """eps_k / eps (C,): the mean over the scales that were asked for."""
        known = {"robust": self.class_robust, "cfp": self.cfp_factor * self.false_share}
        if self.others is not None:
            known |= dict(zip(OTHERS, self.other_shares, strict=True))
        offsets = [self.lambda1 if each.endswith("robust") else self.lambda_c for each in self.scales]
        scales = [calibrated(offset, known[each]) for offset, each in zip(offsets, self.scales, strict=True)]
        return torch.stack(scales).mean(0) if scales else torch.ones_like(self.class_robust)

    def on_train_epoch_end(self) -> None:
        self.class_robust.copy_(keep(self.train_robust.compute(), self.class_robust))
        wrong = self.errors.compute()[0]
        # Without a single error the last epoch's shares are kept.
        self.false_share.copy_(keep(wrong / wrong.sum(), self.false_share))
        if self.others is not None:
            of_wrong, hit, into_missed, of_missed = self.others.compute()[0].view(4, -1)
            shares = [
                of_wrong / of_wrong.sum(),
                hit / (hit + of_missed),
                into_missed / into_missed.sum(),
                of_missed / of_missed.sum(),
            ]
            self.other_shares.copy_(keep(torch.stack(shares), self.other_shares))
            self.others.reset()
        self.errors.reset()
        super().on_train_epoch_end()
        self.log_classes("train/class_eps", self.class_scale())


def towards(target: Tensor) -> Any:
    """The inner loss of a targeted attack: minus the cross-entropy of the classes `target` (B,)."""

    def inner(net: nn.Module, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda image: -F.cross_entropy(logits_of(net, image), target, reduction="none")

    return inner
