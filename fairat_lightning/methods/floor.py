"""FLOOR: fair learning by orthogonal operations for robustness. Ours: found apart, joined to lift the lowest class.

    x_i  <- augment(x_i) for the hard examples of the last epoch                                 FairAT  `parts/hard_examples.py`
    p*    = argmax_{p: KL(u || p) <= r} sum_k p_k m_k,  m_k the batch's mean margin of class k   FAAL    `parts/worst_case.py`
    loss  = (1/B) sum_i K' p*[y_i] ( supervised_i + beta consistency_i )

Hard examples act on what the network sees, the distribution on what is minimised: neither needs the other. hard_fraction=0 and
radius=0 switch one off each; what is left is that method, bit for bit. The joint values are our choice. Until 0.2 DAFA's class
margins, AWP, the balanced head, FAWA and margin memory were parts; left out alone, none of them lowers the worst class
(docs/methods/floor.md). awp=awp, head=balanced, averaging=fawa and memory=0.9 bring the last four back.

Cost of a step: PGD-AT's; an epoch, besides: one forward over the training set. The rest is arithmetic on (C,) and (B,C).
"""

from typing import Any

from torch import Tensor

from fairat_lightning.data.images import Pixels
from fairat_lightning.methods.base import Method
from fairat_lightning.methods.parts.hard_examples import HardExamples
from fairat_lightning.methods.parts.worst_case import WorstCase
from fairat_lightning.settings import within


class FLOOR(Method):
    """The settings are those of FairAT (`hard_fraction`, 0 is off) and FAAL (`radius`, `memory`)."""

    def __init__(
        self,
        *args: Any,
        num_samples: int,
        hard_fraction: float,
        augmentation: str,
        radius: float,
        memory: float,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        within("method.hard_fraction", hard_fraction, "[0, 1]")
        hard = HardExamples(num_samples, augmentation=augmentation, hard_fraction=hard_fraction)
        self.hard = hard if hard_fraction else None
        self.worst_case = WorstCase(self.num_classes, radius=radius, memory=memory)

    def setup(self, stage: str) -> None:
        if self.hard is not None:
            self.hard.check(self, stage)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, index = self.unpack(batch)
        if self.hard is not None:
            x = self.hard(x, index, batch_idx, self)
        x_adv = self.craft(x, y)
        self.ascend(x, x_adv, y)
        terms = self.score(x, x_adv, y)
        worst = self.worst_case(terms.logits, y)
        return self.reduce(worst[y] * self.objective.total(terms))

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.log_classes("train/class_weight", self.worst_case.mean_weights())
        if self.hard is not None:
            self.hard.refresh(self)

    def keepsakes(self, pixels: Pixels) -> dict[str, Tensor]:
        return {} if self.hard is None else self.hard.hardest(pixels)
