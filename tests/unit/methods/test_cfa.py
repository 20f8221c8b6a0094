from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import network_weights, quick_for
from scipy.special import log_softmax
from torch import nn

from fairat_lightning.attacks import PGD
from fairat_lightning.methods import CFA
from fairat_lightning.objectives import AT, MART, TRADES

PAPER = {"ccm": True, "ccr": True, "lambda1": 0.5, "lambda2": 0.5, "warmup": 0.05}
ROBUST = [0.9, 0.3, 0.0, 0.55]


def method(objective=None, classes=4, attack=None, **kwargs):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, classes)).double()
    attack = attack or PGD(eps=0.0, steps=1)
    module = CFA(net, classes, attack=attack, objective=objective or AT(), optim=None, **(PAPER | kwargs)).double()
    module.log = module.log_dict = lambda *_, **__: None
    return module


def batch(seed, classes=4, size=12):
    rng = np.random.default_rng(seed)
    x, x_adv = torch.tensor(rng.random((2, size, 3, 2, 2)))
    return x, x_adv, rng.integers(0, classes - 1, size)  # the last class is absent


def step(module, x, x_adv, y):
    """The loss at these adversarial images."""
    module.craft = lambda *_, **__: x_adv
    return module.training_step((x, torch.tensor(y), torch.arange(len(x))), 0)


