import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from fairat_lightning.bootstrap import FIGURES, compare, interval, standard_error
from fairat_lightning.metrics import worst_share


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
    assert interval([100], [100]).low == pytest.approx(binomtest(100, 100).proportion_ci().low)
    assert interval([100], [100], "average").low == pytest.approx(binomtest(100, 100).proportion_ci().low, abs=0.02)


@pytest.mark.parametrize(
    "truth, n",
    [
        (np.linspace(0.1, 0.8, 10), [1] * 10),
        (np.linspace(0.1, 0.8, 10), [1] * 7 + [450] * 3),
        ([0.97, 0.02, 1, 0], [20, 900, 1, 50]),
    ],
    ids=["one image a class", "few and many", "near the ends"],
)
def test_the_interval_of_the_average_covers_it_and_holds_its_own_value(truth, n):
    truth, n, generator = np.array(truth), np.array(n), np.random.default_rng(0)
    found = [interval(generator.binomial(n, truth), n, "average", draws=400, seed=k) for k in range(300)]
    assert all(i.low <= i.value <= i.high for i in found)
    assert np.mean([i.low <= truth.mean() <= i.high for i in found]) >= 0.92


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
    with pytest.raises(ValueError, match="the same images"):
        compare(a, a[:-1], y)


STORED = {  # difference, low, high, p
    (1, 30, "average"): (-0.033333333333333326, -0.26666666666666666, 0.2, 0.8860569715142429),
    (1, 30, "worst"): (-0.033333333333333326, -0.26666666666666666, 0.2, 0.8860569715142429),
    (4, 50, "average"): (-0.06000000000000005, -0.14500000000000002, 0.02499999999999991, 0.15892053973013492),
    (4, 50, "worst"): (0.020000000000000018, -0.15999999999999998, 0.2, 0.8935532233883059),
    (37, 40, "average"): (-0.03513513513513511, -0.0662162162162161, -0.004054054054054124, 0.031484257871064465),
    (37, 40, "worst"): (-0.024999999999999994, -0.125, 0.07500000000000001, 0.8115942028985508),
}


@pytest.mark.parametrize("classes, images, figure", STORED)
def test_one_seed_is_compared_as_ever_to_the_bit(classes, images, figure):
    generator = np.random.default_rng(classes)
    y = generator.permutation(np.repeat(np.arange(classes) + (classes == 4), images))  # once without class 0
    rates = generator.uniform(0.2, 0.9, classes + 1)[y]
    a, b = generator.random((2, len(y))) < rates
    assert compare(a, b, y, figure)[:4] == STORED[classes, images, figure]


def test_the_same_seed_twice_is_one_seed():
    a, b, y = paired(np.random.default_rng(3), 0.05)
    for figure in FIGURES:
        one, two = compare(a, b, y, figure), compare([a, a], [b, b], y, figure)
        assert two[:4] == one[:4] and two.seeds == 2 * one.seeds == 2 * (one.difference,)


def two_seeds(generator, rates_a, rates_b, y, *, shared=0.8):
    """(2,N), (2,N): whether two seeds of A and of B are right, where an image is as hard for all of them in `shared` of cases."""
    hard = generator.random(len(y))
    own = np.where(generator.random((4, len(y))) < shared, hard, generator.random((4, len(y))))
    right = (own < np.array([rates_a, rates_a, rates_b, rates_b])[:, y]).astype(float)
    return right[:2], right[2:]


@pytest.mark.parametrize("figure", FIGURES)
def test_two_seeds_are_those_of_a_bootstrap_image_by_image(figure):
    """Some images are judged in one seed only; class 2 is judged in the second seed only."""
    generator = np.random.default_rng(4)
    y = np.repeat(np.arange(12), 150)
    a, b = two_seeds(generator, np.linspace(0.34, 0.8, 12), np.linspace(0.3, 0.8, 12), y)
    absent = generator.random((2, len(y))) < 0.3
    absent[0, y == 2] = True
    a[absent], b[absent] = np.nan, np.nan
    lowest = {"average": slice(None), "worst": slice(1), "worst_10_percent": slice(2)}[figure]

    def value(images):
        found = []
        for s, classes in ((0, [k for k in range(12) if k != 2]), (1, range(12))):
            rates = [sorted(np.nanmean(right[s][images[k]]) for k in classes) for right in (a, b)]
            found.append(np.mean(rates[0][lowest]) - np.mean(rates[1][lowest]))
        return np.mean(found)

    places = [np.flatnonzero(y == k) for k in range(12)]
    truth = value(places)
    drawn = np.array([value([generator.choice(p, len(p)) for p in places]) for _ in range(1000)])
    half = np.quantile(abs(drawn - truth), 0.95)
    low, high = truth - half, truth + half
    found = compare(a, b, y, figure)
    assert found.difference == pytest.approx(truth) == np.mean(found.seeds)
    tolerance = 0.15 * (high - low)
    assert (found.low, found.high) == (pytest.approx(low, abs=tolerance), pytest.approx(high, abs=tolerance))
    assert found.p == pytest.approx(np.mean(abs(drawn - truth) >= abs(truth)), abs=0.06)


