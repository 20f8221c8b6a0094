import cvxpy as cp
import numpy as np
import pytest
import torch
from helpers import network_weights, quick_for
from scipy.special import log_softmax
from torch import nn

from fairat_lightning.attacks import PGD
from fairat_lightning.methods import CODAT
from fairat_lightning.objectives import AT, MART, TRADES


def method(objective=None, classes=4, **kwargs):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, classes)).double()
    attack = PGD(eps=0.0, steps=1)  # crafts x itself
    module = CODAT(net, classes, attack=attack, objective=objective or AT(), optim=None, **({"rho": 0.5} | kwargs))
    module.log = lambda *_, **__: None
    return module


def worst_case(losses: np.ndarray, rho: float) -> np.ndarray:
    """The published program: max_q q.L in the chi-square ball (1/K) sum (K q_k - 1)^2 <= rho."""
    count = len(losses)
    q = cp.Variable(count, nonneg=True)
    ball = cp.norm(count * q - 1) <= (rho * count) ** 0.5
    problem = cp.Problem(cp.Maximize(q @ losses), [cp.sum(q) == 1, ball])
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    return np.asarray(q.value)


def batch(rng: np.random.Generator, classes, size: int = 24):
    return torch.tensor(rng.random((size, 3, 2, 2))), torch.tensor(rng.choice(classes, size)), torch.arange(size)


@pytest.mark.parametrize("rho", [0.01, 0.5, 1.5, 5.0])
@pytest.mark.parametrize("objective", [AT(), TRADES(6.0)])
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_the_worst_class_distribution_in_cvxpy(seed, rho, objective):
    """sum_k q*_k L_k over the classes present, of unequal size; class 3 is absent."""
    module = method(objective, rho=rho)
    x, y, index = batch(np.random.default_rng(seed), [0, 0, 0, 1, 1, 2])
    losses = -log_softmax(module.net(x).detach().numpy(), 1)[range(24), y]  # at eps=0 TRADES has no second term
    means = np.array([losses[y == k].mean() for k in range(3)])
    expected = worst_case(means, rho) @ means
    assert module.training_step((x, y, index), 0).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("objective", [AT(), TRADES(6.0), MART(5.0)])
@pytest.mark.parametrize("classes", [2, 4, 50])
def test_value_and_gradient_are_those_of_mean_plus_root_rho_std_while_no_weight_is_zero(classes, objective):
    rho = 0.1 / classes  # sqrt(rho) |L_k - mean| < std for every k
    module = method(objective, classes=classes, rho=rho)
    x, y, index = batch(np.random.default_rng(0), np.arange(classes), 4 * classes)
    x_adv = torch.rand_like(x)
    module.craft = lambda *_, **__: x_adv
    loss = module.training_step((x, y, index), 0)
    loss.backward()
    found = [p.grad.clone() for p in module.net.parameters()]
    module.zero_grad()
    losses = objective.total(objective(module.net, x, x_adv, y))
    means = torch.stack([losses[y == k].mean() for k in y.unique()])
    identity = means.mean() + rho**0.5 * means.std(correction=0)
    identity.backward()
    assert (module.sample_weight(losses.detach(), y) > 0).all()
    assert loss.item() == pytest.approx(identity.item(), abs=1e-9)
    for gradient, parameter in zip(found, module.net.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("rho", [0.0, 0.5, 100.0])
@pytest.mark.parametrize("classes", [2, 4, 200])
def test_sample_weights_average_to_one_over_classes_and_are_alike_within_one(classes, rho):
    rng = np.random.default_rng(classes)
    module = method(classes=classes, rho=rho)
    losses, y = torch.tensor(rng.random(300)), torch.tensor(rng.choice(classes - (classes > 2), 300))
    weights = module.sample_weight(losses, y).numpy()
    present, counts = np.unique(y, return_counts=True)
    q = np.array([weights[y == k].sum() / 300 for k in present])
    assert q.sum() == pytest.approx(1) and (q >= 0).all()
    assert all(np.ptp(weights[y == k]) == 0 for k in present)
    means = np.array([losses[y == k].mean() for k in present])
    assert (np.diff(q[means.argsort()]) >= -1e-9).all()
    if rho == 0:
        np.testing.assert_allclose(weights, (300 / len(present) / counts)[np.searchsorted(present, y)], rtol=1e-9)


def test_one_class_alone_and_equal_losses_are_the_mean():
    module = method()
    for y in (torch.full((6,), 2), torch.tensor([0, 0, 1, 1, 3, 3])):
        assert module.sample_weight(torch.full((6,), 0.7).double(), y).tolist() == pytest.approx([1.0] * 6)


@pytest.mark.parametrize("objective", quick_for(["at", "trades"], "trades"))
def test_rho_moves_a_run(trained, objective):
    runs = {rho: trained("method=codat", f"objective={objective}", f"method.rho={rho}") for rho in (0, 1)}
    a, b = (network_weights(folder) for folder, _ in runs.values())
    assert any(not torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("rho", [-0.1, float("nan"), float("inf"), "half", True])
def test_wrong_settings_are_named(rho):
    with pytest.raises(ValueError, match="method.rho"):
        method(rho=rho)
