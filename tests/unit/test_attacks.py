import pytest
import torch
from torch import nn

from fairat_lightning.attacks import PGD, crafting, mode, pgd


@pytest.fixture
def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).double().eval()


def loss_of(net, y):
    return lambda x: nn.functional.cross_entropy(net(x), y, reduction="none")


@pytest.mark.parametrize("norm,eps", [("linf", 0.1), ("l2", 1.5)])
@pytest.mark.parametrize("start", ["uniform", "gaussian", "zero"])
def test_stays_in_ball_and_box_and_raises_the_loss(net, norm, eps, start):
    x, y = torch.rand(16, 3, 8, 8).double(), torch.randint(5, (16,))
    loss = loss_of(net, y)
    adv = pgd(loss, x, eps=eps, step=eps / 4, steps=10, start=start, norm=norm)
    distance = (adv - x).flatten(1).abs().amax(1) if norm == "linf" else (adv - x).flatten(1).norm(dim=1)
    assert (distance <= eps + 1e-12).all() and distance.amax() > 0.9 * eps
    assert adv.amin() >= 0 and adv.amax() <= 1
    assert not adv.requires_grad
    assert (loss(adv) > loss(x)).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_eps_zero_returns_x(net, norm):
    x, y = torch.rand(4, 3, 8, 8).double(), torch.randint(5, (4,))
    assert torch.equal(pgd(loss_of(net, y), x, eps=0.0, step=0.1, steps=3, norm=norm), x)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_budgets_per_sample_equal_a_loop_over_samples(net, norm):
    x, y = torch.rand(6, 3, 8, 8).double(), torch.randint(5, (6,))
    eps = torch.linspace(0, 0.5, 6).double()
    noise = torch.randn_like(x) * 0.1
    batch = pgd(loss_of(net, y), x, eps=eps, step=eps / 3, steps=4, start=noise, norm=norm)
    for i in range(6):
        e = eps[i].item()
        one = slice(i, i + 1)
        alone = pgd(loss_of(net, y[one]), x[one], eps=e, step=e / 3, steps=4, start=noise[one], norm=norm)
        torch.testing.assert_close(batch[one], alone, rtol=0, atol=1e-12)


def test_oracle_optimal_attack_on_a_linear_model():
    """For w.x the best linf offset is eps sign w, and the best l2 offset eps w / |w|, where the box does not bind."""
    w = torch.randn(1, 3, 4, 4).double()
    x = torch.full((2, 3, 4, 4), 0.5).double()
    value = lambda image: (w * image).flatten(1).sum(1)  # noqa: E731
    linf = pgd(value, x, eps=0.1, step=0.05, steps=8, norm="linf")
    torch.testing.assert_close(linf, x + 0.1 * w.sign())
    l2 = pgd(value, x, eps=0.4, step=0.2, steps=40, norm="l2")
    torch.testing.assert_close(value(l2), value(x) + 0.4 * w.norm(), rtol=1e-4, atol=0)


def test_weights_get_no_gradient_and_graph_is_left_alone(net):
    x, y = torch.rand(4, 3, 8, 8).double(), torch.randint(5, (4,))
    pgd(loss_of(net, y), x, eps=0.1, step=0.05, steps=2)
    assert all(p.grad is None for p in net.parameters())
    with torch.no_grad():
        assert not torch.equal(pgd(loss_of(net, y), x, eps=0.1, step=0.05, steps=2), x)


def test_l2_start_is_uniform_in_radius_and_isotropic():
    x = torch.full((4000, 1, 4, 4), 0.5).double()
    offset = pgd(lambda image: image.flatten(1).sum(1), x, eps=0.3, step=0.0, steps=0, norm="l2") - x
    lengths = offset.flatten(1).norm(dim=1)
    assert lengths.amax() <= 0.3 + 1e-12
    assert lengths.mean().item() == pytest.approx(0.15, abs=0.01)
    assert offset.flatten(1).mean(0).abs().amax() < 0.01


