import numpy as np
import pytest
import torch
from helpers import network_weights, quick_for
from scipy.special import log_softmax, softmax
from torch import nn

from fairat_lightning.attacks import PGD
from fairat_lightning.methods import BAT
from fairat_lightning.methods.bat import Boundary
from fairat_lightning.objectives import AT, MART, TRADES


def method(attack=None, classes=4, objective=None, **kwargs):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, classes)).double()
    attack, kwargs = attack or PGD(eps=0.1, steps=10), {"entropy": 1.0} | kwargs
    module = BAT(net, classes, attack=attack, objective=objective or TRADES(6.0), optim=None, **kwargs)
    module.log = module.log_dict = lambda *_, **__: None
    return module


def path_of(x, start, weight, bias, *, steps=10, step=0.025, eps=0.1):
    """Every iterate of one example that climbs KL(p(x) || p(x')) under a linear network."""
    p = softmax(weight @ x + bias)
    path = [np.clip(x + start, 0, 1)]
    for _ in range(steps):
        gradient = weight.T @ (softmax(weight @ path[-1] + bias) - p)
        path.append(np.clip(path[-1] + step * np.sign(gradient), x - eps, x + eps).clip(0, 1))
    return np.array(path)


def friendly(path, y, weight, bias, patience, before):
    """One search alone, as the released code has it: each iterate but the last is asked for its class."""
    for k, image in enumerate(path[:-1]):
        if (weight @ image + bias).argmax() != y:
            if patience == 0:
                return path[max(k - 1, 0)] if before else image
            patience -= 1
    return path[-1]


@pytest.fixture(params=range(4))
def case(request):
    """A module and 60 examples, of which some are wrong at the start, some on their way, some never."""
    torch.manual_seed(request.param)
    module = method(entropy=0.7)
    module.net[1].bias.data -= module.net[1](torch.full((12,), 0.5).double()).detach()  # all classes about as likely
    x = torch.rand(60, 3, 2, 2).double()
    y = module.net(x).argmax(1)
    y[:10] = (y[:10] + 1) % 4
    weight, bias = (p.detach().numpy() for p in module.net[1].parameters())
    starts, true = [], torch.randn_like
    torch.randn_like = lambda images: starts.append(true(images)) or starts[-1]
    try:
        images = module.search(x, y)
    finally:
        torch.randn_like = true
    assert len(starts) == 1
    paths = [path_of(a, 0.001 * s, weight, bias) for a, s in zip(x.flatten(1).numpy(), starts[0].flatten(1).numpy(), strict=True)]
    return module, x, y, images, paths, weight, bias


def test_both_searches_are_the_two_of_the_released_code_example_by_example(case):
    _, x, y, (last, first), paths, weight, bias = case
    wanted_last = [friendly(path, k, weight, bias, 0, True) for path, k in zip(paths, y.tolist(), strict=True)]
    wanted_first = [friendly(path, k, weight, bias, 1, False) for path, k in zip(paths, y.tolist(), strict=True)]
    np.testing.assert_allclose(last.flatten(1).numpy(), wanted_last, atol=1e-12)
    np.testing.assert_allclose(first.flatten(1).numpy(), wanted_first, atol=1e-12)
    hits = [sum((weight @ image + bias).argmax() != k for image in path[:-1]) for path, k in zip(paths, y.tolist(), strict=True)]
    assert 0 in hits and 10 in hits and any(1 < h < 10 for h in hits)


def test_the_loss_in_numpy(case):
    module, x, y, _, paths, weight, bias = case
    last, first = (
        np.array([friendly(p, k, weight, bias, n, not n) for p, k in zip(paths, y.tolist(), strict=True)]) for n in (0, 1)
    )
    at_last, at_first, clean = (log_softmax(a @ weight.T + bias, 1) for a in (last, first, x.flatten(1).numpy()))
    expected = -at_last[range(60), y.numpy()] + 6 * (np.exp(clean) * (clean - at_first)).sum(1)
    expected += 0.7 * sum((np.exp(p) * (p - np.log(1 / 4))).sum(1) for p in (at_last, at_first))
    shaped = [torch.tensor(a).view(60, 3, 2, 2) for a in (last, first)]
    losses, logits = module.losses(x, *shaped, y)
    np.testing.assert_allclose(losses.detach().numpy(), expected, atol=1e-10)
    np.testing.assert_allclose(logits.log_softmax(1).detach().numpy(), at_first, atol=1e-10)
    module.search = lambda x, y: shaped
    assert module.training_step((x, y, torch.arange(60)), 0).item() == pytest.approx(expected.mean(), abs=1e-10)


@pytest.mark.parametrize(
    "wrong,last,first",
    [
        ("..........", 10, 10),
        ("x.........", 0, 10),
        ("xx........", 0, 1),
        ("x..x......", 0, 3),
        ("...xx.....", 2, 4),
        ("...x...x..", 2, 7),
        (".........x", 8, 10),
        ("xxxxxxxxxx", 0, 1),
    ],
)
def test_which_iterate_each_search_gives(wrong, last, first):
    found = Boundary(torch.tensor([0]))
    for k, letter in enumerate(wrong):
        found.look(torch.full((1, 1, 1, 1), float(k)), torch.tensor([letter == "x"]))
    assert [image.item() for image in found.images(torch.full((1, 1, 1, 1), 10.0))] == [last, first]


def test_without_entropy_a_network_that_is_never_fooled_has_cross_entropy_and_divergence_at_the_last_iterate():
    """One class has all the probability: both searches end at the 10th iterate, as an attack of TRADES does."""
    torch.manual_seed(0)
    module = method(entropy=0.0)
    module.net[1].bias.data[2] += 50
    x, y = torch.rand(8, 3, 2, 2).double(), torch.full((8,), 2)
    torch.manual_seed(1)
    last, first = module.search(x, y)
    torch.manual_seed(1)
    assert torch.equal(last, first) and torch.equal(last, module.craft(x, y))
    losses, logits = module.losses(x, last, first, y)
    terms = module.objective(module.net, x, last, y)
    expected = nn.functional.cross_entropy(logits, y, reduction="none") + 6 * terms.consistency
    assert torch.equal(losses, expected)


def test_an_attack_of_no_steps_gives_its_start_twice():
    last, first = method(PGD(eps=0.0, steps=0, start="uniform")).search(
        x := torch.rand(3, 3, 2, 2).double(), torch.zeros(3).long()
    )
    assert torch.equal(last, x) and torch.equal(first, x)


@pytest.mark.parametrize("word", quick_for(["method.entropy=0", "objective.beta=0", "awp=awp"], "method.entropy=0"))
def test_each_part_changes_the_run(trained, word):
    plain, other = (network_weights(trained("method=bat", *words)[0]) for words in ([], [word]))
    assert any(not torch.equal(plain[name], other[name]) for name in plain)


def test_awp_climbs_its_own_loss():
    module = method()
    climbed = []
    module.ascend = lambda x, x_adv, y, losses: climbed.append(losses())
    x, y = torch.rand(6, 3, 2, 2).double(), torch.arange(6) % 4
    loss = module.training_step((x, y, torch.arange(6)), 0)
    assert climbed[0].mean().item() == pytest.approx(loss.item(), abs=1e-12)


@pytest.mark.parametrize("value", [-0.1, float("inf"), "much"])
def test_wrong_settings_are_named(value):
    with pytest.raises(ValueError, match="method.entropy="):
        method(entropy=value)


@pytest.mark.parametrize("objective", [AT(), MART(6.0)])
def test_another_objective_is_refused(objective):
    with pytest.raises(ValueError, match="set objective=trades"):
        method(objective=objective)
