import copy

import pytest
import torch
from torch import nn

from fairat_lightning.awp import AWP, frozen_statistics


@pytest.fixture
def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).double()


def test_ascends_by_gamma_times_the_norm_along_the_gradient_and_undoes_it_bit_for_bit(net):
    x, y = torch.rand(8, 1, 4, 4).double(), torch.randint(3, (8,))
    loss = lambda: nn.functional.cross_entropy(net(x), y)  # noqa: E731
    before = copy.deepcopy(net.state_dict())
    gradient = torch.autograd.grad(loss(), net[0].weight)[0]
    net.load_state_dict(before)
    awp = AWP(gamma=0.01)
    low = loss().item()
    net.load_state_dict(before)
    awp.ascend(net, loss)
    moved = net[0].weight - before["0.weight"]
    expected = 0.01 * before["0.weight"].norm() * gradient / gradient.norm()
    torch.testing.assert_close(moved, expected)
    assert loss().item() > low
    for name, value in net.state_dict().items():
        if name not in ("0.weight", "4.weight") and "running" not in name and "tracked" not in name:
            assert torch.equal(value, before[name]), name
    awp.restore()
    for name, value in net.named_parameters():
        assert torch.equal(value, before[name]), name


def test_its_forward_moves_no_batch_statistics(net):
    x = torch.rand(8, 1, 4, 4).double()
    before = copy.deepcopy(net[1].state_dict())
    with frozen_statistics(net):
        inside = net(x)
    assert torch.equal(inside, copy.deepcopy(net)(x))  # normalised by the batch, as in training
    assert all(torch.equal(v, before[k]) for k, v in net[1].state_dict().items())


def test_gamma_zero_and_a_vanishing_gradient_change_nothing(net):
    before = copy.deepcopy(net.state_dict())
    for gamma, loss in (
        (0.0, lambda: net(torch.rand(4, 1, 4, 4).double()).sum()),
        (0.1, lambda: 0 * net[4].weight.sum() + 0 * net[0].weight.sum()),
    ):
        AWP(gamma).ascend(net, loss)
        assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())


@pytest.mark.parametrize("wrong", [{"gamma": -1}, {"gamma": "big"}, {"warmup_epochs": -1}, {"warmup_epochs": 0.5}])
def test_wrong_values_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AWP(**({"gamma": 0.01} | wrong))


def test_within_autocast_the_next_forward_sees_the_weights_that_were_perturbed_and_those_that_were_restored(net):
    """Autocast's cache of casts is on in a loop of one's own; Lightning switches it off."""
    net, x, y = net.float(), torch.rand(8, 1, 4, 4), torch.randint(3, (8,))
    awp = AWP(gamma=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        loss = lambda: nn.functional.cross_entropy(net(x), y)  # noqa: E731
        before = loss().item()
        awp.ascend(net, loss)
        inside = loss().item()
    with torch.autocast("cpu", torch.bfloat16):
        assert inside == loss().item() > before + 0.1
        awp.restore()
        assert loss().item() == before
