"""Residual networks for small images, after and before the activation.

ResNet: He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385.
PreActResNet: the same authors, "Identity Mappings in Deep Residual Networks", ECCV 2016, arXiv 1603.05027.
With W a convolution, N a batch norm and S a 1x1 convolution that stands where the shape changes, one block is

    ResNet          x <- relu( N2 W2 relu( N1 W1 x ) + [N3 S] x )
    PreActResNet    a = relu( N1 x );   x <- W2 relu( N2 W1 a ) + ( S a, or x where the shape stays )

Unlike the papers' ImageNet nets, and like all adversarial training on 32x32 images: a 3x3 stem of stride 1
and no max-pool. Parameter names and initialisation (torch's default) are those of the field's usual code, so
that public state dicts load and published recipes start where theirs did.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias that keeps the image's size at stride 1."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


class Block(nn.Module):
    """Two convolutions, each followed by its batch norm: (B,inputs,H,W) -> (B,outputs,H/stride,W/stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


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


class ResNet(_Residual):
    """Post-activation net: images (B,in_channels,H,W) to logits (B,num_classes)."""

    def __init__(self, blocks: Sequence[int], *, num_classes: int, in_channels: int = 3, width: int = 64):
        super().__init__(Block, blocks, num_classes=num_classes, in_channels=in_channels, width=width)
        self.bn1 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(F.relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


class PreActResNet(_Residual):
    """Pre-activation net: images (B,in_channels,H,W) to logits (B,num_classes)."""

    def __init__(self, blocks: Sequence[int], *, num_classes: int, in_channels: int = 3, width: int = 64):
        super().__init__(PreActBlock, blocks, num_classes=num_classes, in_channels=in_channels, width=width)
        self.bn = nn.BatchNorm2d(self.linear.in_features)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stages(self.conv1(x))))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits
