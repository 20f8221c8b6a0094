"""Many runs by one command: Hydra's sweep (-m), in this process or through a launcher.

Each job is the run of its own folder, so that a sweep started again skips what is finished and continues with the rest, and
several sweeps may share one grid. A job that fails does not stop the others. At the end a table of all jobs is printed.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import hydra
from filelock import FileLock, Timeout
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from fairat_lightning.commands.errors import Stop, refuse
from fairat_lightning.commands.one_run import run
from fairat_lightning.config.compose import CONF, WRONG_INPUT, as_begun
from fairat_lightning.config.words import parse_word
from fairat_lightning.record.atomic_write import write
from fairat_lightning.record.reader import kept_epoch, read_metrics
from fairat_lightning.running.signals import TOLD, leave_next, listen, say_saving
from fairat_lightning.running.slurm import GPU, QUEUED
from fairat_lightning.running.terminal import short

if os.environ.get("SUBMITIT_EXECUTOR") == "local":  # which hides the GPUs from its jobs, or gives all of them the first
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)

TRACEBACK = "traceback.txt"  # in the folder of a run that an error of this package has ended
LOST = ("TerminatedWorkerError", "BrokenProcessPool", "UncompletedJobError", "FailedJobError")  # of the launchers' libraries
HEAD = """In percent. Validation: robust average + worst class, in the epoch that was kept.

            test   PGD-20   PGD-20
validation  clean  average  worst   run"""


class Ended(NamedTuple):
    """A job: its own overrides, its exit code and error line, its folder, and the file with more about it."""

    words: str
    code: int
    line: str = ""
    folder: Path | None = None
    log: Path | None = None


@dataclass
class Worker:
    """What a process of a sweep remembers from job to job."""

    told: bool = False  # to stop: no further job begins
    held: list[FileLock] = field(default_factory=list)  # its GPU


THIS = Worker()  # a launcher hands `job` on by its name, so that what it knows must be found by a name too


def sweep(words: list[str]) -> NoReturn:
    """Run every job; exit code 0 if all are finished, else 75 if the same command can continue them, else the highest of them."""
    with listening():
        try:
            for override in (parse_word(word, sweep=True) for word in words if word.startswith("logger=")):
                if override.is_sweep_override():  # of which the first job would leave the others nothing to do
                    listed = ",".join(override.sweep_string_iterator())
                    raise ValueError(f"logger={listed} would be jobs that differ in nothing else: write 'logger=[{listed}]'")
            with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
                command: Any = GlobalHydra.instance().hydra
                batches = command.multirun("config", partial(job, given=tuple(words)), words, with_log_configuration=False)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            refuse(error)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            refuse(f"the sweep's folder cannot be created: {error.strerror}: {error.filename}; set hydra.sweep.dir=FOLDER")
        except Exception as error:
            if "Could not detect" in str(error):  # submitit, on a machine without SLURM
                refuse("this machine has no SLURM (no srun): use hydra/launcher=submitit_local, or start the sweep where srun is")
            if THIS.told:
                raise Stop(os.EX_TEMPFAIL, TOLD) from None  # a launcher misses a process that ended between two jobs
            if type(error).__name__ in LOST:
                why = "a process of the launcher has been killed, perhaps because the memory was full"
                raise Stop(1, f"{why}: the same command skips what is finished and continues with the rest") from None
            raise
    jobs = [result.return_value for batch in batches for result in batch]
    show(jobs)
    codes = [ended.code for ended in jobs if ended.code]
    if codes:
        print(f"error: {len(codes)} of {len(jobs)} runs are not finished", file=sys.stderr)
    raise SystemExit(os.EX_TEMPFAIL if os.EX_TEMPFAIL in codes else max(codes, default=0))


def job(cfg: DictConfig, given: tuple[str, ...] = ()) -> Ended:
    """One job, in whatever process its launcher has put it; `given` are the overrides of the sweep's command."""
    settings = HydraConfig.get()
    words = " ".join(word for word in settings.overrides.task if word not in given) or " ".join(given)
    if THIS.told:
        return Ended(words, os.EX_TEMPFAIL, TOLD)
    if multiprocessing.parent_process() is not None:
        listen(end)
    Stop.of, folder = f"{words}: ", Path(settings.runtime.output_dir)
    try:
        share(settings)
        try:
            cfg, folder = as_begun(cfg, folder, settings.runtime.choices)
        except WRONG_INPUT as error:
            refuse(error, folder)
        (folder / TRACEBACK).unlink(missing_ok=True)
        run(cfg, folder, sweep=True)
    except SystemExit as stop:
        if stop.code == QUEUED:
            raise
        line = stop.line if isinstance(stop, Stop) else TOLD
        THIS.told = THIS.told or not isinstance(stop, Stop)
        return Ended(words, int(stop.code or 0), line, folder, log(folder))
    except Exception as error:  # an error of this package, which the other jobs may not have
        line = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"{traceback.format_exc()}error: {Stop.of}{line}", file=sys.stderr, flush=True)
        with suppress(OSError):
            write(folder / TRACEBACK, traceback.format_exc())
        return Ended(words, 1, line, folder, log(folder))
    finally:
        Stop.of = ""
    return Ended(words, 0, "", folder)


