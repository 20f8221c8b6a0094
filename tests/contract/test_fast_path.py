"""The fast path of a training step, against the plain one: the default layout, gradients for the weights in the attack, no fused
optimiser. In float32 they agree to rounding, in bf16 within the bounds below, for every method.

One step of the sign attack turns a rounding into a whole step wherever a gradient is nearly 0, so that a few pixels may differ.
"""

import pytest
import torch
from helpers import SMALL, options, quick_for
from omegaconf import OmegaConf

from fairat_lightning.attacks import mode
from fairat_lightning.config.compose import resolved
from fairat_lightning.methods import base
from fairat_lightning.optim import SGD
from fairat_lightning.training import run as runs

METHODS = [name for name in options("method") if name != "standard"]
KL = ("bat", "csr", "dafa", "frl", "trades", "wat")  # attack and loss contain KL(p(x) || p(x'))
PLAIN = ("model.channels_last=false",)


class Stop(Exception):
    pass


def first_step(compose, folder, *words):
    """What a method's first step crafts, its loss, its gradient and the weights after it, in float32 where it is judged."""
    job = runs.prepare(
        OmegaConf.create(resolved(compose(*SMALL, "data.val_per_class=20", "data.test_size=40", *words, "attack.steps=4"))),
        folder,
    )
    found, method = {}, job.method
    craft = method.craft

    def crafting(x, y, **rest):
        x_adv = craft(x, y, **rest)
        with torch.autocast("cpu", enabled=False), mode(method.net, False), torch.no_grad():
            found.update(x=x, x_adv=x_adv, reached=torch.nn.functional.cross_entropy(method.net(x_adv), y))
        return x_adv

    before = torch.cat([p.detach().flatten().clone() for p in method.net.parameters()])

    def after_step(*_):
        found["update"] = torch.cat([p.detach().flatten().clone() for p in method.net.parameters()]) - before
        raise Stop

    undo = method.on_after_backward

    def after_backward():
        undo()
        found["gradient"] = torch.cat([p.grad.flatten().clone() for p in method.net.parameters() if p.grad is not None])

    method.craft, method.on_after_backward, method.on_train_batch_end = crafting, after_backward, after_step
    with pytest.raises(Stop):
        runs.execute(job)
    return found


@pytest.fixture
def plain(monkeypatch):
    """Without what makes a step fast; the weights ask for gradients while crafting, and the optimiser is not fused."""

    def slow(*args):
        with monkeypatch.context() as patch:
            patch.setattr(base, "crafting", lambda net, attack, training: mode(net, training))
            patch.setattr("fairat_lightning.optim.SGD", lambda parameters, *, fused, **rest: SGD(parameters, **rest))
            return first_step(*args, *PLAIN)

    return slow


@pytest.mark.parametrize("method", quick_for(METHODS, "pgd_at", "mart", "cfa", "csr", "fairat", "frl", "dafa", "fair_tat", "bat"))
def test_in_float32_the_fast_path_is_the_plain_one_to_rounding(compose, tmp_path, plain, method):
    slow = plain(compose, tmp_path / "plain", f"method={method}")
    fast = first_step(compose, tmp_path / "fast", f"method={method}")
    assert torch.equal(slow["x"], fast["x"])
    assert ((slow["x_adv"] - fast["x_adv"]).abs() > 1e-6).float().mean() < 2e-3
    torch.testing.assert_close(fast["reached"], slow["reached"], rtol=1e-3, atol=1e-5)
    for name in ("gradient", "update"):
        assert (fast[name] - slow[name]).norm() < 1e-2 * slow[name].norm(), name


@pytest.mark.parametrize("method", quick_for(METHODS, "faal", "trades", "bat", "floor", "fair_tat"))
def test_in_bf16_the_attack_is_as_strong_and_the_gradient_points_the_same_way(compose, tmp_path, plain, method):
    slow = plain(compose, tmp_path / "plain", f"method={method}")
    fast = first_step(compose, tmp_path / "fast", f"method={method}", "trainer.precision=bf16-mixed")
    assert fast["reached"] > 0.97 * slow["reached"]
    # An untrained network's KL is tiny, so that bf16's three digits show in its gradient; with BAT a rounding also decides which
    # iterate an example near the boundary gives.
    bound = 0.75 if method == "bat" else 0.85 if method in KL else 0.95
    assert torch.cosine_similarity(fast["gradient"], slow["gradient"], dim=0) > bound
    assert (fast["gradient"].norm() / slow["gradient"].norm()).item() == pytest.approx(1, abs=0.1)


def test_crafting_in_float32_within_a_bf16_training_is_the_plain_attack(compose, tmp_path, plain):
    slow = plain(compose, tmp_path / "plain", "method=trades")
    fast = first_step(compose, tmp_path / "fast", "method=trades", "trainer.precision=bf16-mixed", "attack.precision=float32")
    assert ((slow["x_adv"] - fast["x_adv"]).abs() > 1e-6).float().mean() < 2e-3
