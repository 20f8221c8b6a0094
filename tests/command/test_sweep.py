"""Sweeps: through launchers, stopped and started again; one process a run; GPUs shared."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
from filelock import FileLock, Timeout
from helpers import ROOT, SMALL, call, refused, start
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import OmegaConf

from fairat_lightning.commands import sweep
from fairat_lightning.commands.errors import Stop
from fairat_lightning.commands.one_run import run
from fairat_lightning.commands.sweep import Ended
from fairat_lightning.config.compose import resolved
from fairat_lightning.methods import AdversarialTraining
from fairat_lightning.record.reader import read_history
from fairat_lightning.training import run as runs

WORDS = [w for w in SMALL if "max_epochs" not in w]
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


def test_one_bad_job_leaves_the_others_alone(tmp_path):
    done = start(tmp_path, "-m", *WORDS, "trainer.max_epochs=1", "optim.lr=-1,0.1", "seed=0,1")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "4 runs, 2 of them finished" in done.stdout
    for seed in (0, 1):
        refused = f"optim.lr=-1 seed={seed}: optim.lr=-1 must be a number, 0 or more"
        assert f"error: {refused}\n" in done.stderr and f"    failed  {refused}\n" in done.stdout
    assert done.stderr.splitlines()[-1] == "error: 2 of 4 runs are not finished"
    folders = [p for p in (tmp_path / "runs").iterdir() if p.is_dir()]
    assert len(folders) == 2 and all((p / "metrics.json").exists() for p in folders)


def test_loggers_are_a_list_and_no_jobs(tmp_path, monkeypatch, capsys):
    code, _, err = call(monkeypatch, capsys, tmp_path, "-m", *SMALL, "logger=csv,wandb", "seed=0,1")
    refused(code, err, "write 'logger=[csv,wandb]'")
    assert not list(tmp_path.iterdir())


def test_a_machine_without_slurm_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = start(tmp_path, "-m", *WORDS, "trainer.max_epochs=1", "hydra/launcher=submitit_slurm", "seed=0,1")
    assert done.returncode == 2 and done.stderr.startswith("error: this machine has no SLURM") and done.stderr.count("\n") == 1


def test_a_run_has_one_process(compose, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"), pytest.raises(Stop) as stop:
        run(compose(*SMALL), tmp_path / "run")
    assert stop.value.code == 75 and "is being trained by another process" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "run").iterdir()] == [".lock"]
    run(compose(*SMALL), tmp_path / "run")


def test_what_another_process_is_writing_is_not_called_damaged(compose, tmp_path, capsys, monkeypatch):
    """Between two saves of the other process there is no last.ckpt."""
    run(compose(*SMALL), tmp_path / "run")
    for name in ("metrics.json", "checkpoints/best.ckpt"):
        (tmp_path / "run" / name).unlink()
    with FileLock(tmp_path / "run" / ".lock"), pytest.raises(Stop) as stop:
        run(compose(*SMALL), tmp_path / "run")
    assert stop.value.code == 75 and "is being trained by another process" in capsys.readouterr().err
    with pytest.raises(Stop) as stop:
        run(compose(*SMALL), tmp_path / "run")
    assert stop.value.code == 2 and "best.ckpt is missing" in capsys.readouterr().err
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # a process of a command whose first one has the lock
    with FileLock(tmp_path / "run" / ".lock"), pytest.raises(Stop) as stop:
        run(compose(*SMALL), tmp_path / "run")
    assert stop.value.code == 2


def test_what_another_command_has_done_meanwhile_is_left_alone(compose, tmp_path, capsys, monkeypatch):
    """Both look at the empty folder; the second finds a finished run when it is its turn."""
    cfg = OmegaConf.create(resolved(compose(*SMALL)))
    first, second = (runs.prepare(cfg, tmp_path / "run") for _ in range(2))
    runs.execute(first)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.name != ".lock"}
    with pytest.raises(Timeout):
        runs.execute(second)
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_told_to_stop_while_it_prepares_a_sweep_begins_nothing(tmp_path, monkeypatch, capsys):
    prepare = runs.prepare
    monkeypatch.setattr(runs, "prepare", lambda *args, **more: os.kill(os.getpid(), signal.SIGTERM) or prepare(*args, **more))
    monkeypatch.setattr(sweep, "THIS", sweep.Worker())
    code, out, err = call(monkeypatch, capsys, tmp_path, "-m", *SMALL, "seed=0,1")
    assert code == 75 and "2 runs, 0 of them finished" in out and out.count("   stopped  seed=") == 2
    assert err.splitlines() == [
        "error: seed=0: stopped by a signal: the same command continues",
        "error: 2 of 2 runs are not finished",
    ]
    assert not list((tmp_path / "runs").glob("*/*"))


def table(out: str) -> list[str]:
    """The lines of the jobs."""
    return out.partition("worst   run\n")[2].splitlines()


def test_the_table_has_the_best_on_validation_first_then_what_failed(monkeypatch, capsys, tmp_path):
    """A job without a name, which needs more than it was given, holds up none of those after it."""
    words = ("-m", *WORDS, "trainer.max_epochs=1", "method=pgd_at,fair_ard,standard")
    code, out, err = call(monkeypatch, capsys, tmp_path, *words)
    why = "method=fair_ard: this method distils a trained teacher: set method.teacher=PATH"
    assert code == 2 and why in err.splitlines()[0] and err.splitlines()[1:] == ["error: 1 of 3 runs are not finished"]
    first, second, failed, last = table(out)
    assert failed.startswith(f"    failed  {why}") and "3 runs, 2 of them finished" in out
    assert sorted(p.name.split("-")[2] for p in (tmp_path / "runs").glob("*/")) == ["pgd_at", "standard"]
    assert float(first.split()[0]) >= float(second.split()[0]) and last.startswith("The first run of the table is runs/")
    for line in (first, second):
        folder = next((tmp_path / "runs").glob(f"*-{line.rpartition('=')[2]}-*"))
        metrics, row = json.loads((folder / "metrics.json").read_text()), read_history(folder)[-1]
        parts = [row["val/robust"] + row["val/robust_worst"], metrics["clean"]["average"]]
        shown = [*parts, metrics["pgd20"]["average"], metrics["pgd20"]["worst"]]
        assert line.split()[:4] == [f"{100 * value:.1f}" for value in shown]


def test_the_order_of_the_table(tmp_path, capsys, monkeypatch):
    jobs = [Ended(f"seed={k}", 0, "", tmp_path / str(k)) for k in range(3)]
    jobs += [Ended("seed=3", 2, "no", tmp_path), Ended("seed=4", 75, "told", tmp_path, tmp_path / "x.log")]
    monkeypatch.setattr(sweep, "judged", lambda folder: (int(folder.name) % 2, 0.5, 0.5, 0.5))
    sweep.show(jobs)
    rows = table(capsys.readouterr().out)
    assert [line.split("   ")[-1].strip() for line in rows[:3]] == ["seed=1", "seed=0", "seed=2"]
    assert rows[3:] == [f"   stopped  seed=4: told (log: {tmp_path}/x.log)", f"    failed  seed=3: no (in {tmp_path})", rows[5]]
    assert rows[5].endswith("/1")


def test_a_fault_of_one_job_leaves_its_traceback_and_the_others_run(monkeypatch, capsys, tmp_path):
    step = AdversarialTraining.training_step

    def fail(self, batch, batch_idx):
        if self.trainer.max_epochs == 1:
            raise RuntimeError("a bug")
        return step(self, batch, batch_idx)

    words = ("-m", *WORDS, "trainer.max_epochs=1,2")
    with monkeypatch.context() as patch:
        patch.setattr(AdversarialTraining, "training_step", fail)
        code, out, err = call(monkeypatch, capsys, tmp_path, *words)
    place = next((tmp_path / "runs").glob("*/traceback.txt"))
    assert code == 1 and "2 runs, 1 of them finished" in out and "in fail" in place.read_text() and "in fail" in err
    assert table(out)[-1] == f"    failed  trainer.max_epochs=1: RuntimeError: a bug (log: {place.relative_to(tmp_path)})"
    assert call(monkeypatch, capsys, tmp_path, *words)[0] == 0 and not place.exists()


@pytest.mark.slow
def test_a_launcher_s_process_that_is_killed_is_one_line(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(KILLED)
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    words = ["-m", *JOBLIB, *WORDS, "trainer.max_epochs=1", "seed=0,1"]
    command = [sys.executable, "-m", "fairat_lightning", *words]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "the same command skips what is finished and continues with the rest" in done.stderr


KILLED = """
import multiprocessing, os, signal, threading, time

