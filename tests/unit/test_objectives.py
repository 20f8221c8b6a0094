import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import nn

from fairat_lightning.objectives import AT, MART, TRADES, kl, margin


@pytest.fixture
def setting():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).double()
    return net, torch.rand(5, 3, 2, 2).double(), torch.rand(5, 3, 2, 2).double(), torch.tensor([0, 1, 2, 3, 0])


def logits(net, x):
    return net(x).detach().numpy()


def smoothed(y, amount, count=4):
    return np.eye(count)[y] * (1 - amount) + amount / count


@pytest.mark.parametrize("amount", [0.0, 0.4])
def test_at_is_cross_entropy_at_the_adversarial_image(setting, amount):
    net, x, x_adv, y = setting
    terms = AT(label_smoothing=amount)(net, x, x_adv, y)
    expected = -(smoothed(y, amount) * log_softmax(logits(net, x_adv), axis=1)).sum(1)
    np.testing.assert_allclose(terms.supervised.detach(), expected)
    assert (terms.consistency == 0).all() and terms.clean_logits is None
    np.testing.assert_allclose(terms.logits.detach(), logits(net, x_adv))


@pytest.mark.parametrize("amount", [0.0, 0.1])
def test_trades_in_numpy(setting, amount):
    net, x, x_adv, y = setting
    objective = TRADES(beta=6.0, label_smoothing=amount)
    terms = objective(net, x, x_adv, y)
    p, log_p, log_q = softmax(logits(net, x), 1), log_softmax(logits(net, x), 1), log_softmax(logits(net, x_adv), 1)
    ce, divergence = -(smoothed(y, amount) * log_p).sum(1), (p * (log_p - log_q)).sum(1)
    np.testing.assert_allclose(terms.supervised.detach(), ce)
    np.testing.assert_allclose(terms.consistency.detach(), divergence)
    np.testing.assert_allclose(objective.total(terms).detach(), ce + 6 * divergence)


def test_mart_in_numpy(setting):
    net, x, x_adv, y = setting
    objective = MART(beta=5.0)
    terms = objective(net, x, x_adv, y)
    p, q = softmax(logits(net, x), 1), softmax(logits(net, x_adv), 1)
    others = np.where(np.eye(4)[y] == 1, -1, q)
    bce = -np.log(q[range(5), y]) - np.log(1 - others.max(1))
    weighted = (p * np.log(p / q)).sum(1) * (1 - p[range(5), y])
    np.testing.assert_allclose(terms.supervised.detach(), bce)
    np.testing.assert_allclose(terms.consistency.detach(), weighted)
    np.testing.assert_allclose(objective.total(terms).detach(), bce + 5 * weighted)


def test_marts_guards_are_the_numbers_of_its_authors_code(setting):
    """Also where a wrong class has all the probability, which without them gives the logarithm of a rounding."""
    net, x, x_adv, y = setting
    x_adv = x_adv.clone()
    x_adv[0] *= 1000
    plain, guarded = MART(5.0)(net, x, x_adv, y), MART(5.0, guards=True)(net, x, x_adv, y)
    p, q = softmax(logits(net, x), 1), softmax(logits(net, x_adv), 1)
    others = np.where(np.eye(4)[y] == 1, -1, q).max(1)
    ce = -log_softmax(logits(net, x_adv), 1)[range(5), y]
    np.testing.assert_allclose(guarded.supervised.detach(), ce - np.log(1.0001 - others + 1e-12))
    apart = (p * (np.log(p) - np.log(q + 1e-12))).sum(1)
    np.testing.assert_allclose(guarded.consistency.detach(), apart * (1.0000001 - p[range(5), y]))
    assert 0 < (guarded.supervised - plain.supervised)[1:].abs().max() < 1e-3
    with pytest.raises(ValueError, match="objective.guards"):
        MART(5.0, guards="yes")


def test_inner_losses(setting):
    net, x, x_adv, y = setting
    ce = -log_softmax(logits(net, x_adv), 1)[range(5), y]
    np.testing.assert_allclose(AT(0.3).inner(net, x, y)(x_adv).detach(), ce)
    np.testing.assert_allclose(MART(5.0).inner(net, x, y)(x_adv).detach(), ce)
    divergence = kl(net(x), net(x_adv)).detach()
    np.testing.assert_allclose(TRADES(6.0).inner(net, x, y)(x_adv).detach(), divergence)
    np.testing.assert_allclose(MART(5.0, crafting="kl").inner(net, x, y)(x_adv).detach(), divergence)


def test_mart_crafted_with_kl_starts_as_trades_does():
    assert (MART(5.0).start, MART(5.0, crafting="kl").start) == (AT().start, TRADES(6.0).start)
    with pytest.raises(ValueError, match="objective.crafting"):
        MART(5.0, crafting="cw")


def test_gradient_flows_through_both_arguments_of_kl():
    a, b = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    kl(a, b).sum().backward()
    assert a.grad.abs().sum() > 0 and b.grad.abs().sum() > 0
    assert kl(a, a).abs().amax() < 1e-6


def test_margin_by_brute_force():
    scores, y = torch.randn(20, 6), torch.randint(6, (20,))
    for s, label, m in zip(scores.tolist(), y.tolist(), margin(scores, y).tolist(), strict=True):
        assert m == pytest.approx(max(v for k, v in enumerate(s) if k != label) - s[label], abs=1e-6)


@pytest.mark.parametrize("objective", [AT(), TRADES(6.0), MART(5.0)])
def test_finite_at_extreme_logits_and_float32_under_half_precision(objective):
    class Extreme(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return (self.weight * torch.tensor([[200.0, -200.0, 0.0]])).expand(len(x), 3).bfloat16()

    net, x = Extreme(), torch.rand(3, 1, 2, 2)
    terms = objective(net, x, x, torch.tensor([0, 1, 2]))
    loss = objective.total(terms)
    assert loss.dtype == torch.float32 and loss.isfinite().all()
    loss.sum().backward()
    assert net.weight.grad.isfinite().all()


@pytest.mark.parametrize("wrong", [{"beta": -1.0}, {"beta": "six"}, {"label_smoothing": 1.0}, {"label_smoothing": -0.1}])
def test_wrong_values_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TRADES(**({"beta": 6.0} | wrong))
