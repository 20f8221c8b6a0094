"""Optimiser recipes: SGD with the two schedules of the field, as functions that a method calls with its parameters."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch.nn import Parameter
from torch.optim import SGD
from torch.optim.lr_scheduler import MultiStepLR, OneCycleLR


def multistep(
    parameters: Iterable[Parameter], *, epochs: int, steps: int, milestones: Sequence[float], gamma: float, **sgd: Any
) -> dict[str, Any]:
    """SGD whose learning rate is multiplied by `gamma` when each share of the `epochs` in `milestones` has passed."""
    if not all(isinstance(m, int | float) and 0 < m <= 1 for m in milestones):
        raise ValueError(f"optim.milestones={list(milestones)} are shares of the training, each in (0, 1]")
    optimizer = _sgd(parameters, **sgd)
    schedule = MultiStepLR(optimizer, [round(m * epochs) for m in milestones], gamma)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}


def onecycle(parameters: Iterable[Parameter], *, epochs: int, steps: int, lr: float, warmup: float, **sgd: Any) -> dict[str, Any]:
    """SGD whose learning rate rises linearly to `lr` over the share `warmup` of the `steps` and falls linearly to 0."""
    optimizer = _sgd(parameters, lr=lr, **sgd)
    schedule = OneCycleLR(
        optimizer, max_lr=lr, total_steps=steps, pct_start=warmup, anneal_strategy="linear", cycle_momentum=False
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _sgd(parameters: Iterable[Parameter], *, lr: float, momentum: float, weight_decay: float, nesterov: bool) -> SGD:
    for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
        if not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise ValueError(f"optim.{name}={value} must be a number, 0 or more")
    return SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
