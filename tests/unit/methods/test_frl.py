from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import network_weights, quick_for
from scipy.special import log_softmax
from torch import nn

from fairat_lightning.attacks import PGD
from fairat_lightning.methods import FRL
from fairat_lightning.objectives import AT, TRADES

CODE = {"mode": "both", "tau": (0.07, 0.07), "rate": 0.05, "margin_rate": 0.2, "limit": 0.5, "eps_range": (0.98, 3.0)}


def method(objective=None, classes=4, attack=None, **kwargs):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, classes)).double()
    attack = attack or PGD(eps=0.0, steps=1)
    module = FRL(net, classes, attack=attack, objective=objective or AT(), optim=None, **(CODE | kwargs)).double()
    module.log = module.log_dict = lambda *_, **__: None
    return module


def oracle(epochs, classes, *, mode, tau, rate, margin_rate, limit, eps_range):
    """The class weights, of sum 1, of both terms and eps_k / eps after epochs of (natural, boundary) errors."""
    phi = np.zeros((3, classes))
    for natural, boundary in epochs:
        gamma = natural - natural.mean() - tau[0], boundary - boundary.mean() - tau[1]
        if mode != "remargin":
            for s, step in enumerate((rate * gamma[0], 2 * rate * gamma[1])):
                phi[s] = np.maximum(phi[s] + step, 0)
                if phi[s].sum() > limit:
                    phi[s] *= limit / phi[s].sum()
        if mode != "reweight":
            phi[2] += margin_rate * gamma[1]
    return *(1 / classes + p - p.mean() for p in phi[:2]), np.clip(np.exp(2 * phi[2]), *eps_range)


@pytest.mark.parametrize("mode", ["reweight", "remargin", "both"])
@pytest.mark.parametrize("rate", [0.05, 1.0])  # the second meets the limit
@pytest.mark.parametrize("classes", [2, 10, 200])
@pytest.mark.parametrize("seed", range(5))
def test_weights_and_margins_in_numpy(mode, rate, classes, seed):
    rng = np.random.default_rng(seed)
    settings = CODE | {"mode": mode, "rate": rate, "tau": (0.03, 0.05)}
    module, epochs = method(classes=classes, **settings), rng.uniform(0, 0.5, (6, 2, classes))
    for natural, boundary in epochs:
        module.multiply(torch.tensor(natural), torch.tensor(boundary))
    natural, boundary, scale = oracle(epochs, classes, **settings)
    found = module.class_weight(module.natural).numpy(), module.class_weight(module.boundary).numpy()
    np.testing.assert_allclose(found[0], classes * natural, atol=1e-12)
    np.testing.assert_allclose(found[1], classes * boundary, atol=1e-12)
    np.testing.assert_allclose(module.class_scale().numpy(), scale, atol=1e-12)
    assert min(found[0].min(), found[1].min()) > 0
    if classes == 200:
        assert (np.ptp(scale) > 0) == (mode != "reweight") and (np.ptp(natural) > 0) == (mode != "remargin")
        assert module.natural.sum().item() == pytest.approx(0.5 if mode != "remargin" else 0)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("objective", [AT(), TRADES(1.5)])
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_in_numpy(objective, normalized, seed):
    """sum w0[y] CE / B' + beta sum w1[y] KL / B'', B' the batch size over K, or in the released code the sum of the weights."""
    rng = np.random.default_rng(seed)
    module = method(objective, mode="reweight", tau=(0, 0), rate=1.0, batch_normalized=normalized)
    errors = rng.uniform(0, 0.5, (2, 4))
    module.multiply(*torch.tensor(errors))
    first, second, _ = oracle([errors], 4, **(CODE | {"mode": "reweight", "tau": (0, 0), "rate": 1.0}))
    x, x_adv, y = torch.rand(12, 3, 2, 2).double(), torch.rand(12, 3, 2, 2).double(), rng.integers(0, 3, 12)  # 3 is absent
    module.craft = lambda *_, **__: x_adv
    clean, robust = (log_softmax(module.net(images).detach().numpy(), 1) for images in (x, x_adv))
    if objective.beta:
        supervised, consistency = -clean[range(12), y], (np.exp(clean) * (clean - robust)).sum(1)
    else:
        supervised, consistency = -robust[range(12), y], np.zeros(12)
    sums = (first[y].sum(), second[y].sum()) if normalized else (12 / 4, 12 / 4)
    expected = (first[y] * supervised).sum() / sums[0] + objective.beta * (second[y] * consistency).sum() / sums[1]
    loss = module.training_step((x, torch.tensor(y), torch.arange(12)), 0)
    assert loss.item() == pytest.approx(expected, abs=1e-10) and abs(expected - supervised.mean()) > 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_errors_on_validation_in_closed_form(seed):
    """Of two classes and a linear network the worst case in the ball is known: PGD-10 reaches it."""
    module = method(classes=2, attack=PGD(eps=0.02, steps=1), tau=(0.0, 0.0), rate=0.3, eps_range=(0.1, 10))
    x, y = 0.3 + 0.4 * torch.rand(60, 3, 2, 2).double(), torch.randint(2, (60,))
    slope = (module.net[1].weight[1] - module.net[1].weight[0]).detach()
    module.net[1].bias.data = torch.stack([slope.sum() / 2 + 0.05 * seed, torch.tensor(0.0)]).double()
    ahead = (2 * y - 1) * (x.flatten(1) @ slope - module.net[1].bias[0]).detach()  # of the own over the other logit
    natural = np.array([(ahead < 0)[y == k].double().mean() for k in range(2)])
    robust = np.array([(ahead < 0.02 * slope.abs().sum())[y == k].double().mean() for k in range(2)])
    assert (robust > natural).all()
    loader = [(x[:37], y[:37], torch.arange(37)), (x[37:], y[37:], torch.arange(37, 60))]
    module._trainer = SimpleNamespace(val_dataloaders=loader, precision_plugin=SimpleNamespace(forward_context=nullcontext))
    module.on_train_epoch_start()
    settings = CODE | {"tau": (0.0, 0.0), "rate": 0.3, "eps_range": (0.1, 10)}
    first, second, scale = oracle([(natural, robust - natural)], 2, **settings)
    np.testing.assert_allclose(module.class_weight(module.natural).numpy(), 2 * first, atol=1e-12)
    np.testing.assert_allclose(module.class_weight(module.boundary).numpy(), 2 * second, atol=1e-12)
    np.testing.assert_allclose(module.class_scale().numpy(), scale, atol=1e-12)


