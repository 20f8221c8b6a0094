"""Normalisation inside the network."""

import pytest
import torch
from torch import nn

from fairat_lightning.models import Normalized, preactresnet_tiny

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def test_it_normalises_as_by_hand() -> None:
    x = torch.rand(2, 3, 4, 4)
    by_hand = torch.stack([(x[:, c] - MEAN[c]) / STD[c] for c in range(3)], dim=1)
    torch.testing.assert_close(Normalized(nn.Identity(), MEAN, STD)(x), by_hand)


def test_mean_and_std_are_persistent_buffers_of_one_number_a_channel() -> None:
    net = Normalized(nn.Identity(), [0.5], [0.25], in_channels=3)
    state = net.state_dict()
    assert state["mean"].shape == state["std"].shape == (3, 1, 1)
    assert not list(net.parameters())
    assert Normalized(nn.Identity(), [0.5], STD).mean.flatten().tolist() == [0.5] * 3


def test_it_is_built_without_memory() -> None:
    with torch.device("meta"):
        assert Normalized(nn.Conv2d(3, 4, 1), MEAN, STD).mean.is_meta


@pytest.mark.parametrize(
    ("mean", "std", "channels", "line"),
    [
        (MEAN, [0.2, 0.0, 0.2], 3, r"model.std=\[0.2, 0.0, 0.2\] must be positive"),
        ([0.5], [-1.0], 1, "must be positive"),
        ([0.5, 0.5], STD, 3, r"model.mean=\[0.5, 0.5\] has 2 values, the images have 3 channels"),
        ([0.5], STD, 1, r"model.std=.* has 3 values, the images have 1 channels"),
        ([0.5, 0.5], STD, None, "model.mean=.* has 2 values"),
        (None, STD, 3, "model.mean=None must be a list of numbers"),
        (0.5, STD, 3, "model.mean=0.5 must be a list of numbers"),
        (MEAN, [], 3, r"model.std=\[\] must be a list of numbers"),
        ([float("nan")], STD, 3, "must be a list of numbers"),
        (MEAN, ["a"], 3, "must be a list of numbers"),
    ],
)
def test_a_wrong_mean_or_std_is_one_line(mean, std, channels, line) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=line):
        Normalized(nn.Identity(), mean, std, in_channels=channels)


def test_channels_last_equals_contiguous_to_rounding() -> None:
    torch.manual_seed(0)
    plain = preactresnet_tiny(num_classes=5, in_channels=3, mean=MEAN, std=STD).double()
    last = preactresnet_tiny(num_classes=5, in_channels=3, mean=MEAN, std=STD, channels_last=True).double()
    last.load_state_dict(plain.state_dict())
    weight = last.get_parameter("model.layer1.0.conv1.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    x = torch.rand(4, 3, 8, 8, dtype=torch.double)
    torch.testing.assert_close(last(x), plain(x), rtol=1e-10, atol=1e-10)
