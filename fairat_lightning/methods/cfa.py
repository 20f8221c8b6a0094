"""CFA: class-wise calibrated fair adversarial training.

Wei, Wang, Guo and Wang, CVPR 2023, arXiv 2303.14460. With t_k the robust accuracy of class k on the training batches of the
last epoch,

    CCM  eps_k = (lambda_1 + t_k) eps, and the step with it     (a hard class is attacked less)
    CCR  beta_k = (lambda_2 + t_k) beta,              loss = mean_i [ supervised_i + beta[y_i] consistency_i ] / (1 + beta[y_i])
    FAWA a gated average of the weights: `averaging=fawa`, which this method's file chooses.

t_k acts when the share `warmup` of the epochs has passed (10 of 200 in the authors' code), before that both factors are 1.
Deviations: with CCR off the code divides by 1 + beta too (`always_divided=true`); ours is then the plain objective. t_k counts
the examples seen, and not m per batch. The code crafts in train mode with the cross-entropy (`attack.batch_norm=train`), and its
step does not follow eps_k: `attack.scale_step=false`.
"""

from typing import Any

import torch
from torch import Tensor

from fairat_lightning.classwise import calibrated, keep
from fairat_lightning.methods.base import Method
from fairat_lightning.settings import switch, within


class CFA(Method):
    """`ccm`, `ccr`: which calibrations act. `lambda1`, `lambda2`: their offsets. `warmup`: a share of the epochs, in [0, 1].

    `always_divided`: whether the loss is divided by 1 + beta with `ccr` off too.
    """

    class_robust: Tensor

    def __init__(
        self,
        *args: Any,
        ccm: bool,
        ccr: bool,
        lambda1: float,
        lambda2: float,
        warmup: float,
        always_divided: bool = False,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        within("method.lambda1", lambda1, "[0, inf)")
        within("method.lambda2", lambda2, "[0, inf)")
        within("method.warmup", warmup, "[0, 1]")
        for name, flag in (("ccm", ccm), ("ccr", ccr), ("always_divided", always_divided)):
            switch(f"method.{name}", flag)
        self.ccm, self.ccr, self.lambda1, self.lambda2, self.warmup = ccm, ccr, lambda1, lambda2, warmup
        self.divided = ccr or always_divided
        self.register_buffer("class_robust", torch.full((self.num_classes,), torch.nan))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = self.unpack(batch)
        x_adv = self.craft(x, y, scale=calibrated(self.lambda1, self.class_robust)[y] if self.ccm else None)
        self.ascend(x, x_adv, y)
        terms = self.score(x, x_adv, y)
        if not self.divided:
            return self.reduce(self.objective.total(terms))
        beta = self.objective.beta * (calibrated(self.lambda2, self.class_robust)[y] if self.ccr else 1)
        return self.reduce((terms.supervised + beta * terms.consistency) / (1 + beta))

    def on_train_epoch_end(self) -> None:
        if self.current_epoch + 1 >= round(self.warmup * self.epochs):
            self.class_robust.copy_(keep(self.train_robust.compute(), self.class_robust))
        super().on_train_epoch_end()
        if self.ccm:
            self.log_classes("train/class_eps", calibrated(self.lambda1, self.class_robust))