def end(number: int, frame: Any) -> None:
    """The handler of signals in a launcher's process while no training runs. A Ctrl-C reaches it twice: directly too."""
    if not THIS.told:
        THIS.told = True
        raise SystemExit(os.EX_TEMPFAIL)


def log(folder: Path) -> Path | None:
    """The file that says more about a job than its line: the log of submitit, or the traceback."""
    if "SUBMITIT_EXECUTOR" in os.environ:
        from submitit import JobEnvironment

        return Path(JobEnvironment().paths.stderr)
    return folder / TRACEBACK if (folder / TRACEBACK).exists() else None


def show(jobs: Sequence[Ended]) -> None:
    """Print a line for each job: the finished ones, best on validation first, then what was stopped or failed, and why."""
    done = [(*judged(ended.folder), ended) for ended in jobs if ended.code == 0 and ended.folder is not None]
    done.sort(key=lambda row: -row[0])
    print(f"\n{len(jobs)} runs, {len(done)} of them finished")
    if done:
        print(HEAD)
    for score, clean, average, worst, ended in done:
        print(f"{100 * score:10.1f}  {100 * clean:5.1f}  {100 * average:7.1f}  {100 * worst:5.1f}   {ended.words}")
    for ended in sorted((ended for ended in jobs if ended.code), key=lambda ended: ended.code != os.EX_TEMPFAIL):
        state = "stopped" if ended.code == os.EX_TEMPFAIL else "failed"
        there = ended.folder if ended.folder is not None and ended.folder.is_dir() else None
        more = f" (log: {short(ended.log)})" if ended.log else f" (in {short(there)})" if there else ""
        print(f"{state:>10}  {ended.words}: {ended.line.removeprefix(f'{ended.words}: ')}{more}")
    if len(done) > 1 and (first := done[0][-1].folder):
        print(f"The first run of the table is {short(first)}")
    sys.stdout.flush()


def judged(folder: Path) -> tuple[float, float, float, float]:
    """Of a finished run: average + worst class on validation in the kept epoch, then the test's clean, PGD-20 and worst class."""
    metrics, kept = read_metrics(folder), kept_epoch(folder)
    assert metrics is not None
    score = sum(kept.get(key, float("-inf")) for key in ("val/robust", "val/robust_worst"))
    return score, metrics["clean"]["average"], metrics["pgd20"]["average"], metrics["pgd20"]["worst"]


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
    """Hand a signal on to the processes that a launcher has started, and begin no further job."""

    def hear(number: int, frame: Any) -> None:
        THIS.told = True
        children = [child.pid for child in multiprocessing.active_children() if child.pid]
        for child in children:
            os.kill(child, signal.SIGTERM if number == signal.SIGINT else number)  # a terminal's Ctrl-C has reached them too
        if number == signal.SIGINT:
            leave_next()
        if not children:  # no training of this process listens, or its jobs run elsewhere and continue
            raise Stop(os.EX_TEMPFAIL, TOLD)
        if number == signal.SIGINT:
            say_saving()

    THIS.told = False  # by a sweep before it in this process
    before = listen(hear)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
