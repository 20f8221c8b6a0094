"""Runs on a SLURM of one node: at the time limit and when pre-empted they go on, and end in the bits of one that was not.

`make test-slurm` names this file; pytest does not find it by itself.
"""

import functools
import getpass
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import cluster, field, installed, slurm, wait
from helpers import rows, same

pytestmark = pytest.mark.skipif(not installed(), reason="SLURM is not installed: apt-get install slurm-wlm munge")

COMMAND = (sys.executable, "-m", "fairat_lightning")
RUN = (
    *("data=synthetic", "data.train_size=64", "data.test_size=40", "data.batch_size=16", "model.width=4"),
    *("trainer=cpu", "trainer.precision=32-true", "attack.steps=2"),
)
LONG, SHORT = 600, 200  # epochs: longer than SLURM, which looks every 30 s, takes to see the limit; half a minute

# srun hands the signals of SLURM on to Python. 75: all is saved; 138 and 143: USR1 or TERM came before anything had begun.
# A script that SLURM itself ends gets no further than srun: it is queued again by SLURM if it was pre-empted, not if cancelled.
RECIPE = """#!/bin/bash
#SBATCH --ntasks=1 --requeue --open-mode=append --signal=USR1@{seconds}
srun {command}
code=$?
case $code in 75|138|143) scontrol requeue $SLURM_JOB_ID ;; esac
exit $code
"""


@pytest.fixture(scope="module", autouse=True)
def one_node(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        with cluster(tmp_path_factory.mktemp("slurm")) as conf:
            patch.setenv("SLURM_CONF", str(conf))
            yield


@pytest.fixture(autouse=True)
def emptied(one_node):
    yield
    slurm("scancel", "--user", getpass.getuser())
    wait(lambda: not slurm("squeue", "--noheader"), 30)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run of so many epochs, uninterrupted."""

    @functools.cache
    def whole(epochs: int, seed: int = 0) -> Path:
        folder = tmp_path_factory.mktemp("whole") / "run"
        words = (f"trainer.max_epochs={epochs}", f"seed={seed}", f"hydra.run.dir={folder}")
        subprocess.run([*COMMAND, *RUN, *words], check=True, capture_output=True)
        return folder

    return whole


@pytest.fixture
def submit(tmp_path):
    """Submit the recipe with these options of sbatch: its id, the run's folder and what it prints."""

    def submit(epochs: int, *options: str, seconds: int = 30) -> tuple[str, Path, Path]:
        folder, log, script = tmp_path / "run", tmp_path / "log", tmp_path / "job.sh"
        command = [*COMMAND, *RUN, f"trainer.max_epochs={epochs}", f"hydra.run.dir={folder}"]
        script.write_text(RECIPE.format(command=" ".join(command), seconds=seconds))
        return slurm("sbatch", "--parsable", f"--output={log}", *options, str(script)), folder, log

    return submit


def preempt(folder: Path, epochs: int = 20) -> None:
    """Once the run has seen some epochs, a job that takes its place."""
    wait(lambda: (folder / "history.csv").exists() and len(rows(folder)) > epochs, 90)
    slurm("sbatch", "--partition=high", "--output=/dev/null", "--wrap=sleep 3")


def ended(job: str, log: Path, seconds: float = 900) -> None:
    wait(lambda: field(job, "JobState") in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"), seconds)
    assert field(job, "JobState") == "COMPLETED", log.read_text()
    assert int(field(job, "Restarts")) >= 1, log.read_text()
    assert "Stopped: the run is saved" in log.read_text() and "resumed" in log.read_text()


def identical(whole: Path, folder: Path) -> None:
    same(whole, folder)
    assert (folder / "metrics.json").read_text() == (whole / "metrics.json").read_text()
    assert not list(folder.rglob("hpc_ckpt*"))  # Lightning's own way


def test_time_limit(whole, submit):
    job, folder, log = submit(LONG, "--partition=low", "--time=2", seconds=65)
    ended(job, log)
    identical(whole(LONG), folder)


@pytest.mark.parametrize("grace", [0, 20])
def test_preempted(whole, submit, grace):
    slurm("scontrol", "update", "PartitionName=low", f"GraceTime={grace}")
    job, folder, log = submit(SHORT, "--partition=low")
    preempt(folder)
    ended(job, log)
    identical(whole(SHORT), folder)


def test_cancelled(submit):
    """What a person cancels is saved, and not queued again."""
    job, folder, log = submit(SHORT, "--partition=low")
    wait(lambda: (folder / "history.csv").exists(), 90)
    slurm("scancel", job)
    wait(lambda: field(job, "JobState") == "CANCELLED", 30)
    wait(lambda: "Stopped: the run is saved" in log.read_text(), 30)


@pytest.fixture
def sweep(tmp_path):
    """Start a sweep through submitit: its process and the folder of its runs; ended with the test."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    started = []

    def sweep(epochs: int, *words: str) -> subprocess.Popen[str]:
        launcher = {"partition": "low", "max_num_timeout": 9, "signal_delay_s": 65}
        options = ["hydra/launcher=submitit_slurm", *(f"hydra.launcher.{key}={value}" for key, value in launcher.items())]
        folder = (f"hydra.sweep.dir={tmp_path}", "hydra.sweep.subdir=s${seed}", f"trainer.max_epochs={epochs}")
        command = [*COMMAND, "-m", *RUN, *options, *folder, *words]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield sweep
    for process in started:
        process.kill()


@pytest.mark.parametrize("grace", [0, 20])
def test_sweep_preempted(whole, sweep, tmp_path, grace):
    slurm("scontrol", "update", "PartitionName=low", f"GraceTime={grace}")
    process = sweep(SHORT, "seed=0,1", "hydra.launcher.timeout_min=20")
    preempt(tmp_path / "s0")
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said
    for seed in (0, 1):
        identical(whole(SHORT, seed), tmp_path / f"s{seed}")
    assert "resumed" in printed(tmp_path)


def test_sweep_at_the_time_limit(whole, sweep, tmp_path):
    process = sweep(LONG, "seed=0", "hydra.launcher.timeout_min=2")
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said
    identical(whole(LONG), tmp_path / "s0")
    assert "resumed" in printed(tmp_path)


def test_sweep_cancelled(sweep, tmp_path):
    sweep(SHORT, "seed=0", "hydra.launcher.timeout_min=20")
    wait(lambda: (tmp_path / "s0" / "history.csv").exists(), 90)
    job = slurm("squeue", "--noheader", "--format=%i", "--states=RUNNING")
    slurm("scancel", job)
    wait(lambda: field(job, "JobState") == "CANCELLED", 30)
    wait(lambda: "Stopped: the run is saved" in printed(tmp_path), 30)
    wait(lambda: not slurm("squeue", "--noheader"), 30)
    assert field(job, "Restarts") == "0" and field(job, "JobState") == "CANCELLED"


def printed(folder: Path) -> str:
    return "".join(path.read_text() for path in (folder / ".submitit").rglob("*.out"))