@pytest.mark.parametrize("classes", [2, 4, 200])
@pytest.mark.parametrize("lambda2", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_the_loss_of_trades_in_numpy(classes, lambda2, seed):
    """mean_i [CE_i + beta_y KL_i] / (1 + beta_y), beta_k = (lambda_2 + t_k) beta; with ccr off, mean_i [CE_i + beta KL_i],
    over 1 + beta in the authors' code."""
    x, x_adv, y = batch(seed, classes)
    robust = np.random.default_rng(seed).random(classes)
    for ccr, always in ((True, False), (True, True), (False, False), (False, True)):
        module = method(TRADES(6.0), classes, ccr=ccr, lambda2=lambda2, always_divided=always)
        module.class_robust.copy_(torch.tensor(robust))
        clean, attacked = (log_softmax(module.net(images).detach().numpy(), 1) for images in (x, x_adv))
        supervised, consistency = -clean[range(12), y], (np.exp(clean) * (clean - attacked)).sum(1)
        beta = (lambda2 + robust[y]) * 6
        expected = (supervised + beta * consistency) / (1 + beta) if ccr else supervised + 6 * consistency
        expected = expected / 7 if always and not ccr else expected
        assert step(module, x, x_adv, y).item() == pytest.approx(expected.mean(), abs=1e-10)


@pytest.mark.parametrize("objective", [TRADES(6.0), MART(5.0)])
def test_where_t_plus_lambda2_is_one_the_loss_is_the_plain_one_over_one_plus_beta(objective):
    x, x_adv, y = batch(0)
    module, plain = method(objective, lambda2=0.25), method(objective, ccr=False)
    plain.net = module.net
    module.class_robust.fill_(0.75)
    expected = step(plain, x, x_adv, y).item() / (1 + objective.beta)
    assert step(module, x, x_adv, y).item() == pytest.approx(expected, abs=1e-12)


def test_before_anything_is_known_and_for_an_unseen_class_both_calibrations_are_neutral():
    x, x_adv, y = batch(0)
    module, plain = method(TRADES(6.0)), method(TRADES(6.0), ccr=False)
    plain.net = module.net
    expected = step(plain, x, x_adv, y).item() / 7
    assert step(module, x, x_adv, y).item() == pytest.approx(expected, abs=1e-12)
    module.class_robust[3] = 0.9  # which is absent from the batch
    assert step(module, x, x_adv, y).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ccm", [True, False])
@pytest.mark.parametrize("attack,share", [(PGD(0.1, 10), 1.0), (PGD(0.1, 1, start="zero"), 0.25)])
def test_each_class_is_attacked_within_its_own_eps_and_to_its_edge(ccm, attack, share):
    module = method(attack=attack, ccm=ccm, lambda1=0.3)
    module.class_robust.copy_(torch.tensor([0.9, torch.nan, 0.0, 0.55]))
    scale = np.array([1.2, 1.0, 0.3, 0.85]) if ccm else np.ones(4)
    x, y, seen = 0.4 + 0.2 * torch.rand(16, 3, 2, 2).double(), torch.arange(16) % 4, []
    score = module.score
    module.score = lambda x, x_adv, y: seen.append((x_adv - x).abs().flatten(1).amax(1)) or score(x, x_adv, y)
    module.training_step((x, y, torch.arange(16)), 0)
    np.testing.assert_allclose(seen[0].numpy(), 0.1 * share * scale[y], atol=1e-9)


def epoch(module, number, epochs, batches):
    """Train on the batches (nothing is updated); the share of right answers of each class, nan where absent."""
    module._trainer = SimpleNamespace(current_epoch=number, max_epochs=epochs)
    right = [[] for _ in range(module.num_classes)]
    for x, x_adv, y in batches:
        step(module, x, x_adv, y)
        for k, logits in zip(y, module.net(x_adv).detach().numpy(), strict=True):
            right[k].append(logits.argmax() == k)
    module.on_train_epoch_end()
    return np.array([np.mean(hits) if hits else np.nan for hits in right])


@pytest.mark.parametrize("objective", [AT(), TRADES(6.0)])
def test_robust_accuracies_are_those_of_the_last_epochs_training_batches(objective):
    module = method(objective, warmup=0.0)
    module.class_robust.copy_(torch.tensor(ROBUST))
    for number in range(3):
        found = epoch(module, number, 9, [batch(10 * number, size=9), batch(10 * number + 1, size=30)])
        assert np.isnan(found[3]) and 0 < np.nanmean(found) < 1
        np.testing.assert_allclose(module.class_robust.numpy(), np.append(found[:3], ROBUST[3]), atol=1e-12)


@pytest.mark.parametrize("warmup,epochs,first", [(0.05, 200, 10), (0.5, 4, 2), (0.0, 3, 1), (1.0, 3, 3)])
def test_the_calibrations_begin_after_the_warm_up(warmup, epochs, first):
    """`first` is the first epoch that is calibrated; without a warm-up the second one, which first knows accuracies."""
    module = method(warmup=warmup)
    for number in range(first):
        assert module.class_robust.isnan().all()
        found = epoch(module, number, epochs, [batch(number)])
    np.testing.assert_allclose(module.class_robust.numpy(), found, atol=1e-12)


@pytest.mark.parametrize(
    "words", quick_for(["objective=at", "objective=trades", "objective=at method.ccr=true"], "objective=trades")
)
def test_without_both_calibrations_it_is_plain_adversarial_training_bit_for_bit(trained, words):
    """The cross-entropy objective has no beta: there CCR is nothing."""
    cfa = ("method=cfa", "method.ccm=false", "method.ccr=false", "averaging=none")
    plain, metrics = trained("method=pgd_at", words.split()[0])
    none, same = trained(*cfa, *words.split())
    assert metrics == same
    a, b = network_weights(plain), network_weights(none)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_all_warm_up_with_ccr_is_trades_over_one_plus_beta(trained):
    """Which the learning rate and the weight decay can take back."""
    words = ("objective=trades", "trainer.precision=64-true")
    cfa = ("method=cfa", "averaging=none", "method.warmup=1.0", "optim.lr=0.14", "optim.weight_decay=1e-4")
    a = network_weights(trained("method=pgd_at", "optim.lr=0.02", "optim.weight_decay=7e-4", *words)[0])
    b = network_weights(trained(*cfa, *words)[0])
    assert all(torch.allclose(a[name], b[name], rtol=0, atol=1e-9) for name in a)


def test_each_calibration_changes_the_run(trained):
    words = ("method=cfa", "objective=trades", "averaging=none", "method.warmup=0")
    settings = [("false", "false"), ("true", "false"), ("false", "true"), ("true", "true")]
    runs = [network_weights(trained(*words, f"method.ccm={m}", f"method.ccr={r}")[0]) for m, r in settings]
    runs.append(network_weights(trained(*words[:3], "method.warmup=1.0")[0]))
    for k, a in enumerate(runs):
        assert all(any(not torch.equal(a[name], b[name]) for name in a) for b in runs[:k])


@pytest.mark.parametrize(
    "key,value",
    [
        ("ccm", "yes"),
        ("ccr", 1),
        ("lambda1", -0.1),
        ("lambda1", "half"),
        ("lambda2", float("inf")),
        ("warmup", -0.1),
        ("warmup", 10),
        ("warmup", "late"),
    ],
)
def test_wrong_settings_are_named(key, value):
    with pytest.raises(ValueError, match=f"method.{key}="):
        method(**{key: value})
