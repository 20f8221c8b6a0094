import json

import pytest
from helpers import judge

from fairat_lightning.report.groups import gather, split

FAAL = {"_target_": "fairat_lightning.methods.FAAL", "radius": 0.1}


def labels(report):
    return [(group.label, len(group.runs)) for group in report.groups]


def test_seeds_of_one_configuration_are_one_row(make_run):
    folders = [make_run(f"r{s}", (0.5, 0.3, 0.7), seed=s) for s in range(3)]
    folders += [make_run(f"f{s}", (0.5, 0.4, 0.7), seed=s, method=FAAL) for s in range(2)]
    assert labels(gather([str(f) for f in folders])) == [("PGD-AT", 3), ("FAAL", 2)]


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
    with pytest.raises(ValueError, match="unreadable label"):
        split("=radius=0.1")


def test_what_does_not_compare_is_said(make_run):
    a = make_run("a", (0.5, 0.3, 0.7))
    b = make_run("b", (0.5, 0.3, 0.7), attack={"norm": "linf", "eps": 0.1}, images=50)
    c = make_run("c", (0.5, 0.3, 0.7, 0.5), names=("cat", "dog", "fox", "owl"))
    notes = " ".join(gather([f"A={a}", f"B={b}", f"C={c}"]).notes)
    assert "met PGD-20 under different threat models" in notes and "met clean" not in notes
    assert "different classes under clean" in notes and "150 images in some runs and on 400 in others" in notes


def test_the_same_seed_twice_is_said_and_the_same_folder_refused(make_run):
    a, b = make_run("a", (0.5, 0.3, 0.7)), make_run("b", (0.5, 0.3, 0.7))
    assert any("seed occurs twice" in note for note in gather([f"A={a}", f"A={b}"]).notes)
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
