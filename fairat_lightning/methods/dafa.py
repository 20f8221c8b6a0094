"""DAFA: distance-aware fair adversarial training (paper and rule in `parts/class_transfer.py`).

After the warm-up, with W fixed, a hard class is both weighted more and attacked harder:

    eps_i = W[y_i] eps,  step_i = W[y_i] step,      mean_i [ W[y_i] supervised_i + beta * consistency_i ].

Deviations: those of `class_transfer.py`. For the cross-entropy objective the released code follows each step by a second one,
with the same gradient, of the plain size and within the plain eps, from a Gaussian start, in the warm-up too:
`attack.second_step=true attack.start=gaussian`. No image then leaves the plain eps, and the two steps together are 1 + W as long.
Without the option the margins act; `margins=False` weights the loss alone.
"""

from typing import Any

from torch import Tensor

from fairat_lightning.methods.base import Method
from fairat_lightning.methods.parts.class_transfer import Transfer
from fairat_lightning.settings import switch


class DAFA(Method):
    """`strength`: the paper's lambda. `warmup`: the share of the epochs before the weights act.

    `margins`: whether they scale eps and step too, or weight the loss alone.
    """

    def __init__(self, *args: Any, strength: float, warmup: float, margins: bool = True, **kwargs: Any):
        super().__init__(*args, **kwargs)
        switch("method.margins", margins)
        self.margins = margins
        self.transfer = Transfer(self.num_classes, strength=strength, warmup=warmup)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = self.unpack(batch)
        when = self.current_epoch, self.epochs
        weight = self.transfer.weight(y, *when)
        x_adv = self.craft(x, y, scale=weight if self.margins else None)
        self.ascend(x, x_adv, y)
        terms = self.score(x, x_adv, y)
        self.transfer.learn(terms.logits, y, *when)
        if weight is not None:
            terms = terms._replace(supervised=weight * terms.supervised)
        return self.reduce(self.objective.total(terms))

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.transfer.settle()
        self.log_classes("train/class_weight", self.transfer.class_weight)
