import numpy as np
import pytest
import torch
from helpers import network_weights, quick_for
from scipy.special import log_softmax
from torch import nn

from fairat_lightning.attacks import PGD, pgd
from fairat_lightning.methods import FairARD
from fairat_lightning.objectives import AT, TRADES


def linear(classes: int = 4) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, classes)).double()


def method(objective=None, classes=4, attack=None, **kwargs):
    attack = attack or PGD(eps=0.0, steps=1)  # crafts x itself
    values = {"teacher": linear(classes), "temperature": 30.0, "alpha": 0.7, "power": 2.0, "weight_range": (5 / 6, 2.5)} | kwargs
    module = FairARD(linear(classes), classes, attack=attack, objective=objective or AT(), optim=None, **values)
    module.log = module.log_dict = lambda *_, **__: None
    return module.double()


def batch(rng: np.random.Generator, classes, size: int = 12):
    return torch.tensor(rng.random((size, 3, 2, 2))), torch.tensor(rng.choice(classes, size)), torch.arange(size)


def class_weights(kappa: np.ndarray, power: float, least: float, most: float) -> np.ndarray:
    """clip( K kappa_k^-power / sum_j kappa_j^-power ) over the classes seen so far, 1 for the others."""
    seen = ~np.isnan(kappa)
    hardness = np.maximum(kappa[seen], 1e-3) ** -power
    weights = np.ones(len(kappa))
    weights[seen] = np.clip(seen.sum() * hardness / hardness.sum(), least, most)
    return weights


def test_the_released_codes_mean_over_the_classes_is_the_sum_divided_by_their_number():
    rng = np.random.default_rng(0)
    x, y, index = batch(rng, range(4))
    summed = method(alpha=1.0)
    mean = method(alpha=1.0, reduction="mean", teacher=summed._teacher[0])
    mean.net.load_state_dict(summed.net.state_dict())
    losses = [module.training_step((x, y, index), 0).item() for module in (summed, mean)]
    assert losses[1] == pytest.approx(losses[0] / 4, rel=1e-12) and losses[0] > 0
    with pytest.raises(ValueError, match="method.reduction"):
        method(reduction="max")


@pytest.mark.parametrize("objective", [AT(), AT(0.2), TRADES(6.0)])
@pytest.mark.parametrize("temperature", [1.0, 30.0])
@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
def test_the_loss_distils_the_teachers_clean_prediction_in_numpy(objective, alpha, temperature):
    """mean_i w[y_i] ( alpha T^2 KL(teacher(x)/T || student(x')/T) + (1 - alpha) objective_i )."""
    rng = np.random.default_rng(0)
    module = method(objective, alpha=alpha, temperature=temperature)
    module.class_iterates.copy_(torch.tensor([1.0, 9.0, 3.0, torch.nan]))
    x, y, index = batch(rng, range(4))
    x_adv = torch.tensor(rng.random((12, 3, 2, 2)))
    module.craft = lambda *_, **__: x_adv
    teacher, clean, at = (
        net(images).detach().numpy() for net, images in ((module._teacher[0], x), (module.net, x), (module.net, x_adv))
    )
    kl = (np.exp(p := log_softmax(teacher / temperature, 1)) * (p - log_softmax(at / temperature, 1))).sum(1)
    clean, at = log_softmax(clean, 1), log_softmax(at, 1)
    smoothing = objective.label_smoothing
    own = (1 - smoothing) * -at[range(12), y] - smoothing * at.mean(1)
    if isinstance(objective, TRADES):
        own = -clean[range(12), y] + 6.0 * (np.exp(clean) * (clean - at)).sum(1)
    w = class_weights(np.array([1.0, 9.0, 3.0, np.nan]), 2.0, 5 / 6, 2.5)[y]
    expected = (w * (alpha * temperature**2 * kl + (1 - alpha) * own)).mean()
    assert module.training_step((x, y, index), 0).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_a_linear_student_learns_from_the_teacher_by_the_gradient_in_numpy(seed):
    """alpha=1: T (softmax(student/T) - softmax(teacher/T)) x^T; the teacher gets none."""
    module = method(alpha=1.0, temperature=5.0)
    x, y, index = batch(np.random.default_rng(seed), range(4))
    module.training_step((x, y, index), 0).backward()
    student, teacher = (np.exp(log_softmax(net(x).detach().numpy() / 5, 1)) for net in (module.net, module._teacher[0]))
    expected = 5 * (student - teacher).T @ x.flatten(1).numpy() / 12
    np.testing.assert_allclose(module.net[1].weight.grad.numpy(), expected, atol=1e-9)
    assert all(p.grad is None for p in module._teacher[0].parameters())


