"""Models of the timm library."""

import sys
from typing import Any

import pytest
import torch

from fairat_lightning.models import Normalized, timm

pytest.importorskip("timm")


def build(name: str, image_size: int | None = 32, in_channels: int = 3) -> Normalized:
    kwargs: dict[str, Any] = {"mean": [0.5], "std": [0.25], "image_size": image_size}
    return timm(name=name, num_classes=4, in_channels=in_channels, **kwargs)


@pytest.mark.parametrize("name", ["resnet10t", "resnet18", "convnext_atto", "vit_tiny_patch16_224"])
def test_small_images_give_logits_and_gradients(name: str) -> None:
    net = build(name)
    assert net.training and isinstance(net, Normalized)
    net(torch.rand(2, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("name", ["resnet10t", "resnet18"])
@pytest.mark.parametrize(("image_size", "side"), [(32, 32), (None, 8)])
def test_a_resnet_keeps_a_small_image_whole_in_its_stem(name: str, image_size: int | None, side: int) -> None:
    sides: list[int] = []
    with torch.device("meta"):
        net = build(name, image_size, in_channels=1)
        layer = net.get_submodule("model.layer1")
        layer.register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[-1]))
        net(torch.zeros(2, 1, 32, 32))
    assert sides == [side]


@pytest.mark.parametrize("name", ["resnet81", "resnet18.a1_in1k"])
def test_an_unknown_name_comes_with_close_ones(name: str) -> None:
    with pytest.raises(ValueError, match=f"model.name={name} is not a timm model: did you mean .*resnet18"):
        build(name)


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet18", "local-dir:/tmp", "zzzzqqq", ""])
def test_only_names_of_the_library_are_taken(name: str) -> None:
    with pytest.raises(ValueError, match="is not a timm model"):
        build(name)


def test_an_image_that_does_not_fit_is_one_line() -> None:
    line = "model.name=vit_tiny_patch16_224 does not fit 8x8 images of 3 channels: "
    with pytest.raises(ValueError, match=line) as error:
        build("vit_tiny_patch16_224", 8)
    assert "\n" not in str(error.value)


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"pip install -e \".*\[timm\]\""):
        build("resnet18")
