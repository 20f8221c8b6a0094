from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import network_weights
from scipy.special import log_softmax
from torch import nn

from fairat_lightning.attacks import PGD
from fairat_lightning.methods import WAT
from fairat_lightning.objectives import AT, TRADES


def method(objective=None, classes=4, attack=None, **kwargs):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, classes), nn.Dropout(0.0)).double()
    attack = attack or PGD(eps=0.0, steps=1)
    module = WAT(net, classes, attack=attack, objective=objective or AT(), optim=None, **({"eta": 0.1} | kwargs)).double()
    module.log = module.log_dict = lambda *_, **__: None
    return module


def experts(epochs, eta):
    """Hedge's shares of the classes and of their average (K+1,) after epochs of costs (K,)."""
    gains = np.zeros(len(epochs[0]) + 1)
    for cost in epochs:
        gains += np.append(cost, cost.mean())
    q = np.exp(eta * (gains - gains.max()))
    return q / q.sum()


@pytest.mark.parametrize("classes", [2, 10, 200])
@pytest.mark.parametrize("scale", [1.0, 0.0, 3, "classes"])
@pytest.mark.parametrize("seed", range(5))
def test_weights_in_numpy(classes, scale, seed):
    rng = np.random.default_rng(seed)
    module, epochs = method(classes=classes, eta=0.3, average_scale=scale), rng.uniform(0, 5, (4, classes))
    for cost in epochs:
        module.pay(torch.tensor(cost))
    q = experts(epochs, 0.3)
    expected = classes * q[:-1] + (classes if scale == "classes" else scale) * q[-1]
    np.testing.assert_allclose(module.class_weight().numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("objective", [AT(), TRADES(6.0)])
@pytest.mark.parametrize("scale", [1.0, "classes"])
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_in_numpy(objective, scale, seed):
    """(1/B) sum_i K q[y_i] l_i + scale q_avg mean l."""
    rng = np.random.default_rng(seed)
    module, costs = method(objective, eta=0.5, average_scale=scale), rng.uniform(0, 5, (2, 4))
    for cost in costs:
        module.pay(torch.tensor(cost))
    x, x_adv, y = torch.rand(12, 3, 2, 2).double(), torch.rand(12, 3, 2, 2).double(), rng.integers(0, 3, 12)  # 3 is absent
    module.craft = lambda *_, **__: x_adv
    losses, q = total(module, x, x_adv, y), experts(costs, 0.5)
    expected = (4 * q[y] * losses).sum() / 12 + (4 if scale == "classes" else 1) * q[-1] * losses.mean()
    loss = module.training_step((x, torch.tensor(y), torch.arange(12)), 0)
    assert loss.item() == pytest.approx(expected, abs=1e-10) and abs(expected - losses.mean()) > 1e-3


def total(module, x, x_adv, y):
    clean, robust = (log_softmax(module.net(images).detach().numpy(), 1) for images in (x, x_adv))
    if not module.objective.beta:
        return -robust[range(len(y)), y]
    return -clean[range(len(y)), y] + module.objective.beta * (np.exp(clean) * (clean - robust)).sum(1)


def finish_epoch(module, *shares):
    plugin = SimpleNamespace(forward_context=nullcontext)
    module._trainer = SimpleNamespace(val_dataloaders=shares, precision_plugin=plugin)
    module.on_train_epoch_end()


@pytest.mark.parametrize("objective", [AT(), TRADES(6.0)])
def test_each_epoch_adds_the_mean_cost_of_each_class_on_validation_in_eval_mode(objective):
    module, x, y = method(objective), torch.rand(30, 3, 2, 2).double(), torch.arange(30) % 4
    x_adv = torch.rand(30, 3, 2, 2).double()

    def craft_fixed(x, y, index):
        assert not module.net.training
        return x_adv[index]

    module.craft_fixed = craft_fixed
    losses, expected = total(module, x, x_adv, y.numpy()), np.zeros(5)
    shares = [(x[part], y[part], torch.arange(30)[part]) for part in (slice(0, 13), slice(13, 30))]
    for _ in range(3):
        finish_epoch(module, *shares)
        cost = np.array([losses[y == k].mean() for k in range(4)])
        expected += np.append(cost, cost.mean())
        np.testing.assert_allclose(module.cumulative_cost.numpy(), expected, rtol=1e-10)
    assert module.net.training


def test_costs_are_those_of_the_training_attack_in_closed_form():
    """Two classes, a linear network: ten steps of a quarter of eps end in the ball's corner."""
    module = method(classes=2, attack=PGD(eps=0.1, steps=10))
    x, y = 0.3 + 0.4 * torch.rand(20, 3, 2, 2).double(), torch.arange(20) % 2
    weight, bias = (p.detach().numpy() for p in module.net[1].parameters())
    slope = weight[1] - weight[0]
    ahead = (2 * y.numpy() - 1) * (x.flatten(1).numpy() @ slope + bias[1] - bias[0]) - 0.1 * np.abs(slope).sum()
    cost = np.array([np.log1p(np.exp(-ahead))[y == k].mean() for k in range(2)])
    finish_epoch(module, (x, y, torch.arange(20)))
    np.testing.assert_allclose(module.cumulative_cost.numpy(), np.append(cost, cost.mean()), rtol=1e-8)


def test_a_class_absent_from_validation_is_given_the_average_cost():
    module = method(eta=0.5)
    module.pay(torch.tensor([1.0, 2.0, torch.nan, 6.0]))
    module.pay(torch.tensor([1.0, 1.0, 4.0, 2.0]))
    assert module.cumulative_cost.tolist() == pytest.approx([2, 3, 7, 8, 5])


def test_eta_zero_is_plain_adversarial_training(trained):
    for objective in ("at", "trades"):
        words = ("trainer.precision=64-true", f"objective={objective}")
        plain, metrics = trained("method=pgd_at", *words)
        zero, same = trained("method=wat", "method.eta=0", *words)
        assert metrics == same
        a, b = network_weights(plain), network_weights(zero)
        assert all(torch.allclose(a[name], b[name], rtol=0, atol=1e-9) for name in a)


def test_average_scale_classes_begins_at_twice_k_over_k_plus_one_times_the_plain_loss(trained):
    """That is a factor of 1.6 of four classes, which the learning rate and the weight decay can take back."""
    words = ("trainer.precision=64-true", "objective=at")
    scaled = ("method=wat", "method.eta=0", "method.average_scale=classes", "optim.lr=0.0625", "optim.weight_decay=8e-4")
    a = network_weights(trained("method=pgd_at", "optim.lr=0.1", "optim.weight_decay=5e-4", *words)[0])
    b = network_weights(trained(*scaled, *words)[0])
    assert all(torch.allclose(a[name], b[name], rtol=0, atol=1e-9) for name in a)
    for classes in (2, 4, 200):
        found = method(classes=classes, average_scale="classes").class_weight()
        np.testing.assert_allclose(found, 2 * classes / (classes + 1))


def test_eta_changes_the_run_after_the_first_epoch(trained):
    runs = {}
    for epochs in (1, 2):
        for eta in (0, 5):
            words = ("method=wat", f"method.eta={eta}", f"trainer.max_epochs={epochs}", "optim.milestones=[1.0]")
            runs[epochs, eta] = network_weights(trained(*words)[0])
    assert all(torch.equal(runs[1, 0][name], runs[1, 5][name]) for name in runs[1, 0])
    assert any(not torch.equal(runs[2, 0][name], runs[2, 5][name]) for name in runs[2, 0])


@pytest.mark.parametrize(
    "key,value",
    [
        ("eta", -0.1),
        ("eta", float("inf")),
        ("eta", float("nan")),
        ("eta", "fast"),
        ("average_scale", -1),
        ("average_scale", float("inf")),
        ("average_scale", "all"),
    ],
)
def test_wrong_settings_are_named(key, value):
    with pytest.raises(ValueError, match=f"method.{key}="):
        method(**{key: value})
