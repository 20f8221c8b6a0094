import json
import shutil

import pytest
from helpers import judge

from fairat_lightning.report.compare import against_controls, difference
from fairat_lightning.report.folders import split
from fairat_lightning.report.groups import gather, report_of

FAAL = {"_target_": "fairat_lightning.methods.FAAL", "radius": 0.1}


def labels(report):
    return [(group.label, len(group.runs)) for group in report.groups]


def test_seeds_of_one_configuration_are_one_row(make_run):
    folders = [make_run(f"r{s}", (0.5, 0.3, 0.7), seed=s) for s in range(3)]
    folders += [make_run(f"f{s}", (0.5, 0.4, 0.7), seed=s, method=FAAL) for s in range(2)]
    assert labels(gather([str(f) for f in folders])) == [("PGD-AT", 3), ("FAAL", 2)]


def test_seeds_on_other_machines_and_dashboards_are_one_row(make_run):
    """The folder of an official set, where images are kept, devices and loggers part no seeds; the folder of own images does."""
    cifar = {"_target_": "fairat_lightning.data.DataModule", "load": {"_target_": "fairat_lightning.data.sets.cifar10"}}
    others = [
        {"logger": {"wandb": {"_target_": "x", "group": "a"}}, "save_minutes": 3, "allow": ["mine."]},
        {"trainer": {"devices": 2, "enable_progress_bar": False}, "data": {**cifar, "root": "there", "in_memory": False}},
        {"trainer": {}, "data": {**cifar, "root": None}, "logger": {}},
    ]
    own = [{"data": {"load": {"_target_": "fairat_lightning.data.sets.folder"}, "root": root}} for root in "ab"]
    base = {"trainer": {}, "data": cifar | {"root": "here"}}
    folders = [make_run(f"r{s}", (0.5, 0.3, 0.7), seed=s, **(base | more)) for s, more in enumerate(others)]
    assert labels(gather([str(f) for f in folders])) == [("PGD-AT", 3)]
    folders = [make_run(f"o{s}", (0.5, 0.3, 0.7), seed=s, **more) for s, more in enumerate(own)]
    assert [runs for _, runs in labels(gather([str(f) for f in folders]))] == [1, 1]


def test_runs_from_bases_of_different_methods_are_rows_of_their_own(make_run):
    bases = [make_run(f"base{s}", (0.5, 0.3, 0.7), seed=s, method=FAAL if s == 2 else {}) for s in range(3)]
    folders = [make_run(f"r{s}", (0.5, 0.3, 0.7), seed=s, init_from=str(base)) for s, base in enumerate(bases)]
    assert [runs for _, runs in labels(gather([str(f) for f in folders]))] == [2, 1]
    taught = [make_run(f"t{s}", (0.5, 0.3, 0.7), seed=s, method={"teacher": str(base)}) for s, base in enumerate(bases)]
    assert [runs for _, runs in labels(gather([str(f) for f in taught]))] == [2, 1]
    shutil.rmtree(bases[1])  # what cannot be known parts no rows
    assert [runs for _, runs in labels(gather([str(f) for f in folders]))] == [3]


def test_rows_of_one_method_are_told_apart_by_what_differs(make_run):
    folders = [make_run(f"f{r}", (0.5, 0.4, 0.7), method={**FAAL, "radius": r}) for r in (0.1, 0.5)]
    folders.append(make_run("t", (0.5, 0.4, 0.7), method=FAAL, objective={"_target_": "fairat_lightning.objectives.TRADES"}))
    folders.append(make_run("a", (0.5, 0.4, 0.7), awp={"_target_": "fairat_lightning.awp.AWP"}))
    found = [label for label, _ in labels(gather([str(f) for f in folders]))]
    assert found == ["FAAL, radius 0.1", "FAAL, radius 0.5", "FAAL, TRADES", "PGD-AT, AWP"]


def test_labels_group_whatever_they_are_given(make_run):
    a, b, c = (make_run(name, (0.5, 0.3, 0.7), seed=k) for k, name in enumerate("abc"))
    assert labels(gather([f"X={a}", f"X={b}", str(c)])) == [("X", 2), ("PGD-AT", 1)]
    assert labels(gather([f"PGD-AT={a}", str(b)])) == [("PGD-AT", 1), ("b", 1)]


