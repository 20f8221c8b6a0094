import numpy as np
import pytest
import torch
from helpers import network_weights, quick_for
from torch import nn

from fairat_lightning.attacks import PGD
from fairat_lightning.methods import VariancePenalty
from fairat_lightning.objectives import AT, MART, TRADES

FAIRLY = {"variance": 0.1, "concentration": 0.0, "weight": 1.0, "over": "examples", "present_only": True}
HARL = {"variance": 0.1, "concentration": 0.1, "weight": 0.1, "over": "classes", "present_only": False}


def method(objective=None, classes=5, **kwargs):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, classes)).double()
    attack = PGD(eps=0.1, steps=2)
    module = VariancePenalty(net, classes, attack=attack, objective=objective or AT(), optim=None, **(FAIRLY | kwargs))
    module.log = module.log_dict = lambda *_, **__: None
    return module


def by_hand(losses, y, *, variance, concentration, weight, over, present_only, padded_to=None, classes=5):
    """The loss in torch, class by class, with its own gradient."""
    classes = [k for k in range(classes) if (y == k).any() or not present_only]
    means = torch.stack([losses[y == k].mean() if (y == k).any() else losses.sum() * 0 for k in classes])
    mean = losses.mean() if over == "examples" else means.mean()
    share = means / means.sum()
    spread = ((means - means.mean()) ** 2).mean()
    if padded_to is not None:
        spread = torch.cat([means, means.new_zeros(padded_to - len(means))]).var()
    return weight * mean + variance * spread + concentration * (share**2).sum()


ANY = (FAIRLY, FAIRLY | {"padded_to": 100}, HARL, HARL | {"present_only": True}, FAIRLY | {"variance": 3.0, "concentration": 2.0})


@pytest.mark.parametrize("settings", ANY)
@pytest.mark.parametrize("objective", [AT(), AT(0.1), TRADES(6.0), MART(5.0)])
def test_value_and_gradient_are_those_of_the_formula_by_autograd(objective, settings):
    """Classes of unequal size; class 4 is absent."""
    torch.manual_seed(0)
    module = method(objective, **settings)
    x, y = torch.rand(20, 3, 2, 2).double(), torch.tensor([0] * 9 + [1] * 6 + [2] * 4 + [3])
    x_adv = (x + 0.1 * torch.rand_like(x)).clamp(0, 1)
    module.craft = lambda *_, **__: x_adv
    loss = module.training_step((x, y, torch.arange(20)), 0)
    loss.backward()
    found = [p.grad.clone() for p in module.net.parameters()]
    module.zero_grad()
    expected = by_hand(module.objective.total(module.objective(module.net, x, x_adv, y)), y, **settings)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for a, p in zip(found, module.net.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad)


def test_harl_in_numpy_as_its_code_counts_an_absent_class():
    module, y = method(**HARL), np.array([0, 0, 1, 3])
    losses = np.array([1.0, 3.0, 4.0, 0.5])
    sums, counts = np.bincount(y, losses, 5), np.bincount(y, minlength=5)
    value, _ = module.penalised(torch.tensor(sums), torch.tensor(counts).double())
    means = np.array([2.0, 4.0, 0.0, 0.5, 0.0])
    assert value.item() == pytest.approx(0.1 * means.mean() + 0.1 * means.var() + 0.1 * ((means / means.sum()) ** 2).sum())


def test_the_released_code_takes_the_unbiased_variance_of_100_losses():
    module, y = method(padded_to=100), np.array([0, 0, 1, 3])
    losses = np.array([1.0, 3.0, 4.0, 0.5])
    value, _ = module.penalised(torch.tensor(np.bincount(y, losses, 5)), torch.tensor(np.bincount(y, minlength=5)).double())
    padded = np.zeros(100)
    padded[[0, 1, 3]] = 2.0, 4.0, 0.5
    assert value.item() == pytest.approx(losses.mean() + 0.1 * padded.var(ddof=1))
    assert method(padded_to=5).penalised(torch.ones(5).double(), torch.ones(5).double())[0] == 1
    for wrong in (4, 0, 2.5, "all"):
        with pytest.raises(ValueError, match="method.padded_to="):
            method(padded_to=wrong)


def test_equal_losses_and_losses_of_0_have_no_penalty_and_finite_gradients():
    module = method(**HARL)
    value, slope = module.penalised(torch.zeros(5).double(), torch.tensor([2.0, 2, 2, 2, 0]).double())
    assert value == 0 and slope.isfinite().all()
    value, _ = method(variance=9.0).penalised(torch.tensor([4.0, 2, 2, 0, 0]).double(), torch.tensor([2.0, 1, 1, 0, 0]).double())
    assert value == 2


@pytest.mark.parametrize("objective", quick_for(["at", "trades"], "at"))
def test_without_the_penalty_it_is_plain_training_to_rounding(trained, objective):
    words = (f"objective={objective}", "trainer.precision=64-true")
    plain, _ = trained("method=pgd_at", *words)
    same, _ = trained("method=variance", "method.variance=0", *words)
    other, _ = trained("method=variance", "method.variance=1", *words)
    a, b, c = (network_weights(folder) for folder in (plain, same, other))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-6, atol=1e-9)
    assert any(not torch.allclose(a[name], c[name], rtol=1e-4) for name in a)


@pytest.mark.parametrize(
    "key,value",
    [
        *((key, wrong) for key in ("variance", "concentration", "weight") for wrong in (-0.1, float("inf"), "much", True)),
        ("over", "batches"),
        ("present_only", "yes"),
    ],
)
def test_wrong_settings_are_named(key, value):
    with pytest.raises(ValueError, match=f"method.{key}="):
        method(**{key: value})
