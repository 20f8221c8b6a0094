"""`python -m fairat_lightning.reproduce`: its plan, what it skips and goes on with, and ours beside the published figures."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import torch
import yaml
from filelock import FileLock
from helpers import ROOT, TABLES

from fairat_lightning.commands import cli, evaluate, reproduce
from fairat_lightning.commands.tables import judging, queue, recipes, workload
from fairat_lightning.config.compose import compose_training, resolved
from fairat_lightning.evaluation import autoattack
from fairat_lightning.record.writer import is_finished

TINY = [
    *("data=synthetic", "data.train_size=64", "data.test_size=40", "data.val_per_class=4", "data.batch_size=32", "trainer=cpu"),
    *("model=preactresnet_tiny", "model.width=4", "trainer.precision=32-true", "trainer.max_epochs=1", "attack=pgd2"),
]
ROWS = """
base: {label: PGD-AT, words: [method=pgd_at, optim.lr=0.3], published: [dafa.trades]}
faal: {label: "FAAL, 1 epoch", base: base, words: [method=faal], tiny: [method.radius=0.7], published: [faal.faal_at_from_pgd]}
big: {label: Large, words: [method=pgd_at], budgets: [other]}
"""
BUDGETS = """
tiny:
  about: seconds
  seeds: [0]
  words: []
  scratch: [optim.lr=0.1]
  finetune: [optim.lr=0.05]
  evaluate: [suite=autoattack, attack.eps=0.05, samples_per_class=2, suite.steps=2, suite.queries=5]
  weakest: 2
