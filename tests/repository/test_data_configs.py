from functools import partial
from pathlib import Path

import hydra
import pytest
from helpers import options
from omegaconf import DictConfig, OmegaConf

from fairat_lightning.data import DataModule, sets

CONF = Path(__file__).parents[2] / "conf" / "data"
NAMES = ["cifar10", "cifar100", "digits", "fashion_mnist", "folder", "stl10", "svhn", "synthetic", "tiny_imagenet"]


def read_config(name: str) -> DictConfig:
    config = OmegaConf.create({"seed": 3, "data": OmegaConf.load(CONF / f"{name}.yaml")})
    del config.data["defaults"]
    return config


def test_every_set_has_a_config_and_every_config_a_set() -> None:
    assert options("data") == sorted(sets.__all__) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_config_builds_its_datamodule_and_suggests_the_rest(name: str) -> None:
    config = read_config(name)
    suggests = config.data.pop("suggests")
    assert set(suggests) == {"eps", "epochs", "augmentation", "mean", "std"} and set(suggests.eps) == {"linf", "l2"}
    assert len(suggests.mean) == len(suggests.std)
    data = hydra.utils.instantiate(config.data)
    assert isinstance(data, DataModule) and data.seed == 3
    load = data.load
    while isinstance(load, partial):
        load = load.func
    assert load is getattr(sets, name)


@pytest.mark.parametrize(("name", "shape"), [("digits", (900, 1, 8, 8)), ("synthetic", (720, 1, 8, 8))])
def test_the_embedded_sets_load_from_their_configs(name: str, shape: tuple[int, ...]) -> None:
    config = read_config(name)
    mean = config.data.pop("suggests").mean
    data = hydra.utils.instantiate(config.data)
    data.prepare()
    assert data.train.pixels.shape == shape and len(mean) == data.channels
