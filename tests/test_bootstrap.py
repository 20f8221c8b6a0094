import numpy as np
import pytest
from scipy.stats import binomtest

from fairat_lightning.bootstrap import compare, interval


def test_one_class_is_the_textbook_binomial_interval():
    found = interval([300], [1000], draws=20000)
    exact = binomtest(300, 1000).proportion_ci()
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    assert found.value == 0.3 and abs(found.bias) < 0.001
    average = interval([300], [1000], "average", draws=20000)
    assert (average.low, average.high) == pytest.approx((exact.low, exact.high), abs=0.002)


def test_the_average_of_classes_has_the_mean_of_their_variances():
    correct, counts = np.array([20, 60, 90]), np.array([100, 100, 100])
    found = interval(correct, counts, "average", draws=20000)
    r = correct / counts
    error = 1.96 * (r * (1 - r) / 100).sum() ** 0.5 / 3
    assert found.high - found.low == pytest.approx(2 * error, rel=0.03)


def test_the_minimum_is_biased_low_and_an_absent_class_takes_no_part():
    equal = interval([50] * 10, [100] * 10)
    assert equal.bias < -0.05, "the lowest of ten equal classes lies far below them all"
    assert interval([50, 0, 50], [100, 0, 100]) == interval([50, 50], [100, 100])
    alone = interval([20] + [90] * 9, [100] * 10)
    assert abs(alone.bias) < 0.005
    with pytest.raises(ValueError, match="no class"):
        interval([0], [0])


def test_nothing_right_is_not_certain():
    """Of 100 images none: the exact interval reaches 3.6 % (Clopper and Pearson, 1934)."""
    found = interval([0, 3], [1000, 5])
    assert found.low == 0 and found.high == pytest.approx(binomtest(0, 1000).proportion_ci(0.975).high)
    for figure in ("worst", "average"):
        assert interval([100], [100], figure).low == pytest.approx(binomtest(100, 100).proportion_ci().low)
    assert interval([80] * 10, [80] * 10, "average").low == pytest.approx(binomtest(800, 800).proportion_ci().low)


@pytest.mark.parametrize("n", [50, 1000])
@pytest.mark.parametrize("truth", [[0.2, 0.4, 0.5, 0.6, 0.8], [0.5] * 10, [0.4] * 100, [0.05] + [0.4] * 9], ids=len)
def test_the_interval_of_the_worst_class_covers_it(truth, n):
    """In at least 95 of 100 test sets, also where all classes are alike and the lowest lies far too low."""
    generator, p = np.random.default_rng(5), np.array(truth)
    hits = 0
    for _ in range(400):
        found = interval(generator.binomial(n, p), np.full(len(p), n), draws=2)
        hits += found.low <= p.min() <= found.high
    assert hits / 400 >= 0.95 - 0.02


def test_the_interval_of_the_average_covers_it():
    generator, p = np.random.default_rng(5), np.array([0.2, 0.4, 0.5, 0.6, 0.8])
    found = [interval(generator.binomial(200, p), np.full(5, 200), "average", draws=400, seed=k) for k in range(300)]
    assert np.mean([i.low <= p.mean() <= i.high for i in found]) >= 0.92


def test_a_few_images_prove_nothing():
    assert compare([1], [0], [0]).p > 0.3
    three = compare([1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1])
    assert three.p > 0.02 and -1 <= three.low <= three.high <= 1


def paired(generator, gain, n=400):
    y = np.repeat(np.arange(4), n)
    base = generator.random(4 * n) < np.array([0.3, 0.6, 0.7, 0.8])[y]
    flips = generator.random(4 * n) < gain
    return base | (flips & (y == 0)), base, y


def test_a_gain_is_found_and_its_size_is_right():
    a, b, y = paired(np.random.default_rng(0), 0.2)
    found = compare(a, b, y)
    truth = a[y == 0].mean() - b[y == 0].mean()
    assert found.difference == pytest.approx(truth) and found.low < truth < found.high and found.p < 0.01
    back = compare(b, a, y)
    assert back.difference == -found.difference and back.p < 0.01


def test_pairing_sees_what_two_intervals_do_not():
    a, b, y = paired(np.random.default_rng(1), 0.05)
    found = compare(a, b, y)
    alone = [interval([v[y == k].sum() for k in range(4)], [400] * 4) for v in (a, b)]
    assert alone[0].low < alone[1].high, "the intervals overlap"
    assert found.p < 0.05, "the same images decide"


def test_no_difference_is_rarely_called_one():
    """At most about 5 in 100 pairs of equal classifiers may look different at p < .05."""
    false = 0
    for k in range(200):
        generator = np.random.default_rng(k)
        y = np.repeat(np.arange(4), 100)
        p = np.array([0.3, 0.5, 0.6, 0.7])[y]
        false += compare(generator.random(400) < p, generator.random(400) < p, y, draws=400, seed=k).p < 0.05
    assert false <= 20


def test_the_same_classifier_and_unequal_lengths():
    a, _, y = paired(np.random.default_rng(2), 0.0)
    same = compare(a, a, y)
    assert same.difference == 0 and same.p == 1 and same.low <= 0 <= same.high
    with pytest.raises(ValueError, match="the same ones"):
        compare(a, a[:-1], y)
