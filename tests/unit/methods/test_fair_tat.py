import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import nn

from fairat_lightning.attacks import PGD
from fairat_lightning.methods import AdversarialTraining, FairTAT
from fairat_lightning.methods.fair_tat import towards
from fairat_lightning.objectives import AT, TRADES


def method(objective=None, classes=4, attack=None, **kwargs):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, classes)).double()
    attack = attack or PGD(eps=0.0, steps=1)  # crafts x itself
    values = {"sharpness": 2.0, "lambda1": 0.5, "scale": "robust"} | kwargs
    module = FairTAT(net, classes, attack=attack, objective=objective or AT(), optim=None, **values)
    module.log = module.log_dict = lambda *_, **__: None
    return module.double()


def batch(rng: np.random.Generator, classes, size: int = 12):
    return torch.tensor(rng.random((size, 3, 2, 2))), torch.tensor(rng.choice(classes, size)), torch.arange(size)


@pytest.mark.parametrize("objective", [AT(), TRADES(6.0)])
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_the_objectives_and_the_states_are_counted_by_hand(seed, objective):
    """At eps=0: CFP and robust accuracy of one epoch by counting, kept for classes that the next epoch does not have."""
    rng = np.random.default_rng(seed)
    module = method(objective)
    share = robust = np.full(4, np.nan)
    for present in ([0, 1, 2], [0, 3], [1, 2, 3]):
        errors, right, seen = np.zeros(4), np.zeros(4), np.zeros(4)
        for _ in range(3):
            x, y, index = batch(rng, present)
            logits = module.net(x).detach().numpy()
            expected = -log_softmax(logits, 1)[range(12), y].mean()
            assert module.training_step((x, y, index), 0).item() == pytest.approx(expected, abs=1e-6)
            for label, predicted in zip(y.tolist(), logits.argmax(1), strict=True):
                errors[predicted] += predicted != label
                right[label] += predicted == label
                seen[label] += 1
        np.testing.assert_allclose(module.false_share.numpy(), share, rtol=1e-9)  # the last epoch's until it ends
        module.on_train_epoch_end()
        share = errors / errors.sum()
        robust = np.where(seen > 0, right / np.maximum(seen, 1), robust)
        np.testing.assert_allclose(module.false_share.numpy(), share, rtol=1e-9)
        np.testing.assert_allclose(module.class_robust.numpy(), robust, rtol=1e-9)
        for scale, state in (("robust", robust), ("cfp", share)):
            module.scales = [scale]
            np.testing.assert_allclose(module.class_scale().numpy(), np.where(np.isnan(state), 1, 0.5 + state), rtol=1e-9)
        module.cfp_factor = 2.0  # the released code's
        np.testing.assert_allclose(module.class_scale().numpy(), 0.5 + 2 * share, rtol=1e-9)
        module.cfp_factor = 1.0
    assert 0 < np.nanmin(share[share > 0]) < 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scale", ["robust", "cfp", "cfn", "target_robust", "target_cfp", "target_cfn", ["robust", "target_cfp"]])
def test_every_scale_of_the_code_counted_example_by_example(scale, seed):
    """In an epoch without class 3, whose eps stays as it was where the count is a share of each class."""
    rng = np.random.default_rng(seed)
    module = method(scale=scale, lambda1=0.5, lambda_c=1.5, cfp_factor=2.0)
    drawn = []
    draw = module.targets
    module.targets = lambda y: drawn.append(draw(y)) or drawn[-1]
    seen, right, hit = np.zeros(4), np.zeros(4), np.zeros(4)
    into, of, target_into, target_of = np.zeros((4, 4))
    for _ in range(3):
        x, y, index = batch(rng, [0, 1, 2])
        predictions = module.net(x).argmax(1).tolist()
        module.training_step((x, y, index), 0)
        for label, predicted, target in zip(y.tolist(), predictions, drawn[-1].tolist(), strict=True):
            seen[label] += 1
            if predicted == label:
                right[label] += 1
            else:
                into[predicted] += 1
                of[label] += 1
            if predicted == target:
                hit[label] += 1
            else:
                target_into[predicted] += 1
                target_of[label] += 1
    assert module.class_scale().tolist() == [1.0] * 4
    module.on_train_epoch_end()
    count = np.maximum(seen, 1)
    values = {
        "robust": np.where(seen > 0, 0.5 + right / count, 1),
        "target_robust": np.where(seen > 0, 0.5 + hit / count, 1),
        "cfp": 1.5 + 2 * into / into.sum(),
        "cfn": 1.5 + of / of.sum(),
        "target_cfp": 1.5 + target_into / target_into.sum(),
        "target_cfn": 1.5 + target_of / target_of.sum(),
    }
    expected = (values["robust"] + values["target_cfp"]) / 2 if isinstance(scale, list) else values[scale]
    np.testing.assert_allclose(module.class_scale().numpy(), expected, rtol=1e-9)


def test_the_offset_of_shares_of_errors_is_lambda1_where_none_is_given():
    module = method(scale="cfp", lambda1=0.7)
    module.false_share.fill_(0.25)
    assert module.class_scale().tolist() == pytest.approx([0.95] * 4)


def test_without_an_error_the_shares_stand():
    module = method()
    module.false_share.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    x = torch.rand(12, 3, 2, 2).double()
    module.training_step((x, module.net(x).argmax(1), torch.arange(12)), 0)
    module.on_train_epoch_end()
    assert module.false_share.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("classes", [2, 4, 200])
