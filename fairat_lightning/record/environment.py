"""What a reader needs to repeat a run: its command, versions, seed, hardware and git revision; and how an extra is installed."""

import os
import platform
import re
import shlex
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from fairat_lightning import __version__
from fairat_lightning.record.secrets import redacted

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "numpy")

DISTRIBUTION = "fairat-lightning"
ROOT = Path(__file__).resolve().parents[2]  # of a checkout


def install(extra: str) -> str:
    """The command that installs an extra: this package is on no index, so from its checkout, or else the packages themselves."""
    project = ROOT / "pyproject.toml"
    if project.is_file() and f'name = "{DISTRIBUTION}"' in project.read_text():
        return f'pip install -e "{"." if Path.cwd() == ROOT else ROOT}[{extra}]"'
    try:
        needed = [re.split(r"\s*;\s*", line, maxsplit=1) for line in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError:
        needed = []
    of_extra = re.compile(rf"extra\s*==\s*['\"]{extra}['\"]")
    packages = [f'"{package}"' for package, *marker in needed if marker and of_extra.search(marker[0])]
    return f"pip install {' '.join(packages)}" if packages else f"install the packages of the extra {extra} in its pyproject.toml"


def environment(seed: int, module: str = "fairat_lightning") -> dict[str, Any]:
    """What a reader needs to repeat the run: command, versions, seed, hardware, git revision and start time."""
    return {
        "command": shlex.join(["python", "-m", module, *map(redacted, sys.argv[1:])]),
        "seed": seed,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "versions": {"fairat_lightning": __version__, **{name: version(name) for name in PACKAGES}},
        "hardware": hardware(),
        "git": _git_revision(),
        **({"job": job} if (job := os.environ.get("SLURM_JOB_ID")) else {}),
    }


def hardware() -> dict[str, Any]:
    """The processor, its cores, the threads that torch takes, and the GPU, None without one."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": _cpu(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu}


def peak_memory() -> dict[str, float]:
    """The most that this process has held, in GB: of main memory, and of the GPU's by torch."""
    import resource  # not on Windows

    import torch

    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"process_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}
    if torch.cuda.is_available():
        peak["gpu_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return {name: round(value, 3) for name, value in peak.items()}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git_revision() -> str | None:
    """The revision of the checkout the package runs from, "+dirty" if tracked files differ; None outside a checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if not git("ls-files", Path(__file__).name):
            return None
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
