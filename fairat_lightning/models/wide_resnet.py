"""Wide residual networks: Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, arXiv 1605.07146.

WRN-depth-widen has three stages of n = (depth - 4) / 6 pre-activation blocks with width * widen * (1, 2, 4)
channels. Parameter names are those of the public TRADES code, so that public state dicts load, and so is the
initialisation (the paper's: convolutions from N(0, 2 / fan_out), zero bias). The paper's dropout is left out:
the recipes of adversarial training that are followed here run without it.
"""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """A pre-activation block: (B,inputs,H,W) -> (B,outputs,H/stride,W/stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = stride == 1 and inputs == outputs
        self.convShortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        skip = x if self.convShortcut is None else self.convShortcut(active)
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + skip


class WideResNet(nn.Module):
    """Images (B,in_channels,H,W) to logits (B,num_classes).

    Raises ValueError for a depth that is not 6n + 4 and for a width or widening below 1.
    """

    def __init__(self, depth: int, widen: int, *, num_classes: int, in_channels: int = 3, width: int = 16):
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth={depth} of a wide ResNet must be 6n + 4: 10, 16, 22, 28, 34, ...")
        if isinstance(width, bool) or not isinstance(width, int) or width < 1 or widen < 1:
            raise ValueError(f"model.width={width} and widen={widen} must be whole numbers, 1 or more")
        super().__init__()
        blocks, wide = (depth - 4) // 6, width * widen
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.block1 = _stage(width, wide, blocks, stride=1)
        self.block2 = _stage(wide, 2 * wide, blocks, stride=2)
        self.block3 = _stage(2 * wide, 4 * wide, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(4 * wide)
        self.fc = nn.Linear(4 * wide, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        logits: Tensor = self.fc(F.relu(self.bn1(x)).mean((2, 3)))
        return logits


def _stage(inputs: int, outputs: int, blocks: int, *, stride: int) -> nn.Sequential:
    first, rest = Block(inputs, outputs, stride), [Block(outputs, outputs, 1) for _ in range(blocks - 1)]
    return nn.Sequential(OrderedDict(layer=nn.Sequential(first, *rest)))
