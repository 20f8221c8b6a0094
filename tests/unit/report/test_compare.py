import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import old_metrics, seeds
from scipy import stats

from fairat_lightning import bootstrap, metrics
from fairat_lightning.report import figures, tables
from fairat_lightning.report.compare import (
    against_controls,
    best,
    bias_note,
    cell,
    difference,
    headline,
    mean_of,
    rows,
    worst_first,
)
from fairat_lightning.report.differences import explained
from fairat_lightning.report.groups import gather, report_of
from fairat_lightning.report.runs import Group, Run, Verdicts, read_run


def test_mean_deviation_and_interval_are_those_of_scipy(make_run):
    (group,) = gather(seeds(make_run, "A", (0.3, 0.35, 0.45, 0.28))).groups
    found, values = cell(group, "pgd20", "worst"), [0.3, 0.35, 0.45, 0.28]
    assert found["values"] == pytest.approx(values) and found["mean"] == pytest.approx(np.mean(values))
    assert found["std"] == pytest.approx(np.std(values, ddof=1))
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found["low"], found["high"]) == pytest.approx(expected)


def test_one_run_has_the_interval_of_its_record(make_run):
    (group,) = gather(seeds(make_run, "A", (0.3,))).groups
    found = cell(group, "pgd20", "worst")
    assert found["std"] is None and [found["low"], found["high"]] == group.runs[0].summaries["pgd20"]["interval"]["worst"]
    assert cell(group, "nothing", "worst") == {"mean": None, "std": None, "values": [None]}


def test_seeds_are_compared_by_welch(make_run):
    a, b = (0.3, 0.35, 0.32), (0.5, 0.47, 0.55, 0.51)
    report = gather(seeds(make_run, "A", a) + seeds(make_run, "B", b))
    found = difference(report.groups[1], report.groups[0], "pgd20", "worst")
    assert found.p == pytest.approx(stats.ttest_ind(b, a, equal_var=False).pvalue)
    assert found.difference == pytest.approx(np.mean(b) - np.mean(a)) and found.low < found.difference < found.high
    assert best(report, "pgd20", "worst") is report.groups[1]


def test_single_runs_are_compared_on_the_same_images(make_run):
    report = gather(seeds(make_run, "A", (0.3,)) + seeds(make_run, "B", (0.55,)))
    a, b = report.groups
    first, second = a.runs[0].verdicts["pgd20"], b.runs[0].verdicts["pgd20"]
    right = [v.label == v.predicted for v in (first, second)]
    assert difference(b, a, "pgd20", "worst") == bootstrap.compare(right[1], right[0], first.label, "worst")
    assert best(report, "pgd20", "worst") is b
    b.runs[0].verdicts["pgd20"] = second._replace(image=second.image + 1)
    assert difference(b, a, "pgd20", "worst") is None and best(report, "pgd20", "worst") is None


@pytest.mark.parametrize(
    "a, b",
    [
        ((0.3, 0.5, 0.4), (0.35, 0.55, 0.42)),  # within the noise of the seeds
        ((0.3,), (0.34,)),  # within the noise of the images
        ((0.3, 0.3, 0.3), (0.9, 0.9, 0.9)),  # no deviation to test with
    ],
)
def test_nothing_is_best_that_is_not_significant(make_run, a, b):
    report = gather(seeds(make_run, "A", a) + seeds(make_run, "B", b))
    assert best(report, "pgd20", "worst") is None
    assert not any("best" in value for row in rows(report) for value in row.values() if isinstance(value, dict))


def test_the_best_must_beat_every_other_row(make_run):
    low, close, high = (0.3, 0.31, 0.32), (0.5, 0.52, 0.54), (0.53, 0.55, 0.54)
    words = seeds(make_run, "A", low) + seeds(make_run, "B", close) + seeds(make_run, "C", high)
    report = gather(words)
    assert difference(report.groups[2], report.groups[0], "pgd20", "worst").p < 0.05
    assert best(report, "pgd20", "worst") is None
    assert best(gather(words[:3] + words[6:]), "pgd20", "worst").label == "C"
    assert best(gather(words[:3]), "pgd20", "worst") is None  # alone


def test_other_threat_models_and_old_records_are_not_tested(make_run, tmp_path):
    report = gather(seeds(make_run, "A", (0.3,)) + seeds(make_run, "B", (0.6,), attack={"norm": "linf", "eps": 0.1}))
    assert difference(*report.groups, "pgd20", "worst") is None and difference(*report.groups, "clean", "worst") is not None
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "metrics.json").write_text(json.dumps(old_metrics(0.9, 0.9, 0.9)))
    report = gather([*seeds(make_run, "C", (0.3,)), str(tmp_path / "old")])
    assert difference(*report.groups, "pgd20", "worst") is None
    assert headline(report)[0].startswith("Not tested: ") and "+60.0 points" in headline(report)[0] and len(headline(report)) == 2
    assert all(text.endswith("old holds no predictions of single images for it.") for text in headline(report))