def test_without_a_configuration_the_folder_names_the_row(tmp_path):
    for name in ("one/net", "two/net"):
        judge(tmp_path / name / "evaluation" / "quick", {"clean": (0.9, 0.8, 0.9), "fgsm": (0.5, 0.4, 0.3)})
    report = gather([str(tmp_path / "one/net"), str(tmp_path / "two/net")])
    assert labels(report) == [("net", 1), (str(tmp_path / "two/net"), 1)]
    assert report.keys == ["clean", "fgsm"] and report.main == "fgsm"


def test_split_knows_a_folder_with_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "radius=0.1").mkdir()
    assert split("radius=0.1")[0] is None
    assert split("FAAL, r=1=radius=0.1") == ("FAAL, r=1", split("radius=0.1")[1])
    assert split("A=nowhere")[0] == "A"
    with pytest.raises(ValueError, match="empty or unprintable label"):
        split("=radius=0.1")


def test_what_does_not_compare_is_said(make_run):
    a = make_run("a", (0.5, 0.3, 0.7))
    b = make_run("b", (0.5, 0.3, 0.7), attack={"norm": "linf", "eps": 0.1}, images=50)
    c = make_run("c", (0.5, 0.3, 0.7, 0.5), names=("cat", "dog", "fox", "owl"))
    assert gather([f"A={a}", f"B={b}", f"C={c}"]).notes == [
        "C has other classes than A: figures of different classes are not compared.",
        "Measured under several threat models, with columns for each: PGD-20, CW-20.",
        "clean was measured on 150 images in some runs and on 300 in others.",
    ]
    d = make_run("d", (0.5, 0.3, 0.7), images=50)
    notes = gather([f"A={a}", f"D={d}"]).notes
    assert notes == ["clean, PGD-20, CW-20 were measured on 150 images in some runs and on 300 in others."]


def test_one_attack_under_several_eps_has_a_column_for_each(make_run):
    """The one that both rows met stands in one column, in whichever order their own tests and evaluations met it."""
    a = make_run("a", (0.5, 0.3, 0.7))
    b = make_run("b", (0.5, 0.2, 0.7), attack={"norm": "linf", "eps": 0.1})
    for folder, eps, worst in ((a, 0.1, 0.1), (b, 8 / 255, 0.4), (a, 0.5, 0.0)):
        place = folder / "evaluation" / f"at{eps:.2g}"
        judge(place, {"clean": (0.7, 0.6, 0.7), "pgd20": (0.4, worst, 0.6)})
        facts = {
            "threat": {"norm": "linf" if eps < 0.2 else "l2", "eps": eps},
            "titles": {"pgd20": "PGD-20"},
            "headline": ["pgd20"],
        }
        (place / "run.json").write_text(json.dumps(facts | {"suite": "quick"}))
    report = gather([f"A={a}", f"B={b}"])
    keys = ["pgd20", "pgd20@linf_0.1", "pgd20@l2_0.5"]
    assert [key for key in report.keys if key.startswith("pgd20")] == keys and report.main == "pgd20"
    assert [report.titles[key] for key in keys] == ["PGD-20, linf eps 8/255", "PGD-20, linf eps 0.1", "PGD-20, l2 eps 0.5"]
    worst = [[group.values(key, "worst")[0] for key in keys] for group in report.groups]
    assert worst == [pytest.approx([0.3, 0.1, 0.0]), [pytest.approx(0.4), pytest.approx(0.2), None]]
    assert report.notes[0].endswith("columns for each: PGD-20, CW-20.") and set(report.groups[0].runs[0].verdicts) >= set(keys)
    again = report_of(report.groups)
    assert again.keys == report.keys and again.titles == report.titles
    (alone,) = gather([str(a)]).groups
    assert alone.values("pgd20@linf_0.1", "worst") == [pytest.approx(0.1)]


