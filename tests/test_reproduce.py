"""`python -m fairat_lightning.reproduce`: its plan, what it skips and goes on with, and ours beside the published figures."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from test_command import ROOT

from fairat_lightning import judge, reproduce
from fairat_lightning.__main__ import composed, resolved
from fairat_lightning.record import is_finished
from fairat_lightning.report import Group, read_run, report_of
from fairat_lightning.report import published as beside
from fairat_lightning.report.protocol import reasons
from fairat_lightning.report.published import PLACES, reference

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
  evaluate: [attack.eps=0.05, samples_per_class=2, suite.steps=2, suite.queries=5]
  weakest: 2
other: {about: "", seeds: [0], words: [], scratch: [], finetune: [], evaluate: [], weakest: null}
smoke: {about: "", seeds: [0], words: [], scratch: [], finetune: [], evaluate: [], weakest: null}
"""


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """A table of two rows and a budget of seconds in place of the real ones; the working directory is empty."""
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "small.yaml").write_text(ROWS)
    (tmp_path / "tables" / "budgets.yaml").write_text(BUDGETS)
    monkeypatch.setattr(reproduce, "TABLES", tmp_path / "tables")
    monkeypatch.chdir(tmp_path)
    return tmp_path


COMMAND = ["table=small", "budget=tiny", *TINY]


def config(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


def test_a_table_is_run_bases_first_judged_and_rendered_and_then_skipped(tables, capsys):
    standard = BUDGETS.replace(", suite.steps=2, suite.queries=5", "")
    (tables / "tables" / "budgets.yaml").write_text(standard)
    reproduce.main(COMMAND)
    place = tables / "runs" / "reproduce" / "small-tiny"
    base, faal = config(place / "base-s0"), config(place / "faal-s0")
    assert faal["init_from"] == "runs/reproduce/small-tiny/base-s0" and faal["method"]["radius"] == 0.7
    assert (base["optim"]["lr"], faal["optim"]["lr"]) == (0.1, 0.05)  # the budget's words after the row's
    counts = json.loads((place / "faal-s0" / "evaluation" / "autoattack" / "metrics.json").read_text())["clean"]["counts"]
    weak = reproduce.weakest(place / "faal-s0", 2)
    assert counts == {name: 10 if name in weak else 2 for name in counts}
    record = json.loads((place / "faal-s0" / "run.json").read_text())
    for folder, module in ((place / "faal-s0", ""), (place / "faal-s0" / "evaluation" / "autoattack", ".evaluate")):
        record = json.loads((folder / "run.json").read_text())
        assert record["command"].startswith(f"python -m fairat_lightning{module} ")
        assert record["judged_in"] == "float32 without TF32"
        assert "table=" not in record["command"] and "faal-s0" in record["command"]
    again = shlex.split(json.loads((place / "faal-s0" / "run.json").read_text())["command"])[3:]
    assert is_finished(place / "faal-s0", resolved(composed(again)[0]))  # the recorded command is the run's own
    report = place / "report"
    text, page = (report / "published.md").read_text(), (report / "index.html").read_text()
    assert "| **PGD-AT** |" in text and "| published: FAAL-AT from PGD-AT, FAAL, CVPR 2024, authors' logs |" in text
    assert "1 epochs, published 110 epochs" in text and 'id="published"' in page and "Beside the published figures" in page
    assert "synthetic, published cifar10" in text and "its worst class sought among 2, the weakest on validation" in text
    rows = json.loads((report / "table.json").read_text())["rows"]
    shown = [line for line in text.splitlines() if line.startswith("| difference")][0].split("|")[-3:-1]
    ours = [100 * rows[0][f"autoattack_{figure}"]["mean"] for figure in ("average", "worst")]
    differences = [f"{a - b:+.1f}".replace("-", "−") for a, b in zip(ours, (49.8, 21.31), strict=True)]
    assert [cell.split()[0] for cell in shown] == differences
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file() and report not in path.parents}
    capsys.readouterr()
    reproduce.main(COMMAND)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    out = capsys.readouterr().out
    assert out.count("trained and tested before") == out.count("judged by AutoAttack before") == 2


