import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import judge, old_metrics

from fairat_lightning.record import journal as samples
from fairat_lightning.report.runs import Group, Run, Verdicts, read_run, verdicts_of


def test_everything_in_a_folder_is_read(full_run):
    run = read_run(full_run)
    assert list(run.summaries) == ["clean", "pgd20", "cw20", "pgd20@0.01", "pgd20@0.02"]
    assert run.curves == {"linf": {0.01: "pgd20@0.01", 0.02: "pgd20@0.02"}} and run.titles == {"pgd20@0.01": "PGD-20 at 0.01"}
    assert run.threats["pgd20"] == ("linf", round(8 / 255, 9)) and run.threats["clean"] is None
    assert [check["passed"] for check in run.checks] == [False, None]
    assert len(run.history) == 4 and run.history[0]["val/robust_worst"] == 0.3
    assert "train/augmented_class/fox" not in run.history[0]  # an empty cell
    assert run.hardest is not None and run.hardest.pixels.shape == (5, 3, 8, 8)
    assert any("autoattack is not finished" in note for note in run.notes)
    verdicts = run.verdicts["pgd20"]
    assert (verdicts.label == verdicts.predicted).mean() == pytest.approx(0.5)


def test_an_old_record_is_enough(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps(old_metrics(0.5, None, 0.7)))
    run = read_run(tmp_path)
    assert run.summaries["pgd20"]["worst"] == 0.5 and run.verdicts == {} and run.config is None and run.facts == {}


def test_an_audited_model_has_an_evaluation_only(tmp_path):
    judge(tmp_path / "evaluation" / "quick", {"clean": (0.9, 0.8, 0.9), "fgsm": (0.5, 0.4, 0.3)})
    (tmp_path / "evaluation" / "quick" / "run.json").write_text(json.dumps({"headline": ["clean", "fgsm"]}))
    run = read_run(tmp_path)
    assert run.headline == ["clean", "fgsm"] and run.audits["quick"]["headline"]


@pytest.mark.parametrize("images, worst, shown", [(100, 0.2, 0.2), (100, 0.4, 0.3), (200, 0.4, 0.4), (50, 0.2, 0.3)])
def test_of_a_test_and_an_evaluation_the_one_of_more_images_is_shown_and_of_as_many_the_lower(make_run, images, worst, shown):
    folder = make_run("run", (0.5, 0.3, 0.7))
    judge(folder / "evaluation" / "again", {"pgd20": (0.5, worst, 0.7)}, images)
    run = read_run(folder)
    assert run.summaries["pgd20"]["worst"] == pytest.approx(shown)
    right = run.verdicts["pgd20"].label == run.verdicts["pgd20"].predicted
    assert right[run.verdicts["pgd20"].label == 1].mean() == pytest.approx(shown)


@pytest.mark.parametrize(
    "load, root, shown, said",
    [
        ("fairat_lightning.data.sets.cifar10", "elsewhere", 0.2, None),
        ("fairat_lightning.data.sets.digits", "here", 0.3, "of another data set"),
        ("fairat_lightning.data.sets.folder", "here", 0.2, None),
        ("fairat_lightning.data.sets.folder", "elsewhere", 0.2, "was not checked"),
    ],
)
def test_an_evaluation_of_other_data_does_not_replace_the_test_silently(make_run, load, root, shown, said):
    own = load if "digits" not in load else "fairat_lightning.data.sets.cifar10"
    folder = make_run("run", (0.5, 0.3, 0.7), data={"load": {"_target_": own}, "root": "here"})
    judge(place := folder / "evaluation" / "other", {"pgd20": (0.5, 0.2, 0.7)})
    (place / "config.yaml").write_text(f"data: {{load: {{_target_: {load}}}, root: {root}}}\n")
    run = read_run(folder)
    assert run.summaries["pgd20"]["worst"] == pytest.approx(shown)
    assert [note for note in run.notes if said and said in note] if said else run.notes == []


def test_the_title_is_that_of_the_figures_which_are_shown(make_run):
    folder = make_run("run", (0.5, 0.3, 0.7))
    for name, images, title in (("apgd", 200, "one target"), ("wide", 100, "three targets")):
        judge(folder / "evaluation" / name, {"apgd": (0.6, 0.4, 0.8)}, images)
        (folder / "evaluation" / name / "run.json").write_text(json.dumps({"titles": {"apgd": title}}))
    run = read_run(folder)
    assert (run.titles["apgd"], sum(run.summaries["apgd"]["counts"].values())) == ("one target", 600)


