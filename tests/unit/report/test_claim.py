"""The one sentence that a report of two rows ends in: every figure of it against SciPy and the bootstrap."""

import re

import pytest
from helpers import ROOT, seeds
from scipy import stats

from fairat_lightning import bootstrap
from fairat_lightning.report.claim import p_value, points, sentence, span
from fairat_lightning.report.groups import gather

LOW, HIGH = (0.3, 0.35, 0.32), (0.5, 0.47, 0.55)


def said(words, key="pgd20"):
    report = gather(words)
    return sentence(*report.groups, key, report.titles[key])


def welch(b, a):
    """What Welch's test says of b - a, as the sentence writes it: low, high, p."""
    test = stats.ttest_ind(b, a, equal_var=False)
    return *(f"{100 * end:.1f}".replace("-", "−") for end in test.confidence_interval(0.95)), p_value(test.pvalue)


def test_a_gain_over_three_seeds_is_a_gain_by_welch(make_run):
    low, high, p = welch(HIGH, LOW)
    a, b = ([(0.6 + w + 0.8) / 3 for w in row] for row in (LOW, HIGH))
    p_average = p_value(stats.ttest_ind(b, a, equal_var=False).pvalue)
    assert said(seeds(make_run, "PGD-AT", LOW) + seeds(make_run, "FAAL", HIGH)) == (
        "FAAL raises the weakest class (dog) from 32.3 % with PGD-AT to 50.7 % under PGD-20 "
        f"(95 % interval of the gain {low} to {high} points, {p}, Welch's test of 3 seeds), "
        f"and gains 6.1 points on average ({p_average})."
    )


def test_seeds_without_the_attack_are_not_counted(make_run):
    words = seeds(make_run, "PGD-AT", LOW) + seeds(make_run, "FAAL", HIGH)
    report = gather(words)
    for group in report.groups:
        del group.runs[2].summaries["pgd20"]
    assert "Welch's test of 2 seeds" in sentence(*report.groups, "pgd20", "PGD-20")


def test_a_loss_is_a_loss_with_its_interval_turned(make_run):
    found = said(seeds(make_run, "PGD-AT", HIGH) + seeds(make_run, "FAAL", (*LOW, 0.31)))
    assert found.startswith("FAAL lowers the weakest class (dog) from 50.7 % with PGD-AT to 32.0 % under PGD-20 (95 % interval ")
    low, high, p = welch(HIGH, (*LOW, 0.31))
    assert f"interval of the loss {low} to {high} points, {p}, Welch's test of 3 and 4 seeds), and costs 6.2 points" in found


def test_what_is_not_significant_is_no_difference(make_run):
    a, b = (0.3, 0.5, 0.4), (0.35, 0.55, 0.42)
    low, high, p = welch(b, a)
    assert low.startswith("−") and said(seeds(make_run, "A", a) + seeds(make_run, "B", b)) == (
        "No difference could be shown between B and A in the weakest class (dog) under PGD-20: 40.0 % with A and 44.0 % with B "
        f"(95 % interval of the difference {low} to {high} points, {p}, Welch's test of 3 seeds), "
        f"and B gains 1.3 points on average, which may be chance ({p})."
    )


def test_the_limit_is_p_of_5_percent(make_run, monkeypatch):
    words = seeds(make_run, "A", LOW) + seeds(make_run, "B", HIGH)
    for p, begin in ((0.0499, "B raises"), (0.05, "No difference could be shown")):
        found = bootstrap.Comparison(0.18, 0.01, 0.3, p, test="welch")
        monkeypatch.setattr("fairat_lightning.report.claim.compared", lambda *_, found=found: found)
        assert said(words).startswith(begin)


@pytest.mark.parametrize("b, begin", [(0.55, "B raises the weakest class (dog) from 30.0 % with A to 55.0 %"), (0.32, "No diff")])
def test_one_seed_is_tested_on_its_images(make_run, b, begin):
    words = seeds(make_run, "A", (0.3,)) + seeds(make_run, "B", (b,))
    mine, other = (group.runs[0].verdicts["pgd20"] for group in reversed(gather(words).groups))
    found = bootstrap.compare(mine.predicted == mine.label, other.predicted == other.label, other.label, "worst")
    text = said(words)
    assert text.startswith(begin) and f" {span(found.low, found.high)} points, {p_value(found.p)}, paired test of the" in text


def test_a_class_is_named_where_it_is_the_weakest_in_every_seed(make_run):
    """Of the first row; with whose it is where the other row's is another in some seed."""

    def row(label, *accuracies):
        return [f"{label}={make_run(f'{label}{s}', found, seed=s)}" for s, found in enumerate(accuracies)]

    same, one = row("A", *[(0.6, w, 0.8) for w in LOW]), row("B", (0.6, 0.5, 0.8), (0.48, 0.6, 0.8), (0.6, 0.52, 0.8))
    assert "the weakest class (dog with A) from" in said(same + one)
    assert "the weakest class (which differs between seeds) from" in said(one + same)


def test_what_the_average_does_is_said_with_how_sure_it_is(make_run):
    base = seeds(make_run, "A", LOW)
    costs = [f"B={make_run(f'b{s}', (0.55, w, 0.5), seed=s)}" for s, w in enumerate((0.4, 0.41, 0.4))]
    assert re.search(r"\), and costs 9\.0 points on average \(p (=|<) \.0\d\d\)\.$", said(base + costs))
    even = [f"C={make_run(f'c{s}', (0.55, w, 0.65), seed=s)}" for s, w in enumerate((0.5, 0.53, 0.51))]
    assert re.search(r"\), and costs 0\.\d points on average, which may be chance \(p = \.\d\d\)\.$", said(base + even))


def test_what_cannot_be_tested_is_said_with_the_reason(make_run):
    text = said([*seeds(make_run, "A", (0.3, 0.31, 0.3)), f"B={make_run('B7', (0.6, 0.9, 0.8), seed=7)}"])
    assert text.startswith(
        "Not tested: whether B is fairer than A under PGD-20 (worst class +29.7 points); B has figures of 1 run"
    )
    text = said(seeds(make_run, "C", (0.3, 0.3, 0.3)) + seeds(make_run, "D", (0.5, 0.5, 0.5)))
    assert text.endswith("(worst class +20.0 points); the figure is the same in all runs of each row.")


def test_no_difference_is_a_zero_with_a_sign():
    assert [points(v / 1e5) for v in (-49, 49, 0, -51, 2450)] == ["0.0", "0.0", "0.0", "−0.1", "+2.5"]
    assert span(-0.0004, 0.03) == "0.0 to 3.0" and span(-0.21, -0.0002) == "−21.0 to 0.0"


def test_the_seeds_of_the_demo_are_not_those_that_chose_its_values():
    """`make run` speaks of seeds on which nothing was chosen, and takes the radius that was best on the others."""
    makefile = (ROOT / "Makefile").read_text()
    demo = re.search(r"^SEEDS := ([\d ]+)$", makefile, re.M)[1].split()
    chosen_on = re.search(r"^seeds=([\d,]+)$", (ROOT / "studies" / "digits.sh").read_text(), re.M)[1].split(",")
    assert len(set(demo)) >= 3 and not set(demo) & set(chosen_on)
    lines = (ROOT / "results" / "digits" / "table.md").read_text().splitlines()
    rows = [re.findall(r"[^|]+", line) for line in lines if "FAAL, 4 more epochs, radius" in line]
    best = max(rows, key=lambda row: float(row[5].split()[0]))
    assert f"RADIUS := {best[0].split()[-1]}\n" in makefile
