"""Jobs that submitit has given to SLURM (`-m hydra/launcher=submitit_slurm`), queued again when SLURM stops them.

Before the time limit SLURM sends SIGUSR2, which submitit answers by queueing the job again and ending it in the middle of a step;
when it pre-empts, SIGTERM, which submitit passes over. `signals.py` hears both in its place, `checkpoints.py` saves and then
comes here.
"""

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fairat_lightning.record.reader import read_facts

GPU = "FAIRAT_LIGHTNING_GPU"  # the one that a launcher's process has claimed, in its environment
QUEUED = -1  # submitit's exit code where the job is queued again: it has no result yet


def begun_by_this_job(folder: Path) -> bool:
    """Whether SLURM has queued this job again after it began the run in `folder`: in spite of overwrite=true that continues."""
    if not int(os.environ.get("SLURM_RESTART_COUNT") or 0):
        return False
    facts = read_facts(folder, {})
    return os.environ["SLURM_JOB_ID"] in [session.get("job") for session in (facts, *facts.get("resumed", ()))]


def through_submitit() -> bool:
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"


def queue_again(submitit: Callable[[int, Any], Any]) -> None:
    """Let submitit's handler of SIGUSR2 queue this job again and exit, or return if it has been queued too often.

    A job that SLURM is ending already is left to it: pre-empted ones are queued again, cancelled ones must not be.
    """
    running = ["squeue", "--noheader", "--states=RUNNING", f"--jobs={os.environ['SLURM_JOB_ID']}"]
    if not subprocess.run(running, capture_output=True, text=True).stdout.strip():
        raise SystemExit(QUEUED)
    with suppress(RuntimeError):  # its UncompletedJobError
        submitit(signal.SIGUSR2, None)