def test_a_training_that_collapsed_says_so_in_every_report(make_run):
    folder = make_run("run", (0.5, 0.3, 0.7))
    facts = json.loads((folder / "run.json").read_text())
    assert not any("collapsed" in note for note in read_run(folder).notes)
    (folder / "run.json").write_text(json.dumps(facts | {"collapsed_epoch": 4}))
    assert any("collapsed in epoch 5" in note for note in read_run(folder).notes)


def test_another_threat_model_stands_beside(make_run):
    folder = make_run("run", (0.5, 0.3, 0.7))
    judge(folder / "evaluation" / "far", {"pgd20": (0.1, 0.1, 0.1)}, 200)
    (folder / "evaluation" / "far" / "run.json").write_text(json.dumps({"threat": {"norm": "linf", "eps": 0.1}}))
    run = read_run(folder)
    assert run.summaries["pgd20"]["worst"] == pytest.approx(0.3)
    assert run.summaries["pgd20@linf_0.1"]["worst"] == pytest.approx(0.1) and run.threats["pgd20@linf_0.1"] == ("linf", 0.1)


def test_two_sweeps_are_one_curve_for_each_norm(make_run):
    folder = make_run("run", (0.5, 0.3, 0.7))
    for name, norm, eps in (("one", "linf", (0.0, 0.1)), ("two", "linf", (0.1, 0.3)), ("three", "l2", (0.1, 1.0))):
        keys = [f"pgd20@{value:.4g}" for value in eps]
        judge(folder / "evaluation" / name, dict.fromkeys(keys, (0.4, 0.2, 0.6)))
        facts = {"threat": {"norm": norm, "eps": 0.1}, "curve": {"eps": eps, "keys": keys}, "suite": "sweep"}
        (folder / "evaluation" / name / "run.json").write_text(json.dumps(facts))
    run = read_run(folder)
    assert run.curves["linf"] == {0.0: "pgd20@0", 0.1: run.curves["linf"][0.1], 0.3: "pgd20@0.3"}
    assert run.curves["l2"].keys() == {0.1, 1.0} and run.curves["l2"][0.1] != run.curves["linf"][0.1]
    assert {run.threats[key] for curve in run.curves.values() for key in curve.values()} == {
        *(("linf", 0.0), ("linf", 0.1), ("linf", 0.3), ("l2", 0.1), ("l2", 1.0)),
    }


def test_verdicts_of_the_last_stage_are_what_survived_all():
    label = np.array([0, 0, 1, 1])
    stages = {
        "clean": Verdicts(np.arange(4), label, np.array([0, 0, 1, 1])),
        "first": Verdicts(np.arange(4), label, np.array([1, 0, 1, 1])),
        "second": Verdicts(np.array([1, 2, 3]), label[1:], np.array([0, 0, 1])),  # the survivors only
    }
    for key in ("second", "whole"):
        found = verdicts_of(key, {"per_class": {"a": 0.5, "b": 0.5}}, stages)
        assert found is not None and found.predicted.tolist() == [1, 0, 0, 1]
    stages["clean"] = Verdicts(np.arange(5), np.array([0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 0]))  # one is wrong without attack
    found = verdicts_of("whole", {"per_class": {"a": 0.5, "b": 1 / 3}}, stages)
    assert found is not None and found.image.tolist() == [0, 1, 2, 3, 4] and found.predicted.tolist() == [1, 0, 0, 1, 0]
    assert verdicts_of("second", {"per_class": {"a": 0.4, "b": 0.5}}, stages) is None  # of something else
    assert verdicts_of("clean", {"per_class": {"a": 1.0, "b": 2 / 3}}, stages) is stages["clean"]
    assert verdicts_of("clean", {"per_class": {"a": 1.0}}, stages) is None


def test_verdicts_that_contradict_the_figures_are_not_used(make_run):
    folder = make_run("run", (0.5, 0.3, 0.7))
    _, batches = samples.read(folder / "samples.jsonl")
    half = [replace(batch, predicted=[0] * 300) for batch in batches]
    samples.write(folder / "samples.jsonl", {}, half)
    run = read_run(folder)
    assert run.verdicts == {} and "samples.jsonl is incomplete" in run.notes[0]


