import cvxpy as cp
import numpy as np
import pytest
import torch
from helpers import network_weights, quick_for
from scipy.special import softmax
from torch import nn

from fairat_lightning.attacks import PGD
from fairat_lightning.methods import FAAL
from fairat_lightning.objectives import AT, TRADES


def method(objective=None, classes=4, **kwargs):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, classes)).double()
    attack = PGD(eps=0.0, steps=1)  # crafts x itself
    return FAAL(net, classes, attack=attack, objective=objective or AT(), optim=None, **({"radius": 0.5} | kwargs))


@pytest.fixture
def batch():
    return torch.rand(12, 3, 2, 2).double(), torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2]), torch.arange(12)


def step(module, batch):
    module.log = lambda *_, **__: None
    return module.training_step(batch, 0)


@pytest.mark.parametrize("objective", [AT(), TRADES(6.0)])
def test_the_loss_is_the_worst_case_over_classes_in_numpy_and_cvxpy(batch, objective):
    """(K'/B) sum_i p*[y_i] loss_i, where p* maximises the expected margin in the KL ball over the classes present."""
    module = method(objective)
    x, y, _ = batch
    terms = objective(module.net, x, x, y)
    probabilities = softmax(terms.logits.detach().numpy(), 1)
    own = probabilities[range(12), y]
    others = np.where(np.eye(4)[y] == 1, -1, probabilities).max(1)
    margins = np.array([(others - own)[y.numpy() == k].mean() for k in range(3)])  # class 3 is absent
    losses = objective.total(terms).detach().numpy()
    expected = 3 / 12 * (worst_case(margins, 0.5)[y.numpy()] * losses).sum()
    assert step(module, batch).item() == pytest.approx(expected, abs=1e-5)


def worst_case(scores: np.ndarray, radius: float) -> np.ndarray:
    count = len(scores)
    p = cp.Variable(count, pos=True)
    ball = cp.sum(-cp.log(p)) / count + float(np.log(1 / count)) <= radius
    problem = cp.Problem(cp.Maximize(p @ scores), [cp.sum(p) == 1, ball])
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10)
    return np.asarray(p.value)


@pytest.mark.parametrize("seed", range(20))
def test_count_weighted_is_the_released_rule(seed):
    """All C classes, each scored by its batch count times its mean margin: an absent one scores 0, and here the most."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, 24)  # of 5 classes, one is absent
    logits = rng.normal(size=(24, 5))
    logits[range(24), y] += 3
    probabilities = softmax(logits, 1)
    margins = np.where(np.eye(5)[y] == 1, -1, probabilities).max(1) - probabilities[range(24), y]
    scores = np.array([(y == k).sum() * margins[y == k].mean() if (y == k).any() else 0.0 for k in range(5)])
    found = method(classes=5, count_weighted=True).worst_case(torch.tensor(logits), torch.tensor(y)).numpy()
    np.testing.assert_allclose(found, 5 * worst_case(scores, 0.5), atol=1e-4)
    intended = method(classes=5).worst_case(torch.tensor(logits), torch.tensor(y))
    assert intended[4] == 0 and intended.sum().item() == pytest.approx(len(set(y)))
    if scores[:4].max() < 0:
        assert found.argmax() == 4


@pytest.mark.parametrize("memory", [0.5, 0.9])
def test_margins_remembered_across_batches(memory):
    """Each class's margin is an exponential average over the batches that have it; weights are over the classes seen so far."""
    rng = np.random.default_rng(1)
    module, remembered = method(classes=5, memory=memory), {}
    for present in ([0, 1], [1, 2, 3], [0, 3], [2]):  # class 4 never comes
        y = rng.choice(present, 8)
        logits = rng.normal(size=(8, 5))
        probabilities = softmax(logits, 1)
        margins = np.where(np.eye(5)[y] == 1, -1, probabilities).max(1) - probabilities[range(8), y]
        for k in set(y):
            mean = margins[y == k].mean()
            remembered[k] = memory * remembered[k] + (1 - memory) * mean if k in remembered else mean
        found = module.worst_case(torch.tensor(logits), torch.tensor(y)).numpy()
        seen = sorted(remembered)
        expected = len(seen) * worst_case(np.array([remembered[k] for k in seen]), 0.5)
        np.testing.assert_allclose(found[seen], expected, atol=1e-4)
        assert found[[k for k in range(5) if k not in seen]].sum() == 0


@pytest.mark.parametrize("memory", [-0.1, 1.0, "long"])
def test_wrong_memory_is_named(memory):
    with pytest.raises(ValueError, match="method.memory"):
        method(memory=memory)


def test_weights_carry_no_gradient_and_are_logged_as_a_mean_over_batches(batch):
    module = method()
    logits = torch.randn(12, 4, dtype=torch.float64, requires_grad=True)
    first = module.worst_case(logits.detach(), batch[1])
    assert not module.worst_case(logits, batch[1]).requires_grad
    second = module.worst_case(-logits.detach(), batch[1])
    some = module.worst_case(logits[:5].detach(), batch[1][:5])  # class 0 alone
    logged = {}
    module.log_dict = logged.update
    module.on_train_epoch_end()
    expected = (2 * first + second) / 3
    expected[0] = (3 * expected[0] + some[0]) / 4
    assert [logged[f"train/class_weight/{k}"].item() for k in range(3)] == pytest.approx(expected[:3].tolist())
    assert "train/class_weight/3" not in logged  # never seen
    assert module.worst_case.weight_count.sum() == 0 and module.worst_case.weight_sum.abs().sum() == 0


@pytest.mark.parametrize(
    "objective, awp",
    quick_for(
        [(objective, awp) for objective in ("at", "trades", "mart") for awp in ("none", "awp")], ("at", "none"), ("trades", "awp")
    ),
)
def test_radius_zero_is_plain_adversarial_training_bit_for_bit(trained, objective, awp):
    words = (f"objective={objective}", f"awp={awp}")
    plain, metrics = trained("method=pgd_at", *words)
    faal, same = trained("method=faal", "method.radius=0", *words)
    moved, _ = trained("method=faal", "method.radius=1.0", *words)
    assert metrics == same
    a, b, c = (network_weights(folder) for folder in (plain, faal, moved))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)


@pytest.mark.parametrize("radius", [-0.1, float("nan"), "half"])
def test_wrong_radius_is_named(radius):
    with pytest.raises(ValueError, match="method.radius"):
        method(radius=radius)