def test_two_rows_are_compared_in_plain_words(make_run):
    report = gather(seeds(make_run, "A", (0.3,)) + seeds(make_run, "B", (0.55,)))
    pgd, cw = headline(report)
    assert pgd.startswith("B raises the weakest class (dog) from 30.0 % with A to 55.0 % under PGD-20") and "p < .001" in pgd
    assert ", and gains 8.3 points on average" in pgd and "CW-20" in cw
    swapped = gather(seeds(make_run, "B", (0.55,)) + seeds(make_run, "A", (0.3,)))
    assert headline(swapped)[0].startswith("A lowers the weakest class (dog) from 55.0 % with B to 30.0 % under PGD-20")
    same = gather(seeds(make_run, "A", (0.3,)) + seeds(make_run, "C", (0.33,)))
    assert headline(same)[0].startswith("No difference could be shown between C and A in the weakest class (dog) under PGD-20: ")
    same.main = "cw20"
    assert [text.partition("under ")[2][:6] for text in headline(same)] == ["CW-20:", "PGD-20"], "the main attack comes first"


def test_rows_of_other_classes_or_without_a_shared_attack_are_said_to_be_so_once(make_run):
    """Not once for each attack, and with what there is to say of each row by itself."""
    a, b = make_run("a", (0.5, 0.3, 0.7)), make_run("b", (0.5, 0.4, 0.7, 0.6), names=("cat", "dog", "fox", "owl"))
    report = gather([f"A={a}", f"B={b}"])
    assert [text.partition(":")[0] for text in headline(report)] == ["A under PGD-20", "B under PGD-20"]
    assert explained(report, rows(report)) == [] and "against" not in rows(report)[1] and len(report.notes) == 1
    report = gather([f"A={a}", f"B={b}", f"C={make_run('c', (0.5, 0.5, 0.7))}"])
    assert len(against_controls(report)) == 1 and "B" not in against_controls(report)[0]
    (said,) = headline(gather([f"A={a}", *seeds(make_run, "D", (0.3,), attack={"norm": "linf", "eps": 0.1})]))
    assert said == "Not tested: whether D is fairer than A; they share no attack of the same norm and eps."


def test_two_seeds_of_each_are_claimed_by_the_paired_test(make_run):
    """Welch's test finds nothing in these four numbers; the same images do."""
    report = gather(seeds(make_run, "A", (0.3, 0.5)) + seeds(make_run, "B", (0.55, 0.62)))
    a, b = ([run.verdicts["pgd20"] for run in group.runs] for group in report.groups)
    right = [[v.predicted == v.label for v in row] for row in (b, a)]
    found = bootstrap.compare(*right, a[0].label, "worst")
    assert stats.ttest_ind((0.55, 0.6), (0.3, 0.5), equal_var=False).pvalue > 0.05 > found.p
    low, high = (f"{100 * end:.1f}" for end in (found.low, found.high))
    expected = f"to 57.5 % under PGD-20 (95 % interval of the gain {low} to {high} points, p < .001, paired test of the"
    assert expected in headline(report)[0] and best(report, "pgd20", "worst").label == "B"


def test_one_row_and_many_have_a_headline_too(make_run):
    one = gather(seeds(make_run, "A", (0.3,)))
    assert headline(one)[0].endswith("30.0 % in its worst class, dog.") and against_controls(one) == []
    words = seeds(make_run, "A", (0.3, 0.31)) + seeds(make_run, "B", (0.32, 0.31)) + seeds(make_run, "C", (0.5, 0.51))
    assert headline(gather(words))[0].startswith("C has the best worst class under PGD-20: 50.5 %")
    assert against_controls(gather(words))[1].startswith("C raises the weakest class (dog) from 30.5 % with A to 50.5 %")
    assert headline(gather(words[:4] + seeds(make_run, "D", (0.3, 0.32))))[0].startswith("No row's worst class")


def test_rows_hold_every_figure_and_rho(make_run):
    report = gather(seeds(make_run, "A", (0.3, 0.4)) + seeds(make_run, "B", (0.5, 0.6)))
    a, b = rows(report)
    for name in ("clean_worst", "cw20_average", "pgd20_gap", "pgd20_nsd", "pgd20_worst_10_percent", "pgd20_worst_bias"):
        assert len(a[name]["values"]) == 2 and a[name]["mean"] is not None
    expected = metrics.rho(
        b["pgd20_worst"]["mean"], b["pgd20_average"]["mean"], a["pgd20_worst"]["mean"], a["pgd20_average"]["mean"]
    )
    assert b["pgd20_rho"]["mean"] == pytest.approx(expected) and a["pgd20_rho"]["mean"] == 0
    json.dumps(rows(report), allow_nan=False)


def test_the_bias_of_the_minimum_is_said(make_run, tmp_path):
    report = gather([str(make_run("a", (0.4, 0.4, 0.4), images=20))])
    bias = report.groups[0].runs[0].summaries["pgd20"]["worst_bias"]
    assert bias < -0.03 and f"an estimated {-100 * bias:.1f} points" in bias_note(report)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "metrics.json").write_text(json.dumps(old_metrics(0.9, 0.9, 0.9)))
    assert bias_note(gather([str(tmp_path / "old")])) is None


