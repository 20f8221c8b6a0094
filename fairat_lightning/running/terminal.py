"""What a person reads on the terminal while something runs."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import lightning as L


def say(trainer: L.Trainer, text: str) -> None:
    """Print a line, above the progress bar if there is one; on one process."""
    if trainer.is_global_zero:
        bar = trainer.progress_bar_callback
        print(text, flush=True) if bar is None else bar.print(text)


def short(path: Path) -> Path:
    """`path` from the working directory if it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def quieten() -> None:
    """Lightning's hints about workers, hardware and loggers are noise in a command that has chosen them."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
