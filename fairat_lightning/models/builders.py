"""The architectures by their names in the field, each a function that builds a `Normalized` network.

`num_classes`, `in_channels` and the images' `mean` and `std` come from the data; `width` scales the number of channels.
"""

from collections.abc import Iterable

from fairat_lightning.models.normalized import Normalized
from fairat_lightning.models.resnet import PreActResNet, ResNet
from fairat_lightning.models.wide_resnet import WideResNet

Numbers = Iterable[float]


def preactresnet18(
    *, num_classes: int, in_channels: int, mean: Numbers, std: Numbers, width: int = 64, channels_last: bool = False
) -> Normalized:
    """PreAct ResNet-18, the field's usual network (11.2 M parameters at width 64)."""
    model = PreActResNet((2, 2, 2, 2), num_classes=num_classes, in_channels=in_channels, width=width)
    return Normalized(model, mean, std, channels_last, in_channels=in_channels)


def preactresnet_tiny(
    *, num_classes: int, in_channels: int, mean: Numbers, std: Numbers, width: int = 16, channels_last: bool = False
) -> Normalized:
    """A PreAct ResNet of three single blocks, for a CPU and 8x8 images (78 k parameters at width 16)."""
    model = PreActResNet((1, 1, 1), num_classes=num_classes, in_channels=in_channels, width=width)
    return Normalized(model, mean, std, channels_last, in_channels=in_channels)


def resnet18(
    *, num_classes: int, in_channels: int, mean: Numbers, std: Numbers, width: int = 64, channels_last: bool = False
) -> Normalized:
    """ResNet-18 with a 3x3 stem and no max-pool (11.2 M parameters at width 64)."""
    model = ResNet((2, 2, 2, 2), num_classes=num_classes, in_channels=in_channels, width=width)
    return Normalized(model, mean, std, channels_last, in_channels=in_channels)


def wrn28_10(
    *, num_classes: int, in_channels: int, mean: Numbers, std: Numbers, width: int = 16, channels_last: bool = False
) -> Normalized:
    """WRN-28-10 (36.5 M parameters at width 16, which is the stem's; the stages start at ten times that)."""
    model = WideResNet(28, 10, num_classes=num_classes, in_channels=in_channels, width=width)
    return Normalized(model, mean, std, channels_last, in_channels=in_channels)


def wrn34_10(
    *, num_classes: int, in_channels: int, mean: Numbers, std: Numbers, width: int = 16, channels_last: bool = False
) -> Normalized:
    """WRN-34-10 (46.2 M parameters at width 16, which is the stem's; the stages start at ten times that)."""
    model = WideResNet(34, 10, num_classes=num_classes, in_channels=in_channels, width=width)
    return Normalized(model, mean, std, channels_last, in_channels=in_channels)
