"""Ordinary training on clean images, the reference without robustness. The attack is used for evaluation only."""

from typing import Any

from torch import Tensor

from fairat_lightning.methods.base import Method
from fairat_lightning.objectives import AT


class Standard(Method):
    """Minimise the cross-entropy of clean images. Needs `objective=at awp=none`."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if type(self.objective) is not AT or self.awp is not None:
            raise ValueError("method=standard has no adversarial images: set objective=at awp=none")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = self.unpack(batch)
        terms = self.objective(self.net, x, x, y)
        return self.reduce(self.objective.total(terms))
