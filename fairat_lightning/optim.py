"""Optimiser recipes: SGD with the two schedules of the field, as functions that a method calls with its parameters."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch.nn import Parameter
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR, MultiStepLR

from fairat_lightning.settings import switch, within


def multistep(
    parameters: Iterable[Parameter], *, epochs: int, steps: int, milestones: Sequence[float], gamma: float, **sgd: Any
) -> dict[str, Any]:
    """SGD whose learning rate is multiplied by `gamma` when each share of the `epochs` in `milestones` has passed."""
    if not isinstance(milestones, list | tuple) or not all(isinstance(m, int | float) and 0 < m <= 1 for m in milestones):
        raise ValueError(f"optim.milestones={milestones} must be a list of shares of the training, each in (0, 1]")
    within("optim.gamma", gamma, "(0, 1]")
    optimizer = _sgd(parameters, **sgd)
    # Never before the first epoch is over: a run of one epoch trains at `lr`.
    schedule = MultiStepLR(optimizer, [max(1, round(m * epochs)) for m in milestones], gamma)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}


def onecycle(parameters: Iterable[Parameter], *, epochs: int, steps: int, lr: float, warmup: float, **sgd: Any) -> dict[str, Any]:
    """SGD whose learning rate rises linearly to `lr` over the share `warmup` of the `steps` and falls linearly to 0."""
    within("optim.warmup", warmup, "[0, 1)")
    optimizer = _sgd(parameters, lr=lr, **sgd)
    rise = warmup * steps

    def share(step: int) -> float:
        return (step + 1) / (rise + 1) if step < rise else max(0.0, (steps - step) / (steps - rise))

    schedule = LambdaLR(optimizer, share)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _sgd(
    parameters: Iterable[Parameter], *, lr: float, momentum: float, weight_decay: float, nesterov: bool, fused: bool = True
) -> SGD:
    for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise ValueError(f"optim.{name}={value} must be a number, 0 or more")
    within("optim.momentum", momentum, "[0, 1)")
    switch("optim.nesterov", nesterov)
    if nesterov and not momentum:
        raise ValueError("optim.nesterov=True needs an optim.momentum above 0")
    # One kernel for all weights; on a GPU one launch instead of hundreds.
    return SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, fused=fused)
