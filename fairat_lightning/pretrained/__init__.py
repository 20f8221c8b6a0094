"""The networks that come with the package: `pretrained:NAME` is the path of one wherever a trained network's is read.

NAME/   model.safetensors, README.md   the weights and the card of `fairat_lightning.export`
        config.yaml                    model, data and attack of the run, as in its folder

NAME is <data>_<method>_s<seed>; without _s<seed> it is seed 0. `studies/keep.py` adds one from a finished run.
"""

import os
from pathlib import Path

from fairat_lightning.settings import nearest, reachable

HERE = Path(__file__).resolve().parent
PREFIX = "pretrained:"


def located(path: str | os.PathLike[str]) -> Path:
    """The folder of the network that `pretrained:NAME` names; any other path with ~ expanded. ValueError lists the names."""
    if not str(path).startswith(PREFIX):
        return reachable(path)
    name, names = str(path).removeprefix(PREFIX), sorted(place.parent.name for place in HERE.glob("*/config.yaml"))
    if found := next((known for known in (name, f"{name}_s0") if known in names), None):
        return HERE / found
    like = nearest(str(path), [PREFIX + known.removesuffix("_s0") for known in names])
    raise ValueError(f"{path} does not exist: choose one of {', '.join(PREFIX + known for known in names)}{like}")


def is_pretrained(path: str | os.PathLike[str]) -> bool:
    """Whether `path`, by its name or as a folder, is a network of the package."""
    return located(path).resolve().parent == HERE