def test_the_mean_over_seeds_keeps_absent_classes(tmp_path):
    for k, values in enumerate([(0.5, 0.6, None), (0.3, 0.8, None)]):
        (tmp_path / str(k)).mkdir()
        (tmp_path / str(k) / "metrics.json").write_text(json.dumps(old_metrics(*values)))
    (group,) = gather([f"A={tmp_path / '0'}", f"A={tmp_path / '1'}"]).groups
    merged = mean_of(group)["pgd20"]
    assert merged["per_class"] == {"cat": pytest.approx(0.4), "dog": pytest.approx(0.7), "fox": None}
    assert merged["worst"] == pytest.approx(0.4) and merged["worst_class"] == "cat"
    assert read_run(tmp_path / "0").summaries["pgd20"]["per_class"]["fox"] is None


def of_many_classes(label, tenth, seed=0):
    """A row of 30 classes, the three weakest of this accuracy, and the weakest of all at 0."""
    rates = np.linspace(0.7, 0.9, 30)
    rates[:3] = [0.0, 1.5 * tenth, 1.5 * tenth]
    generator = np.random.default_rng([seed, int(100 * tenth)])
    y = np.repeat(np.arange(30), 50)
    right = np.concatenate([generator.permutation(50) < round(50 * rate) for rate in rates])
    predicted = np.where(right, y, (y + 1) % 30)
    names = [f"c{k}" for k in range(30)]
    found = metrics.summary(metrics.confusion_matrix(torch.tensor(y), torch.tensor(predicted), 30), names)
    verdicts = {"pgd20": Verdicts(np.arange(len(y)), y, predicted)}
    return Group(label, [Run(Path(), {"pgd20": found}, verdicts, {"pgd20": ("linf", 0.03)}, facts={"seed": seed})])


def test_of_many_classes_the_weakest_tenth_is_compared_and_not_the_one_without_luck():
    report = report_of([of_many_classes("A", 0.1), of_many_classes("B", 0.4), of_many_classes("C", 0.2)])
    assert report.lowest == "worst_10_percent"
    assert headline(report)[0].startswith("B has the best worst 10 % of the classes under PGD-20: 40.0 %, better than every")
    assert "C raises the worst 10 % of the classes from 10.7 % with A to 20.0 % under PGD-20" in against_controls(report)[1]
    found = rows(report)
    assert found[1]["pgd20_worst_10_percent"]["best"] and "best" not in found[1]["pgd20_worst"]
    assert [row["label"] for row in worst_first(report, found)] == ["B", "C", "A"]
    assert [title for _, _, title in tables.columns(report)] == ["PGD-20 average", "PGD-20 worst 10 %"]
    assert headline(report_of(report.groups[:1])) == [
        "A under PGD-20: 74.0 % of the images right, averaged over the classes, and 10.7 % in its worst 10 % of the classes."
    ]
    bare = of_many_classes("D", 0.1)
    bare.runs[0].summaries["clean"] = bare.runs[0].summaries.pop("pgd20")
    for groups in ([*report.groups, bare], [*report.groups, *report.groups[:1], bare]):  # the last has not met the attack
        mixed = report_of(groups)
        assert rows(mixed)[-1]["pgd20_worst_10_percent"]["mean"] is None
        assert figures.row_points(rows(mixed), mixed.main, "PGD-20", mixed.lowest).axes
    for group in report.groups:  # of an export's card
        del group.runs[0].summaries["pgd20"]["figures"]["worst_10_percent"]
    assert report_of(report.groups).lowest == "worst"


def test_an_attack_on_some_classes_alone_is_not_the_main_one_where_another_met_all():
    groups = [of_many_classes("A", 0.1), of_many_classes("B", 0.3)]
    for group in groups:
        summary = group.runs[0].summaries["pgd20"]
        some = {name: rate if k < 5 else None for k, (name, rate) in enumerate(summary["per_class"].items())}
        group.runs[0].summaries["apgd"] = {**summary, "per_class": some}
        group.runs[0].headline = ["apgd"]
    assert report_of(groups).main == "pgd20"
    for group in groups:
        del group.runs[0].summaries["pgd20"]
    assert report_of(groups).main == "apgd"


def test_rho_is_against_a_control_of_the_same_classes_or_missing(make_run):
    a, b, c = make_run("a", (0.5, 0.3, 0.7)), make_run("b", (0.5, 0.4, 0.7)), make_run("c", (0.5, 0.6), names=("x", "y"))
    report = gather([f"A={a}", f"B={b}", f"C={c}"])
    found = [row.get("pgd20_rho", {}).get("mean") for row in rows(report)]
    assert found[:2] == [0.0, pytest.approx(metrics.rho(0.4, 1.6 / 3, 0.3, 0.5))] and found[2] is None
    report.controls = {"B": ["Z"]}
    assert all("pgd20_rho" not in row for row in rows(report))
