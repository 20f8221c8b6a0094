"""ResNet and PreActResNet."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fairat_lightning.models.resnet import Block, PreActBlock, PreActResNet, ResNet


def parameters(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def norm(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Batch norm with the batch's own statistics, written out."""
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    weight, bias = (state[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias"))
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def shuffled(module: torch.nn.Module) -> torch.nn.Module:
    """Other values in every parameter, so that no batch norm is the identity."""
    for parameter in module.parameters():
        parameter.data = torch.randn_like(parameter)
    return module.double()


@pytest.mark.parametrize("net", [ResNet, PreActResNet])
def test_parameter_counts_are_the_published_ones(net: type[ResNet | PreActResNet]) -> None:
    with torch.device("meta"):
        model = net((2, 2, 2, 2), num_classes=10)
    assert parameters(model) == {ResNet: 11_173_962, PreActResNet: 11_172_170}[net]


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, 1), (4, 6, 1), (4, 8, 2)])
def test_preact_block_is_the_papers_formula(inputs: int, outputs: int, stride: int) -> None:
    torch.manual_seed(0)
    block = shuffled(PreActBlock(inputs, outputs, stride))
    w, x = block.state_dict(), torch.randn(3, inputs, 6, 6, dtype=torch.double)
    active = norm(w, "bn1", x).clamp(min=0)
    out = F.conv2d(active, w["conv1.weight"], stride=stride, padding=1)
    out = F.conv2d(norm(w, "bn2", out).clamp(min=0), w["conv2.weight"], padding=1)
    changed = "shortcut.0.weight" in w
    assert changed == ((inputs, stride) != (outputs, 1))
    skip = F.conv2d(active, w["shortcut.0.weight"], stride=stride) if changed else x
    torch.testing.assert_close(block(x), out + skip)


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, 1), (4, 8, 2)])
def test_block_is_the_papers_formula(inputs: int, outputs: int, stride: int) -> None:
    torch.manual_seed(0)
    block = shuffled(Block(inputs, outputs, stride))
    w, x = block.state_dict(), torch.randn(3, inputs, 6, 6, dtype=torch.double)
    out = norm(w, "bn1", F.conv2d(x, w["conv1.weight"], stride=stride, padding=1)).clamp(min=0)
    out = norm(w, "bn2", F.conv2d(out, w["conv2.weight"], padding=1))
    changed = "shortcut.1.weight" in w
    skip = norm(w, "shortcut.1", F.conv2d(x, w["shortcut.0.weight"], stride=stride)) if changed else x
    torch.testing.assert_close(block(x), (out + skip).clamp(min=0))


def test_names_are_the_fields() -> None:
    preact = PreActResNet((1, 2), num_classes=3, width=4).state_dict()
    names = {name for name in preact if name.endswith("weight")}
    first = {f"layer1.0.{part}.weight" for part in ("bn1", "conv1", "bn2", "conv2")}
    second = {name.replace("layer1", "layer2") for name in first} | {"layer2.0.shortcut.0.weight"}
    third = {name.replace("layer1.0", "layer2.1") for name in first}
    assert names == {"conv1.weight", "bn.weight", "linear.weight"} | first | second | third
    post = ResNet((1, 1), num_classes=3, width=4).state_dict()
    assert {"conv1.weight", "bn1.weight", "layer2.0.shortcut.1.running_mean", "linear.bias"} < set(post)


@pytest.mark.parametrize("net", [ResNet, PreActResNet])
def test_stages_double_the_channels_and_halve_the_image(
    net: type[ResNet | PreActResNet],
) -> None:
    shapes: list[tuple[int, ...]] = []
    model = net((1, 1, 1, 1), num_classes=2, in_channels=1, width=2)
    for i in range(4):
        model.get_submodule(f"layer{i + 1}").register_forward_hook(lambda *hook: shapes.append(hook[2].shape))
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 2)
    assert shapes == [(2, 2, 32, 32), (2, 4, 16, 16), (2, 8, 8, 8), (2, 16, 4, 4)]


@pytest.mark.parametrize("net", [ResNet, PreActResNet])
def test_a_width_below_one_is_refused(net: type[ResNet | PreActResNet]) -> None:
    with pytest.raises(ValueError, match=r"model\.width=0 must be a whole number"):
        net((1,), num_classes=2, width=0)