def test_two_seeds_on_the_same_images_are_not_twice_the_images():
    """p of no difference is spread evenly, and the interval holds the true difference in 95 of 100 test sets."""
    y, equal = np.repeat(np.arange(4), 100), np.array([0.2, 0.6, 0.6, 0.7])
    better = equal + np.array([0.1, 0, 0, 0])
    p, covered = [], []
    for k in range(200):
        generator = np.random.default_rng(k)
        # B's verdicts are A's but for a tenth of the images, and alike in both seeds.
        base, other = (np.repeat(right[:1], 2, axis=0) for right in two_seeds(generator, equal, equal, y, shared=0.9))
        p.append(compare(other, base, y, draws=400, seed=k).p)
        found = compare(*two_seeds(generator, better, equal, y), y, draws=400, seed=k)
        covered.append(found.low <= 0.1 <= found.high)
    assert np.mean(np.array(p) < 0.05) <= 0.09 and 0.35 <= np.mean(np.array(p) < 0.5) <= 0.65
    assert np.mean(covered) >= 0.92


def test_one_image_of_two_seeds_proves_nothing():
    assert compare([[1], [1]], [[0], [0]], [0]).p > 0.3
    # It was seen once and the four cells in which the seeds agree a quarter each: half of the draws differ from what was seen.
    assert compare([[1], [1]], [[0], [1]], [0]).p == pytest.approx(0.5, abs=0.03)


def test_a_weakest_class_of_which_nothing_is_right_is_not_known_to_stay_there():
    labels, rates = np.repeat(np.arange(30), 100), np.linspace(0, 0.55, 30)
    a, b = (np.concatenate([np.arange(100) < round(100 * rate) for rate in r]) for r in (rates, np.maximum(rates, rates[1])))
    same, better = compare(a, a, labels), compare(b, a, labels)
    up = 1 - (0.05 / 2 / 2 / 30) ** (1 / 100)  # of 0 right of 100, for two sides, two rows and 30 classes
    assert same.p == 1 and (same.low, same.high) == pytest.approx((-up, up))
    assert better.low < better.difference < better.high and better.high >= 0.05
    three = np.repeat([0, 1, 2], 100)
    for row in (np.zeros(300), np.arange(300) % 100 < 1):
        assert compare(row, row, three, "worst_10_percent")[:4] == compare(row, row, three)[:4]
    assert compare(a, a | True, labels).high < 0  # a difference that is shown keeps its interval


@pytest.mark.parametrize("classes", [1, 5, 10, 11, 30, 31])
def test_the_worst_10_percent_are_those_of_the_metrics(classes):
    rates = np.random.default_rng(classes).random((2, classes))
    assert FIGURES["worst_10_percent"](rates) == pytest.approx([worst_share(torch.tensor(row), 0.1) for row in rates])


def test_a_class_without_images_in_a_seed_takes_no_part_there():
    y = np.array([0, 0, 1, 1])
    a, b = np.array([[1, 1, np.nan, np.nan], [1, 0, 0, 0]]), np.array([[1, 0, np.nan, np.nan], [1, 0, 1, 1]])
    assert compare(a, b, y, "worst").seeds == (0.5, -0.5) and compare(a, b, y, "average").seeds == (0.5, -0.5)
    with pytest.raises(ValueError, match="no class"):
        compare(a * [[np.nan], [1]], b * [[np.nan], [1]], y)
    with pytest.raises(ValueError, match="the same images"):
        compare(a, np.nan_to_num(b), y)
    with pytest.raises(ValueError, match="the same images"):
        compare(a, b[:1], y)
    with pytest.raises(ValueError, match="give average or worst"):
        interval([1], [2], "worst_10_percent")


def test_the_worst_tenth_is_of_all_classes_where_some_alone_were_judged():
    labels = np.repeat(np.arange(5), 10)
    a, b = (np.concatenate([np.arange(10) < right for right in rights]) for rights in ((3, 4, 5, 9, 9), (1, 2, 3, 9, 9)))
    assert compare(a, b, labels, "worst_10_percent").difference == pytest.approx(0.2)  # the worst of five
    assert compare(a, b, labels, "worst_10_percent", classes=40).difference == pytest.approx((21 - 15) / 40)


def test_the_standard_error_is_that_of_scores_drawn_anew():
    """Where one class is clearly the worst, and there are images enough for the rule of Laplace to move nothing."""
    counts, r, random = np.array([400, 300, 500]), np.array([0.2, 0.5, 0.7]), np.random.default_rng(0)
    drawn = random.binomial(counts, r, (20000, 3)) / counts
    scores = {"average": drawn.mean(1), "worst": drawn.min(1), "sum": drawn.mean(1) + drawn.min(1)}
    for figure, values in scores.items():
        assert standard_error(r * counts, counts, figure) == pytest.approx(values.std(), rel=0.03), figure


def test_the_standard_error_of_nothing_right_is_not_0_and_absent_classes_take_no_part():
    assert standard_error([0, 9], [10, 10], "worst") == pytest.approx((1 / 12 * 11 / 12 / 10) ** 0.5)
    for figure in ("average", "worst", "sum"):
        assert standard_error([3, 0, 5], [10, 0, 10], figure) == standard_error([3, 5], [10, 10], figure)
        with pytest.raises(ValueError, match="no class"):
            standard_error([0], [0], figure)
    with pytest.raises(ValueError, match="no standard error of last"):
        standard_error([1], [2], "last")


def test_many_seeds_are_told_apart():
    """Of images in the same cells, however many seeds there are: two classes, of which A has the first right and B the second."""
    y, a = np.repeat([0, 1], 20), np.repeat([1, 0], 20)
    for seeds in (1, 26, 40):
        found = compare(np.tile(a, (seeds, 1)), np.tile(1 - a, (seeds, 1)), y, "average", draws=200)
        assert found.difference == 0 and found.low < 0 < found.high and found.high - found.low < 0.2
