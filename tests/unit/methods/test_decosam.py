import copy

import numpy as np
import pytest
import torch
from helpers import network_weights
from scipy.special import log_softmax
from torch import nn

from fairat_lightning.attacks import PGD
from fairat_lightning.awp import AWP
from fairat_lightning.methods import DecoSAM
from fairat_lightning.objectives import AT


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4)).double()


def method(net=None, awp=None, **kwargs):
    values = {"tau": 2.0, "radius": 0.7} | kwargs
    module = DecoSAM(net or network(), 4, attack=PGD(eps=0.0, steps=1), objective=AT(), optim=None, awp=awp, **values)
    module.log = module.log_dict = lambda *_, **__: None
    module._trainer = type("Trainer", (), {"current_epoch": 0, "max_epochs": 1})()
    return module


def test_the_gradient_is_taken_at_rows_moved_by_their_own_radius_in_numpy():
    torch.manual_seed(0)
    module = method()
    x, y = torch.rand(20, 3, 2, 2).double(), torch.arange(20) % 4
    features = module.net.eval()[:4](x).detach().numpy()
    weight, bias = (p.detach().numpy().copy() for p in module.net[4].parameters())

    def slope(w):
        p = np.exp(log_softmax(features @ w.T + bias, 1))
        p[range(20), y] -= 1
        return p.T @ features / 20

    norms = np.linalg.norm(weight, axis=1)
    nu = np.exp(-2.0 * norms) / np.exp(-2.0 * norms).sum()
    g = slope(weight)
    moved = weight + 0.7 * nu[:, None] * g / np.linalg.norm(g, axis=1, keepdims=True)
    module.train()
    loss = module.training_step((x, y, torch.arange(20)), 0)
    np.testing.assert_allclose(module.net[4].weight.detach().numpy(), moved)
    assert loss.item() == pytest.approx(-log_softmax(features @ moved.T + bias, 1)[range(20), y].mean())
    loss.backward()
    module.on_after_backward()
    np.testing.assert_allclose(module.net[4].weight.grad.numpy(), slope(moved))
    np.testing.assert_array_equal(module.net[4].weight.detach().numpy(), weight)


def test_an_attack_that_moves_batch_statistics_is_refused():
    with pytest.raises(ValueError, match="attack.batch_norm=eval"):
        DecoSAM(network(), 4, attack=PGD(0.1, 1, batch_norm="train"), objective=AT(), optim=None, tau=1.0, radius=1.0)


def test_the_weaker_the_row_the_larger_its_radius():
    module = method(tau=3.0)
    with torch.no_grad():
        for k, row in enumerate(module.net[4].weight):
            row.mul_((k + 1) / row.norm())
    radii = module.awp.radii().flatten()
    assert (radii[:-1] > radii[1:]).all() and radii.sum().item() == pytest.approx(0.7)
    module.awp.tau = 0.0
    assert module.awp.radii().flatten().tolist() == pytest.approx([0.7 / 4] * 4)


def test_only_the_rows_of_the_last_layer_change(trained):
    base, _ = trained("method=pgd_at", "data.train_size=200")
    moved, _ = trained("method=decosam", f"init_from={base}", "data.train_size=200")
    a = torch.load(base / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    b = torch.load(moved / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    changed = [name for name in a if name.startswith("net.") and not torch.equal(a[name], b[name])]
    assert changed == ["net.model.linear.weight"]


def test_without_a_radius_it_is_plain_training_of_the_last_layer(trained):
    base, _ = trained("method=pgd_at", "data.train_size=200")
    words = ("method=decosam", f"init_from={base}", "data.train_size=200")
    runs = [
        network_weights(trained(*words, f"method.{part}")[0])["model.linear.weight"]
        for part in ("radius=0", "radius=2", "tau=50")
    ]
    assert not torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    plain, x, y = method(radius=0.0), torch.rand(8, 3, 2, 2).double(), torch.arange(8) % 4
    twin = copy.deepcopy(plain.net).eval()
    plain.train()
    loss = plain.training_step((x, y, torch.arange(8)), 0)
    assert loss.item() == pytest.approx(nn.functional.cross_entropy(plain.net(x), y).item())
    assert torch.equal(plain.net[4].weight, twin[4].weight)


@pytest.mark.parametrize("key,value", [("tau", -1.0), ("tau", float("inf")), ("radius", -0.1), ("radius", "far")])
def test_wrong_settings_are_named(key, value):
    with pytest.raises(ValueError, match=f"method.{key}="):
        method(**{key: value})


def test_awp_and_a_network_without_a_linear_last_layer_are_refused():
    with pytest.raises(ValueError, match="set awp=none"):
        method(awp=AWP(0.01))
    with pytest.raises(ValueError, match=r"whose last layer is an nn\.Linear with 4 outputs"):
        method(nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten()))