def sweep(place, eps, own=0.04, suite="sweep"):
    """An evaluation at these eps: its average is 0.9 - 2/3 eps - 0.1/3, its worst class 0.8 - eps."""
    keys = [f"pgd20@{value:.4g}" for value in eps]
    judge(place, {key: (0.9 - value, 0.8 - value, 0.9) for key, value in zip(keys, eps, strict=True)})
    facts = {"suite": suite, "threat": {"norm": "linf", "eps": own}, "headline": [], "curve": {"eps": eps, "keys": keys}}
    (place / "run.json").write_text(json.dumps(facts | {"titles": {key: f"eps {key[6:]}" for key in keys}}))
    return keys


def test_a_sweep_shows_clean_and_its_own_eps_and_the_rest_in_its_table(tmp_path):
    eps = [round(k / 50, 4) for k in range(8)]
    place = tmp_path / "audit-net" / "evaluation" / "sweep"
    keys = sweep(place, eps)
    for word in (place, tmp_path / "audit-net"):
        report = gather([str(word)])
        assert report.keys == ["clean", "pgd20@0.04"] and report.main == "pgd20@0.04" and report.swept == keys
        assert report.titles["pgd20@0.04"] == "PGD-20, eps 0.04"
        assert report.groups[0].values("clean", "worst") == [pytest.approx(0.8)]
    assert labels(gather([str(place)])) == [("net", 1)]
    sweep(place, [0.02, 0.06], own=0.1)  # which has neither
    assert gather([str(place)]).keys == ["pgd20@0.02"]


def test_a_sweep_fills_the_columns_of_its_eps(make_run, tmp_path):
    """Of rows that met 8/255 and 0.1, with four digits in the sweep's record; what a run has judged itself stays."""
    a, b = make_run("a", (0.5, 0.3, 0.7)), make_run("b", (0.5, 0.2, 0.7), attack={"norm": "linf", "eps": 0.1})
    sweep(tmp_path / "swept", [0.0, 8 / 255, 0.1, 0.2])
    sweep(a / "evaluation" / "sweep", [0.0, 0.1])
    report = gather([f"A={a}", f"B={b}", f"S={tmp_path / 'swept'}"])
    first, _, swept = report.groups
    assert report.keys[:3] == ["clean", "pgd20", "pgd20@linf_0.1"] and set(report.keys).isdisjoint(report.swept)
    assert [first.values(key, "worst")[0] for key in report.keys[:3]] == pytest.approx([0.5, 0.3, 0.7])
    assert [swept.values(key, "worst")[0] for key in report.keys[:3]] == pytest.approx([0.8, 0.77, 0.7], abs=0.005)
    assert all(difference(swept, first, key, "worst").test == "paired" for key in report.keys[:3])
    assert not any("no figures" in text for text in against_controls(report))


def test_the_eps_of_one_attack_stand_in_their_order(make_run):
    folder = make_run("a", (0.5, 0.3, 0.7), attack={"norm": "linf", "eps": 0.2})
    for eps in (0.1, 0.3):
        place = folder / "evaluation" / f"at{eps}"
        judge(place, {"pgd20": (0.4, 0.1, 0.6)})
        (place / "run.json").write_text(json.dumps({"suite": "quick", "threat": {"norm": "linf", "eps": eps}}))
    report = gather([str(folder)])
    assert report.keys == ["clean", "pgd20@linf_0.1", "pgd20", "pgd20@linf_0.3", "cw20"] and report.main == "pgd20"
    assert report.others == ["pgd20@linf_0.1", "pgd20@linf_0.3"]
    b = make_run("b", (0.5, 0.3, 0.7), attack={"norm": "linf", "eps": 0.3})
    assert gather([f"A={folder}", f"B={b}"]).others == ["pgd20@linf_0.1"], "which nobody was trained with"
    parts = [str(folder / "evaluation" / f"at{eps}") for eps in (0.1, 0.3)]
    assert gather(parts).others == [], "where none is that of the training, the main table has all"


