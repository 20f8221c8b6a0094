from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import network_weights
from scipy.special import log_softmax
from torch import nn

from fairat_lightning.attacks import PGD
from fairat_lightning.methods import ABSLD
from fairat_lightning.objectives import AT, TRADES


def linear(classes: int = 4) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, classes)).double()


def method(attack=None, classes=4, objective=None, **kwargs):
    values = {"teacher": linear(classes), "share": 5 / 6, "rate": 0.1, "temperature_range": (0.5, 5.0)} | kwargs
    attack = attack or PGD(eps=0.1, steps=3)
    module = ABSLD(linear(classes), classes, attack=attack, objective=objective or AT(), optim=None, **values)
    module.log = module.log_dict = lambda *_, **__: None
    return module.double()


def divergence(p, q):
    p, q = log_softmax(p, 1), log_softmax(q, 1)
    return (np.exp(p) * (p - q)).sum(1)


@pytest.mark.parametrize("aliased,reduction", [(False, "sum"), (True, "sum"), (False, "mean")])
@pytest.mark.parametrize("share", [0.0, 5 / 6, 1.0])
def test_the_loss_and_the_attack_in_numpy(share, aliased, reduction):
    """Every label at the temperature of its class; signed steps climb KL(label || student) from the Gaussian start."""
    rng = np.random.default_rng(1)
    module = method(share=share, aliased=aliased, reduction=reduction)
    hot, mild = np.array([0.5, 1.0, 2.0, 5.0]), np.array([1.5, 0.7, 3.0, 1.0])
    module.temperatures.copy_(torch.tensor(np.stack([hot, mild])))
    x, y = rng.random((12, 3, 2, 2)), rng.integers(0, 4, 12)
    weight, bias = (p.detach().numpy() for p in module.net[1].parameters())
    wanted = module._teacher[0](torch.tensor(x)).detach().numpy()
    adversarial, natural = (wanted / t[y, None] for t in ((hot * mild, hot * mild) if aliased else (hot, mild)))
    torch.manual_seed(0)
    flat = x.reshape(12, -1)
    at = np.clip(flat + 0.001 * torch.randn(12, 3, 2, 2, dtype=torch.float64).reshape(12, -1).numpy(), 0, 1)
    for _ in range(3):
        slope = (np.exp(log_softmax(at @ weight.T + bias, 1)) - np.exp(log_softmax(adversarial, 1))) @ weight
        at = np.clip(at + 0.025 * np.sign(slope), flat - 0.1, flat + 0.1).clip(0, 1)
    expected = share * divergence(adversarial, at @ weight.T + bias) + (1 - share) * divergence(natural, flat @ weight.T + bias)
    torch.manual_seed(0)
    loss = module.training_step((torch.tensor(x), torch.tensor(y), torch.arange(12)), 0)
    assert loss.item() == pytest.approx(expected.mean() / (4 if reduction == "mean" else 1), rel=1e-9)
    losses = [-log_softmax(images @ weight.T + bias, 1)[range(12), y] for images in (at, flat)]
    expected = [[values[y == k].mean() for values in losses] for k in range(4)]
    np.testing.assert_allclose(module.risks.compute().numpy(), expected)


def released(temperature, risk, rate):
    """One epoch's end for one branch, class by class."""
    gap = [r - sum(risk) / len(risk) for r in risk]
    return [min(5.0, max(0.5, t - rate * g / max(map(abs, gap)))) for t, g in zip(temperature, gap, strict=True)]


def test_the_temperatures_follow_the_released_rule_and_stay_in_their_range():
    module, rng = method(), np.random.default_rng(0)
    module._trainer = SimpleNamespace(optimizers=[SimpleNamespace(param_groups=[{"lr": 0.02, "initial_lr": 0.1}])])
    expected = [[1.0] * 4, [1.0] * 4]
    for _ in range(80):
        risks = rng.random((2, 4)) + [[0, 0, 0, 2], [2, 0, 0, 0]]
        expected = [released(t, list(r), 0.1 * 0.2) for t, r in zip(expected, risks, strict=True)]
        module.adjust(torch.tensor(risks), module.rate * module.progress())
        np.testing.assert_allclose(module.temperatures.numpy(), expected, rtol=1e-12)
    assert module.temperatures.min() == 0.5  # the hard class of each branch has arrived
    assert module.temperatures.argmin(1).tolist() == [3, 0]


