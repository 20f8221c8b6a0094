"""preactresnet_tiny, a classifier of 4 classes.

Images (B,1,H,W) in [0,1] go in, logits (B,4) come out:

    from model import load

    logits = load()(images)

Needs torch and safetensors. Written by fairat_lightning 0.1.0 (Apache-2.0), whose code this is.
"""

from collections.abc import Iterable, Sequence
from math import isfinite
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

CLASSES = ['class_0', 'class_1', 'class_2', 'class_3']


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


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias that keeps the image's size at stride 1."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


class PreActBlock(nn.Module):
    """Two convolutions, each preceded by its batch norm: (B,inputs,H,W) -> (B,outputs,H/stride,W/stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        skip = self.shortcut(active) if len(self.shortcut) else x
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + skip


class _Residual(nn.Module):
    """What both nets share: stem, stages and classifier.

    `blocks` gives the number of blocks a stage; stage i has width * 2^i channels, and every stage but the
    first halves the image. Raises ValueError for a width below 1.
    """

    def __init__(self, block: type[nn.Module], blocks: Sequence[int], *, num_classes: int, in_channels: int, width: int):
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise ValueError(f"model.width={width} must be a whole number, 1 or more")
        super().__init__()
        self.conv1 = conv3x3(in_channels, width)
        self.depth = len(blocks)
        channels = width
        for i, count in enumerate(blocks):
            inputs, channels = channels, width * 2**i
            first = block(inputs, channels, 1 if i == 0 else 2)
            rest = [block(channels, channels, 1) for _ in range(count - 1)]
            self.add_module(f"layer{i + 1}", nn.Sequential(first, *rest))
        self.linear = nn.Linear(channels, num_classes)

    def stages(self, x: Tensor) -> Tensor:
        for i in range(self.depth):
            x = getattr(self, f"layer{i + 1}")(x)
        return x


class PreActResNet(_Residual):
    """Pre-activation net: images (B,in_channels,H,W) to logits (B,num_classes)."""

    def __init__(self, blocks: Sequence[int], *, num_classes: int, in_channels: int = 3, width: int = 64):
        super().__init__(PreActBlock, blocks, num_classes=num_classes, in_channels=in_channels, width=width)
        self.bn = nn.BatchNorm2d(self.linear.in_features)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stages(self.conv1(x))))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


Numbers = Iterable[float]


def preactresnet_tiny(
    *, num_classes: int, in_channels: int, mean: Numbers, std: Numbers, width: int = 16, channels_last: bool = False
) -> Normalized:
    """A PreAct ResNet of three single blocks, for a CPU and 8x8 images (78 k parameters at width 16)."""
    model = PreActResNet((1, 1, 1), num_classes=num_classes, in_channels=in_channels, width=width)
    return Normalized(model, mean, std, channels_last, in_channels=in_channels)


def load(folder: str | Path = Path(__file__).parent) -> nn.Module:
    """The network on the CPU, in eval mode, with the weights in `folder`/model.safetensors."""
    net = preactresnet_tiny(num_classes=4, in_channels=1, width=2, mean=[0.5], std=[0.25], channels_last=True)
    net.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return net.eval()