@pytest.mark.parametrize("objective", [AT(), TRADES(6.0)])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_kappa_counts_the_right_iterates_of_the_attack_by_class(objective, norm):
    """Along a re-run of 0, 1, ... steps from the same start: where gradients are taken, not the last image."""
    eps = 0.3 if norm == "linf" else 0.6
    module = method(objective, attack=PGD(eps=eps, steps=6, start="uniform", norm=norm))
    weight, bias = module.net[1].weight.data, module.net[1].bias.data
    bias.copy_(-weight.sum(1) / 2)  # no class is preferred
    kappa, seen = np.zeros(4), np.zeros(4)
    for k in range(2):
        x, _, index = batch(np.random.default_rng(k), range(4), 40)
        y = module.net(x)[:, :3].argmax(1)
        torch.manual_seed(k)
        module.training_step((x, y, index), k)
        counts = np.zeros(40)
        for steps in range(6):
            torch.manual_seed(k)
            loss = objective.inner(module.net, x, y)
            iterate = pgd(loss, x, eps=eps, step=eps / 4, steps=steps, start="uniform", norm=norm)
            counts += (module.net(iterate).argmax(1) == y).numpy()
        np.add.at(kappa, y.numpy(), counts)
        seen += np.bincount(y, minlength=4)
    assert module.class_iterates.isnan().all()  # used from the next epoch on
    assert torch.equal(module.class_weight(), torch.ones(4).double())
    module.on_train_epoch_end()
    means = np.divide(kappa, seen, out=np.full(4, np.nan), where=seen > 0)
    np.testing.assert_allclose(module.class_iterates.numpy(), means, rtol=1e-9)
    assert 0 < np.nanmin(means) < np.nanmax(means) < 6 and np.isnan(means[3])
    np.testing.assert_allclose(module.class_weight().numpy(), class_weights(means, 2.0, 5 / 6, 2.5), rtol=1e-9)


def test_crafting_is_not_disturbed_by_the_counting():
    for objective in (AT(), TRADES(6.0)):
        module = method(objective, attack=PGD(eps=0.3, steps=4))
        x, y, _ = batch(np.random.default_rng(0), range(4))
        images = []
        for inner in (None, module.counting(torch.zeros_like(y))):
            torch.manual_seed(0)
            images.append(module.craft(x, y, inner=inner))
        assert torch.equal(*images)


@pytest.mark.parametrize("classes", [2, 4, 200])
@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("weight_range", [(5 / 6, 2.5), (0.0, 1e9), (1.0, 1.0)])
def test_class_weights_in_numpy(classes, power, weight_range):
    rng = np.random.default_rng(classes)
    module = method(classes=classes, power=power, weight_range=weight_range)
    kappa = rng.uniform(0, 10, classes)
    kappa[0] = 1e-9  # never right: clamped to 1e-3
    for absent in (False, True):
        if absent:
            kappa[1::3] = np.nan
        module.class_iterates.copy_(torch.tensor(kappa))
        found = module.class_weight().numpy()
        np.testing.assert_allclose(found, class_weights(kappa, power, *weight_range), rtol=1e-9)
        assert (found[np.isnan(kappa)] == 1).all()
        if power == 0:
            assert (found == 1).all()


def test_each_epoch_counts_afresh_and_a_class_that_it_does_not_have_keeps_its_kappa():
    module = method()
    module.class_iterates.copy_(torch.tensor([5.0, 6.0, 7.0, 8.0]))
    x = torch.rand(12, 3, 2, 2).double()
    module.net[1].weight.data.zero_()
    module.net[1].bias.data.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))  # always class 0
    for label, expected in ((0, [1, 6, 7, 8]), (2, [1, 6, 0, 8])):
        module.training_step((x, torch.full((12,), label), torch.arange(12)), 0)
        module.on_train_epoch_end()
        assert module.class_iterates.tolist() == expected
    module.net[1].bias.data.copy_(torch.tensor([0.0, 0.0, 1.0, 0.0]))
    module.training_step((x, torch.tensor([0] * 6 + [2] * 6), torch.arange(12)), 0)
    module.on_train_epoch_end()
    assert module.class_iterates.tolist() == [0, 6, 1, 8]


@pytest.fixture
def wider(trained):
    """A trained network of another width than the students'."""
    return trained("method=pgd_at", "model.width=8", "trainer.max_epochs=1", "seed=5")[0]


@pytest.mark.parametrize("objective", quick_for(["at", "trades"], "trades"))
def test_without_teacher_and_weights_it_is_plain_training_bit_for_bit(trained, wider, objective):
    distil = ("method=fair_ard", f"objective={objective}", f"method.teacher={wider}")
    plain, metrics = trained("method=pgd_at", f"objective={objective}")
    none, same = trained(*distil, "method.alpha=0", "method.power=0")
    moved, _ = trained(*distil)
    assert metrics == same
    a, b, c = (network_weights(folder) for folder in (plain, none, moved))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)
    state = torch.load(moved / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    own = torch.load(plain / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert set(state) - set(own) == {"class_iterates"}  # and no teacher
    assert ((state["class_iterates"] >= 0) & (state["class_iterates"] <= 2)).all()  # of attack.steps=2


def test_the_teacher_stays_as_it_was_in_eval_mode_and_out_of_the_method():
    teacher = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 4)).double()
    module = method(teacher=teacher, alpha=1.0)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    module.train()
    module.training_step(batch(np.random.default_rng(0), range(4)), 0).backward()
    assert not any(m.training for m in teacher.modules())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    mine = {id(p) for p in module.parameters()}
    assert not mine & {id(p) for p in teacher.parameters()} and not any("teacher" in name for name in module.state_dict())


def test_trains_in_double_precision(trained, wider):
    trained("method=fair_ard", f"method.teacher={wider}", "trainer.precision=64-true")


@pytest.mark.parametrize(
    "key,value",
    [
        *(("temperature", wrong) for wrong in (0.0, -1.0, float("inf"), float("nan"), "hot")),
        *(("alpha", wrong) for wrong in (-0.1, 1.1, float("nan"), "most")),
        *(("power", wrong) for wrong in (-1.0, float("inf"), float("nan"), "two")),
        *(("weight_range", wrong) for wrong in ((1.1, 2.0), (0.5, 0.9), (-0.1, 2.0), (1.0,), (0.5, float("nan")), 5, ("a", "b"))),
    ],
)
def test_wrong_settings_are_named(key, value):
    with pytest.raises(ValueError, match=f"method.{key}"):
        method(**{key: value})
