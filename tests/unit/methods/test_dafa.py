from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import network_weights, quick_for
from scipy.special import log_softmax, softmax
from torch import nn

from fairat_lightning.attacks import PGD
from fairat_lightning.methods import DAFA
from fairat_lightning.methods.dafa import LEAST, class_transfer
from fairat_lightning.objectives import AT, TRADES

WEIGHT = [0.4, 1.5, 0.9, 1.2]


def brute_force(s, strength):
    """W_i = 1 + lambda [ sum_{j: S_ii < S_jj} S_ij S_jj  -  sum_{j: S_ii > S_jj} S_ji S_ii ], not clamped."""
    weights = np.ones(len(s))
    for i in range(len(s)):
        for j in range(len(s)):
            if s[i, i] < s[j, j]:
                weights[i] += strength * s[i, j] * s[j, j]
            if s[i, i] > s[j, j]:
                weights[i] -= strength * s[j, i] * s[i, i]
    return weights


def similarity(seed, classes):
    rng = np.random.default_rng(seed)
    return softmax(rng.normal(size=(classes, classes)) + np.diag(rng.uniform(0, 5, classes)), 1)


@pytest.mark.parametrize("classes", [2, 3, 10, 200])
@pytest.mark.parametrize("strength", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("seed", range(5))
def test_weights_by_a_double_loop(classes, strength, seed):
    s = similarity(seed, classes)
    expected = brute_force(s, strength)
    found = class_transfer(torch.tensor(s), strength).numpy()
    np.testing.assert_allclose(found, expected.clip(LEAST), atol=1e-12)
    assert expected.sum() == pytest.approx(classes)
    if expected.min() > LEAST:
        assert found.sum() == pytest.approx(classes)
    assert found[s.diagonal().argmin()] > 1 > found[s.diagonal().argmax()]


def test_by_hand():
    """Class 1 gives S_01 S_11 = 0.3 * 0.8 to class 0, which is harder; class 2 is as hard as class 0."""
    s = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    assert class_transfer(s, 1.0).tolist() == pytest.approx([1.24, 1 - 0.24 - 0.16, 1.16])


def test_no_weight_is_below_a_tenth():
    s = similarity(0, 10)
    found = class_transfer(torch.tensor(s), 20.0).numpy()
    assert found.min() == 0.1 > brute_force(s, 20.0).min()


def test_a_class_that_was_not_seen_takes_no_part():
    s = similarity(1, 5)
    s[2] = np.nan
    found = class_transfer(torch.tensor(s), 1.0).numpy()
    others = [0, 1, 3, 4]
    np.testing.assert_allclose(found[others], brute_force(s[np.ix_(others, others)], 1.0), atol=1e-12)
    assert found[2] == 1 and found.sum() == pytest.approx(5)
    assert class_transfer(torch.full((3, 3), torch.nan), 1.0).tolist() == [1, 1, 1]


def method(objective=None, classes=4, attack=None, epoch=6, **kwargs):
    """A method in an epoch of ten, the first six of which are its warm-up."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, classes)).double()
    attack, kwargs = attack or PGD(eps=0.0, steps=1), {"strength": 1.0, "warmup": 0.6} | kwargs
    module = DAFA(net, classes, attack=attack, objective=objective or AT(), optim=None, **kwargs).double()
    module._trainer = SimpleNamespace(current_epoch=epoch, max_epochs=10)
    module.log = module.log_dict = lambda *_, **__: None
    return module


def batch(seed, size=12):
    rng = np.random.default_rng(seed)
    x, x_adv = torch.tensor(rng.random((2, size, 3, 2, 2)))
    return x, x_adv, rng.integers(0, 3, size)  # class 3 is absent


def step(module, x, x_adv, y):
    """The loss at these adversarial images."""
    module.craft = lambda *_, **__: x_adv
    return module.training_step((x, torch.tensor(y), torch.arange(len(x))), 0)


@pytest.mark.parametrize("epoch", [5, 6])
@pytest.mark.parametrize("objective", [AT(), TRADES(6.0)])
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_weights_the_supervised_term_alone_and_only_after_the_warm_up(objective, epoch, seed):
    """mean_i [ W[y_i] CE_i + beta KL_i ]: CE at x' for AT, at x for TRADES."""
    x, x_adv, y = batch(seed)
    module = method(objective, epoch=epoch)
    module.class_weight.copy_(torch.tensor(WEIGHT))
    clean, robust = (log_softmax(module.net(images).detach().numpy(), 1) for images in (x, x_adv))
    supervised = -(clean if objective.beta else robust)[range(12), y]
    weight = np.array(WEIGHT)[y] if epoch == 6 else 1
    expected = (weight * supervised + objective.beta * (np.exp(clean) * (clean - robust)).sum(1)).mean()
    assert step(module, x, x_adv, y).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("epoch", [5, 6])
@pytest.mark.parametrize("attack,share", [(PGD(0.1, 10), 1.0), (PGD(0.1, 1, step=0.03, start="zero"), 0.3)])
def test_each_class_is_attacked_within_its_own_eps_and_to_its_edge(epoch, attack, share):
    module = method(attack=attack, epoch=epoch)
    module.class_weight.copy_(torch.tensor(WEIGHT))
    scale = np.array(WEIGHT) if epoch == 6 else np.ones(4)
    x, y, seen = 0.4 + 0.2 * torch.rand(16, 3, 2, 2).double(), torch.arange(16) % 4, []
    score = module.score
    module.score = lambda x, x_adv, y: seen.append((x_adv - x).abs().flatten(1).amax(1)) or score(x, x_adv, y)
    module.training_step((x, y, torch.arange(16)), 0)
    np.testing.assert_allclose(seen[0].numpy(), 0.1 * share * scale[y], atol=1e-7)


def test_without_margins_the_weights_act_on_the_loss_alone():
    x, y = 0.4 + 0.2 * torch.rand(16, 3, 2, 2).double(), torch.arange(16) % 4
    plain, weighted = (method(attack=PGD(0.1, 1, start="zero"), margins=False, strength=s) for s in (0.0, 1.0))
    weighted.load_state_dict(plain.state_dict())
    weighted.class_weight.copy_(torch.tensor(WEIGHT))
    assert torch.equal(crafted(weighted, x, y), crafted(plain, x, y))
    weighted.margins = True
    assert not torch.equal(crafted(weighted, x, y), crafted(plain, x, y))


def test_with_a_second_step_the_plain_eps_holds_and_the_steps_are_1_plus_w_as_long():
    """From the image itself one such step is min((1 + W) step, eps) long; before the weights act W is 1."""
    x, y, weight = 0.4 + 0.2 * torch.rand(16, 3, 2, 2).double(), torch.arange(16) % 4, np.array(WEIGHT)
    attack = PGD(0.1, 1, step=0.045, start="zero", second_step=True)
    for epoch, length in ((5, np.full(4, 0.09)), (6, np.minimum(0.045 * (1 + weight), 0.1))):
        module = method(attack=attack, epoch=epoch)
        module.class_weight.copy_(torch.tensor(WEIGHT))
        moved = (crafted(module, x, y) - x).abs().flatten(1).amax(1)
        np.testing.assert_allclose(moved.numpy(), length[y], atol=1e-7)


def crafted(module, x, y):
    """The adversarial images that a training step scores."""
    seen, score = [], type(module).score
    module.score = lambda x, x_adv, y: seen.append(x_adv) or score(module, x, x_adv, y)
    module.training_step((x, y, torch.arange(len(x))), 0)
    return seen[0]


@pytest.mark.parametrize("objective", [AT(), TRADES(6.0)])
def test_the_weights_come_from_the_probabilities_at_the_adversarial_images_of_the_last_warm_up_epoch(objective):
    module, batches = method(objective), [batch(seed, 20) for seed in range(3)]
    module.net[1].weight.data *= 10
    for epoch in range(10):
        module._trainer.current_epoch = epoch
        assert (module.class_weight == 1).all() == (epoch < 6)
        for x, x_adv, y in batches if epoch == 5 else [batch(100 + epoch)]:
            step(module, x, x_adv, y)
        module.on_train_epoch_end()
    probabilities = [np.exp(log_softmax(module.net(x_adv).detach().numpy(), 1)) for _, x_adv, _ in batches]
    y = np.concatenate([labels for _, _, labels in batches])
    similarity = np.stack([np.concatenate(probabilities)[y == k].mean(0) for k in range(3)] + [np.full(4, np.nan)])
    expected = class_transfer(torch.tensor(similarity), 1.0)
    torch.testing.assert_close(module.class_weight, expected)
    assert module.class_weight[3] == 1 and expected[:3].std() > 0.01


@pytest.mark.parametrize("objective", quick_for(["at", "trades"], "trades"))
def test_all_warm_up_and_strength_zero_are_plain_adversarial_training_bit_for_bit(trained, objective):
    words = (f"objective={objective}", "awp=awp")
    plain, metrics = trained("method=pgd_at", *words)
    a = network_weights(plain)
    for setting in ("method.warmup=1.0", "method.strength=0"):
        other, same = trained("method=dafa", "method.warmup=0.5", setting, *words)
        assert metrics == same
        b = network_weights(other)
        assert all(torch.equal(a[name], b[name]) for name in a)
    moved = network_weights(trained("method=dafa", "method.warmup=0.5", *words)[0])
    assert any(not torch.equal(a[name], moved[name]) for name in a)


@pytest.mark.parametrize("warmup,epochs,first", [(70 / 110, 110, 70), (0.6364, 110, 70), (0.5, 6, 3), (0.01, 5, 1), (1.0, 4, 4)])
def test_the_weights_are_learned_in_the_last_warm_up_epoch_and_act_after_it(warmup, epochs, first):
    module, (x, x_adv, y) = method(warmup=warmup), batch(0)
    module.class_weight.copy_(torch.tensor(WEIGHT))
    module._trainer.max_epochs = epochs
    for epoch in {max(0, first - 2), first - 1, min(first, epochs - 1)}:
        module._trainer.current_epoch = epoch
        module.similarity.reset()
        loss = step(module, x, x_adv, y)
        assert module.similarity.update_called == (epoch == first - 1)
        plain = -log_softmax(module.net(x_adv).detach().numpy(), 1)[range(len(y)), y].mean()
        assert (abs(loss.item() - plain) > 1e-3) == (epoch >= first)


@pytest.mark.parametrize(
    "key,value",
    [
        *(("strength", value) for value in (-0.1, float("inf"), True, "much")),
        *(("warmup", value) for value in (0, 1.1, "late")),
    ],
)
def test_wrong_settings_are_named(key, value):
    with pytest.raises(ValueError, match=f"method.{key}="):
        method(**{key: value})
