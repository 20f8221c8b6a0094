import copy

import pytest
import torch

from fairat_lightning.models import preactresnet_tiny, wrn28_10
from fairat_lightning.models.gradient_checkpointing import checkpoint_blocks

SHAPE = {"num_classes": 3, "in_channels": 1, "mean": [0.5], "std": [0.25]}


def small(build, checkpointing):
    torch.manual_seed(0)
    net = build(width=1 if build is wrn28_10 else 4, **SHAPE).double()
    if checkpointing:
        checkpoint_blocks(net)
    return net


@pytest.mark.parametrize("build", [preactresnet_tiny, wrn28_10])
@pytest.mark.parametrize("training", [True, False])
def test_it_changes_no_bit_of_gradients_or_statistics(build, training):
    x = torch.rand(4, 1, 8, 8).double().requires_grad_()
    results = []
    for net in (small(build, False), small(build, True)):
        net.train(training)
        net(x).square().sum().backward()
        gradients = [p.grad for p in net.parameters()]
        results.append((*gradients, x.grad.clone(), *net.buffers()))
        x.grad = None
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_it_keeps_less_for_the_backward_pass():
    def kept(checkpointing):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            small(wrn28_10, checkpointing)(torch.rand(8, 1, 8, 8).double())
        return sum(sizes)

    assert kept(True) < kept(False) / 3


def test_a_copy_of_a_network_checkpoints_itself():
    net = small(preactresnet_tiny, True)
    other = copy.deepcopy(net)
    before = [b.clone() for b in net.buffers()]
    other.train()(torch.rand(4, 1, 8, 8).double()).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(before, net.buffers(), strict=True))
    assert other.model.bn.num_batches_tracked == 1 == other.model.layer1[0].bn1.num_batches_tracked


def test_a_network_without_blocks_is_refused():
    with pytest.raises(ValueError, match="checkpointing=true"):
        checkpoint_blocks(torch.nn.Flatten())


def test_a_run_with_checkpointing_is_the_run_without_to_the_bit(launch):
    (plain, metrics), (less, same) = (launch(f"checkpointing={v}", "averaging=ema", folder=v) for v in ("false", "true"))
    assert metrics == same
    a, b = (torch.load(f / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for f in (plain, less))
    assert all(torch.equal(a[name], b[name]) for name in a if name.startswith("net."))
