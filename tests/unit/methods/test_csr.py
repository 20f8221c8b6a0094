from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import network_weights, quick_for
from scipy.special import log_softmax
from torch import nn
from torch.nn import functional as F

from fairat_lightning.attacks import PGD
from fairat_lightning.evaluation.attacks import seeded_start
from fairat_lightning.methods import CSR
from fairat_lightning.methods.csr import spectral_weights
from fairat_lightning.objectives import AT, TRADES


def method(objective=None, classes=4, attack=None, **kwargs):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, classes)).double()
    attack = attack or PGD(eps=0.0, steps=1)  # crafts x itself
    module = CSR(net, classes, attack=attack, objective=objective or AT(), optim=None, **({"share": 0.3, "gamma": 0.1} | kwargs))
    module.log = module.log_dict = lambda *_, **__: None
    return module.double()


def begin_epoch(module: CSR, *batches) -> None:
    module.trainer = SimpleNamespace(
        precision_plugin=SimpleNamespace(forward_context=nullcontext),
        datamodule=SimpleNamespace(scoring_dataloader=lambda: batches),
        current_epoch=0,
    )
    module.on_train_epoch_start()


def pair_weights(confusion: np.ndarray) -> np.ndarray:
    """u1 v1^T of the errors (row: predicted, column: true), min-max to [.01, 2.01]; 1 without errors."""
    if not confusion.any():
        return np.ones_like(confusion)
    u, _, vh = np.linalg.svd(confusion)
    g = np.outer(u[:, 0], vh[0])
    return 0.01 + 2 * (g - g.min()) / (g.max() - g.min())


def confusion_of(logits: np.ndarray, y: np.ndarray, gamma: float) -> np.ndarray:
    """C[k, j]: the share of class j predicted as k != j once the true logit is lowered by gamma of its size."""
    count, classes = logits.shape
    confusion = np.zeros((classes, classes))
    for i in range(count):
        lowered = logits[i].copy()
        lowered[y[i]] -= gamma * abs(lowered[y[i]])
        predicted = lowered.argmax()
        if predicted != y[i]:
            confusion[predicted, y[i]] += 1 / (y == y[i]).sum()
    return confusion


@pytest.mark.parametrize("classes", [2, 3, 10, 200])
@pytest.mark.parametrize("seed", range(5))
def test_weights_are_the_leading_singular_vectors_in_numpy(classes, seed):
    rng = np.random.default_rng(seed)
    confusion = rng.random((classes, classes)) * (rng.random((classes, classes)) < 0.7)
    np.fill_diagonal(confusion, 0)
    confusion[1, 0] = 1.5
    found = spectral_weights(torch.tensor(confusion)).numpy()
    np.testing.assert_allclose(found, pair_weights(confusion), atol=1e-7)
    assert found.min() == pytest.approx(0.01) and found.max() == pytest.approx(2.01)
    other = spectral_weights(torch.tensor(5 * confusion)).numpy()
    np.testing.assert_allclose(other, found, atol=1e-7)  # counts or shares, if classes are equal


def test_weights_by_power_iteration_stay_above_the_least_where_classes_are_confused():
    """The leading pair maximises u^T C v; for C >= 0 it is the limit of u <- C C^T u, and non-negative."""
    confusion = np.array([[0, 0.1, 0.0], [0.2, 0, 0.6], [0.1, 0.5, 0]])
    u = np.ones(3)
    for _ in range(2000):
        u = confusion @ (confusion.T @ u)
        u /= np.linalg.norm(u)
    v = confusion.T @ u / np.linalg.norm(confusion.T @ u)
    g = np.outer(u, v)
    expected = 0.01 + 2 * (g - g.min()) / np.ptp(g)
    np.testing.assert_allclose(spectral_weights(torch.tensor(confusion)).numpy(), expected, atol=1e-7)
    assert expected[1, 2] > expected[0, 1]


@pytest.mark.parametrize("classes", [2, 10])
def test_without_errors_every_weight_is_one(classes):
    assert torch.equal(spectral_weights(torch.zeros(classes, classes)), torch.ones(classes, classes).double())
    module = method(classes=classes, gamma=0.0)
    x, index = torch.rand(20, 3, 2, 2).double(), torch.arange(20)
    y = module.net(x).argmax(1)  # all right
    module.pair_weight.fill_(7.0)
    begin_epoch(module, (x, y, index))
    assert torch.equal(module.pair_weight, torch.ones(classes, classes).double())