def kill():
    while multiprocessing.parent_process() is None:
        time.sleep(0.1)
    time.sleep(2)
    os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=kill, daemon=True).start()
"""


def hold(place, held, end):
    sweep.tempfile.tempdir = str(place)
    held.put(sweep.claim(2, 5))
    end.wait(30)


def test_each_process_claims_a_gpu_of_its_own_until_it_ends(tmp_path):
    ways = multiprocessing.get_context("fork")
    held, end = ways.Queue(), ways.Event()
    for expected in (0, 1, 5 % 2):
        process = ways.Process(target=hold, args=(tmp_path, held, end))
        process.start()
        assert held.get(timeout=30) == expected
    first = multiprocessing.active_children()
    end.set()
    for process in first:
        process.join()
    end.clear()
    process = ways.Process(target=hold, args=(tmp_path, held, end))
    process.start()
    assert held.get(timeout=30) == 0
    end.set()
    process.join()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [JOBLIB, ("hydra/launcher=submitit_local", "hydra.launcher.cpus_per_task=1"), ()])
def test_a_stopped_sweep_skips_what_is_finished_and_goes_on_with_the_rest(tmp_path, launcher):
    words = ["-m", *launcher, *WORDS, "trainer.max_epochs=30", "seed=0,1,2"]
    whole = start(tmp_path, "-m", *WORDS, "trainer.max_epochs=30", "seed=0,1,2", "hydra.sweep.dir=whole")
    assert whole.returncode == 0, whole.stderr
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-m", "fairat_lightning", *words], cwd=tmp_path, env=env, start_new_session=True)
    while not list((tmp_path / "runs").glob("*/history.csv")):
        time.sleep(0.1)
        assert process.poll() is None
    time.sleep(1)
    if "submitit_local" in "".join(launcher):
        os.killpg(process.pid, signal.SIGKILL)  # its jobs stand in sessions of their own, and go on
        process.wait()
    else:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75
    for _ in range(100):
        done = start(tmp_path, *words)
        if done.returncode != 75:  # a job of the first sweep is still at it
            break
        time.sleep(1)
    assert done.returncode == 0 and "3 runs, 3 of them finished" in done.stdout, done.stderr
    for folder in (tmp_path / "whole").glob("*-s?-*"):
        other = tmp_path / "runs" / folder.name
        assert json.loads((other / "metrics.json").read_text()) == json.loads((folder / "metrics.json").read_text())
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").glob("*/metrics.json")}
    assert "3 of them finished" in start(tmp_path, *words).stdout
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_sweep_that_was_stopped_leaves_nothing_to_the_next_one_of_its_process(monkeypatch):
    monkeypatch.setattr(sweep, "THIS", sweep.Worker())
    with pytest.raises(Stop), sweep.listening():
        signal.raise_signal(signal.SIGTERM)
    assert sweep.THIS.told
    with sweep.listening():
        assert not sweep.THIS.told
