import numpy as np
import pytest
import torch
from scipy.special import softmax

from fairat_lightning.methods.parts.class_transfer import LEAST, Transfer, class_transfer


def brute_force(s, strength):
    """W_i = 1 + lambda [ sum_{j: S_ii < S_jj} S_ij S_jj  -  sum_{j: S_ii > S_jj} S_ji S_ii ], not clamped."""
    weights = np.ones(len(s))
    for i in range(len(s)):
        for j in range(len(s)):
            if s[i, i] < s[j, j]:
                weights[i] += strength * s[i, j] * s[j, j]
            if s[i, i] > s[j, j]:
                weights[i] -= strength * s[j, i] * s[i, i]
    return weights


def similarity(seed, classes):
    rng = np.random.default_rng(seed)
    return softmax(rng.normal(size=(classes, classes)) + np.diag(rng.uniform(0, 5, classes)), 1)


@pytest.mark.parametrize("classes", [2, 3, 10, 200])
@pytest.mark.parametrize("strength", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("seed", range(5))
def test_weights_by_a_double_loop(classes, strength, seed):
    s = similarity(seed, classes)
    expected = brute_force(s, strength)
    found = class_transfer(torch.tensor(s), strength).numpy()
    np.testing.assert_allclose(found, expected.clip(LEAST), atol=1e-12)
    assert expected.sum() == pytest.approx(classes)
    if expected.min() > LEAST:
        assert found.sum() == pytest.approx(classes)
    assert found[s.diagonal().argmin()] > 1 > found[s.diagonal().argmax()]


def test_by_hand():
    """Class 1 gives S_01 S_11 = 0.3 * 0.8 to class 0, which is harder; class 2 is as hard as class 0."""
    s = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    assert class_transfer(s, 1.0).tolist() == pytest.approx([1.24, 1 - 0.24 - 0.16, 1.16])


def test_no_weight_is_below_a_tenth():
    s = similarity(0, 10)
    found = class_transfer(torch.tensor(s), 20.0).numpy()
    assert found.min() == 0.1 > brute_force(s, 20.0).min()


def test_a_class_that_was_not_seen_takes_no_part():
    s = similarity(1, 5)
    s[2] = np.nan
    found = class_transfer(torch.tensor(s), 1.0).numpy()
    others = [0, 1, 3, 4]
    np.testing.assert_allclose(found[others], brute_force(s[np.ix_(others, others)], 1.0), atol=1e-12)
    assert found[2] == 1 and found.sum() == pytest.approx(5)
    assert class_transfer(torch.full((3, 3), torch.nan), 1.0).tolist() == [1, 1, 1]


@pytest.mark.parametrize("warmup,epochs,first", [(70 / 110, 110, 70), (0.6364, 110, 70), (0.5, 6, 3), (0.01, 5, 1), (1.0, 4, 4)])
def test_similarities_are_means_over_the_last_warm_up_epoch_alone(warmup, epochs, first):
    rng = np.random.default_rng(0)
    transfer = Transfer(4, strength=1.0, warmup=warmup)
    learned = None
    for epoch in range(min(epochs, first + 2)):
        assert (transfer.weight(torch.arange(4), epoch, epochs) is not None) == (epoch >= first)
        logits, y = rng.normal(size=(30, 4)) * 3, rng.integers(0, 4, 30)
        for part in (slice(0, 11), slice(11, 30)):
            transfer.learn(torch.tensor(logits[part]), torch.tensor(y[part]), epoch, epochs)
        transfer.settle()
        if epoch == first - 1:
            s = np.array([softmax(logits, 1)[y == k].mean(0) for k in range(4)])
            learned = brute_force(s, 1.0).clip(LEAST)
        np.testing.assert_allclose(transfer.class_weight, np.ones(4) if learned is None else learned, rtol=1e-6)
    assert np.ptp(learned) > 0


def test_strength_zero_neither_learns_nor_acts():
    transfer = Transfer(4, strength=0, warmup=0.5)
    for epoch in range(4):
        transfer.learn(torch.randn(8, 4), torch.arange(8) % 4, epoch, 4)
        transfer.settle()
        assert transfer.weight(torch.arange(4), epoch, 4) is None and transfer.class_weight.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "key,value",
    [
        ("strength", -0.1),
        ("strength", float("inf")),
        ("strength", True),
        ("strength", "much"),
        ("warmup", 0),
        ("warmup", 1.1),
        ("warmup", "late"),
    ],
)
def test_wrong_settings_are_named(key, value):
    with pytest.raises(ValueError, match=f"method.{key}="):
        Transfer(4, **({"strength": 1.0, "warmup": 0.5} | {key: value}))
