from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import network_weights
from scipy.special import log_softmax
from torch import nn

from fairat_lightning.attacks import PGD
from fairat_lightning.methods import HAM
from fairat_lightning.objectives import AT, MART, TRADES


def method(attack=None, objective=None, classes=4, epoch=5, **kwargs):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, classes)).double()
    attack = attack or PGD(eps=0.1, steps=10)
    values = {"decide_after": 3, "warmup": 0.4, "drop": False} | kwargs
    module = HAM(net, classes, attack=attack, objective=objective or AT(), optim=None, **values)
    module.net[1].bias.data -= module.net[1](torch.full((12,), 0.5).double()).detach()  # all classes about as likely
    module.log = module.log_dict = lambda *_, **__: None
    module._trainer = SimpleNamespace(max_epochs=10, current_epoch=epoch)
    return module


def batch(module, size=60):
    """Some examples are wrong from the start, some fooled on their way, some never."""
    x = torch.rand(size, 3, 2, 2).double()
    y = module.net(x).argmax(1)
    y[:5] = (y[:5] + 1) % 4
    return x, y, torch.arange(size)


def path(x, y, weight, bias, start, steps=10):
    """Every iterate of one example that climbs the cross-entropy under a linear network."""
    iterates = [np.clip(x + start, x - 0.1, x + 0.1).clip(0, 1)]
    for _ in range(steps):
        p = np.exp(log_softmax(weight @ iterates[-1] + bias))
        p[y] -= 1
        iterates.append(np.clip(iterates[-1] + 0.025 * np.sign(weight.T @ p), x - 0.1, x + 0.1).clip(0, 1))
    return iterates


def paths(module, x, y):
    """Of each example its label and the logits of every iterate, from the start that the seed 1 draws."""
    torch.manual_seed(1)
    starts = 0.1 * (torch.rand_like(x) * 2 - 1).flatten(1).numpy()
    weight, bias = (p.detach().numpy() for p in module.net[1].parameters())
    for image, k, start in zip(x.flatten(1).numpy(), y.tolist(), starts, strict=True):
        yield k, [weight @ iterate + bias for iterate in path(image, k, weight, bias, start)]


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("after", [0, 1, 3, 10, 50])
def test_only_what_is_fooled_by_then_is_learnt_from_in_numpy(after, drop):
    torch.manual_seed(0)
    module = method(decide_after=after, drop=drop)
    x, y, index = batch(module)
    losses = []
    for k, logits in paths(module, x, y):
        if logits[min(after, 10)].argmax() != k:
            losses.append(-log_softmax(logits[-1])[k])
    assert 0 < len(losses) < 60
    torch.manual_seed(1)
    assert module.training_step((x, y, index), 0).item() == pytest.approx(np.mean(losses), rel=1e-6)


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_most_confident_of_the_easy_examples_are_kept_too_in_numpy(share, drop):
    torch.manual_seed(0)
    module = method(keep_confident=share, drop=drop)
    x, y, index = batch(module)
    hard, easy = [], []
    for k, logits in paths(module, x, y):
        at, loss = logits[3], -log_softmax(logits[-1])[k]
        if at.argmax() == k:
            easy.append((log_softmax(at)[k], loss))
        else:
            hard.append(loss)
    surest = [loss for _, loss in sorted(easy, reverse=True)[: int(share * len(easy))]]
    assert len(hard) > 5 and len(easy) > 5
    torch.manual_seed(1)
    assert module.training_step((x, y, index), 0).item() == pytest.approx(np.mean(hard + surest), rel=1e-6)


@pytest.mark.parametrize("objective", [AT(0.1), TRADES(6.0), MART(5.0)])
def test_dropping_saves_compute_and_changes_neither_loss_nor_gradient(objective):
    torch.manual_seed(0)
    module, seen = method(objective=objective), []
    x, y, index = batch(module)
    module.net.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    found = []
    for drop in (False, True):
        module.drop = drop
        module.zero_grad()
        seen.clear()
        torch.manual_seed(1)
        loss = module.training_step((x, y, index), 0)
        loss.backward()
        found.append((loss.item(), [p.grad.clone() for p in module.net.parameters()], sum(seen)))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-9)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(a, b)
    assert found[1][2] < 0.8 * found[0][2]


@pytest.mark.parametrize("drop", [False, True])
def test_a_batch_of_which_nothing_is_kept_has_loss_0_and_gradients_of_0(drop):
    module = method(drop=drop)
    module.net[1].bias.data[2] += 50
    x = torch.rand(8, 3, 2, 2).double()
    loss = module.training_step((x, torch.full((8,), 2), torch.arange(8)), 0)
    loss.backward()
    assert loss.item() == 0 and all((p.grad == 0).all() for p in module.net.parameters())


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_batch_norm_sees_two_images_or_more_however_few_are_kept(kept):
    module = method(drop=True)
    module.net.append(nn.BatchNorm1d(4).double())
    module.net[1].bias.data[2] += 50
    x, y = torch.rand(8, 3, 2, 2).double(), torch.full((8,), 2)
    y[:kept] = 1
    module.train()
    loss = module.training_step((x, y, torch.arange(8)), 0)
    loss.backward()
    assert (loss.item() > 0) == (kept > 0)


def test_what_is_dropped_counts_as_right_under_the_training_attack():
    found = []
    for drop in (False, True):
        torch.manual_seed(0)
        module = method(drop=drop, attack=PGD(eps=0.1, steps=3))  # decided by the last iterate: both see the same
        module.training_step(batch(module), 0)
        found.append(module.train_robust.compute())
    torch.testing.assert_close(found[0], found[1])
    assert 0 < found[0].mean() < 1


@pytest.mark.parametrize("drop", [False, True])
def test_awp_climbs_the_loss_of_the_kept(drop):
    module, climbed = method(drop=drop), []
    module.ascend = lambda x, x_adv, y, losses: climbed.append(losses().mean())
    loss = module.training_step(batch(module), 0)
    assert climbed[0].item() == pytest.approx(loss.item(), rel=1e-9)


def test_before_the_warm_up_is_over_it_is_plain_adversarial_training_bit_for_bit(trained):
    plain, metrics = trained("method=pgd_at")
    ham, same = trained("method=ham", "method.warmup=1")
    other = trained("method=ham", "method.warmup=0")[0]
    a, b, c = (network_weights(folder) for folder in (plain, ham, other))
    assert metrics == same and all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)


def test_the_warm_up_is_a_share_of_the_epochs():
    for epoch, plain in ((3, True), (4, False)):
        module = method(epoch=epoch)
        module.craft_all = lambda x, y, epoch=epoch: pytest.fail("too early") if epoch == 3 else (torch.zeros(60).bool(), x)
        assert (module.training_step(batch(module), 0).item() > 0) == plain


@pytest.mark.parametrize(
    "key,value",
    [
        *(("decide_after", wrong) for wrong in (-1, 1.5, True, "three")),
        *(("warmup", wrong) for wrong in (-0.1, 1.1, float("nan"))),
        *(("keep_confident", wrong) for wrong in (-0.1, 1.1, float("nan"))),
        ("drop", "yes"),
    ],
)
def test_wrong_settings_are_named(key, value):
    with pytest.raises(ValueError, match=f"method.{key}="):
        method(**{key: value})


def test_in_bf16_the_logits_that_decide_are_float32_with_and_without_dropping():
    module = method()
    module.net.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert module.predict(torch.rand(4, 3, 2, 2)).dtype == torch.float32
