"""WideResNet."""

import pytest
import torch
import torch.nn.functional as F

from fairat_lightning.models.wide_resnet import Block, WideResNet


@pytest.mark.parametrize(("depth", "count"), [(28, 36_479_194), (34, 46_160_474)])
def test_parameter_counts_are_the_published_ones(depth: int, count: int) -> None:
    with torch.device("meta"):
        net = WideResNet(depth, 10, num_classes=10)
    assert sum(p.numel() for p in net.parameters()) == count


def test_names_are_those_of_the_public_trades_code() -> None:
    names = set(WideResNet(16, 2, num_classes=3, width=2).state_dict())
    block = {"bn1.weight", "conv1.weight", "bn2.weight", "conv2.weight"}
    assert {"conv1.weight", "bn1.running_var", "fc.weight", "fc.bias"} < names
    assert {f"block{s}.layer.{i}.{part}" for s in (1, 2, 3) for i in (0, 1) for part in block} < names
    assert {name for name in names if "convShortcut" in name} == {f"block{s}.layer.0.convShortcut.weight" for s in (1, 2, 3)}


def test_block_adds_a_shortcut_of_the_activated_input() -> None:
    torch.manual_seed(0)
    block, x = Block(3, 4, 2).eval(), torch.randn(2, 3, 6, 6)
    assert block.convShortcut is not None
    active = (x / (1 + 1e-5) ** 0.5).clamp(min=0)  # a fresh batch norm in eval mode
    out = F.conv2d(active, block.conv1.weight, stride=2, padding=1) / (1 + 1e-5) ** 0.5
    out = F.conv2d(out.clamp(min=0), block.conv2.weight, padding=1)
    torch.testing.assert_close(block(x), out + F.conv2d(active, block.convShortcut.weight, stride=2))
    assert Block(4, 4, 1).convShortcut is None


def test_initialisation_is_the_papers() -> None:
    torch.manual_seed(0)
    net = WideResNet(10, 1, num_classes=3, width=16)
    weight = net.get_parameter("block3.layer.0.conv2.weight")
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert not net.fc.bias.any()


@pytest.mark.parametrize("depth", [4, 12, 30])
def test_a_depth_that_is_not_6n_plus_4_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth={depth} of a wide ResNet must be 6n"):
        WideResNet(depth, 2, num_classes=2)


def test_a_width_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.width=0"):
        WideResNet(10, 2, num_classes=2, width=0)
