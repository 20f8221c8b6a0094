"""The search for hyper-parameters: what varies, seeds in one group, pruning, workers, and going on."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from helpers import ROOT, SMALL, start

from fairat_lightning.commands import search
from fairat_lightning.commands.errors import Stop

optuna = pytest.importorskip("optuna")
WORDS = [*(w for w in SMALL if "max_epochs" not in w), "trainer.max_epochs=3", "method=faal"]
RADIUS = "method.radius=interval(0.1,0.9)"


def trials(place, study="search"):
    storage = place if "://" in str(place) else f"sqlite:///{place}/runs/search.db"
    return optuna.load_study(study_name=study, storage=storage).trials


@pytest.fixture
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fairat_lightning"])
    return tmp_path


def test_a_trial_is_the_mean_of_its_seeds_and_the_study_goes_on(here, capsys):
    words = [*WORDS, RADIUS, "optim.lr=0.05,0.1", "seeds=[0,1]"]
    search.main([*words, "trials=1"])
    assert len(list((here / "runs").glob("*/metrics.json"))) == 2
    search.main([*words, "trials=2"])
    assert "2 trials of study search, 2 of them complete" in capsys.readouterr().out
    for trial in trials(here):
        assert 0.1 <= trial.params["method.radius"] <= 0.9 and trial.params["optim.lr"] in ("0.05", "0.1")
        assert sorted(trial.intermediate_values) == list(range(6))
    with pytest.raises(ValueError, match=r"other settings \(optim.lr=0.05,0.1, seeds=\[0, 1\] there, seeds=\[0\] here\)"):
        search.main([*WORDS, RADIUS, "trials=3"])
    search.main([*words, "trials=2", "logger=tensorboard", "save_minutes=3", "+trainer.enable_progress_bar=false"])


def test_a_search_is_another_on_other_images_and_the_same_where_an_official_set_lies_elsewhere():
    def of(*words):
        return {"words": [RADIUS, *words], "seeds": [0]}

    def study(*words):
        return SimpleNamespace(study_name="s", user_attrs={"search": of(*words)}, set_user_attr=lambda *args: None)

    official, own = search.ELSEWHERE, search.ELSEWHERE - {"data.root"}
    search._is_of(study("data.root=a", "logger=wandb", "trainer=gpu"), of("data.root=b"), official)
    search._is_of(study("data.root=a", "logger=wandb"), of("data.root=a"), own)  # begun when all words counted
    for before, now in (("data.root=a", "data.root=b"), ("optim.lr=0.1", "optim.lr=0.2")):
        with pytest.raises(ValueError, match=f"{before} there, {now} here"):
            search._is_of(study(before), of(now), own)


def test_its_runs_go_where_it_says_and_the_end_names_the_best_and_how_to_repeat_it(here, capsys):
    search.main([*WORDS, RADIUS, "seeds=[0,1]", "trials=2", "hydra.sweep.dir=my searches"])
    said = capsys.readouterr().out.splitlines()
    best, *others = sorted(trials(here), key=lambda trial: -trial.value)
    assert f"  {100 * best.value:6.1f}   method.radius={best.params['method.radius']}" in said
    folders = [path.parent for path in (here / "my searches").glob("*/metrics.json")]
    assert len(folders) == 4 and not [path for path in (here / "runs").iterdir() if path.is_dir()]
    (runs,) = (line for line in said if line.startswith("Its runs: "))
    assert {str(path.relative_to(here)) for path in folders if str(path.relative_to(here)) in runs} == {
        *best.user_attrs["folders"]
    }
    again = shlex.split(said[-1].removeprefix("The first again: "))
    done = start(here, *again[3:])
    assert done.returncode == 0 and "This run is finished" in done.stdout, done.stderr


def test_the_value_is_from_validation_and_what_was_trained_is_not_trained_again(here, capsys):
    import csv
    from statistics import fmean

    words = [*WORDS, "method.radius=choice(0.3)", "trials=1", "seeds=[0,1]"]
    search.main(words)
    (trial,) = trials(here)
    tables = [list(csv.DictReader(path.open())) for path in sorted((here / "runs").glob("*-s?-*/history.csv"))]
    assert trial.value == fmean(max(float(row["val/select"]) for row in rows) for rows in tables)
    worst = [[float(row["val/robust_worst"]) for row in rows] for rows in tables]
    assert [trial.intermediate_values[i] for i in range(3)] == worst[0]
    assert [trial.intermediate_values[3 + i] for i in range(3)] == [fmean(pair) for pair in zip(*worst, strict=True)]
    search.main([*words, "select=last", "val_every=2", "study=last"])  # epochs 2 and 3 are validated, the last one is kept
    (last,) = trials(here, "last")
    assert last.value == fmean(float(rows[-1]["val/select"]) for rows in tables) and len(last.intermediate_values) == 4
    search.main([*words, "select=sum_1se", "study=latest"])
    (latest,) = trials(here, "latest")
    kept = [json.loads(path.read_text()) for path in sorted((here / "runs").glob("*-s?-*/run.json"))]
    kept = [facts["selected_epoch"] for facts in kept if facts["selected_by"] == "sum_1se"]
    # The rule changes what is kept, and nothing that is trained.
    assert latest.value == fmean(float(rows[epoch]["val/select"]) for rows, epoch in zip(tables, kept, strict=True))
    search.main([*words, "study=again"])
    (again,) = trials(here, "again")
    assert again.intermediate_values == trial.intermediate_values and again.value == trial.value
    assert capsys.readouterr().out.count("This run is finished") == 2


def test_a_laggard_is_pruned(here, monkeypatch):
    monkeypatch.setattr(optuna.trial.Trial, "should_prune", lambda self: self.number == 1)
    search.main([*WORDS, RADIUS, "trials=2"])
    first, second = trials(here)
    assert first.state.name == "COMPLETE" and second.state.name == "PRUNED" and len(second.intermediate_values) == 1


@pytest.mark.parametrize(
    "words,said",
    [
        (["trials=0", RADIUS], "trials=0"),
        (["seeds=3", RADIUS], "seeds=3 must be a list of different whole numbers, such as [0,1,2]"),
        (["prune=2", RADIUS], "prune=2"),
        ([], "nothing to search"),
        (["seed=0,1"], "seed cannot be set"),
        (["method.radius=glob(*)"], "cannot be searched"),
        ([RADIUS, "storage=nonsense"], "storage=nonsense"),
        ([RADIUS, "storage=mysql://me:hidden@nowhere/db"], "storage=mysql://***@nowhere/db"),
    ],
)
def test_wrong_words_are_one_line(here, words, said):
    with pytest.raises(ValueError) as error:
        search.main([*WORDS, *words])
    assert said in str(error.value) and "\n" not in str(error.value) and not list(here.glob("runs/*/"))


@pytest.mark.parametrize(
    "words,said",
    [
        (["method.radius=-1,-2"], "method.radius=-"),
        (
            [RADIUS, "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"],
            "a sweep or search cannot use several processes",
        ),
    ],
)
def test_a_trial_that_the_run_refuses_ends_the_search(here, capsys, words, said):
    with pytest.raises(Stop) as stop:
        search.main([*WORDS, *words])
    assert stop.value.code == 2 and said in capsys.readouterr().err
    assert trials(here)[0].state.name == "FAIL"


def worker(place, *words):
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "fairat_lightning.search", *WORDS, *words]
    return subprocess.Popen(command, cwd=place, env=env, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def postgresql(tmp_path):
    """A server of our own, for as long as the test lasts."""
    folders = [str(path.parent) for path in search.Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    binaries = folders[-1] if folders else None
    pytest.importorskip("psycopg2")
    if binaries is None:
        pytest.skip("no PostgreSQL here")
    me = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    data = search.Path(f"/tmp/fairat-postgres-{os.getpid()}")
    data.mkdir()
    if me:
        shutil.chown(data, "postgres")
    subprocess.run([*me, f"{binaries}/initdb", "-D", data / "db", "-A", "trust", "-U", "me"], check=True, capture_output=True)
    options = f"-k {data} -c listen_addresses=''"
    control = [*me, f"{binaries}/pg_ctl", "-D", str(data / "db"), "-w"]
    subprocess.run([*control, "-o", options, "-l", str(data / "log"), "start"], check=True, stdout=subprocess.DEVNULL)
    yield f"postgresql+psycopg2://me@/postgres?host={data}"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True)
    shutil.rmtree(data)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_two_workers_share_a_study_and_a_dead_one_s_trial_is_tried_again(tmp_path, request, kind):
    storage = f"sqlite:///{tmp_path}/runs/search.db" if kind == "sqlite" else request.getfixturevalue("postgresql")
    number = -1
    words = [RADIUS, "trainer.max_epochs=60", "trials=4", f"storage={storage}", "heartbeat=1", "prune=false"]
    first = worker(tmp_path, *words)
    for line in first.stdout:
        if line.startswith("epoch"):
            break
    second = worker(tmp_path, *words)
    for line in second.stdout:
        number = int(line.split()[1].rstrip(":")) if line.startswith("trial ") else number
        if line.startswith("epoch   3"):
            break
    second.send_signal(signal.SIGKILL)
    second.wait()
    dead = trials(storage)[number]
    third = worker(tmp_path, *words)
    said = [first.communicate()[0], third.communicate()[0]]
    assert first.returncode == third.returncode == 0, said
    found = trials(storage)
    assert found[number].state.name == "FAIL"
    again = [t for t in found if t.params == dead.params and t.state.name == "COMPLETE"]
    assert len(again) == 1 and any(", resumed" in text for text in said), "its run goes on from its checkpoint"
    assert 4 <= sum(t.state.name == "COMPLETE" for t in found) <= 5  # two workers may both begin the last one


@pytest.mark.slow
def test_told_to_stop_its_trial_is_gone_on_with(tmp_path):
    words = [RADIUS, "trainer.max_epochs=25", "trials=1"]
    process = worker(tmp_path, *words)
    for line in process.stdout:
        if line.startswith("epoch   3"):
            break
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    time.sleep(0.1)
    done = start(tmp_path, *WORDS, *words, module="fairat_lightning.search")
    assert done.returncode == 0 and ", resumed" in done.stdout, done.stderr
    first, second = trials(tmp_path)
    assert first.state.name == "FAIL" and second.state.name == "COMPLETE" and first.params == second.params