def test_a_class_that_was_not_seen_keeps_its_temperature_and_equal_risks_move_none():
    module = method()
    module.adjust(torch.tensor([[1.0, torch.nan, 3.0, 2.0], [1.0, 1.0, 1.0, 1.0]]), 0.1)
    np.testing.assert_allclose(module.temperatures.numpy(), [[1.1, 1.0, 0.9, 1.0], [1.0] * 4])
    module.adjust(torch.full((2, 4), torch.nan), 0.1)
    assert module.temperatures.isfinite().all()


@pytest.mark.parametrize("counts", [(3, 3, 3, 3), (6, 3, 2, 1), (7, 3, 2, 0)])
def test_class_losses_are_means_or_as_released_sums_and_equal_classes_know_no_difference(counts):
    """An epoch's end against the released rule, image by image; an absent class keeps its temperature."""
    rng, y = np.random.default_rng(2), np.repeat(range(4), counts)
    risks, moved = rng.random((2, 12)) + 0.3, {}
    for kind in ("mean", "sum"):
        module = method(class_loss=kind)
        module._trainer = SimpleNamespace(optimizers=[SimpleNamespace(param_groups=[{"lr": 0.1}])])
        for part in (slice(0, 5), slice(5, 12)):
            module.risks.update(torch.tensor(risks[:, part].T), torch.tensor(y[part]))
        module.on_train_epoch_end()
        seen = [k for k in range(4) if counts[k]]
        average = np.mean if kind == "mean" else np.sum
        for branch in range(2):
            expected = released([1.0] * len(seen), [average(risks[branch, y == k]) for k in seen], 0.1)
            np.testing.assert_allclose(module.temperatures[branch, seen].numpy(), expected, rtol=1e-12)
        assert (module.temperatures[:, [k for k in range(4) if not counts[k]]] == 1).all()
        assert not module.risks.update_called
        moved[kind] = module.temperatures.numpy()
    assert np.allclose(moved["mean"], moved["sum"]) == (len(set(counts)) == 1)


@pytest.fixture
def wider(trained):
    """A trained network of another width than the students'."""
    return trained("method=pgd_at", "model.width=8", "trainer.max_epochs=1", "seed=5")[0]


def test_at_rate_0_it_is_distillation_with_temperature_1(trained, wider):
    """RSLAD's loss; and with a rate the temperatures move, are kept in the checkpoint and change what is learnt."""
    words = ("method=absld", f"method.teacher={wider}")
    still, moved = (trained(*words, f"method.rate={rate}")[0] for rate in (0, 0.5))
    read = [torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]["temperatures"] for f in (still, moved)]
    assert (read[0] == 1).all() and (read[1] != 1).any()
    a, b = network_weights(still), network_weights(moved)
    assert any(not torch.equal(a[name], b[name]) for name in a)
    module = method(rate=0.0)
    x, y = torch.rand(12, 3, 2, 2).double(), torch.arange(12) % 4
    wanted = module.wanted(x)
    assert all(torch.equal(label, wanted) for label in module.labels(wanted, y))


@pytest.mark.parametrize(
    "key,value",
    [
        *(("share", wrong) for wrong in (-0.1, 1.1, "most")),
        *(("rate", wrong) for wrong in (-0.1, float("inf"))),
        *(("temperature_range", wrong) for wrong in ((0.0, 5.0), (2.0, 5.0), (0.5, 0.9), (1.0,), 5)),
        ("aliased", "yes"),
        ("reduction", "median"),
        ("class_loss", "worst"),
    ],
)
def test_wrong_settings_are_named(key, value):
    with pytest.raises(ValueError, match=f"method.{key}"):
        method(**{key: value})


@pytest.mark.parametrize("objective", [TRADES(6.0), AT(0.1)])
def test_another_objective_is_refused(objective):
    with pytest.raises(ValueError, match="set objective=at and objective.label_smoothing=0"):
        method(objective=objective)


@pytest.mark.parametrize("classes", [3, 10])
def test_a_teacher_of_other_classes_is_named_from_python_too(classes):
    module = method(teacher=linear(classes))
    with pytest.raises(ValueError, match=f"the teacher gives {classes} logits, but there are 4 classes"):
        module.wanted(torch.rand(2, 3, 2, 2).double())
    with pytest.raises(ValueError, match="the teacher is of type str"):
        method(teacher="RUN")
