import numpy as np
import pytest
import torch
from helpers import network_weights
from scipy.special import log_softmax
from torch import nn

from fairat_lightning.attacks import PGD
from fairat_lightning.methods import TRIX
from fairat_lightning.objectives import AT, TRADES

ROBUST = [0.8, 0.1, 0.5, 0.2]  # of the classes; classes 0 and 2 are strong


def method(objective=None, classes=4, attack=None, **kwargs):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, classes)).double()
    attack, values = attack or PGD(eps=0.1, steps=3, start="zero"), {"lambda1": 0.5, "lambda2": 0.5} | kwargs
    module = TRIX(net, classes, attack=attack, objective=objective or AT(), optim=None, **values)
    module.log = module.log_dict = lambda *_, **__: None
    return module.double()


def test_the_step_in_numpy_strong_classes_are_led_to_their_target_and_weak_ones_away():
    torch.manual_seed(0)
    module = method()
    module.class_robust.copy_(torch.tensor(ROBUST))
    x, y, target = torch.rand(24, 3, 2, 2).double(), torch.arange(24) % 4, (torch.arange(24) + 1) % 4
    module.targets = lambda y: target
    weight, bias = (p.detach().numpy() for p in module.net[1].parameters())
    robust, losses, labels = np.array(ROBUST), [], y.numpy()
    need = 1.5 - robust
    for image, k, t in zip(x.flatten(1).numpy(), labels, target.tolist(), strict=True):
        radius, at = (0.5 + robust[k]) * 0.1, image
        for _ in range(3):
            towards, sign = (t, -1) if robust[k] > robust.mean() else (k, 1)
            gradient = np.exp(log_softmax(weight @ at + bias))
            gradient[towards] -= 1
            at = np.clip(at + radius / 4 * np.sign(sign * weight.T @ gradient), image - radius, image + radius).clip(0, 1)
        losses.append(-need[k] / need.mean() * log_softmax(weight @ at + bias)[k])
    loss = module.training_step((x, y, torch.arange(24)), 0)
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-6)


def test_targets_are_the_other_classes_all_equally_often():
    y = torch.arange(4).repeat(10_000)
    target = method().targets(y)
    counts = np.zeros((4, 4))
    np.add.at(counts, (y.numpy(), target.numpy()), 1)
    assert (np.diag(counts) == 0).all()
    assert (np.abs(counts[~np.eye(4, dtype=bool)] / 10_000 - 1 / 3) < 0.02).all()


def test_in_the_first_epoch_nothing_is_known_and_it_is_plain_training_bit_for_bit(trained):
    plain, metrics = trained("method=pgd_at", "trainer.max_epochs=1")
    trix, same = trained("method=trix", "method.targeted=false", "trainer.max_epochs=1")
    a, b = network_weights(plain), network_weights(trix)
    assert metrics["pgd20"] == same["pgd20"] and all(torch.equal(a[name], b[name]) for name in a)


def test_each_part_changes_the_run(trained):
    words = ("method=trix", "trainer.max_epochs=3", "optim.lr=0.02")
    parts = [(), ("method.targeted=false",), ("method.lambda1=1",), ("method.lambda2=5",)]
    runs = [network_weights(trained(*words, *part)[0]) for part in parts]
    for k, a in enumerate(runs):
        assert all(any(not torch.equal(a[name], b[name]) for name in a) for b in runs[:k])


@pytest.mark.parametrize("classes", [2, 3, 7, 10])
def test_equally_robust_classes_are_all_weak(classes):
    module = method(classes=classes).float()
    for hits in range(50):
        module.class_robust.fill_(hits / 49)
        assert not module.strong().any()


@pytest.mark.parametrize("objective", [AT(), TRADES(6.0)])
def test_while_no_class_is_strong_the_attack_is_the_objectives_own(objective):
    module = method(objective, attack=PGD(eps=0.1, steps=3))
    x, y = torch.rand(8, 3, 2, 2).double(), torch.arange(8) % 4
    inner = module.mixed(module.strong()[y], module.targets(y))
    torch.manual_seed(0)
    expected = module.craft(x, y)
    torch.manual_seed(0)
    assert torch.equal(module.craft(x, y, inner=inner), expected)


def test_a_class_not_seen_is_weak_and_has_factors_of_1():
    module = method()
    module.class_robust.copy_(torch.tensor([0.8, torch.nan, 0.2, torch.nan]))
    assert module.strong().tolist() == [True, False, False, False]
    need = np.array([0.7, 1.3])
    np.testing.assert_allclose(module.class_weight().numpy(), [0.7 / need.mean(), 1, 1.3 / need.mean(), 1])
    module.class_robust.fill_(1.0)
    module.lambda2 = 0.0
    assert module.class_weight().tolist() == [1.0] * 4


@pytest.mark.parametrize(
    "key,value", [("lambda1", -0.1), ("lambda1", "x"), ("lambda2", -1), ("lambda2", float("inf")), ("targeted", 1)]
)
def test_wrong_settings_are_named(key, value):
    with pytest.raises(ValueError, match=f"method.{key}="):
        method(**{key: value})
