"""Any classifier of timm: Wightman, "PyTorch Image Models", github.com/huggingface/pytorch-image-models.

Always untrained: weights come in through `load_weights`, never by a download. timm is an optional extra.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from fairat_lightning.models.normalized import Normalized
from fairat_lightning.record.environment import install
from fairat_lightning.settings import first_line

SMALL = 64  # side of an image, in pixels, up to which a ResNet's ImageNet stem throws away too much of it


def timm(
    *,
    name: str,
    num_classes: int,
    in_channels: int,
    mean: Iterable[float],
    std: Iterable[float],
    image_size: int | None = None,
    channels_last: bool = False,
) -> Normalized:
    """The timm model `name`, untrained; the name says its size, so there is no `width`.

    With `image_size` (pixels a side) a transformer is built for that size, a ResNet for images up to 64x64
    gets a stem that suits them (first convolution of stride 1, no max-pool), and one blank image is tried;
    the stems of other convolutional nets stay. Raises ValueError without timm, for an unknown name, and for a
    model that does not turn such an image into `num_classes` logits.
    """
    try:
        import timm as library
    except ImportError:
        raise ValueError(f"model=timm needs the timm package: {install('timm')}") from None
    names = library.list_models()
    if name not in names:
        close = get_close_matches(str(name), names, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists them"
        raise ValueError(f"model.name={name} is not a timm model: {hint}")
    config = library.get_pretrained_cfg(name)
    fixed = image_size is not None and config is not None and config.fixed_input_size
    options: dict[str, Any] = {"img_size": image_size} if fixed else {}
    try:
        model = library.create_model(name, num_classes=num_classes, in_chans=in_channels, **options)
        if image_size is not None:
            if image_size <= SMALL and isinstance(model, library.models.resnet.ResNet):
                _keep_small_images_whole(model)
            _try(model, (1, in_channels, image_size, image_size), num_classes)
    except Exception as error:  # timm's models refuse a shape with whatever their layers raise
        reason = first_line(error)
        size = f"{image_size}x{image_size} " if image_size else ""
        raise ValueError(f"model.name={name} does not fit {size}images of {in_channels} channels: {reason}") from error
    return Normalized(model, mean, std, channels_last, in_channels=in_channels)


def _keep_small_images_whole(resnet: Any) -> None:
    if isinstance(resnet.conv1, nn.Conv2d):
        old = resnet.conv1
        resnet.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(resnet.conv1.weight, mode="fan_out", nonlinearity="relu")
    else:  # a deep stem is three 3x3 convolutions, of which the first has the stride
        resnet.conv1[0].stride = (1, 1)
    resnet.maxpool = nn.Identity()


def _try(model: nn.Module, shape: tuple[int, ...], num_classes: int) -> None:
    model.eval()
    with torch.no_grad():
        logits = model(torch.zeros(shape))
    model.train()
    if not isinstance(logits, torch.Tensor) or logits.shape != (1, num_classes):
        raise ValueError(f"its output is not {num_classes} logits an image")
