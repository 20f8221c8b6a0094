"""A SLURM of one node, this machine: its daemons, their files in one folder, two partitions of which `high` pre-empts `low`."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
ReturnToService=2
MinJobAge=300
KillWait=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=1 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES MaxTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=high Nodes={host} MaxTime=60 PriorityTier=10 PreemptMode=OFF
"""


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Path]:
    """Start the daemons, say where SLURM_CONF is, stop them."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    conf, user, host = folder / "slurm.conf", getpass.getuser(), socket.gethostname().split(".")[0]
    conf.write_text(CONF.format(folder=folder, host=host, user=user, ports=free_ports(2)))
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    started: list[subprocess.Popen[bytes]] = []

    def daemon(name: str, *options: str) -> None:
        with (folder / f"{name}.out").open("wb") as out:
            command = [str(shutil.which(name, path=PATH)), *options]
            started.append(subprocess.Popen(command, stdout=out, stderr=out, cwd=folder, env=environment))

    files = (f"--{name}-file={folder}/munge.{name}" for name in ("key", "log", "pid", "seed"))
    try:
        daemon("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files)
        wait((folder / "munge.socket").exists, 10)
        daemon("slurmctld", "-D")
        daemon("slurmd", "-D", "-N", host)
        wait(lambda: "idle" in slurm("sinfo", "-h", "-o", "%t", env=environment, check=False), 30)
        yield conf
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(20)


def installed() -> bool:
    return all(shutil.which(name, path=PATH) for name in ("munged", "slurmctld", "slurmd", "sbatch"))


def slurm(*command: str, **options: Any) -> str:
    options = {"check": True, **options}
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=30, **options).stdout.strip()


def field(job: str, name: str) -> str:
    """What SLURM knows about a job by this name."""
    return dict(word.split("=", 1) for word in slurm("scontrol", "show", "job", job).split() if "=" in word)[name]


def wait(done: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.3)


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