def test_more_seeds_and_single_rows_do_the_rest_and_the_report_is_of_all(tables, capsys):
    reproduce.main([*COMMAND, "rows=[base]"])
    place = tables / "runs/reproduce/small-tiny"
    assert not (place / "faal-s0").exists() and "Not run yet: FAAL, 1 epoch." in (place / "report/table.md").read_text()
    reproduce.main([*COMMAND, "rows=[faal]", "seeds=[0,3]", "to=here"])
    assert capsys.readouterr().out.count("trained and tested before") == 1
    reproduce.main([*COMMAND, "rows=[base]", "to=here"])
    rows = json.loads((tables / "here" / "table.json").read_text())["rows"]
    assert [(row["label"], row["runs"]) for row in rows] == [("PGD-AT", 2), ("FAAL, 1 epoch", 2)]


def test_a_row_may_have_its_own_sample_or_none(tables):
    rows = yaml.safe_load(ROWS)
    rows["base"]["evaluate"] = {"tiny": ["samples_per_class=3", "suite.steps=2", "suite.queries=5"]}
    rows["faal"]["evaluate"] = {"tiny": False}
    (tables / "tables" / "small.yaml").write_text(yaml.safe_dump(rows, sort_keys=False))
    reproduce.main(COMMAND)
    place = tables / "runs/reproduce/small-tiny"
    found = json.loads((place / "base-s0/evaluation/autoattack/metrics.json").read_text())
    assert set(found["clean"]["counts"].values()) == {3} and "worst_of" not in found["clean"]
    assert (place / "faal-s0/metrics.json").exists() and not (place / "faal-s0/evaluation").exists()


