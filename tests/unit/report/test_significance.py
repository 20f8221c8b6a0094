"""Rows of runs that were never on a disk, and the test that they get."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from fairat_lightning import bootstrap, metrics
from fairat_lightning.report import differences, significance
from fairat_lightning.report.claim import sentence
from fairat_lightning.report.compare import best, rows
from fairat_lightning.report.differences import explained, not_tested
from fairat_lightning.report.groups import gather, report_of
from fairat_lightning.report.runs import Group, Run, Verdicts
from fairat_lightning.report.significance import FIGURES, against, difference

IMAGES = 60  # of each class


def judged(rates, seed, full=None, few=IMAGES):
    """A run with these class accuracies; with `full`, of the other classes only the first `few` images are judged."""
    names = [f"c{k}" for k in range(len(rates))]
    generator = np.random.default_rng([seed, *(round(1000 * r) for r in rates)])
    y = np.repeat(np.arange(len(rates)), IMAGES)
    right = np.concatenate([generator.permutation(IMAGES) < round(rate * IMAGES) for rate in rates])
    place = np.flatnonzero([names[label] in (full or names) or i % IMAGES < few for i, label in enumerate(y)])
    label, predicted = y[place], np.where(right, y, (y + 1) % len(rates))[place]
    counted = metrics.confusion_matrix(torch.tensor(label), torch.tensor(predicted), len(rates))
    summary = metrics.summary(counted, names)
    summary = metrics.worst_among(summary, full) if full else summary
    verdicts = {"pgd20": Verdicts(place, label, predicted)}
    return Run(Path(), {"pgd20": summary}, verdicts, {"pgd20": ("linf", 0.03)}, facts={"seed": seed})


def row(label, *worst, seeds=(0, 1, 2, 3), **options):
    """Three classes, the second with these accuracies, one a seed."""
    return Group(label, [judged((0.7, w, 0.8), s, **options) for s, w in zip(seeds, worst, strict=False)])


def right(group):
    return [run.verdicts["pgd20"].predicted == run.verdicts["pgd20"].label for run in group.runs]


def label_of(group):
    return group.runs[0].verdicts["pgd20"].label


@pytest.mark.parametrize("figure", FIGURES)
def test_two_seeds_are_paired_by_their_number(figure):
    a, b = row("A", 0.3, 0.4), row("B", 0.5, 0.45)
    found = difference(b, a, "pgd20", figure)
    assert found == bootstrap.compare(right(b), right(a), label_of(a), figure) and found.test == "paired"
    a.runs.reverse()
    assert difference(b, a, "pgd20", figure) == found, "the seeds go together, not the places in the row"


def test_from_three_seeds_on_and_without_partners_it_is_welch():
    def by_welch(a, b):
        found = difference(b, a, "pgd20", "worst")
        values = [group.values("pgd20", "worst") for group in (b, a)]
        return found.test == "welch" and found.p == pytest.approx(stats.ttest_ind(*values, equal_var=False).pvalue)

    a, b = row("A", 0.3, 0.4, 0.35), row("B", 0.5, 0.45, 0.6)
    found = difference(b, a, "pgd20", "worst")
    assert by_welch(a, b) and found.seeds == pytest.approx((0.2, 0.05, 0.25)) and found.difference == pytest.approx(0.5 / 3)
    a, b = row("A", 0.3, 0.4), row("B", 0.5, 0.45, seeds=(0, 5))
    assert by_welch(a, b) and difference(b, a, "pgd20", "worst").seeds == ()
    a, b = row("A", 0.3, 0.4, seeds=(1, 1)), row("B", 0.5, 0.45)
    assert by_welch(a, b)
    for damage in ("image", "label"):
        a, b = row("A", 0.3, 0.4), row("B", 0.5, 0.45)
        verdicts = b.runs[1].verdicts["pgd20"]
        b.runs[1].verdicts["pgd20"] = verdicts._replace(**{damage: getattr(verdicts, damage) + 1})
        assert by_welch(a, b) and len(difference(b, a, "pgd20", "worst").seeds) == 2
    a, b = row("A", 0.3, 0.4), row("B", 0.5, 0.45)
    del a.runs[0].verdicts["pgd20"]
    assert by_welch(a, b)


def test_seeds_that_put_other_images_in_one_place_are_not_paired():
    a, b = row("A", 0.3, 0.4), row("B", 0.5, 0.45)
    for group in (a, b):
        verdicts = group.runs[1].verdicts["pgd20"]
        group.runs[1].verdicts["pgd20"] = Verdicts(verdicts.image, 2 - verdicts.label, 2 - verdicts.predicted)
    assert difference(b, a, "pgd20", "worst").test == "welch"


def test_the_worst_is_sought_among_the_classes_judged_in_full():
    """Of c0 and c2 a few images are judged, of which B has fewer right than of c1: the average knows them, the worst does not."""
    a, b = (Group(name, [judged((0.7, w, 0.1), s, ["c1"], 6) for s in (0, 1)]) for name, w in (("A", 0.3), ("B", 0.5)))
    for figure in ("worst", "worst_10_percent"):
        found = difference(b, a, "pgd20", figure)
        among = label_of(a) == 1
        alone = bootstrap.compare([v[among] for v in right(b)], [v[among] for v in right(a)], label_of(a)[among], figure)
        assert found == alone and found.difference == pytest.approx(0.2) and found.test == "paired"
    assert difference(b, a, "pgd20", "average") == bootstrap.compare(right(b), right(a), label_of(a), "average")


def test_each_seed_may_have_its_own_classes_in_full_and_rows_of_different_ones_are_not_paired():
    def seeds(name, worst, *full):
        return Group(name, [judged((0.35, worst, 0.8), s, classes, 6) for s, classes in enumerate(full)])

    a, b = (seeds(name, w, ["c0", "c1"], ["c1", "c2"]) for name, w in (("A", 0.3), ("B", 0.5)))
    found = difference(b, a, "pgd20", "worst")
    assert found.test == "paired" and found.seeds == pytest.approx((0.05, 0.2), abs=1e-9)
    a, b = seeds("A", 0.3, ["c0", "c1"]), seeds("B", 0.5, ["c1", "c0"])
    assert difference(b, a, "pgd20", "worst").test == "paired", "the same classes in another order"
    (summary,) = (run.summaries["pgd20"] for run in b.runs)
    b.runs[0].summaries["pgd20"] = {**summary, "worst_of": ["c0"]}
    assert difference(b, a, "pgd20", "worst") is None and difference(b, a, "pgd20", "average").test == "paired"


def test_figures_of_different_classes_are_not_tested_over_seeds_either():
    a, b = (row(name, 0.3, 0.4, 0.35, full=full, few=6) for name, full in (("A", ["c0", "c1"]), ("B", ["c1", "c2"])))
    assert difference(b, a, "pgd20", "worst") is None and difference(b, a, "pgd20", "average").test == "welch"
    assert "of different classes" in significance.compared(b, a, "pgd20")
    without = [
        {**run.summaries["pgd20"], "per_class": {**run.summaries["pgd20"]["per_class"], "c0": None}}
        for run in row("C", 0.3, 0.4, 0.35).runs
    ]
    c = Group("C", [Run(Path(), {"pgd20": summary}, facts={"seed": s}) for s, summary in enumerate(without)])
    assert difference(c, row("A", 0.3, 0.4, 0.35), "pgd20", "average") is None


def test_rows_of_different_data_sets_are_not_tested():
    for worst in ((0.3,), (0.3, 0.4), (0.3, 0.4, 0.35)):
        a, b = row("A", *worst), row("B", *worst)
        for group, name in ((a, "cifar10"), (b, "svhn")):
            for run in group.runs:
                run.data = (name, "None", "")
        assert difference(b, a, "pgd20", "average") is None and "data sets" in significance.compared(b, a, "pgd20")


def test_other_images_with_the_same_labels_are_not_paired():
    a, b = row("A", 0.3), row("B", 0.5)
    for group, pixels in ((a, "aaaa"), (b, "bbbb")):
        group.runs[0].verdicts["pgd20"] = group.runs[0].verdicts["pgd20"]._replace(pixels={"evaluate": pixels})
    assert difference(b, a, "pgd20", "worst") is None and "same order" in significance.compared(b, a, "pgd20")
    for pixels in ({}, {"evaluate": "aaaa"}, {"evaluate": "aaaa", "benchmark": "cccc"}):  # {}: a record of 0.1
        b.runs[0].verdicts["pgd20"] = b.runs[0].verdicts["pgd20"]._replace(pixels=pixels)
        assert difference(b, a, "pgd20", "worst").test == "paired"
    b.runs[0].verdicts["pgd20"] = b.runs[0].verdicts["pgd20"]._replace(pixels={"benchmark": "aaaa"})
    assert difference(b, a, "pgd20", "worst") is None and "evaluate it again" in significance.compared(b, a, "pgd20")


def test_of_three_seeds_those_alone_are_tested_that_both_rows_have():
    a, b = row("A", 0.3, 0.6, 0.5), row("B", 0.5, 0.5, 0.4)
    del b.runs[1].summaries["pgd20"]
    found = difference(b, a, "pgd20", "worst")
    assert found.test == "welch" and len(found.seeds) == 2 and found.difference == pytest.approx(np.mean(found.seeds))
    a, b = row("A", 0.3, 0.6), row("B", 0.5, 0.5)
    del a.runs[0].summaries["pgd20"], b.runs[1].summaries["pgd20"]
    assert difference(b, a, "pgd20", "worst") is None and "no seed" in significance.compared(b, a, "pgd20")
    assert significance._cell(b, a, "pgd20", "worst")["difference"] is None


def test_attacks_of_another_strength_are_not_tested():
    a, b = row("A", 0.3), row("B", 0.5)
    a.runs[0].titles["pgd20"], b.runs[0].titles["pgd20"] = "PGD-20", "PGD-20, 1 step"
    assert difference(b, a, "pgd20", "worst") is None and "settings of the attack" in significance.compared(b, a, "pgd20")


def test_a_seed_that_was_not_evaluated_yet_is_left_out_of_both_rows_and_said():
    a, b = row("A", 0.3, 0.6), row("B", 0.5, 0.5)
    alone = difference(row("B", 0.5), row("A", 0.3), "pgd20", "worst")
    for part in (b.runs[1].summaries, b.runs[1].verdicts):
        del part["pgd20"]
    b.runs[1].summaries["clean"] = a.runs[1].summaries["clean"] = a.runs[1].summaries["pgd20"]
    report = report_of([a, b])
    found = against(report)["B"][0]["pgd20"]["worst"]
    assert (found["difference"], found["p"], found["seeds"]) == (alone.difference, alone.p, [alone.difference])
    assert "B: PGD-20 was measured in 1 of its 2 runs, whose own interval is in its brackets." in report.notes
    del b.runs[0].verdicts["pgd20"]
    found = against(report)["B"][0]["pgd20"]["worst"]
    assert found["difference"] == pytest.approx(alone.difference) and found["test"] is None


def test_the_worst_10_percent_of_many_classes():
    rates = np.linspace(0.2, 0.9, 21)
    a, b = Group("A", [judged(rates, s) for s in range(3)]), Group("B", [judged(rates[::-1] ** 2, s) for s in range(3)])
    found = difference(b, a, "pgd20", "worst_10_percent")
    three = [
        np.sort([round(r * IMAGES) / IMAGES for r in values])[:3].mean() for values in (rates**2, rates)
    ]  # of 2.1 the ceiling
    assert found is None, "no seed differs from another, which leaves Welch nothing"
    found = against(report_of([a, b]))["B"][0]["pgd20"]["worst_10_percent"]
    assert found["difference"] == pytest.approx(three[0] - three[1]) and found["test"] is None and len(found["seeds"]) == 3


def test_every_row_with_a_control_has_its_differences():
    report = report_of([row("A", 0.3, 0.4), row("B", 0.5, 0.45), row("C", 0.5)])
    report.controls = {"B": ["A"], "C": ["B", "A"]}
    found = {r["label"]: r.get("against") for r in rows(report)}
    assert found["A"] is None and [[f["label"] for f in found[label]] for label in "BC"] == [["A"], ["B", "A"]]
    expected = difference(*report.groups[1::-1], "pgd20", "worst")
    assert found["B"][0]["pgd20"]["worst"] == {**expected._asdict(), "seeds": list(expected.seeds)}
    assert set(found["C"][0]["pgd20"]) == set(FIGURES)
    json.dumps(found, allow_nan=False)
    report.controls = {}
    assert [[f["label"] for f in r.get("against", ())] for r in rows(report)] == [[], ["A"], ["A"]]
    assert all("against" not in r for r in rows(report_of(report.groups[:1])))


@pytest.mark.parametrize("few_first", [True, False])
def test_a_row_of_one_seed_is_paired_with_the_same_seed_of_a_row_of_two(few_first):
    one, two = row("one", 0.5), row("two", 0.3, 0.7)
    alone = Group("two", two.runs[:1])
    a, b = (one, two) if few_first else (two, one)
    expected = difference(*((one, alone) if few_first else (alone, one)), "pgd20", "worst")
    assert expected is not None and difference(a, b, "pgd20", "worst") == expected
    report, both = report_of([b, a]), f"{a.label} and {b.label} are compared in the one seed that both have, 0."
    assert both in explained(report, rows(report))
    said = sentence(b, a, "pgd20", "PGD-20")
    assert "30.0 %" in said and "in seed 0, which both have" in said and "paired test" in said
    two.runs[0].verdicts.clear()
    assert difference(a, b, "pgd20", "worst") is None
    assert "two holds no predictions of single images" in sentence(b, a, "pgd20", "PGD-20")
    two.runs[0].summaries["cw20"] = two.runs[0].summaries.pop("pgd20")
    report = report_of([b, a])
    assert significance.compared(a, b, "pgd20") == "no seed has figures for it in both rows"
    assert both not in explained(report, rows(report))


def test_no_row_is_best_that_is_worse_in_the_one_seed_that_both_have():
    high, low = row("high", 0.3, 0.9), row("low", 0.5)
    assert difference(high, low, "pgd20", "worst").difference < 0 and best(report_of([low, high]), "pgd20", "worst") is None


def test_a_row_of_one_seed_is_not_paired_with_another_seed():
    a, b = row("A", 0.3, 0.4), Group("B", row("B", 0.1, 0.2, 0.5).runs[2:])
    why = "B has figures of 1 run and A of 2 runs: the test over seeds needs two or more of each"
    assert difference(b, a, "pgd20", "worst") is None and significance.compared(b, a, "pgd20") == why


def test_a_row_without_the_attack_has_no_difference_under_it():
    report = report_of([row("A", 0.3, 0.4), row("B", 0.5, 0.45)])
    for run in report.groups[1].runs:
        run.summaries["cw20"] = run.summaries["pgd20"]
    report = report_of(report.groups)
    assert set(against(report)["B"][0]) == {"label", "pgd20"} and report.robust == ["pgd20", "cw20"]


@pytest.mark.parametrize(
    "a, b, said",
    [
        ((0.3, 0.4), (0.5, 0.45), ["PAIRED", "PAIRED_SEEDS"]),
        ((0.3, 0.4, 0.35), (0.5, 0.45, 0.6), ["WELCH"]),
        ((0.3,), (0.5,), ["PAIRED"]),
    ],
)
def test_it_is_said_which_test_was_used(a, b, said):
    report = report_of([row("A", *a), row("B", *b)])
    assert explained(report, rows(report)) == [getattr(differences, name) for name in (*said, "FEW")]
    assert explained(report, []) == []


def test_results_of_the_same_images_in_another_order_say_why_they_are_not_tested():
    a, b = row("A", 0.3), row("B", 0.5)
    verdicts = b.runs[0].verdicts["pgd20"]
    b.runs[0].verdicts["pgd20"] = Verdicts(verdicts.image, verdicts.label[::-1], verdicts.predicted[::-1])
    report = report_of([a, b])
    why = "their images are not the same in the same order, as the paired test needs"
    assert not_tested(rows(report), report) == [f"Not tested: B against A under PGD-20; {why}."]


def test_what_two_seeds_cannot_show_and_classes_in_full_are_said():
    for part in ("these trained networks on other images", "say nothing about other trainings", "a third seed"):
        assert part in differences.PAIRED + differences.PAIRED_SEEDS
    report = report_of([row(name, 0.3, full=["c1"], few=6) for name in "ABC"])
    texts = [differences.PAIRED, differences.AMONG, differences.FEW, differences.MANY]
    assert explained(report, rows(report)) == texts


def test_the_reason_why_is_the_one_that_holds(make_run, tmp_path):
    """Of single runs it is never that there should be several; of one against several it is that alone."""

    def why(*words):
        a, b = gather([str(word) for word in words]).groups[:2]
        assert difference(b, a, "pgd20", "worst") is None
        return significance.compared(b, a, "pgd20")

    a, b, c = (f"{name}={make_run(name, (0.5, 0.3, 0.7), seed=k)}" for k, name in enumerate("abc"))
    assert why(a, b, f"a={c[2:]}") == "b has figures of 1 run and a of 2 runs: the test over seeds needs two or more of each"
    other = make_run("other", (0.5, 0.3, 0.7), images=50)
    assert why(a, f"o={other}") == "their images are not the same in the same order, as the paired test needs"
    (tmp_path / "b" / "samples.jsonl").unlink()
    assert why(a, b) == "b holds no predictions of single images for it"
    four = make_run("four", (0.5, 0.3, 0.7, 0.5), names=("cat", "dog", "fox", "owl"))
    assert why(a, f"f={four}") == "the rows have different classes"
    assert why(a, f"e={make_run('eps', (0.5, 0.3, 0.7), attack={'norm': 'linf', 'eps': 0.1})}") == "e has no figures for it"
    words = [f"{label}={make_run(f'{label}{k}', (0.5, 0.3, 0.7), seed=k)}" for label in "xy" for k in range(2)]
    for word in words:
        (Path(word[2:]) / "samples.jsonl").unlink()
    assert why(*words) == "the figure is the same in all runs of each row"


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(
    "folders, pixels, tested",
    [
        (("/easy", "/easy"), (None, None), True),
        (("/easy", "/hard"), (None, None), False),
        (("/easy", "/hard"), ("aaaa", "bbbb"), False),
        (("/easy", "/moved"), ("aaaa", "aaaa"), True),
        (("/easy", "/easy"), ("aaaa", "bbbb"), False),
        (("", ""), ("aaaa", "bbbb"), None),
        ((None, None), ("aaaa", "bbbb"), False),
        ((None, "/easy"), (None, None), True),
    ],
)
def test_rows_on_other_images_of_a_folder_are_tested_over_no_seeds(seeds, folders, pixels, tested):
    rows = row("A", *(0.3, 0.4, 0.35)[:seeds]), row("B", *(0.5, 0.45, 0.6)[:seeds])
    for group, folder, print_ in zip(rows, folders, pixels, strict=True):
        for run in group.runs:
            run.data = None if folder is None else ("folder", "None", folder)
            run.verdicts["pgd20"] = run.verdicts["pgd20"]._replace(pixels={"evaluate": print_} if print_ else {})
    tested = seeds > 1 if tested is None else tested  # a known set: other images of it are not paired, and are tested over seeds
    assert (difference(*rows, "pgd20", "worst") is not None) == tested
    assert tested or "same order" in significance.compared(*rows, "pgd20")
