"""The factories, and the YAML files that name them."""

from collections.abc import Callable
from pathlib import Path

import hydra
import pytest
import torch
from helpers import options
from omegaconf import OmegaConf

from fairat_lightning import models
from fairat_lightning.models import Normalized

CONF = Path(__file__).parents[3] / "conf" / "model"
NETS = [models.preactresnet18, models.resnet18, models.wrn28_10, models.wrn34_10, models.preactresnet_tiny]
Factory = Callable[..., Normalized]


@pytest.mark.parametrize("build", NETS)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32)])
def test_gradient_reaches_every_parameter(build: Factory, channels: int, size: int) -> None:
    torch.manual_seed(0)
    net = build(num_classes=3, in_channels=channels, mean=[0.5], std=[0.25], width=1)
    logits = net(torch.rand(4, channels, size, size))
    assert logits.shape == (4, 3)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("build", NETS)
@pytest.mark.parametrize("num_classes", [2, 10, 200])
def test_every_number_of_classes_has_its_logits(build: Factory, num_classes: int) -> None:
    with torch.device("meta"):
        net = build(num_classes=num_classes, in_channels=3, mean=[0.5], std=[0.25])
        assert net(torch.zeros(2, 3, 32, 32)).shape == (2, num_classes)


def test_the_tiny_net_is_three_single_blocks() -> None:
    net = models.preactresnet_tiny(num_classes=10, in_channels=1, mean=[0.5], std=[0.25])
    names = [name for name, _ in net.model.named_children()]
    assert names == ["conv1", "layer1", "layer2", "layer3", "linear", "bn"]
    assert sum(p.numel() for p in net.parameters()) == 77_562


@pytest.mark.parametrize("build", NETS)
@pytest.mark.parametrize("width", [0, 1.5, "wide"])
def test_a_width_that_is_no_number_of_channels_is_refused(build: Factory, width: object) -> None:
    with pytest.raises(ValueError, match=f"model.width={width}"):
        build(num_classes=2, in_channels=3, mean=[0.5], std=[0.25], width=width)


def test_there_is_one_file_a_factory() -> None:
    assert set(options("model")) == {build.__name__ for build in NETS} | {"timm"}


@pytest.mark.parametrize("name", options("model"))
def test_every_file_builds_its_network(name: str) -> None:
    data = {"suggests": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}}
    config = OmegaConf.create({"data": data, "model": OmegaConf.load(CONF / f"{name}.yaml")}).model
    size = {"image_size": 32} if "image_size" in config else {}
    with torch.device("meta"):
        net = hydra.utils.instantiate(config, num_classes=7, in_channels=3, **size)
        assert isinstance(net, Normalized) and net.channels_last
        assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
