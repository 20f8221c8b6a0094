"""Normalisation inside the network, so that every image outside it is in [0,1].

    logits = model( (x - mean) / std )

An attack's budget is then in pixel units for every data set and architecture, and a checkpoint knows the mean
and standard deviation it was trained with.
"""

from collections.abc import Iterable
from math import isfinite

import torch
from torch import Tensor, nn


class Normalized(nn.Module):
    """Images (B,C,H,W) in [0,1] go in, logits (B,num_classes) come out.

    `mean` and `std` hold one number for all channels or one a channel; they are buffers (C,1,1) of the state
    dict. `in_channels` is C; left out, C is the longer of the two lengths. `channels_last` stores images and weights in
    torch.channels_last, the faster layout (`docs/performance.md`). Raises ValueError for a length that is neither 1 nor C and for
    a standard deviation that is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        mean: Iterable[float],
        std: Iterable[float],
        channels_last: bool = False,
        *,
        in_channels: int | None = None,
    ):
        super().__init__()
        means, stds = _numbers("model.mean", mean), _numbers("model.std", std)
        if not isinstance(channels_last, bool):
            raise ValueError(f"model.channels_last={channels_last} must be true or false")
        if min(stds) <= 0:
            raise ValueError(f"model.std={stds} must be positive: images are divided by it")
        channels = in_channels or max(len(means), len(stds))
        for name, values in (("mean", means), ("std", stds)):
            if len(values) not in (1, channels):
                raise ValueError(
                    f"model.{name}={values} has {len(values)} values, the images have {channels} channels: "
                    f"give one value for all or one a channel"
                )
            per_channel = values * channels if len(values) == 1 else values
            self.register_buffer(name, torch.tensor(per_channel).view(-1, 1, 1))
        self.channels_last = channels_last
        self.model = model.to(memory_format=torch.channels_last) if channels_last else model

    def forward(self, x: Tensor) -> Tensor:
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.model((x - self.mean) / self.std)
        return logits


def _numbers(name: str, values: Iterable[float]) -> list[float]:
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = []
    if not numbers or not all(map(isfinite, numbers)):
        raise ValueError(f"{name}={values} must be a list of numbers, one for all channels or one a channel")
    return numbers