def test_numbers_may_be_fractions_and_step_defaults_to_a_quarter():
    attack = PGD(eps="8/255", steps=10)
    assert attack.eps == 8 / 255 and attack.step == 2 / 255
    assert PGD(eps="8/255", steps=10, step="1/255").with_steps(20) == PGD(eps=8 / 255, steps=20, start="uniform")


def test_a_step_may_be_a_multiple_of_eps():
    assert PGD(eps="8/255", steps=1, step="1.25 eps").step == pytest.approx(10 / 255)
    assert PGD(eps=0.2, steps=1, step="1/2 eps").step == 0.1 and PGD(eps=0.2, steps=1, step="eps").step == 0.2


def test_fgsm_rs_is_one_projected_step_from_a_uniform_start(net):
    x, y = torch.rand(4, 3, 8, 8).double(), torch.randint(5, (4,))
    loss, eps = loss_of(net, y), 0.1
    torch.manual_seed(1)
    start = (x + eps * (torch.rand_like(x) * 2 - 1)).clamp(0, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(start).sum(), start)
    wanted = torch.minimum(torch.maximum(start + 1.25 * eps * gradient.sign(), x - eps), x + eps).clamp(0, 1)
    torch.manual_seed(1)
    found = PGD(eps=eps, steps=1, step="1.25 eps", start="uniform")(loss, x)
    torch.testing.assert_close(found, wanted.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [None, torch.tensor([1.0, 0.5, 2.0, 0.0]).double()])
def test_n_fgsm_is_one_step_from_a_wide_start_without_projection(net, scale):
    x, y = torch.rand(4, 3, 8, 8).double(), torch.randint(5, (4,))
    loss, eps = loss_of(net, y), 0.1 if scale is None else 0.1 * scale.view(-1, 1, 1, 1)
    torch.manual_seed(1)
    start = (x + 2 * eps * (torch.rand_like(x) * 2 - 1)).clamp(0, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(start).sum(), start)
    wanted = (start + eps * gradient.sign()).clamp(0, 1).detach()
    torch.manual_seed(1)
    found = PGD(eps=0.1, steps=1, step="1 eps", start="uniform", noise=2)(loss, x, scale=scale)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    if scale is None:
        assert (found - x).abs().amax() > 1.5 * eps  # the ball does not bind


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_evaluation_of_an_attack_with_noise_stays_in_the_ball(net, norm):
    x, y = torch.rand(8, 3, 8, 8).double(), torch.randint(5, (8,))
    attack = PGD(eps=0.1, steps=1, start="uniform", noise=2, precision="bfloat16", norm=norm).with_steps(3)
    offset = (attack(loss_of(net, y), x) - x).flatten(1)
    assert (offset.abs().amax(1) if norm == "linf" else offset.norm(dim=1)).amax() <= 0.1 + 1e-12
    assert attack.precision is None


def test_class_budgets_scale_the_step(net):
    x, y = torch.rand(4, 3, 8, 8).double(), torch.randint(5, (4,))
    attack = PGD(eps=0.1, step=0.02, steps=3, start="zero")
    double = attack(loss_of(net, y), x, scale=torch.full((4,), 2.0).double())
    torch.testing.assert_close(double, pgd(loss_of(net, y), x, eps=0.2, step=0.04, steps=3, start="zero"))
    kept = PGD(eps=0.1, step=0.02, steps=3, start="zero", scale_step=False)
    wider = kept(loss_of(net, y), x, scale=torch.full((4,), 0.3).double())
    torch.testing.assert_close(wider, pgd(loss_of(net, y), x, eps=0.03, step=0.02, steps=3, start="zero"))


