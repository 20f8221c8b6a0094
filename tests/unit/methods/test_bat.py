import numpy as np
import pytest
import torch
from helpers import network_weights, quick_for
from scipy.special import log_softmax, softmax
from torch import nn

from fairat_lightning.attacks import PGD
from fairat_lightning.methods import BAT
from fairat_lightning.methods.bat import wrong_class_imbalance
from fairat_lightning.objectives import AT, TRADES


def method(objective=None, classes=4, attack=None, **kwargs):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, classes)).double()
    attack, kwargs = attack or PGD(eps=0.0, steps=1), {"mu": 1.0, "patience": 1} | kwargs
    module = BAT(net, classes, attack=attack, objective=objective or AT(), optim=None, **kwargs)
    module.log = module.log_dict = lambda *_, **__: None
    return module


def imbalance(logits, y):
    """KL(uniform || p) over the wrong classes of one example."""
    among = softmax(logits)[np.arange(len(logits)) != y]
    among = among / among.sum()
    uniform = np.full(len(among), 1 / len(among))
    return (uniform * (np.log(uniform) - np.log(among))).sum()


@pytest.mark.parametrize("classes", [2, 3, 10, 200])
@pytest.mark.parametrize("seed", range(5))
def test_the_imbalance_of_the_wrong_classes_and_the_inner_loss_in_numpy(classes, seed):
    """CE - mu KL(uniform || p over the wrong classes); its gradient is finite, also of two classes, where the KL is 0."""
    rng = np.random.default_rng(seed)
    logits, y = 3 * rng.normal(size=(9, classes)), rng.integers(0, classes, 9)
    expected = np.array([imbalance(row, k) for row, k in zip(logits, y, strict=True)])
    found = torch.tensor(logits, requires_grad=True)
    np.testing.assert_allclose(wrong_class_imbalance(found, torch.tensor(y)).detach().numpy(), expected, atol=1e-12)
    values = method(classes=classes, mu=0.7).balanced(nn.Identity(), found, torch.tensor(y))(found)
    losses = -log_softmax(logits, 1)[range(9), y] - 0.7 * expected
    np.testing.assert_allclose(values.detach().numpy(), losses, atol=1e-12)
    values.sum().backward()
    assert found.grad.isfinite().all() and (classes > 2 or (expected == 0).all())


def by_hand(x, y, weight, bias, *, steps, mu, patience):
    """Where one example is before each step and after the last, under a linear network: signed steps of a quarter of 0.1."""
    path, left, wrong = [x], None, np.arange(len(bias)) != y
    for _ in range(steps):
        logits = weight @ path[-1] + bias
        left = patience if left is None and logits.argmax() != y else left
        if left == 0:
            path.append(path[-1])
            continue
        p = softmax(logits)
        gradient = p - ~wrong - mu * wrong * (p / p[wrong].sum() - 1 / wrong.sum())
        moved = path[-1] + 0.025 * np.sign(weight.T @ gradient)
        path.append(np.clip(moved, x - 0.1, x + 0.1).clip(0, 1))
        left = None if left is None else left - 1
    return np.array(path)


@pytest.mark.parametrize("mu", [0, 1.0])
@pytest.mark.parametrize("patience", [0, 1, 2, 100])
@pytest.mark.parametrize("seed", range(3))
def test_every_example_goes_its_way_and_stays_when_its_attack_has_ended(mu, patience, seed):
    """Some end before the first step, some on their way, some never."""
    torch.manual_seed(seed)
    module = method(attack=PGD(eps=0.1, steps=10, start="zero"), mu=mu, patience=patience)
    module.net[1].bias.data -= module.net[1](torch.full((12,), 0.5).double()).detach()  # all classes about as likely
    x = torch.rand(40, 3, 2, 2).double()
    y = module.net(x).argmax(1)
    y[:5] = (y[:5] + 1) % 4
    seen = []
    module.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().flatten(1).numpy()))
    seen.append(module.craft(x, y, inner=module.balanced).flatten(1).numpy())
    weight, bias = (p.detach().numpy() for p in module.net[1].parameters())
    flat = x.flatten(1).numpy()
    paths = [by_hand(flat[i], y[i].item(), weight, bias, steps=10, mu=mu, patience=patience) for i in range(40)]
    np.testing.assert_allclose(np.stack(seen, 1), np.stack(paths), atol=1e-9)
    still = np.array([(path[1:] == path[:-1]).all(1).sum() for path in paths])  # steps without a move
    if patience == 0:
        assert (still == 10).sum() >= 5 and (still[5:] < 10).any()
    if patience == 100:
        assert (still < 10).all()


@pytest.mark.parametrize("objective", [AT(), TRADES(6.0)])
@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_the_loss_is_the_plain_objective_at_the_balanced_images_in_numpy(objective, eps):
    module = method(objective, attack=PGD(eps, 3), mu=2.0)
    x, y, seen = torch.rand(12, 3, 2, 2).double(), np.arange(12) % 3, []
    craft = module.craft

    def look(x, y, *, inner):
        assert inner == module.balanced
        seen.append(craft(x, y, inner=inner))
        return seen[0]

    module.craft = look
    loss = module.training_step((x, torch.tensor(y), torch.arange(12)), 0)
    clean, robust = (log_softmax(module.net(images).detach().numpy(), 1) for images in (x, seen[0]))
    supervised = -(clean if objective.beta else robust)[range(12), y]
    expected = supervised + objective.beta * (np.exp(clean) * (clean - robust)).sum(1)
    assert loss.item() == pytest.approx(expected.mean(), abs=1e-10)
    assert torch.equal(seen[0], x) == (eps == 0)


@pytest.mark.parametrize("word", quick_for(["awp=none", "awp=awp", "attack.batch_norm=train"], "awp=awp"))
def test_without_pull_and_end_it_is_plain_adversarial_training_bit_for_bit(trained, word):
    plain, metrics = trained("method=pgd_at", word)
    bat, same = trained("method=bat", "objective=at", "method.mu=0", "method.patience=1000", word)
    assert metrics == same
    a, b = network_weights(plain), network_weights(bat)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_each_part_changes_the_run(trained):
    words = ("method=bat", "objective=at", "attack.steps=4")
    settings = [("0", "1000"), ("1", "1000"), ("0", "0"), ("1", "0")]
    runs = [network_weights(trained(*words, f"method.mu={m}", f"method.patience={p}")[0]) for m, p in settings]
    for k, a in enumerate(runs):
        assert all(any(not torch.equal(a[name], b[name]) for name in a) for b in runs[:k])


@pytest.mark.parametrize(
    "key,value",
    [
        ("mu", -0.1),
        ("mu", float("inf")),
        ("mu", "much"),
        ("patience", -1),
        ("patience", 1.0),
        ("patience", True),
    ],
)
def test_wrong_settings_are_named(key, value):
    with pytest.raises(ValueError, match=f"method.{key}="):
        method(**{key: value})
