"""Optimisers and their schedules, as functions that a method calls with its parameters.

`multistep` and `onecycle` are recipes of the literature, SGD with its schedule. `scheduled` joins any optimiser of torch with any
schedule: a function (optimizer, *, epochs, steps) that gives the share of the learning rate at each of the `steps`.
"""

from collections.abc import Callable, Iterable, Sequence
from math import cos, pi
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR, MultiStepLR

from fairat_lightning.settings import switch, within


def multistep(
    parameters: Iterable[Parameter], *, epochs: int, steps: int, milestones: Sequence[float], gamma: float, **sgd: Any
) -> dict[str, Any]:
    """SGD whose learning rate is multiplied by `gamma` when each share of the `epochs` in `milestones` has passed."""
    _steps("optim", milestones, gamma)
    optimizer = _sgd(parameters, **sgd)
    schedule = MultiStepLR(optimizer, _passed(milestones, epochs), gamma)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}


def onecycle(parameters: Iterable[Parameter], *, epochs: int, steps: int, lr: float, warmup: float, **sgd: Any) -> dict[str, Any]:
    """SGD whose learning rate rises linearly to `lr` over the share `warmup` of the `steps` and falls linearly to 0."""
    within("optim.warmup", warmup, "[0, 1)")
    optimizer = _sgd(parameters, lr=lr, **sgd)
    schedule = LambdaLR(optimizer, triangle(epochs=epochs, steps=steps, warmup=warmup))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def scheduled(
    parameters: Iterable[Parameter],
    *,
    epochs: int,
    steps: int,
    optimizer: Callable[..., Optimizer],
    schedule: Callable[..., Callable[[int], float]],
    fused: bool = True,
) -> dict[str, Any]:
    """`optimizer(parameters)`, whose learning rates are multiplied by `schedule(epochs=, steps=)(step)` at each step.

    `fused` asks for one kernel for all weights where the optimiser has that.
    """
    kernel = {"fused": True} if fused and optimizer_of(optimizer) in FUSED else {}
    made = optimizer(parameters, **kernel)
    if not isinstance(made, Optimizer):
        raise ValueError(f"optim._target_ gives {type(made).__name__}: it must be a torch.optim.Optimizer")
    schedule_of = LambdaLR(made, schedule(epochs=epochs, steps=steps))
    return {"optimizer": made, "lr_scheduler": {"scheduler": schedule_of, "interval": "step"}}


def try_optimiser(optim: Callable[..., dict[str, Any]], epochs: int) -> None:
    """A step of the optimiser that `optim` makes, on a weight that stays; raises what the optimiser raises."""
    weight = Parameter(torch.zeros(2, 2))
    weight.grad = torch.zeros(2, 2)
    made = optim([weight], epochs=epochs, steps=100)
    made["optimizer"].step()


FUSED = (SGD, torch.optim.Adam, torch.optim.AdamW)


def optimizer_of(optimizer: Any) -> Any:
    """The class behind a function with some values filled in."""
    return getattr(optimizer, "func", optimizer)


def constant(*, epochs: int, steps: int, warmup_epochs: float) -> Callable[[int], float]:
    """1 after the warm-up."""
    rise = _rise(epochs, steps, warmup_epochs)
    return lambda step: _risen(step, rise)


def cosine(*, epochs: int, steps: int, warmup_epochs: float) -> Callable[[int], float]:
    """(1 + cos(pi t)) / 2, t from 0 at the end of the warm-up to 1 at the last step's end (Loshchilov and Hutter, ICLR 2017)."""
    rise = _rise(epochs, steps, warmup_epochs)

    def share(step: int) -> float:
        return _risen(step, rise) if step < rise else (1 + cos(pi * min(1.0, (step - rise) / (steps - rise)))) / 2

    return share


def steps(*, epochs: int, steps: int, milestones: Sequence[float], gamma: float, warmup_epochs: float) -> Callable[[int], float]:
    """`gamma` to the power of how many shares of the `epochs` in `milestones` have passed, each at the end of an epoch."""
    _steps("schedule", milestones, gamma)
    rise, passed = _rise(epochs, steps, warmup_epochs), _passed(milestones, epochs)

    def share(step: int) -> float:
        epoch = step * epochs // steps
        return _risen(step, rise) * float(gamma) ** sum(epoch >= milestone for milestone in passed)

    return share


def triangle(*, epochs: int, steps: int, warmup: float) -> Callable[[int], float]:
    """Linearly from 0 to 1 over the share `warmup` of the `steps`, and linearly back."""
    within("schedule.warmup", warmup, "[0, 1)")
    rise = warmup * steps
    return lambda step: (step + 1) / (rise + 1) if step < rise else max(0.0, (steps - step) / (steps - rise))


def _rise(epochs: int, steps: int, warmup_epochs: float) -> float:
    """The steps of the warm-up."""
    if isinstance(warmup_epochs, bool) or not isinstance(warmup_epochs, int | float) or not 0 <= warmup_epochs < epochs:
        raise ValueError(
            f"schedule.warmup_epochs={warmup_epochs} must be a number of epochs from 0 to less than trainer.max_epochs={epochs}"
        )
    return warmup_epochs * steps / epochs


def _risen(step: int, rise: float) -> float:
    return min(1.0, (step + 1) / (rise + 1))


def _steps(group: str, milestones: Any, gamma: Any) -> None:
    if not isinstance(milestones, list | tuple) or not all(isinstance(m, int | float) and 0 < m <= 1 for m in milestones):
        raise ValueError(f"{group}.milestones={milestones} must be a list of fractions of the training, each in (0, 1]")
    within(f"{group}.gamma", gamma, "(0, 1]")


def _passed(milestones: Sequence[float], epochs: int) -> list[int]:
    """The epochs at which `milestones` have passed: never before the first is over, so that a run of one epoch trains at `lr`."""
    return [max(1, round(m * epochs)) for m in milestones]


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
