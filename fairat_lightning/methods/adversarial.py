"""PGD-AT, TRADES and MART: plain adversarial training with the objective of that name (papers in `objectives.py`).

min_theta  mean_i [ supervised_i + beta * consistency_i ]   at   x'_i = argmax inner loss
"""

from typing import Any

from torch import Tensor

from fairat_lightning.methods.base import Method


class AdversarialTraining(Method):
    """Minimise the objective's mean over the batch: the baseline of every fairness method."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = self.unpack(batch)
        x_adv = self.craft(x, y)
        self.ascend(x, x_adv, y)
        terms = self.score(x, x_adv, y)
        return self.reduce(self.objective.total(terms))