def test_a_folder_of_other_words_is_to_be_removed(tables, capsys):
    reproduce.main([*COMMAND, "rows=[base]"])
    with pytest.raises(SystemExit) as stop:
        reproduce.main([*COMMAND, "rows=[base]", "optim.lr=0.3"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert error.endswith("remove runs/reproduce/small-tiny/base-s0, and this command makes it anew\n")
    place = tables / "runs/reproduce/small-tiny/base-s0/evaluation/autoattack"
    budgets = yaml.safe_load(BUDGETS)
    budgets["tiny"]["evaluate"][0] = "attack.eps=0.04"
    (tables / "tables" / "budgets.yaml").write_text(yaml.safe_dump(budgets))
    with pytest.raises(SystemExit) as stop:
        reproduce.main([*COMMAND, "rows=[base]"])
    assert "remove runs" in capsys.readouterr().err and place.exists()


def test_a_balanced_heads_weakest_classes_are_those_after_it_was_balanced(launch):
    folder, _ = launch("method=pgd_at", "head=balanced")
    facts = json.loads((folder / "run.json").read_text())
    accuracy = facts["head"]["robust_class"]
    before = list(accuracy.values())
    assert reproduce.weakest(folder, 2) == sorted(accuracy, key=accuracy.__getitem__)[:2]
    lowest = min(accuracy, key=accuracy.__getitem__)
    facts["head"]["robust_class"][lowest] = None  # a class without validation images
    (folder / "run.json").write_text(json.dumps(facts))
    assert lowest not in reproduce.weakest(folder, 4)
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    values = torch.tensor(before, dtype=torch.float64)
    score = best["head"]["scores"][str(best["head"]["strength"])]
    assert float(values.mean() + values.min()) == pytest.approx(score, abs=1e-6)


def test_without_autoattack_nothing_is_trained(tables, monkeypatch):
    monkeypatch.setattr(reproduce.autoattack, "available", lambda: False)
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
    table = json.loads((tables / "runs/reproduce/small-tiny/report/table.json").read_text())
    assert [row["label"] for row in table["rows"]] == ["PGD-AT", "FAAL, 1 epoch"]


@pytest.mark.slow
def test_stopped_in_the_middle_it_goes_on(tables):
    """A signal in a training ends the command with 75, and the same command finishes with the record of an undisturbed one."""
    reproduce.main([*COMMAND, "to=whole"])
    whole = json.loads((tables / "whole" / "table.json").read_text())["rows"]
    (tables / "runs").rename(tables / "before")
    program = (
        "import os, signal; from pathlib import Path; from fairat_lightning import reproduce, __main__;"
        "from fairat_lightning.methods import FAAL; step = FAAL.training_step\n"
        "def stopping(self, *a, **k):\n"
        "    if not Path('told').exists():\n"
        "        Path('told').touch(); os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return step(self, *a, **k)\n"
        "FAAL.training_step = stopping; reproduce.TABLES = Path('tables'); __main__.start(reproduce.main, '')"
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
    "": "table=None is unknown: choose one of small",
    "table=big": "table=big is unknown",
    "table=small budget=day": "budget=day is unknown: choose one of tiny, other, smoke",
    "table=small rows=[no]": "rows=no is unknown: table=small budget=smoke has base, faal",
    "table=small rows=base": "rows=base must be a list",
    "table=small rows=[[a]]": "must be a list of different ones",
    "table=small seeds=[a]": "seeds=['a'] must be a list of different ones: seeds=[0,1,2]",
    "table=small seeds=[0,0]": "must be a list of different ones",
    "table=small seeds=[-1]": "seed=-1 must be a whole number",
    "table=small seeds=[]": "seeds=[] must be a list",
    "table=small method=trades": "method cannot be set here: each row has its own",
    "table=small to=tables/small.yaml": "is a file: name a folder",
    "table=small budget=tiny data=synthetic optim.lr=-1": "optim.lr",
    "table=small budget=tiny data=digits data.batch_size=0": "data.batch_size=0",
    "table=small seed=1": "seed cannot be set here",
    "table=small optim.lr=1,2": "takes one value a key",
    "table=small to=[a]": "must be a path",
    "table=small optim.lrr=1": "there is no key optim.lrr",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_input_is_one_line_before_anything_is_run(tables, words, capsys, monkeypatch):
    from fairat_lightning import __main__

    monkeypatch.setattr(sys, "argv", ["reproduce", *(words.split() or ["data.root=x"])])
    with pytest.raises(SystemExit) as stop:
        __main__.start(reproduce.main, "help")
    error = capsys.readouterr().err
    assert stop.value.code == 2 and WRONG[words] in error and error.count("\n") == 1
    assert not (tables / "runs").exists()


REAL = [(table, budget) for table in ("faal", "fairat", "leaderboard") for budget in ("smoke", "hour", "full")]


@pytest.mark.parametrize("table, budget", REAL)
def test_every_row_of_the_real_tables_composes_after_what_it_starts_from(table, budget):
    rows, wanted, chosen, _, _ = reproduce.parse([f"table={table}", f"budget={budget}"])
    assert wanted == set(rows)
    seen = set()
    for job in reproduce.plan(rows, chosen, [5], Path("place"), ()):
        assert set(job.needs) <= seen, job.row
        seen.add(job.folder)
        cfg, folder = composed(job.words)
        assert cfg.seed == 5 and folder == job.folder.absolute()
        assert (cfg.init_from is not None) == ("base" in rows[job.row])
        assert (cfg.data.train_size is None) == (budget != "smoke")
        if budget == "hour":
            cycle = cfg.optim._target_.endswith("onecycle")
            assert (cycle, cfg.trainer.max_epochs in (30, 5)) == ((cfg.init_from is None,) * 2), job.row
    assert {row["over"] for row in rows.values() if "over" in row} <= set(rows)
    assert all(reference(name).label for row in rows.values() for name in row.get("published", ()))


# The papers' schedules: method, objective, AWP, averaging, smoothing, epochs, rate, and where it falls (shares), or one cycle.
AT, TR, CYCLE = "AT", "TRADES", "one cycle"
RECIPES = {
    "faal.pgd_at": ("AdversarialTraining", AT, "", "", 0, 110, 0.1, [0.9091, 0.9545]),
    "faal.more": ("FAAL", AT, "", "", 0, 2, 0.01, [0.5]),
    "faal.faal": ("FAAL", AT, "", "", 0, 2, 0.01, [0.5]),
    "faal.faal_r1": ("FAAL", AT, "", "", 0, 2, 0.01, [0.5]),
    "faal.faal_awp": ("FAAL", AT, "AWP", "", 0, 2, 0.01, [0.5]),
    "faal.trades": ("AdversarialTraining", TR, "", "", 0, 110, 0.1, [0.9091, 0.9545]),
    "faal.faal_trades": ("FAAL", AT, "", "", 0, 2, 0.01, [0.5]),
    "faal.faal_awp_trades": ("FAAL", AT, "AWP", "", 0, 2, 0.01, [0.5]),
    "faal.wrn_mart": ("AdversarialTraining", "MART", "", "", 0, 90, 0.1, [0.8333]),
    "faal.wrn_awp": ("AdversarialTraining", AT, "AWP", "", 0, 200, 0.1, [0.5, 0.75]),
    "faal.wrn_faal_awp_from_awp": ("FAAL", AT, "AWP", "", 0, 2, 0.01, [0.5]),
    "fairat.pgd_at": ("AdversarialTraining", AT, "", "", 0, 100, 0.1, [0.75, 0.9]),
    "fairat.hard": ("FairAT", AT, "", "", 0, 100, 0.1, [0.75, 0.9]),
    "fairat.random": ("FairAT", AT, "", "", 0, 100, 0.1, [0.75, 0.9]),
    "fairat.all": ("FairAT", AT, "", "", 0, 100, 0.1, [0.75, 0.9]),
    "fairat.wrn_fairat": ("FairAT", AT, "", "", 0, 100, 0.1, [0.75, 0.9]),
    "leaderboard.strong": ("AdversarialTraining", AT, "", "EMA", 0.4, 100, 0.1, CYCLE),
    "leaderboard.strong_faal": ("FAAL", AT, "", "EMA", 0.4, 2, 0.01, [0.5]),
    "leaderboard.strong_faal_awp": ("FAAL", AT, "AWP", "EMA", 0.4, 2, 0.01, [0.5]),
    "leaderboard.strong_fairat": ("FairAT", AT, "", "EMA", 0.4, 100, 0.1, CYCLE),
    "leaderboard.strong_floor": ("FLOOR", AT, "AWP", "EMA", 0.4, 100, 0.1, CYCLE),
    "leaderboard.floor": ("FLOOR", AT, "AWP", "FAWA", 0, 110, 0.1, [0.9091, 0.9545]),
    "leaderboard.dafa": ("DAFA", TR, "", "", 0, 110, 0.1, [0.9091, 0.9545]),
    "leaderboard.wat": ("WAT", TR, "", "", 0, 100, 0.1, [0.75, 0.9]),
    "leaderboard.cfa": ("CFA", TR, "", "FAWA", 0, 200, 0.1, [0.5, 0.75]),
    "leaderboard.cfa_at": ("CFA", AT, "", "FAWA", 0, 200, 0.1, [0.5, 0.75]),
    "leaderboard.frl": ("FRL", TR, "", "", 0, 40, 0.001, []),
    "leaderboard.csr": ("CSR", TR, "", "", 0, 110, 0.1, [0.9091, 0.9545]),
    "leaderboard.cfol": ("CFOL", AT, "", "", 0, 200, 0.1, [0.5, 0.75]),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_row_at_full_is_its_papers_recipe(name):
    table, _, row = name.partition(".")
    rows, _, budget, _, _ = reproduce.parse([f"table={table}", "budget=full"])
    (words,) = (job.words for job in reproduce.plan(rows, budget, [0], Path("place"), ()) if job.row == row)
    cfg, _ = composed(words)
    targets = [str((cfg.get(part) or {}).get("_target_", "")) for part in ("method", "objective", "awp", "averaging")]
    parts = [target.rpartition(".")[2] for target in targets]
    falls = CYCLE if cfg.optim._target_.endswith("onecycle") else list(cfg.optim.milestones)
    found = (*parts, cfg.objective.get("label_smoothing", 0) or 0, cfg.trainer.max_epochs, cfg.optim.lr, falls)
    assert found == RECIPES[name]


def test_rows_that_differ_in_one_setting_differ_in_it():
    def settings(table, row, key):
        rows, _, budget, _, _ = reproduce.parse([f"table={table}", "budget=full"])
        (words,) = (job.words for job in reproduce.plan(rows, budget, [0], Path("place"), ()) if job.row == row)
        return OmegaConf.select(composed(words)[0], key)

    assert [settings("faal", row, "method.radius") for row in ("more", "faal", "faal_r1", "faal_trades")] == [0, 0.5, 1, 0.5]
    assert [settings("fairat", row, "method.subset") for row in ("hard", "random", "all")] == ["hard", "random", "all"]
    assert settings("leaderboard", "strong", "averaging.decay") == 0.9995
    assert settings("faal", "wrn_mart", "objective.beta") == 6


@pytest.mark.slow
@pytest.mark.parametrize("table, budget", REAL)
def test_every_row_of_the_real_tables_runs(table, budget, tmp_path, monkeypatch):
    """The whole pipeline of each budget with all its rows, each an epoch of a tiny network on a few made-up images."""
    monkeypatch.chdir(tmp_path)

    def fewer(words, main=judge.main):
        main([*(re.sub("(?<=samples_per_class=).+", "5", word) for word in words), "suite.steps=2", "suite.queries=5"])

    monkeypatch.setattr(judge, "main", fewer)
    reproduce.main([f"table={table}", f"budget={budget}", *TINY, "data.test_size=80"])
    rows = yaml.safe_load((reproduce.TABLES / f"{table}.yaml").read_text())
    labels = [row["label"] for row in rows.values() if budget in row.get("budgets", [budget])]
    found = json.loads((tmp_path / f"runs/reproduce/{table}-{budget}/report/table.json").read_text())["rows"]
    assert [row["label"] for row in found] == labels


# Published figures


def sources():
    return sorted((ROOT / "results" / "published").glob("*.yaml"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.stem)
def test_published_figures_are_percents_with_a_source(path):
    found = yaml.safe_load(path.read_text())
    assert found["cite"] and found["source"] and found["kind"] in ("paper", "log", "readme", "secondary")
    assert "PUBLISHED, not ours" in path.read_text()
    for key, row in found["rows"].items():
        assert set(row) <= {"label", "protocol", "note", "gain", *beside.ATTACKS}, key
        assert set(row) & {"gain", *beside.ATTACKS}, key
        for attack in beside.ATTACKS:
            assert all(0 <= value <= 100 for value in row.get(attack, {}).values())
        protocol = {**found.get("protocol", {}), **row.get("protocol", {})}
        assert set(protocol) <= {"data", "model", "epochs", "base", "eps", "selection", "test_images", "seeds"}, key
        assert protocol.get("selection", "best") in ("test", "validation", "last", "best")


def test_published_figures_travel_with_the_package():
    assert PLACES[1].is_dir()
    settings = (ROOT / "pyproject.toml").read_text()
    assert '"results/published" = "fairat_lightning/published"' in settings


def folder_with(at: Path, seed: int, worst: float, average: float = 0.5, *, epochs: int = 2) -> Path:
    """A finished run's record with these AutoAttack figures, of 10 classes of 100 images."""
    at.mkdir(parents=True)
    per_class = {f"c{k}": worst if k == 0 else (10 * average - worst) / 9 for k in range(10)}
    summary = {
        "average": average,
        "worst": worst,
        "worst_class": "c0",
        "per_class": per_class,
        "counts": dict.fromkeys(per_class, 100),
    }
    (at / "metrics.json").write_text(json.dumps(dict.fromkeys(("clean", "pgd20", "autoattack"), summary)))
    (at / "run.json").write_text(json.dumps({"seed": seed}))
    made = {
        "model": {"_target_": "fairat_lightning.models.preactresnet18", "width": 64},
        "trainer": {"max_epochs": epochs},
        "attack": {"eps": "8/255", "norm": "linf", "steps": 10},
        "data": {"train_size": None},
    }
    (at / "config.yaml").write_text(yaml.safe_dump(made))
    return at


def test_the_difference_is_ours_less_theirs_and_noise_is_marked(tmp_path):
    runs = [read_run(folder_with(tmp_path / str(seed), seed, worst)) for seed, worst in enumerate((0.30, 0.31, 0.32))]
    report = report_of([Group("FAAL", runs)])
    (line,) = beside.beside(report, {"FAAL": ["faal.faal_at_from_pgd"]})
    head, ours, theirs, difference = beside.table([line])
    found = reasons(line.group, line.reference.protocol)
    assert head == ["", "AutoAttack average", "AutoAttack worst"]
    assert ours == ["FAAL", "50.0 ± 0.0", "31.0 ± 1.0"]
    assert theirs[1:] == ["45.5", "31.1"] and "authors' logs" in theirs[0]
    assert difference == ["difference", "+4.5", "−0.1 ≈"]  # 31.1 lies within 31.0 ± 2.5, 45.5 outside of 50.0 ± 0.0
    assert not any("epochs" in reason or "model" in reason or "PreAct" in reason for reason in found)
    assert "AutoAttack on 1,000 test images" in found and "epoch chosen on validation, published on test images" in found


def test_what_differs_is_read_from_both_protocols(tmp_path):
    group = Group("TRADES", [read_run(folder_with(tmp_path / "a", 0, 0.2, epochs=7))])
    (line,) = beside.beside(report_of([group]), {"TRADES": ["dafa.trades"]})
    assert reasons(line.group, line.reference.protocol)[:3] == [
        "PreAct ResNet-18, published ResNet-18",
        "7 epochs, published 110 epochs",
        "training eps 0.03137, published training eps 0.031",
    ]


def test_what_differs_everywhere_is_said_once(tmp_path):
    group = Group("TRADES", [read_run(folder_with(tmp_path / "a", 0, 0.2, epochs=7))])
    first, *each = beside.explained(beside.beside(report_of([group]), {"TRADES": ["dafa.trades", "cfa.trades"]}))
    assert first == "Everywhere: AutoAttack on 1,000 test images."
    assert [line.partition(":")[0] for line in each] == [
        "TRADES and TRADES (DAFA, ICLR 2024)",
        "TRADES and TRADES (CFA, CVPR 2023)",
    ]
    assert "7 epochs, published 110 epochs" in each[0] and "seeds: 1, published 5" in each[1]


def test_a_published_gain_is_set_beside_ours(tmp_path):
    base = Group("PGD-AT", [read_run(folder_with(tmp_path / "a", 0, 0.2))])
    fairat = Group("FairAT", [read_run(folder_with(tmp_path / "b", 0, 0.26, 0.51))])
    report = report_of([base, fairat])
    report.baselines = {"FairAT": "PGD-AT"}
    (line,) = beside.beside(report, {"FairAT": ["fairat.fairat"]})
    assert beside.table([line])[1:] == [
        ["FairAT", "1.0", "6.0"],
        ["published: FairAT, FCS 2025, second-hand", "2.1", "4.5"],
        ["difference", "−1.1", "+1.5"],
    ]


def test_an_unknown_published_row_is_an_error():
    with pytest.raises(ValueError, match="no published figures called faal.nothing"):
        reference("faal.nothing")