other: {about: "", seeds: [0], words: [], scratch: [], finetune: [], evaluate: [suite=autoattack]}
smoke: {about: "", seeds: [0], words: [], scratch: [], finetune: [], evaluate: [suite=autoattack]}
"""


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """A table of two rows and a budget of seconds in place of the real ones; the working directory is empty."""
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "small.yaml").write_text(ROWS)
    (tmp_path / "tables" / "budgets.yaml").write_text(BUDGETS)
    monkeypatch.setattr(recipes, "TABLES", tmp_path / "tables")
    monkeypatch.chdir(tmp_path)
    return tmp_path


COMMAND = ["table=small", "budget=tiny", *TINY]


def config(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


def test_a_table_is_run_bases_first_judged_and_rendered_and_then_skipped(tables, capsys):
    standard = BUDGETS.replace(", suite.steps=2, suite.queries=5", "")
    (tables / "tables" / "budgets.yaml").write_text(standard)
    reproduce.main(COMMAND)
    place = tables / "runs" / "reproduce" / "small-tiny-width4"
    base, faal = config(place / "base-s0"), config(place / "faal-s0")
    assert faal["init_from"] == "runs/reproduce/small-tiny-width4/base-s0" and faal["method"]["radius"] == 0.7
    assert (base["optim"]["lr"], faal["optim"]["lr"]) == (0.1, 0.05)  # the budget's words after the row's
    counts = json.loads((place / "faal-s0" / "evaluation" / "autoattack" / "metrics.json").read_text())["clean"]["counts"]
    weak = {name for row in ("base", "faal") for name in judging.lowest_on_validation(place / f"{row}-s0", 2)}
    assert counts == {name: 10 if name in weak else 2 for name in counts}
    record = json.loads((place / "faal-s0" / "run.json").read_text())
    for folder, module in ((place / "faal-s0", ""), (place / "faal-s0" / "evaluation" / "autoattack", ".evaluate")):
        record = json.loads((folder / "run.json").read_text())
        assert record["command"].startswith(f"python -m fairat_lightning{module} ")
        assert record["judged_in"] == "float32 without TF32"
        assert "table=" not in record["command"] and "faal-s0" in record["command"]
    again = shlex.split(json.loads((place / "faal-s0" / "run.json").read_text())["command"])[3:]
    assert is_finished(place / "faal-s0", resolved(compose_training(again)[0]))  # the recorded command is the run's own
    report = place / "report"
    text, page = (report / "published.md").read_text(), (report / "index.html").read_text()
    assert "| **PGD-AT** |" in text and "| published: FAAL-AT from PGD-AT, FAAL, CVPR 2024, authors' logs |" in text
    assert "1 epochs, published 110 epochs" in text and 'id="published"' in page and "Beside the published figures" in page
    assert (
        "synthetic, published cifar10" in text and "the worst class is the worst of 2 classes, the weakest on validation" in text
    )
    rows = json.loads((report / "table.json").read_text())["rows"]
    shown = [line for line in text.splitlines() if line.startswith("| difference")][0].split("|")[-3:-1]
    ours = [100 * rows[0][f"autoattack_{figure}"]["mean"] for figure in ("average", "worst")]
    differences = [f"{a - b:+.1f}".replace("-", "−") for a, b in zip(ours, (49.8, 21.31), strict=True)]
    assert [cell.split()[0] for cell in shown] == differences
    files = [path for path in place.rglob("*") if path.is_file() and report not in path.parents and path.name != ".lock"]
    before = {path: path.stat().st_mtime_ns for path in files}
    capsys.readouterr()
    reproduce.main(COMMAND)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    out = capsys.readouterr().out
    assert out.count("trained and tested before") == out.count("evaluated by autoattack before") == 2


def test_a_tables_folder_may_be_moved_and_be_named_by_another_path(tables, capsys):
    reproduce.main(COMMAND)
    there = (tables / "runs/reproduce").rename(tables / "moved") / "small-tiny-width4"
    begun = there / "faal-s0/evaluation/autoattack"
    (begun / "metrics.json").unlink()  # as if it had been stopped near its end
    verdicts = (begun / "samples.jsonl").read_text()
    capsys.readouterr()
    for runs in ("moved", there.parent):
        reproduce.main([*COMMAND, f"runs={runs}"])
        out = capsys.readouterr().out
        assert out.count("trained and tested before") == 2 and "left out" not in out
        assert "Not run yet" not in (there / "report/table.md").read_text()
    assert out.count("evaluated by autoattack before") == 2
    assert (begun / "samples.jsonl").read_text() == verdicts and not (tables / "runs/reproduce").exists()


def test_a_row_that_began_otherwise_is_named_and_moves_no_images(tables, capsys, monkeypatch):
    reproduce.main(COMMAND)
    place = tables / "runs/reproduce/small-tiny-width4"
    images = judged_images(place / "base-s0")
    written = (place / "faal-s0/config.yaml").read_text()
    (place / "faal-s0/config.yaml").write_text(written.replace("radius: 0.7", "radius: 0.3"))
    capsys.readouterr()
    reproduce.main([*COMMAND, "rows=[]"])
    left_out = r"FAAL, 1 epoch, seed 0, is left out: .*faal-s0 holds .*method\.radius is 0\.3 there and 0\.7 here\.\n"
    assert all(re.search(left_out, text) for text in (capsys.readouterr().out, (place / "report/table.md").read_text()))
    weak = {"base": ["class_3"], "faal": ["class_2"]}
    monkeypatch.setattr(judging, "lowest_on_validation", lambda folder, count: weak[folder.name[:-3]])
    with pytest.raises(SystemExit):
        reproduce.main([*COMMAND, "rows=[base]"])
    assert "method.radius is 0.3 there and 0.7 here" in capsys.readouterr().err
    assert judged_images(place / "base-s0") == images


def test_more_seeds_and_single_rows_do_the_rest_and_the_report_is_of_all(tables, capsys):
    with pytest.raises(SystemExit, match="1"):
        reproduce.main([*COMMAND, "rows=[]"])
    assert "holds no finished run" in capsys.readouterr().err and not (tables / "runs").exists()
    reproduce.main([*COMMAND, "rows=[base]"])
    place = tables / "runs/reproduce/small-tiny-width4"
    reproduce.main([*COMMAND, "rows=[]", "to=so_far"])
    assert (tables / "so_far/table.md").read_text() == (place / "report/table.md").read_text()
    with pytest.raises(SystemExit, match="1"):
        reproduce.main([*COMMAND, "rows=[]", "data.train_size=63"])
    assert "data.train_size is 64 there and 63 here" in capsys.readouterr().err
    assert not (place / "faal-s0").exists() and "Not run yet: FAAL, 1 epoch." in (place / "report/table.md").read_text()
    reproduce.main([*COMMAND, "rows=[faal]", "seeds=[0,3]", "to=here"])
    assert capsys.readouterr().out.count("trained and tested before") == 1
    reproduce.main([*COMMAND, "rows=[base]", "to=here"])
    rows = json.loads((tables / "here" / "table.json").read_text())["rows"]
    assert [(row["label"], row["runs"]) for row in rows] == [("PGD-AT", 2), ("FAAL, 1 epoch", 2)]


@pytest.mark.slow
def test_a_row_may_have_its_own_sample_or_none(tables):
    rows = yaml.safe_load(ROWS)
    rows["base"]["evaluate"] = {"tiny": ["suite=autoattack", "samples_per_class=3", "suite.steps=2", "suite.queries=5"]}
    rows["faal"]["evaluate"] = {"tiny": False}
    (tables / "tables" / "small.yaml").write_text(yaml.safe_dump(rows, sort_keys=False))
    reproduce.main(COMMAND)
    place = tables / "runs/reproduce/small-tiny-width4"
    found = json.loads((place / "base-s0/evaluation/autoattack/metrics.json").read_text())
    assert set(found["clean"]["counts"].values()) == {3} and "worst_of" not in found["clean"]
    assert (place / "faal-s0/metrics.json").exists() and not (place / "faal-s0/evaluation").exists()


@pytest.mark.slow
def test_a_folder_of_other_words_is_to_be_removed(tables, capsys):
    reproduce.main([*COMMAND, "rows=[base]"])
    with pytest.raises(SystemExit) as stop:
        reproduce.main([*COMMAND, "rows=[base]", "optim.lr=0.3"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert error.endswith("remove runs/reproduce/small-tiny-width4/base-s0, and this command makes it again\n")
    place = tables / "runs/reproduce/small-tiny-width4/base-s0/evaluation/autoattack"
    budgets = yaml.safe_load(BUDGETS)
    budgets["tiny"]["evaluate"][1] = "attack.eps=0.04"
    (tables / "tables" / "budgets.yaml").write_text(yaml.safe_dump(budgets))
    with pytest.raises(SystemExit) as stop:
        reproduce.main([*COMMAND, "rows=[base]"])
    error = capsys.readouterr().err
    assert error.endswith(f"remove {place.relative_to(tables)}, and this command makes it again\n") and place.exists(), error


def test_a_balanced_heads_weakest_classes_are_those_after_it_was_balanced(launch):
    folder, _ = launch("method=pgd_at", "head=balanced")
    facts = json.loads((folder / "run.json").read_text())
    accuracy = facts["head"]["robust_class"]
    before = list(accuracy.values())
    assert judging.lowest_on_validation(folder, 2) == sorted(accuracy, key=accuracy.__getitem__)[:2]
    lowest = min(accuracy, key=accuracy.__getitem__)
    facts["head"]["robust_class"][lowest] = None  # a class without validation images
    (folder / "run.json").write_text(json.dumps(facts))
    assert lowest not in judging.lowest_on_validation(folder, 4)
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    values = torch.tensor(before, dtype=torch.float64)
    score = best["head"]["scores"][str(best["head"]["strength"])]
    assert float(values.mean() + values.min()) == pytest.approx(score, abs=1e-6)


def test_without_autoattack_nothing_is_trained(tables, monkeypatch):
    monkeypatch.setattr(autoattack, "available", lambda: False)
    with pytest.raises(ValueError, match="pip install"):
        reproduce.main(COMMAND)
    assert not (tables / "runs").exists()


def test_a_row_that_fails_leaves_the_others_alone_and_its_fine_tunes_out(tables, capsys, monkeypatch):
    rows = yaml.safe_load(ROWS)
    bad = {"label": "Bad", "words": ["method=cfa", "method.lambda1=-7"]}
    worse = {**rows["faal"], "label": "Worse", "base": "bad"}
    rows = {"base": rows["base"], "bad": bad, "worse": worse, "faal": rows["faal"]}
    (tables / "tables" / "small.yaml").write_text(yaml.safe_dump(rows, sort_keys=False))
    with pytest.raises(SystemExit) as stop:
        reproduce.main(COMMAND)
    error = capsys.readouterr().err
    assert stop.value.code == 1 and "bad-s0: " in error and "worse-s0: it starts from" in error
    table = json.loads((tables / "runs/reproduce/small-tiny-width4/report/table.json").read_text())
    assert [row["label"] for row in table["rows"]] == ["PGD-AT", "FAAL, 1 epoch"]


@pytest.mark.parametrize("file", ["history.csv", "metrics.json", "config.yaml", "evaluation/autoattack/metrics.json"])
def test_a_damaged_run_leaves_the_rest_of_the_table_and_its_report(tables, capsys, file):
    reproduce.main([*COMMAND, "seeds=[0,1]", "rows=[base]"])
    place = tables / "runs/reproduce/small-tiny-width4"
    (place / "base-s0" / file).write_text("a,b\n1,2\n")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        reproduce.main([*COMMAND, "seeds=[0,1]"])
    out, error = capsys.readouterr()
    assert stop.value.code == 1 and f"base-s0/{file} " in error and "overwrite" not in out + error
    assert file == "config.yaml" or "PGD-AT, seed 0, is left out: " in out
    table = json.loads((place / "report/table.json").read_text())
    tuned = 1 if file in ("metrics.json", "config.yaml") else 2  # one starts from the damaged run
    assert [(row["label"], row["runs"]) for row in table["rows"]] == [("PGD-AT", 1), ("FAAL, 1 epoch", tuned)]


def test_a_report_of_damaged_runs_alone_says_that_none_can_be_read(tables, capsys):
    reproduce.main([*COMMAND, "rows=[base]"])
    (tables / "runs/reproduce/small-tiny-width4/base-s0/history.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SystemExit, match="1"):
        reproduce.main([*COMMAND, "rows=[]"])
    assert "holds no finished run of this table that can be read" in capsys.readouterr().err


def judged_images(folder):
    (header, *_) = (folder / "evaluation/autoattack/samples.jsonl").read_text().splitlines()
    return json.loads(header)["images"]


@pytest.mark.slow
def test_all_rows_of_a_seed_are_attacked_on_the_same_images_also_where_a_later_row_has_other_weak_classes(tables, monkeypatch):
    weak = {"base": ["class_0"], "faal": ["class_2"]}
    monkeypatch.setattr(judging, "lowest_on_validation", lambda folder, count: weak[folder.name[:-3]])
    reproduce.main([*COMMAND, "rows=[base]"])
    place = tables / "runs/reproduce/small-tiny-width4"
    alone = judged_images(place / "base-s0")
    reproduce.main([*COMMAND, "rows=[faal]"])
    assert judged_images(place / "base-s0") == judged_images(place / "faal-s0") != alone
    found = json.loads((place / "base-s0/evaluation/autoattack/metrics.json").read_text())["clean"]
    assert found["worst_of"] == ["class_0", "class_2"] and found["counts"]["class_1"] == 2


def test_a_history_without_the_kept_epoch_chooses_no_images(tables):
    reproduce.main([*COMMAND, "rows=[base]"])
    folder = tables / "runs/reproduce/small-tiny-width4/base-s0"
    head, *_ = (folder / "history.csv").read_text().splitlines()
    (folder / "history.csv").write_text(head + "\n")
    with pytest.raises(ValueError, match="no line of the epoch that was kept"):
        judging.lowest_on_validation(folder, 2)


@pytest.mark.slow
def test_rows_that_another_command_has_judged_are_judged_again_with_the_images_of_all(tables, monkeypatch):
    rows = yaml.safe_load(ROWS)
    rows["third"] = {**rows["faal"], "label": "Third"}
    (tables / "tables" / "small.yaml").write_text(yaml.safe_dump(rows, sort_keys=False))
    weak = {"base": ["class_0"], "faal": ["class_1"], "third": ["class_2"]}
    monkeypatch.setattr(judging, "lowest_on_validation", lambda folder, count: weak[folder.name[:-3]])
    for row in ("faal", "third"):
        reproduce.main([*COMMAND, f"rows=[{row}]"])
    place = tables / "runs/reproduce/small-tiny-width4"
    assert len({judged_images(place / f"{row}-s0") for row in weak}) == 1
    found = json.loads((place / "faal-s0/evaluation/autoattack/metrics.json").read_text())["clean"]
    assert found["worst_of"] == ["class_0", "class_1", "class_2"]


@pytest.mark.slow
def test_only_the_weakest_of_all_rows_are_judged_where_the_budget_says_so(tables, monkeypatch):
    budgets = yaml.safe_load(BUDGETS)
    budgets["tiny"] |= {"weakest": None, "tables": {"small": {"only_weakest": 2}}}
    budgets["tiny"]["evaluate"].remove("samples_per_class=2")
    (tables / "tables" / "budgets.yaml").write_text(yaml.safe_dump(budgets))
    accuracy = {"base": (0.1, 0.9, 0.3, 0.6), "faal": (0.4, 0.1, 0.3, 0.6)}  # on average .25, .5, .3, .6
    named = {row: {f"class_{k}": a for k, a in enumerate(values)} for row, values in accuracy.items()}
    monkeypatch.setattr(judging, "validation_accuracy", lambda folder: named[folder.name[:-3]])
    reproduce.main(COMMAND)
    found = json.loads((tables / "runs/reproduce/small-tiny-width4/faal-s0/evaluation/autoattack/metrics.json").read_text())
    assert {name for name, count in found["clean"]["counts"].items() if count} == {"class_0", "class_2"}


def test_the_last_epoch_stands_beside_the_one_that_was_kept_and_further_evaluations_are_notes(tables):
    budgets, rows = yaml.safe_load(BUDGETS), yaml.safe_load(ROWS)
    budgets["tiny"]["last_epoch"] = True
    budgets["tiny"]["evaluate"][0] = "suite=apgd"
    budgets["tiny"]["evaluate"].remove("suite.queries=5")
    rows["faal"]["extra"] = {"tiny": [["suite=quick", "split=train", "samples_per_class=3"]]}
    (tables / "tables" / "budgets.yaml").write_text(yaml.safe_dump(budgets))
    (tables / "tables" / "small.yaml").write_text(yaml.safe_dump(rows, sort_keys=False))
    reproduce.main([*COMMAND, "trainer.max_epochs=3", "runs=there", "optim.lr=0.3"])
    report = tables / "there" / "small-tiny-width4" / "report"
    table = json.loads((report / "table.json").read_text())["rows"][1]
    place = tables / "there/small-tiny-width4/faal-s0/evaluation"
    last = json.loads((place / "quick-last/metrics.json").read_text())
    assert table["pgd20@last_average"]["mean"] == last["pgd20"]["average"]
    assert table["apgd@last_worst"]["mean"] == json.loads((place / "apgd-last/metrics.json").read_text())["apgd"]["worst"]
    text = (report / "table.md").read_text()
    assert (
        r"| APGD-CE+T, last epoch\* worst |" in text
        and "APGD-CE + APGD-T (3 targets), 2 steps, last epoch." in text
        and "AutoAttack |" not in text
    )
    assert re.search(r"FAAL, 1 epoch, seed 0, on 12 training images: clean [\d.]+ %, PGD-20 [\d.]+ %", text)
    assert (place / "quick-last-train").is_dir() and not (tables / "runs").exists()


@pytest.mark.slow
def test_the_folder_of_the_runs_may_have_any_name(tables):
    reproduce.main([*COMMAND, "rows=[faal]", "runs='a night, of=runs'"])
    place = tables / "a night, of=runs" / "small-tiny-width4"
    assert (place / "faal-s0/evaluation/autoattack/metrics.json").exists() and (place / "report/table.md").exists()


def test_a_row_that_another_process_is_at_is_passed_over_and_looked_at_again(tables, capsys, monkeypatch):
    reproduce.main([*COMMAND, "rows=[base]"])
    finished = tables / "runs/reproduce/small-tiny-width4/base-s0"
    away = finished.rename(tables / "away")
    finished.mkdir()
    lock = FileLock(finished / ".lock")
    lock.acquire()

    def other_process_ends(seconds):
        lock.release()
        finished.joinpath(".lock").unlink(missing_ok=True)
        finished.rmdir()
        away.rename(finished)

    monkeypatch.setattr(queue.time, "sleep", other_process_ends)
    capsys.readouterr()
    reproduce.main(COMMAND)
    out = capsys.readouterr().out
    assert out.count("waiting for another process, which is at work on 1 of the parts left") == 1
    assert out.index("waiting") < out.index("trained and tested before") < out.index("train and test FAAL")


def test_it_says_what_it_takes_and_where_it_would_download_to(tables, capsys, monkeypatch):
    monkeypatch.setenv("FAIRAT_LIGHTNING_DATA", str(tables / "cache"))
    monkeypatch.setattr(workload.DataModule, "prepare", lambda self: (_ for _ in ()).throw(ValueError("no network here")))
    with pytest.raises(ValueError, match="no network here"):
        reproduce.main(["table=small", "budget=tiny", "data=cifar10"])
    assert f"looked for in {tables / 'cache'}, and downloaded if it is not there" in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.chdir(tables)
    monkeypatch.setattr(recipes, "TABLES", tables / "tables")
    monkeypatch.setattr(workload, "seconds_each", lambda cfg, data: 30.0)  # of a slow machine
    monkeypatch.setattr(queue.Queue, "perform", lambda self, task: None)
    reproduce.main(COMMAND)
    out = capsys.readouterr().out
    gradients = 2 * 64 * (2 + 1) + 2 * (16 * 11 + 40 * 41)  # two trainings of an epoch; their evaluations come on top
    assert (
        re.search(r"This takes about (\d+) h on 1 core", out) and int(re.search(r"about (\d+) h", out)[1]) > 30 * gradients / 3600
    )
    assert "[2/4] train and test FAAL, 1 epoch, seed 0: about" in out
    takes, *lefts = (int(part) for part in re.findall(r"about (\d+) h", out))
    assert lefts[0] == takes, "the evaluations are counted from the beginning"


def test_the_time_left_learns_from_what_was_done_here_alone():
    clock = object.__new__(workload.Clock)
    clock.expected, clock.spent, clock.estimated = dict.fromkeys((("train", k) for k in range(3)), 3600.0), 0.0, 0.0
    assert clock.left(clock.expected, 1) == "1 running in another process, about 3 h left"
    with clock.timing(("train", 0)):
        pass  # another process had done it
    assert clock.left([("train", 1)], 0) == "about 60 min left"
    clock.spent, clock.estimated = 7200.0, 3600.0
    assert clock.left([("train", 1)], 0) == "about 2 h left"


@pytest.mark.slow
def test_two_commands_on_one_folder_do_each_row_once(tables):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    program = (
        "from fairat_lightning.commands import cli; from fairat_lightning.commands.tables import queue, recipes;"
        "from pathlib import Path; recipes.TABLES = Path('tables');"
    )
    program += "queue.PAUSE = 1; cli.start('reproduce', '')"
    command = [sys.executable, "-c", program, *COMMAND, "seeds=[0,1]"]
    both = [subprocess.Popen([*command, f"to=report{k}"], env=environment, stdout=subprocess.PIPE, text=True) for k in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    for row in ("base-s0", "faal-s0", "base-s1", "faal-s1"):
        place = tables / "runs/reproduce/small-tiny-width4" / row
        assert sum(f"{row}\n64 + 16" in output for output in outputs) == 1, row
        assert "resumed" not in json.loads((place / "run.json").read_text())
        assert (place / "evaluation/autoattack/metrics.json").exists()


@pytest.mark.slow
def test_stopped_in_the_middle_it_goes_on(tables):
    """A signal in a training ends the command with 75, and the same command finishes with the record of an undisturbed one."""
    reproduce.main([*COMMAND, "to=whole"])
    whole = json.loads((tables / "whole" / "table.json").read_text())["rows"]
    (tables / "runs").rename(tables / "before")
    program = (
        "import os, signal; from pathlib import Path; from fairat_lightning.commands import cli;"
        "from fairat_lightning.commands.tables import recipes;"
        "from fairat_lightning.methods import FAAL; step = FAAL.training_step\n"
        "def stopping(self, *a, **k):\n"
        "    if not Path('told').exists():\n"
        "        Path('told').touch(); os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return step(self, *a, **k)\n"
        "FAAL.training_step = stopping; recipes.TABLES = Path('tables'); cli.start('reproduce', '')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, *COMMAND, "to=again"]
    first = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert first.returncode == os.EX_TEMPFAIL and (tables / "told").exists(), first.stderr
    assert not (tables / "again").exists()
    second = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    again = json.loads((tables / "again" / "table.json").read_text())["rows"]
    for rows in (whole, again):
        for row in rows:
            row.pop("train_seconds")
    assert again == whole


WRONG = {
    "": "table= is missing: choose one of small",
    "table=big": "table=big is unknown",
    "table=small budget=day": "budget=day is unknown: choose one of tiny, other, smoke",
    "table=small rows=[no]": "rows=no is unknown: the rows of table=small budget=smoke are base, faal",
    "table=small rows=base": "rows=base must be a list",
    "table=small rows=[[a]]": "must be a list of different names, such as [pgd_at,faal]",
    "table=small seeds=[a]": "seeds=['a'] must be a list of different whole numbers, such as [0,1,2]",
    "table=small seeds=[0,0]": "must be a list of different whole numbers",
    "table=small seeds=0": "seeds=0 must be a list of different whole numbers, such as [0,1,2]",
    "table=small seeds=[-1]": "seed=-1 must be a whole number",
    "table=small seeds=[]": "seeds=[] must be a list",
    "table=small method=trades": "method cannot be set here, because each row sets it",
    "table=small to=tables/small.yaml": "tables/small.yaml is a file: set to=FOLDER to a folder",
    "table=small data=synthetic runs=tables/small.yaml/x": "tables/small.yaml is a file: set runs=FOLDER to a folder",
    "table=small data=synthetic attack.eps=banana": "attack.eps=banana",
    "table=small budget=tiny data=synthetic optim.lr=-1": "optim.lr",
    "table=small budget=tiny data=digits data.batch_size=0": "data.batch_size=0",
    "table=small seed=1": "seed cannot be set here",
    "table=small optim.lr=1,2": "takes one value for each key",
    "table=small to=[a]": "must be a path",
    "table=small runs=[a]": "must be a path",
    "table=small data=synthetic runs=tables/small.yaml": "tables/small.yaml",
    "table=small optim.lrr=1": "there is no key optim.lrr",
    "table=small data=synthetic val_every=0": "val_every=0 must be a whole number",
    "table=small data=synthetic val_every=a": "val_every=a must be a whole number",
    "table=small data=synthetic attack.steps=a": "attack.steps=a must be a whole number",
    "table=small data=synthetic trainer.max_epochs=a": "trainer.max_epochs=a must be a whole number",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_input_is_one_line_before_anything_is_run(tables, words, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["reproduce", *(words.split() or ["data.root=x"])])
    with pytest.raises(SystemExit) as stop:
        cli.start("reproduce", "help")
    error = capsys.readouterr().err
    assert stop.value.code == 2 and WRONG[words] in error and error.count("\n") == 1
    assert not (tables / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("table, budget", TABLES)
def test_every_row_of_the_real_tables_runs(table, budget, tmp_path, monkeypatch):
    """The whole pipeline of each budget with all its rows, each an epoch of a tiny network on a few made-up images."""
    monkeypatch.chdir(tmp_path)

    def fewer(words, main=evaluate.main):
        less = {"suite=autoattack": ["suite.steps=2", "suite.queries=5"], "suite=apgd": ["suite.steps=2"], "suite=quick": []}
        (suite,) = (word for word in words if word.startswith("suite="))
        main([*(re.sub("(?<=samples_per_class=).+", "5", word) for word in words), *less[suite]])

    monkeypatch.setattr(evaluate, "main", fewer)
    reproduce.main([f"table={table}", f"budget={budget}", *TINY, "data.test_size=80"])
    rows = yaml.safe_load((recipes.TABLES / f"{table}.yaml").read_text())
    labels = [row["label"] for row in rows.values() if budget in row.get("budgets", [budget])]
    found = json.loads((tmp_path / f"runs/reproduce/{table}-{budget}-width4/report/table.json").read_text())["rows"]
    assert [row["label"] for row in found] == labels
