"""What the methods that distil share: a teacher, which stays as it is."""

from typing import Any

import torch
from torch import Tensor, nn

from fairat_lightning.methods.base import Method
from fairat_lightning.objectives import logits_of
from fairat_lightning.settings import one_of


class Outside(list[nn.Module]):
    """Modules that are no part of the one that holds them: not in its checkpoints, nor in its copies."""

    def __deepcopy__(self, memo: Any) -> "Outside":
        return self


class Distillation(Method):
    """A method with a `teacher`: a network from images in [0,1] to logits, in eval mode and without gradients.

    `reduction`: whether divergences are the "sum" over the K classes or, as in the released codes, their "mean", K times smaller.
    """

    def __init__(self, *args: Any, teacher: nn.Module, reduction: str = "sum", **kwargs: Any):
        super().__init__(*args, **kwargs)
        one_of("method.reduction", reduction, ("sum", "mean"))
        self.divisor = self.num_classes if reduction == "mean" else 1
        if not isinstance(teacher, nn.Module):
            raise ValueError(f"the teacher is of type {type(teacher).__name__}: give a torch.nn.Module")
        self._teacher = Outside([teacher.eval()])

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self._teacher[0].to(next(self.net.parameters()))

    @torch.no_grad()
    def wanted(self, x: Tensor) -> Tensor:
        """The teacher's logits (B,K) of images (B,C,H,W)."""
        logits = logits_of(self._teacher[0], x)
        if logits.shape[1:] != (self.num_classes,):
            given = " x ".join(map(str, logits.shape[1:]))
            raise ValueError(
                f"the teacher gives {given} logits, but there are {self.num_classes} classes: give a teacher of the same"
            )
        return logits