@pytest.mark.parametrize(
    "name, content",
    [
        ("metrics.json", "{"),
        ("metrics.json", "[]"),
        ("metrics.json", '{"pgd20": {"average": 50, "worst": 20, "worst_class": "a", "per_class": {"a": 20}}}'),
        ("metrics.json", '{"pgd20": {"average": "x", "worst": 0.2, "worst_class": "a", "per_class": {"a": 0.2}}}'),
        ("run.json", "["),
        ("config.yaml", "a: [\n b"),
        ("history.csv", "epoch,val/robust\n0,many\n"),
        ("history.csv", 'a,b,"c'),
        ("metrics.json", '{"pgd20": {"average": 1, "worst": 1, "worst_class": "a", "per_class": {"a": 1}, "figures": "x"}}'),
        (
            "metrics.json",
            '{"pgd20": {"average": 1, "worst": 1, "worst_class": "a", "per_class": {"a": 1}, "interval": {"worst": 1}}}',
        ),
        ("hardest.npz", "PK not a zip"),
        ("samples.jsonl", "damaged\n"),
        ("run.json", '{"checks": ["x"]}'),
        ("run.json", '{"curve": {"eps": [1], "keys": []}}'),
    ],
)
def test_a_damaged_file_is_one_line_with_its_path(make_run, name, content):
    folder = make_run("run", (0.5, 0.3, 0.7))
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=name) as caught:
        read_run(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_finished_part_is_refused(tmp_path):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("suite: {suite: quick}\ncheckpoint: a.pt\n")
    for folder, why in (
        (tmp_path / "begun", "not finished.* continue it with the command that began it$"),
        (tmp_path / "begun/config.yaml", "it is a file"),
        (tmp_path / "no", "no such"),
    ):
        with pytest.raises(ValueError, match=why):
            read_run(folder)
    with pytest.raises(ValueError, match="holds no finished run"):
        read_run(tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match="not a run's metrics.json"):
        read_run(tmp_path)


def test_where_a_network_is_right_on_nothing_the_verdicts_are_those_of_all_images():
    """The images that were right before the attack have the same class accuracies, all 0."""
    label = np.repeat([0, 1], 3)
    clean = Verdicts(np.arange(6), label, np.array([0, 0, 1, 1, 1, 0]))
    right = np.flatnonzero(clean.predicted == label)
    stages = {"clean": clean, "apgd_ce": Verdicts(right, label[right], 1 - label[right])}
    summary = {"per_class": {"a": 0.0, "b": 0.0}, "counts": {"a": 3, "b": 3}}
    for key in ("apgd_ce", "apgd"):
        assert len(verdicts_of(key, summary, stages).image) == 6
    assert len(verdicts_of("apgd_ce", {"per_class": summary["per_class"]}, stages).image) == 4, "a record of 0.1 counts no images"


def test_of_two_evaluations_of_as_many_images_the_lower_figures_are_shown(make_run):
    folder = make_run("run", (0.5, 0.3, 0.7))
    for name, worst, title in (("apgd", 0.2, "nine targets"), ("apgd-3", 0.25, "three targets")):
        judge(folder / "evaluation" / name, {"apgd": (0.6, worst, 0.8)})
        (folder / "evaluation" / name / "run.json").write_text(json.dumps({"titles": {"apgd": title}}))
    run = read_run(folder)
    assert (run.titles["apgd"], run.summaries["apgd"]["worst"]) == ("nine targets", pytest.approx(0.2))


def test_corruptions_have_no_eps(make_run):
    folder = make_run("run", (0.5, 0.3, 0.7))
    place = folder / "evaluation" / "corruptions"
    judge(place, {"clean": (0.9, 0.8, 0.9), "fog": (0.6, 0.4, 0.8), "corruptions": (0.6, 0.4, 0.8)})
    (place / "run.json").write_text(json.dumps({"threat": {"norm": "linf", "eps": 8 / 255}}))
    assert {read_run(folder).threats[key] for key in ("clean", "fog", "corruptions")} == {None}


def test_the_worst_tenth_of_a_record_is_sought_where_its_worst_class_is(make_run):
    """Records of 0.2 hold the worst 10 % of all classes beside a worst class among some."""
    summary = read_run(make_run("run", (0.5, 0.3, 0.7))).summaries["pgd20"]
    old = {**summary, "worst": 0.5, "worst_of": ["cat", "fox"], "figures": {"worst_10_percent": 0.3}}
    assert Group("A", [Run(Path(), {"pgd20": old})]).values("pgd20", "worst_10_percent") == [0.5]