def test_an_evaluation_is_a_row_of_the_run_it_is_of(make_run, tmp_path):
    """Of two runs they are two rows, of two seeds one, of one run two, each by its name; a run beside it stays a run."""
    runs = [make_run(f"r{s}", (0.5, 0.3, 0.7), seed=s) for s in range(2)] + [make_run("f", (0.5, 0.4, 0.7), method=FAAL)]
    for folder in runs:
        for name in ("quick", "wide"):
            judge(folder / "evaluation" / name, {"clean": (0.9, 0.8, 0.9), "fgsm": (0.5, 0.4, 0.3)})
            (folder / "evaluation" / name / "run.json").write_text(json.dumps({"suite": "quick", "seconds": 1.5}))
    quick, wide = ([folder / "evaluation" / name for folder in runs] for name in ("quick", "wide"))
    assert labels(gather([str(f) for f in quick])) == [("PGD-AT", 2), ("FAAL", 1)]
    assert labels(gather([str(quick[0]), str(wide[0])])) == [("PGD-AT, quick", 1), ("PGD-AT, wide", 1)]
    assert labels(gather([str(quick[2]), str(runs[2])])) == [("FAAL, quick", 1), ("FAAL", 1)]
    report = gather([str(quick[0])])
    assert report.keys == ["clean", "fgsm"] and report.groups[0].runs[0].facts["seed"] == 0
    saved = tmp_path / "saved"  # a result of Python, below no run
    judge(saved, {"clean": (0.9, 0.8, 0.9), "pgd20": (0.5, 0.4, 0.3)})
    (saved / "run.json").write_text(json.dumps({"suite": "quick", "seed": 0, "seconds": 1.5}))
    assert labels(gather([str(saved), str(quick[2])])) == [("saved", 1), ("FAAL, quick", 1)]


def test_images_of_another_split_are_judged_alone(make_run):
    run = make_run("a", (0.5, 0.3, 0.7))
    place = run / "evaluation" / "quick-val"
    judge(place, {"clean": (0.9, 0.8, 0.9), "pgd20": (0.5, 0.4, 0.3)})
    (place / "config.yaml").write_text("suite: {suite: quick}\ncheckpoint: a\nsplit: val\n")
    (place / "run.json").write_text(json.dumps({"suite": "quick"}))
    assert gather([str(place)]).groups[0].values("pgd20", "worst") == [pytest.approx(0.3)]
    with pytest.raises(ValueError, match="figures of val images.* figures of test images"):
        gather([str(place), str(run)])


def test_the_same_seed_twice_is_said_and_the_same_folder_refused(make_run):
    a, b = make_run("a", (0.5, 0.3, 0.7)), make_run("b", (0.5, 0.3, 0.7))
    assert any("have the same seed" in note for note in gather([f"A={a}", f"A={b}"]).notes)
    with pytest.raises(ValueError, match="names the same folder"):
        gather([f"A={a}", f"B={a}"])


def test_the_headline_of_an_evaluation_gets_columns_and_autoattack_the_figures(make_run):
    folder = make_run("a", (0.5, 0.3, 0.7))
    judge(folder / "evaluation" / "autoattack", {"apgd_ce": (0.5, 0.3, 0.6), "autoattack": (0.4, 0.2, 0.6)})
    facts = {"headline": ["autoattack"], "notes": ["an upper bound"], "titles": {"autoattack": "AutoAttack (2020)"}}
    (folder / "evaluation" / "autoattack" / "run.json").write_text(json.dumps(facts))
    report = gather([str(folder)])
    assert report.keys == ["clean", "pgd20", "cw20", "autoattack"] and report.main == "autoattack"
    assert report.titles["autoattack"] == "AutoAttack (2020)" and report.notes == ["Evaluation autoattack: an upper bound"]
    other = gather([str(folder), f"old={make_run('b', (0.4, 0.2, 0.6))}"])
    assert other.main == "pgd20"  # which both rows have


def test_failed_checks_are_gathered(full_run):
    (failed,) = gather([str(full_run)]).failed
    assert failed["name"] == "a large eps breaks all" and failed["label"] == "FairAT" and failed["suite"] == "sweep"


def test_one_label_is_one_set_of_classes(make_run):
    a, b = make_run("a", (0.5, 0.3, 0.7)), make_run("b", (0.5, 0.6), names=("x", "y"))
    with pytest.raises(ValueError, match="the runs of A have different classes"):
        gather([f"A={a}", f"A={b}"])
    assert len(gather([f"A={a}", f"B={b}"]).groups) == 2
