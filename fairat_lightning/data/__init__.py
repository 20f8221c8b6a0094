"""The image sets and the one DataModule that splits, shards and augments them."""

from fairat_lightning.data.images import Images, Indexed, as_float
from fairat_lightning.data.module import DataModule

__all__ = ["DataModule", "Images", "Indexed", "as_float"]
