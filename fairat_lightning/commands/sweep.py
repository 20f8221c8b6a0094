"""Many runs by one command: Hydra's sweep (-m), in this process or through a launcher.

Each job is the run of its own folder, so that a sweep started again skips what is finished and goes on with the rest, and
several sweeps may share one grid. A job that fails leaves the others alone; its line is said again at the end.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import hydra
from filelock import FileLock, Timeout
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from fairat_lightning.commands.errors import Stop, refuse
from fairat_lightning.commands.one_run import run
from fairat_lightning.config.compose import CONF, as_begun
from fairat_lightning.running.signals import SIGNALS, TOLD
from fairat_lightning.running.slurm import GPU, QUEUED

if os.environ.get("SUBMITIT_EXECUTOR") == "local":  # which hides the GPUs from its jobs, or gives all of them the first
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)


@dataclass
class Worker:
    """What the process of a sweep, or of one of its launcher's, knows from job to job."""

    told: bool = False  # to stop: no further job begins
    held: list[FileLock] = field(default_factory=list)  # its GPU


THIS = Worker()  # a launcher hands `job` on by its name, so that what it knows must be found by a name too


def sweep(words: list[str]) -> NoReturn:
    """Run every job; exit code 0 if all are finished, else 75 if the command is to be given again, else the worst of them."""
    with listening():
        try:
            with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
                command: Any = GlobalHydra.instance().hydra
                batches = command.multirun("config", job, words, with_log_configuration=False)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            refuse(error)
        except Exception:
            if not THIS.told:
                raise
            raise Stop(os.EX_TEMPFAIL, TOLD) from None  # a launcher misses a process that ended between two jobs
    results = [result.return_value for batch in batches for result in batch]
    failed = [(code, line) for code, line in results if code]
    print(f"\n{len(results)} runs, {len(results) - len(failed)} of them finished")
    for line, times in Counter(line for _, line in failed).items():
        print(f"error: {line}" + (f" ({times} runs)" if times > 1 else ""), file=sys.stderr)
    codes = {code for code, _ in failed}
    raise SystemExit(os.EX_TEMPFAIL if os.EX_TEMPFAIL in codes else max(codes, default=0))


def job(cfg: DictConfig) -> tuple[int, str]:
    """One job, in whatever process its launcher has put it: its exit code, and the line that goes with it."""
    settings = HydraConfig.get()
    if THIS.told:
        return os.EX_TEMPFAIL, TOLD
    if multiprocessing.parent_process() is not None:
        for number in SIGNALS:
            signal.signal(number, end)
    try:
        share(settings)
        begun, folder = as_begun(cfg, Path(settings.runtime.output_dir), settings.runtime.choices)
        run(begun, folder, sweep=True)
    except SystemExit as stop:
        if stop.code == QUEUED:
            raise
        line = stop.line if isinstance(stop, Stop) else TOLD
        THIS.told = THIS.told or not isinstance(stop, Stop)
        return int(stop.code or 0), line
    return 0, ""


def end(number: int, frame: Any) -> None:
    """What a signal does in a launcher's process while no training listens to it."""
    raise SystemExit(os.EX_TEMPFAIL)


def share(settings: Any) -> None:
    """Take a GPU of this process's own, if there are several and nobody has chosen, and as many threads as the launcher says."""
    import torch

    if cores := settings.launcher.get("cpus_per_task"):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    alone = settings.launcher._target_.endswith("BasicLauncher") or "CUDA_VISIBLE_DEVICES" in os.environ
    if not alone and not THIS.held and (count := torch.cuda.device_count()) > 1:
        os.environ[GPU] = str(claim(count, settings.job.num))  # for `trainer.py`: CUDA has counted its devices already


def claim(count: int, number: int) -> int:
    """A GPU of `count` that no other process of this user holds, until this one ends; by the job's number if all are held."""
    for gpu in range(count):
        lock = FileLock(Path(tempfile.gettempdir()) / f"fairat_lightning-{os.getuid()}-gpu{gpu}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        THIS.held.append(lock)
        return gpu
    return number % count


@contextmanager
def listening() -> Iterator[None]:
    """Hand SIGTERM and SIGUSR1 on to the processes that a launcher has started, and begin no further job."""

    def hear(number: int, frame: Any) -> None:
        THIS.told = True
        children = [child.pid for child in multiprocessing.active_children() if child.pid]
        for child in children:
            os.kill(child, number)
        if not children:  # no training of this process listens, or its jobs stand in other places and go on
            raise Stop(os.EX_TEMPFAIL, TOLD)

    before = {number: signal.signal(number, hear) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
