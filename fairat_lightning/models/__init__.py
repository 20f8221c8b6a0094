"""Networks for small images, and their weights. `conf/model/*.yaml` names these functions; others with their arguments do too."""

from fairat_lightning.models.builders import preactresnet18, preactresnet_tiny, resnet18, wrn28_10, wrn34_10
from fairat_lightning.models.from_timm import timm
from fairat_lightning.models.normalized import Normalized
from fairat_lightning.models.weights import load_weights

__all__ = [
    "Normalized",
    "load_weights",
    "preactresnet18",
    "preactresnet_tiny",
    "resnet18",
    "timm",
    "wrn28_10",
    "wrn34_10",
]