@pytest.mark.parametrize("sharpness", [0.0, 2.0, 8.0])
@pytest.mark.parametrize("known", [True, False])
def test_targets_follow_the_softmax_of_the_shares_over_the_other_classes(classes, sharpness, known):
    rng = np.random.default_rng(classes)
    module = method(classes=classes, sharpness=sharpness)
    share = rng.dirichlet(np.ones(classes) / 2) if known else np.zeros(classes)
    if known:
        module.false_share.copy_(torch.tensor(share))
    for label in (0, classes - 1):
        drawn = module.targets(torch.full((20_000,), label)).numpy()
        assert (drawn != label).all() and drawn.dtype == np.int64
        expected = np.zeros(classes)
        others = np.arange(classes) != label
        expected[others] = 20_000 * softmax(sharpness * share[others])  # without CFP: uniform
        found = np.bincount(drawn, minlength=classes)
        often = expected > 5
        chi_square = ((found - expected) ** 2)[often] / expected[often]
        assert chi_square.sum() - (often.sum() - 1) < 5 * np.sqrt(2 * often.sum())
    mixed = torch.tensor(rng.integers(0, classes, 5000))
    assert not (module.targets(mixed) == mixed).any()


@pytest.mark.parametrize("seed", range(3))
def test_the_attack_descends_towards_its_targets_within_each_classs_eps(seed):
    """Sign steps in NumPy down the targets' cross-entropy, of eps and step (lambda + robust accuracy) as large."""
    rng = np.random.default_rng(seed)
    module = method(attack=PGD(eps=0.2, steps=4, start="zero"), lambda1=0.3)
    robust = np.array([0.9, np.nan, 0.2, 0.5])
    module.class_robust.copy_(torch.tensor(robust))
    x, y, index = batch(rng, range(4))
    weight, bias = (p.detach().numpy() for p in (module.net[1].weight, module.net[1].bias))
    targets, crafted = {}, {}
    draw, craft = module.targets, module.craft
    module.targets = lambda y: targets.setdefault("drawn", draw(y))
    module.craft = lambda *args, **kwargs: crafted.setdefault("images", craft(*args, **kwargs))
    module.training_step((x, y, index), 0)

    scale = np.where(np.isnan(robust), 1.0, 0.3 + robust)[y][:, None]
    flat = x.flatten(1).numpy()
    adv = flat.copy()
    for _ in range(4):
        gradient = (softmax(adv @ weight.T + bias, 1) - np.eye(4)[targets["drawn"]]) @ weight
        adv = adv - 0.05 * scale * np.sign(gradient)
        adv = np.clip(np.clip(adv, flat - 0.2 * scale, flat + 0.2 * scale), 0, 1)
    np.testing.assert_allclose(crafted["images"].flatten(1).numpy(), adv, atol=1e-9)
    before, after = (log_softmax(z @ weight.T + bias, 1)[range(12), targets["drawn"]] for z in (flat, adv))
    assert (after > before).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_with_two_classes_the_targeted_attack_is_the_untargeted_one(norm):
    """Minus the cross-entropy of the other class is log p_other: the same direction as away from the label."""
    attack = PGD(eps=0.2, steps=5, start="zero", norm=norm)
    module = method(classes=2, attack=attack, scale=None)
    plain = AdversarialTraining(module.net, 2, attack=attack, objective=AT(), optim=None)
    plain.log = module.log
    x, y, index = batch(np.random.default_rng(0), [0, 1], 50)
    module.class_robust.fill_(0.1)
    module.false_share.fill_(0.1)  # scale=None looks at no state
    target = module.targets(y)
    assert torch.equal(target, 1 - y)
    crafted = module.craft(x, y, inner=towards(target))
    expected = plain.craft(x, y)
    torch.testing.assert_close(crafted, expected, rtol=0, atol=1e-9)
    assert (crafted - x).abs().amax() > 0.05
    loss, plain_loss = module.training_step((x, y, index), 0), plain.training_step((x, y, index), 0)
    torch.testing.assert_close(loss, plain_loss, rtol=0, atol=1e-9)


def test_a_run_keeps_shares_that_sum_to_one_and_scales_its_eps(launch):
    folder, _ = launch("method=fair_tat", "averaging=none")
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert state["false_share"].sum().item() == pytest.approx(1) and "false_count" not in state
    assert ((state["class_robust"] >= 0) & (state["class_robust"] <= 1)).all()
    history = (folder / "history.csv").read_text().splitlines()
    row = dict(zip(history[0].split(","), history[-1].split(","), strict=True))
    scales = [float(row[f"train/class_eps/class_{k}"]) for k in range(4)]
    assert scales == pytest.approx((0.5 + state["class_robust"]).tolist(), abs=1e-4) and "other_shares" not in state


def test_a_run_scales_by_several_counts(launch):
    folder, _ = launch("method=fair_tat", "averaging=none", "method.scale=[robust,target_cfp]", "method.lambda_c=1.5")
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    history = (folder / "history.csv").read_text().splitlines()
    row = dict(zip(history[0].split(","), history[-1].split(","), strict=True))
    scales = [float(row[f"train/class_eps/class_{k}"]) for k in range(4)]
    assert state["other_shares"][2].sum().item() == pytest.approx(1)
    assert scales == pytest.approx(((2.0 + state["class_robust"] + state["other_shares"][2]) / 2).tolist(), abs=1e-4)


@pytest.mark.parametrize(
    "key,value",
    [
        *(
            (key, wrong)
            for key in ("sharpness", "lambda1", "lambda_c", "cfp_factor")
            for wrong in (-0.1, float("inf"), float("nan"), "high")
        ),
        *(("scale", wrong) for wrong in ("accuracy", 1.0, True, ["robust", "accuracy"], [["robust"]], [])),
    ],
)
def test_wrong_settings_are_named(key, value):
    with pytest.raises(ValueError, match=f"method.{key}"):
        method(**{key: value})