@pytest.mark.parametrize("classes", [3, 4, 10])
def test_where_all_classes_are_confused_alike_every_weight_is_one(classes):
    """u and v are constant: what differs in G is rounding."""
    found = spectral_weights(0.1 * (1 - torch.eye(classes)))
    np.testing.assert_allclose(found.numpy(), 1, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("shift", [0.0, 5.0, -5.0])
@pytest.mark.parametrize("seed", range(3))
def test_errors_of_the_training_set_with_the_true_logit_lowered(seed, shift, gamma):
    """In batches of any size, logits of either sign; class 3 is absent and classes are unequal."""
    rng = np.random.default_rng(seed)
    module = method(gamma=gamma)
    module.net[1].bias.data += shift
    x, y = torch.tensor(rng.random((60, 3, 2, 2))), rng.choice(3, 60, p=[0.6, 0.3, 0.1])
    y = torch.where(torch.rand(60) < 0.5, module.net(x)[:, :3].argmax(1), torch.tensor(y))  # half of them right
    logits = module.net(x).detach().numpy()
    begin_epoch(module, (x[:37], y[:37], torch.arange(37)), (x[37:], y[37:], torch.arange(37, 60)))
    expected = confusion_of(logits, y.numpy(), gamma)
    np.testing.assert_allclose(module.pair_weight.numpy(), pair_weights(expected), atol=1e-6)
    if shift and gamma == 0.1:
        raised = logits.copy()
        raised[range(60), y] *= 1 - gamma  # the released code's rule
        assert (expected.sum() > confusion_of(raised, y.numpy(), 0.0).sum()) == (shift < 0)
        released = method(gamma=gamma, multiplied=True)
        released.net.load_state_dict(module.net.state_dict())
        begin_epoch(released, (x, y, torch.arange(60)))
        np.testing.assert_allclose(released.pair_weight.numpy(), pair_weights(confusion_of(raised, y.numpy(), 0.0)), atol=1e-6)


@pytest.mark.parametrize("objective", [AT(), TRADES(6.0)])
def test_errors_are_counted_under_attack_on_the_cross_entropy_in_eval_mode(objective):
    """A network that is right on clean images and wrong within eps, and otherwise in training mode."""
    module = method(objective, attack=PGD(eps=0.3, steps=5), gamma=0.0)
    x, index = torch.rand(40, 3, 2, 2).double(), torch.arange(40)
    y = module.net(x).argmax(1)
    dropout = nn.Dropout(1.0)  # no logit would be left in training mode
    module.net.append(dropout)
    module.train()
    state = torch.get_rng_state()
    begin_epoch(module, (x, y, index))
    assert dropout.training and torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        module.eval()
        x_adv = module.attack(
            lambda image: F.cross_entropy(module.net(image), y, reduction="none"), x, start=seeded_start(x, index, module.attack)
        )
        logits = module.net(x_adv).numpy()
    assert (logits.argmax(1) != y.numpy()).any() and (x_adv - x).abs().amax() <= 0.3 + 1e-9
    np.testing.assert_allclose(module.pair_weight.numpy(), pair_weights(confusion_of(logits, y.numpy(), 0.0)), atol=1e-6)


@pytest.mark.parametrize("objective", [AT(), AT(0.2), TRADES(6.0)])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("classes", [2, 4, 200])
def test_the_loss_mixes_the_objective_and_the_weighted_cross_entropy_in_numpy(objective, share, classes):
    """(1 - share) supervised + beta KL + share G[prediction, label] CE, the label smoothed in the supervised term alone."""
    rng = np.random.default_rng(classes)
    module = method(objective, classes=classes, share=share)
    weights = rng.uniform(0.01, 2.01, (classes, classes))
    module.pair_weight.copy_(torch.tensor(weights))
    x, y = torch.tensor(rng.random((12, 3, 2, 2))), torch.tensor(rng.integers(0, classes, 12))
    x_adv = torch.tensor(rng.random((12, 3, 2, 2)))
    module.craft = lambda *_, **__: x_adv
    at, clean = (log_softmax(module.net(images).detach().numpy(), 1) for images in (x_adv, x))
    rows = range(12)
    hard = -at[rows, y]
    smoothing = objective.label_smoothing
    supervised = (1 - smoothing) * hard - smoothing * at.mean(1)
    if isinstance(objective, TRADES):
        supervised = -clean[rows, y]
    kl = objective.beta * (np.exp(clean) * (clean - at)).sum(1)
    expected = ((1 - share) * supervised + kl + share * weights[at.argmax(1), y] * hard).mean()
    assert module.training_step((x, y, torch.arange(12)), 0).item() == pytest.approx(expected, abs=1e-6)


def test_the_gradient_of_the_confusion_term_is_that_of_the_weighted_cross_entropy():
    module = method(share=1.0)
    module.pair_weight.copy_(torch.rand(4, 4))
    x, y = torch.rand(12, 3, 2, 2).double(), torch.randint(4, (12,))
    module.training_step((x, y, torch.arange(12)), 0).backward()
    z = module.net(x).detach().numpy()
    p, w = np.exp(log_softmax(z, 1)), module.pair_weight.numpy()[z.argmax(1), y]
    expected = (w[:, None] * (p - np.eye(4)[y])).T @ x.flatten(1).numpy() / 12
    np.testing.assert_allclose(module.net[1].weight.grad.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("objective", quick_for(["at", "trades", "mart"], "at", "trades"))
def test_share_zero_is_the_plain_objective_bit_for_bit(trained, objective):
    plain, metrics = trained("method=pgd_at", f"objective={objective}")
    none, same = trained("method=csr", f"objective={objective}", "method.share=0")
    moved, _ = trained("method=csr", f"objective={objective}")
    assert metrics == same
    a, b, c = (network_weights(folder) for folder in (plain, none, moved))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)


@pytest.mark.parametrize(
    "key,value",
    [
        *(("share", wrong) for wrong in (-0.1, 1.1, float("nan"), "some")),
        *(("gamma", wrong) for wrong in (-0.1, 1.0, float("nan"), "some")),
    ],
)
def test_wrong_settings_are_named(key, value):
    with pytest.raises(ValueError, match=f"method.{key}"):
        method(**{key: value})