@pytest.mark.parametrize("size", [0.3, 1.0, 2.0])
def test_a_second_step_of_the_plain_size_follows_a_scaled_one_along_the_same_gradient(net, size):
    """DAFA's released loop for cross-entropy, written out: each step within W eps, then as far as the plain one within eps."""
    x, y = torch.rand(4, 3, 8, 8).double(), torch.randint(5, (4,))
    loss, wanted, scale = loss_of(net, y), x, torch.full((4,), size).double()
    for _ in range(6):
        (gradient,) = torch.autograd.grad(loss(image := wanted.clone().requires_grad_()).sum(), image)
        for eps, step in ((0.1 * size, 0.03 * size), (0.1, 0.03)):
            wanted = (wanted + step * gradient.sign()).clamp(x - eps, x + eps)
        wanted = wanted.clamp(0, 1)
    attack = PGD(eps=0.1, step=0.03, steps=6, start="zero", second_step=True)
    torch.testing.assert_close(attack(loss, x, scale=scale), wanted)
    torch.testing.assert_close(attack(loss, x), attack(loss, x, scale=torch.ones(4).double()))
    plain = PGD(eps=0.1, step=0.03, steps=6, start="zero")
    assert not torch.equal(attack(loss, x), plain(loss, x)) and attack.with_steps(10) == plain.with_steps(10)


def test_the_attacks_own_start_wins_over_the_objectives_and_an_offset_over_both():
    x = torch.full((2, 1, 2, 2), 0.5)
    up = lambda image: image.flatten(1).sum(1)  # noqa: E731
    assert torch.equal(PGD(eps=0.1, steps=0, start="zero")(up, x, start="uniform"), x)
    assert not torch.equal(PGD(eps=0.1, steps=0)(up, x, start="uniform"), x)
    assert torch.allclose(PGD(eps=0.1, steps=0, start="zero")(up, x, start=torch.full_like(x, 0.05)), x + 0.05)


def test_mode_gives_every_module_its_own_mode_back(net):
    net.train()
    net[1].eval()
    with mode(net, training=False):
        assert not any(m.training for m in net.modules())
    assert [m.training for m in net] == [True, False, True, True, True]


@pytest.mark.parametrize("precision,kind", [(None, torch.bfloat16), ("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_crafting_has_its_own_precision_and_asks_for_no_weight_gradient(net, precision, kind):
    net.float().train()
    net[4].bias.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        with crafting(net, PGD(eps=0.1, steps=1, precision=precision), training=False):
            assert net(torch.rand(2, 3, 8, 8)).dtype == kind
            assert not any(p.requires_grad for p in net.parameters()) and not net.training
        assert net(torch.rand(2, 3, 8, 8)).dtype == torch.bfloat16
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == ["4.bias"] and net.training


@pytest.mark.parametrize(
    "wrong,word",
    [
        ({"eps": 8}, "attack.eps=8"),
        ({"eps": -0.1}, "attack.eps=-0.1"),
        ({"eps": "8/0"}, "attack.eps=8/0"),
        ({"eps": "a lot"}, "attack.eps=a lot"),
        ({"eps": float("nan")}, "attack.eps=nan"),
        ({"step": -1}, "attack.step=-1"),
        ({"steps": 1.5}, "attack.steps=1.5"),
        ({"steps": -1}, "attack.steps=-1"),
        ({"norm": "l3"}, "attack.norm=l3"),
        ({"start": "here"}, "attack.start=here"),
        ({"batch_norm": "off"}, "attack.batch_norm=off"),
        ({"step": "a eps"}, "attack.step=a must be a number"),
        ({"step": "-1 eps"}, "attack.step=-0.1 is negative"),
        ({"precision": "half"}, "attack.precision=half"),
        ({"noise": 2}, "attack.noise=2"),
        ({"noise": -1, "start": "uniform"}, "attack.noise=-1"),
    ],
)
def test_wrong_values_are_named(wrong, word):
    with pytest.raises(ValueError, match=word):
        PGD(**({"eps": 0.1, "steps": 10} | wrong))


def test_wrong_calls_are_refused():
    x = torch.rand(1, 1, 2, 2)
    for wrong in ({"norm": "l7"}, {"start": "there"}, {"eps": -1.0}, {"steps": -1}):
        with pytest.raises(ValueError):
            pgd(lambda image: image.sum((1, 2, 3)), x, **({"eps": 0.1, "step": 0.1, "steps": 1} | wrong))