@pytest.mark.parametrize("mode", ["reweight", "remargin", "both"])
@pytest.mark.parametrize("attack,share", [(PGD(0.1, 10), 1.0), (PGD(0.1, 1, start="zero"), 0.25)])
def test_each_class_is_attacked_within_its_own_eps_and_to_its_edge(mode, attack, share):
    module = method(attack=attack, mode=mode)
    module.margin.copy_(torch.tensor([-1.0, 0.1, 0.3, 1.0]))
    scale = np.clip(np.exp([-2, 0.2, 0.6, 2]), 0.98, 3) if mode != "reweight" else np.ones(4)
    x, y, seen = 0.4 + 0.2 * torch.rand(16, 3, 2, 2).double(), torch.arange(16) % 4, []
    score = module.score
    module.score = lambda x, x_adv, y: seen.append((x_adv - x).abs().flatten(1).amax(1)) or score(x, x_adv, y)
    module.training_step((x, y, torch.arange(16)), 0)
    np.testing.assert_allclose(seen[0].numpy(), 0.1 * share * scale[y], atol=1e-9)


def test_a_class_absent_from_validation_keeps_its_multipliers():
    settings = {"tau": (0.0, 0.0), "rate": 0.1, "limit": 0.9}
    module = method(**settings)
    before = torch.tensor([0.05, 0.1, 0.15, 0.2]).double()
    for phi in (module.natural, module.boundary, module.margin):
        phi.copy_(before)
    module.multiply(torch.tensor([0.1, 0.2, torch.nan, 0.3]), torch.tensor([0.3, 0.1, torch.nan, 0.2]))
    assert torch.equal(torch.stack([module.natural, module.boundary, module.margin])[:, 2], before[2].repeat(3))
    three = torch.tensor([0, 1, 3])
    torch.testing.assert_close(module.natural[three], before[three] + 0.1 * torch.tensor([-0.1, 0.0, 0.1]).double())
    torch.testing.assert_close(module.boundary[three], before[three] + 0.2 * torch.tensor([0.1, -0.1, 0.0]).double())
    torch.testing.assert_close(module.margin[three], before[three] + 0.2 * torch.tensor([0.1, -0.1, 0.0]).double())


@pytest.mark.parametrize(
    "words", quick_for(["objective=at", "objective=trades", "objective=trades awp=awp"], "objective=trades awp=awp")
)
def test_rates_zero_is_plain_adversarial_training_bit_for_bit(trained, words):
    frl = ("method=frl", "method.rate=0", "method.margin_rate=0")
    plain, metrics = trained("method=pgd_at", *words.split())
    zero, same = trained(*frl, *words.split())
    assert metrics == same
    a, b = network_weights(plain), network_weights(zero)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_every_mode_changes_the_run(trained):
    words = ("method=frl", "objective=trades", "method.tau=[0,0]", "method.rate=0.5", "method.margin_rate=1")
    runs = [network_weights(trained("method=pgd_at", "objective=trades")[0])]
    runs += [network_weights(trained(*words, f"method.mode={mode}")[0]) for mode in ("reweight", "remargin", "both")]
    for k, a in enumerate(runs):
        assert all(any(not torch.equal(a[name], b[name]) for name in a) for b in runs[:k])


@pytest.mark.parametrize(
    "key,value",
    [
        ("mode", "rebalance"),
        ("tau", 0.07),
        ("tau", (0.1, -0.1)),
        ("tau", (0.1, 0.1, 0.1)),
        ("rate", -0.1),
        ("rate", float("inf")),
        ("margin_rate", "fast"),
        ("limit", 1.0),
        ("limit", -0.1),
        ("eps_range", (0.98,)),
        ("eps_range", (-1, 3)),
    ],
)
def test_wrong_settings_are_named(key, value):
    with pytest.raises(ValueError, match=f"method.{key}="):
        method(**{key: value})
